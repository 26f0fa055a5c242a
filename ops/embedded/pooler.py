"""PgBouncer of the embedded platform: its process, on files that `ops.pgbouncer` wrote."""

import socket
from pathlib import Path

from ops.embedded.errors import PoolerMissing, StartFailed
from ops.embedded.home import Home
from ops.embedded.processes import Daemon, last_lines, size_of
from ops.embedded.programs import launch_prefix
from ops.embedded.shape import POOLER
from ops.embedded.topology_file import ComponentPorts, Report
from ops.pgbouncer import files
from ops.pgbouncer.versions import find_program
from ops.ports import LOOPBACK, PortTaken, holder_of, is_free
from ops.waiting import wait_until
from sharding.topology import Topology

CONSOLE_ROLE = "pgbouncer"
"""Who may use the console; no server knows this role."""


class PgBouncerProcess:
    """One process of the pooler, known by its pid file."""

    name = "pgbouncer"

    def __init__(self, *, ini: Path, pidfile: Path, log: Path, host: str = LOOPBACK) -> None:
        self.host = host
        self._ini = ini
        self.daemon = Daemon(self.name, pidfile=pidfile, log=log)

    def pid(self) -> int | None:
        """Return the pooler's pid, None when it does not run."""
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


def pooler_program() -> Path:
    """Find PgBouncer.

    Raises:
        PoolerMissing: it is not on this machine.
    """
    found = find_program()
    if found is None:
        raise PoolerMissing
    return found


class PlatformPooler:
    """PgBouncer before the servers of a platform; the services then connect through it."""

    def __init__(self, home: Home, *, host: str, topology: Path, report: Report) -> None:
        self._home = home
        self._topology = topology
        self._report = report
        self.process = PgBouncerProcess(
            ini=home.pooler / "pgbouncer.ini",
            pidfile=home.pidfile(PgBouncerProcess.name),
            log=home.log(PgBouncerProcess.name),
            host=host,
        )

    def up(self, ports: ComponentPorts) -> None:
        """Start the pooler, if it does not run, on files that fit the topology and the servers.

        Raises:
            PgBouncerError: the pools do not fit the servers, or the secrets of a server cannot be read.
            StartFailed: it did not come up.
        """
        self._home.pooler.mkdir(mode=0o700, exist_ok=True)
        started = ports.start(POOLER, self._start)
        self._report(f"pgbouncer: {'started on' if started else 'runs already,'} port {ports[POOLER]}")

    def _start(self, port: int) -> bool:
        # It brings SQLAlchemy, which the verbs of others do not wait for.
        from ops.pgbouncer.pooler import Pooler

        pooler = Pooler(Topology.load(self._topology))
        # Every server made its own salt for a role, and a userlist has one line for it.
        pooler.equalise(dry_run=False)
        texts = pooler.files(pooler.config(pooler.version()), self._home.pooler)
        if files.changes(self._home.pooler, texts):
            self.process.stop()
            files.write(self._home.pooler, texts)
        return self.process.start(program=pooler_program(), port=port)
