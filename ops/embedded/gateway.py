"""The gateway of the embedded platform: Envoy on loopback, and certificates of an authority of its own."""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ops.embedded.home import Home
from ops.gateway import envoy
from ops.gateway.commands import gateway_for
from ops.gateway.model import section_of
from ops.pgbouncer import files
from ops.ports import LOOPBACK

if TYPE_CHECKING:
    from ops.project.project import Project
    from sharding.topology import Topology

CLIENT, AUTHORITY = "client", "ca"
"""In HOME/certificates beside those of the doors: of who may come in by the internal one, and of all."""
VALID_DAYS = 365
RENEWED_BEFORE = timedelta(days=30)


def find_gateway() -> Path | None:
    """Find Envoy and what makes certificates; None if one of them is not installed."""
    try:
        from ops.gateway.service import EnvoyMissing, find_envoy  # with `cryptography`
    except ModuleNotFoundError:
        return None
    try:
        return find_envoy()
    except EnvoyMissing:
        return None


_WITH_ROTATION = '"$1" -P -m ops.gateway.rotation "$2" "$3" & shift 3; exec "$@"'


def command_of(program: Path, folder: Path, *, admin_port: int) -> list[str]:
    """Return the command that runs Envoy on the files of a folder, and beside it what rotates its log."""
    # Others of its kind run on the machine, each with a base id of its own.
    words = ["--concurrency", "1", "-l", "warning", "--use-dynamic-base-id"]
    words += ["--file-flush-interval-msec", "1000"]
    envoys = [str(program), "-c", str(folder / envoy.BOOTSTRAP), *words]
    beside = [sys.executable, str(folder / envoy.ACCESS_LOG), str(admin_port)]
    # exec: the process that is known by its pid is Envoy.
    return ["sh", "-c", _WITH_ROTATION, "sh", *beside, *envoys]


def write_gateway(project: "Project", topology: "Topology", home: Home) -> frozenset[str]:
    """Write certificates and files that fit the topology; name the files of Envoy that have changed.

    Raises:
        GatewayInvalid, TopologyError: doors and routes do not fit each other.
    """
    _certify(topology, home.certificates)
    home.gateway.mkdir(exist_ok=True, mode=0o700)
    texts = envoy.files_of(gateway_for(project, topology), home.gateway)
    changed = files.changes(home.gateway, texts)
    # Listeners last, for they lead to the others: Envoy takes each as it comes.
    for name in sorted(changed, key=lambda name: (name == envoy.LISTENERS, name)):
        files.write(home.gateway, {name: texts[name]})
    return frozenset(changed)


def _certify(topology: "Topology", folder: Path) -> None:
    """Make the certificates, unless they are there, are for all names, and have a month to go."""
    from ops.gateway.certificates import make_authority

    names = _names(topology, folder)
    listed, written = folder / "names.txt", "\n".join(f"{name} {' '.join(names[name])}" for name in names)
    if listed.is_file() and listed.read_text() == written and not _ends_soon(folder, names):
        return
    folder.mkdir(exist_ok=True, mode=0o700)
    authority = make_authority(folder, days=VALID_DAYS)
    for name, hosts in names.items():
        authority.issue(name, names=["localhost", LOOPBACK, *hosts])
    authority.issue(CLIENT, names=["client.mesctl"])  # another subject than that of the authority
    listed.write_text(written)


def _names(topology: "Topology", folder: Path) -> dict[str, list[str]]:
    """Return the hosts of each certificate: those of the doors that show it, and no inner one at an outer."""
    found: dict[str, set[str]] = {}
    for door in section_of(topology).doors.values():
        file = topology.path.parent / (door.certificate or "")
        if file.parent.resolve() == folder.resolve():  # one of somebody's own is not made here
            hosts = (host for given in door.names.values() for host in given)
            found.setdefault(file.stem, set()).update(hosts)
    return {name: sorted(hosts - {"localhost", LOOPBACK}) for name, hosts in sorted(found.items())}


def _ends_soon(folder: Path, names: Iterable[str]) -> bool:
    from ops.gateway.service import certificate_end

    try:
        ends = [certificate_end(folder / f"{name}.pem") for name in (AUTHORITY, CLIENT, *names)]
    except (OSError, ValueError):
        return True
    return min(ends) - datetime.now(UTC) < RENEWED_BEFORE
