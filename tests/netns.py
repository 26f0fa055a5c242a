"""Two hosts beside this one, as network namespaces with a cable each, which can be cut. Needs root."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.embedded.processes import run_command
from ops.embedded.programs import PostgresTools, launch_prefix


@dataclass(frozen=True)
class Host:
    """A network namespace, and the veth pair that leads to it."""

    namespace: str
    cable: str
    address: str
    ip: Path

    def cut(self) -> None:
        """Take the cable out: nothing passes, and nobody is told."""
        _run(self.ip, "link", "set", self.cable, "down")

    def heal(self) -> None:
        """Put it back."""
        _run(self.ip, "link", "set", self.cable, "up")

    def within(self, *command: str) -> Sequence[str]:
        """Give the words that run a command on this host."""
        return [str(self.ip), "netns", "exec", self.namespace, *command]


def _run(ip: Path, *words: str) -> None:
    subprocess.run([str(ip), *words], check=True, capture_output=True, timeout=30)


def refusal(ip: Path) -> str | None:
    """Tell why namespaces cannot be made here; None when they can."""
    name = f"mes-storage-try-{os.getpid()}"
    made = subprocess.run([str(ip), "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return made.stderr.strip()
    subprocess.run([str(ip), "netns", "delete", name], capture_output=True, check=False)
    return None


class ToolsOn(PostgresTools):
    """PostgreSQL's programs, run on another host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def run(self, program: str, *arguments: str, timeout_seconds: float, passfile: Path | None = None) -> str:
        """Run one of the programs to its end, on that host."""
        inside = [*launch_prefix(self._bin / "postgres"), str(self._bin / program), *arguments]
        environment = {"PGPASSFILE": str(passfile)} if passfile else {}
        return run_command(
            self._host.within(*inside), timeout_seconds=timeout_seconds, environment=environment
        )


@contextmanager
def two_hosts(ip: Path, *, tag: str) -> Iterator[tuple[Host, Host]]:
    """Make two hosts on one bridge, which is this machine's end; all of it is removed at the end.

    Parameters:
        ip: the program `ip`.
        tag: at most 8 characters, to tell the interfaces of one test process from another's.
    """
    bridge, net = f"{tag}br", f"10.213.{os.getpid() % 250}"
    hosts = [Host(f"{tag}{n}", f"{tag}v{n}", f"{net}.{n + 1}", ip) for n in (1, 2)]
    try:
        _run(ip, "link", "add", bridge, "type", "bridge")
        _run(ip, "address", "add", f"{net}.1/24", "dev", bridge)
        _run(ip, "link", "set", bridge, "up")
        for host in hosts:
            _run(ip, "netns", "add", host.namespace)
            _run(
                ip, "link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.namespace
            )
            _run(ip, "link", "set", host.cable, "master", bridge, "up")
            inside = ("-n", host.namespace)
            _run(ip, *inside, "address", "add", f"{host.address}/24", "dev", "eth0")
            _run(ip, *inside, "link", "set", "eth0", "up")
            _run(ip, *inside, "link", "set", "lo", "up")
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            subprocess.run([str(ip), "link", "delete", host.cable], capture_output=True, check=False)
            subprocess.run([str(ip), "netns", "delete", host.namespace], capture_output=True, check=False)
        subprocess.run([str(ip), "link", "delete", bridge], capture_output=True, check=False)
