"""PgBouncer on loopback, as a process: started on files that `ops.pgbouncer` wrote."""

import socket
from pathlib import Path

from ops.ports import PortTaken
from ops.embedded.errors import StartFailed
from ops.ports import LOOPBACK, holder_of, is_free
from ops.embedded.processes import Daemon, last_lines, size_of
from ops.embedded.programs import launch_prefix
from ops.waiting import wait_until


class PgBouncerProcess:
    """One process of the pooler, known by its pid file."""

    name = "pgbouncer"

    def __init__(self, *, ini: Path, pidfile: Path, log: Path, host: str = LOOPBACK) -> None:
        self.host = host
        self._ini = ini
        self.daemon = Daemon(self.name, pidfile=pidfile, log=log)

    def pid(self) -> int | None:
        """Give the pooler's pid, None when it does not run."""
        return self.daemon.pid()

    def ports(self) -> set[int]:
        """Find the ports on which it listens."""
        return self.daemon.ports()

    def start(self, *, program: Path, port: int, shared: bool = False, timeout_seconds: float = 20.0) -> bool:
        """Start the pooler and wait until it answers; False when it ran already.

        Parameters:
            program: `pgbouncer`. It refuses root, as PostgreSQL does.
            port: where it listens, as its ini says.
            shared: with other processes of the same pooler (so_reuseport).
            timeout_seconds: how long it is waited for.

        Raises:
            PortTaken: another program listens on `port`.
            StartFailed: it did not answer in time.
        """
        if self.pid() is not None:
            return False
        if not shared and not is_free(port, self.host):
            raise PortTaken(self.name, port, holder_of(port))
        log_start = size_of(self.daemon.log)
        self.daemon.launch([*launch_prefix(program), str(program), str(self._ini)])
        wait_until(lambda: self.pid() is None or answers(port, self.host), timeout_seconds=timeout_seconds)
        if self.pid() is None or not answers(port, self.host):
            self.stop()
            said = last_lines(self.daemon.log, from_byte=log_start)
            raise StartFailed(self.name, f"no answer on port {port}", self.daemon.log, said)
        return True

    def stop(self) -> bool:
        """Stop the pooler; its clients lose their connections. False when it did not run."""
        return self.daemon.stop()

    def kill(self) -> int | None:
        """Kill the pooler with SIGKILL, as a crash would; give its pid if it ran."""
        return self.daemon.kill()


def answers(port: int, host: str = LOOPBACK) -> bool:
    """Whether something listens on `port`."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
