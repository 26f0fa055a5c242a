"""The pooler of the embedded platform, in front of all of its servers."""

from pathlib import Path

from ops.embedded.errors import PoolerMissing
from ops.embedded.home import Home
from ops.embedded.pooler import PgBouncerProcess
from ops.embedded.topology_file import ComponentPorts, Report
from ops.embedded.shape import POOLER
from ops.pgbouncer import files
from ops.pgbouncer.versions import find_program
from sharding.topology import Topology

CONSOLE_ROLE = "pgbouncer"
"""Who may use the console; no server knows this role."""


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

    def up(self, book: ComponentPorts) -> None:
        """Have it running, on files that fit the topology and the servers.

        Raises:
            PgBouncerError: the pools do not fit the servers, or a server does not tell its secrets.
            StartFailed: it did not come up.
        """
        self._home.pooler.mkdir(mode=0o700, exist_ok=True)
        started = book.start(POOLER, self._start)
        self._report(f"pgbouncer: {'started on' if started else 'runs already,'} port {book[POOLER]}")

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
