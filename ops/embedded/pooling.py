"""The pooler of the embedded platform, in front of all of its servers; it is on when its folder is there."""

import shutil
from pathlib import Path

from ops.embedded.errors import PoolerMissing
from ops.embedded.home import Home
from ops.embedded.pooler import PgBouncerProcess
from ops.embedded.port_book import PortBook, Report
from ops.embedded.shape import POOLER
from ops.embedded.topology_file import add_pooler, remove_pooler
from ops.pgbouncer import files
from ops.pgbouncer.versions import ask_version, find_program
from sharding.topology import Topology

CONSOLE_ROLE = "pgbouncer"
"""Who may use the console; no server knows this role."""


class PlatformPooler:
    """PgBouncer before the servers of a platform; the services then connect through it."""

    def __init__(self, home: Home, *, report: Report) -> None:
        self._home = home
        self._report = report
        self.process = PgBouncerProcess(
            ini=home.pooler / "pgbouncer.ini", pidfile=home.pidfile(POOLER), log=home.log(POOLER)
        )

    @property
    def is_on(self) -> bool:
        """Whether the platform has one."""
        return self._home.pooler.is_dir()

    def program(self) -> Path:
        """Find the program.

        Raises:
            PoolerMissing: it is not on this machine.
        """
        found = find_program()
        if found is None:
            raise PoolerMissing
        return found

    def switch(self, book: PortBook, *, on: bool) -> None:
        """Have the topology lead through it, or directly to the servers; what a user wrote there stays."""
        if on:
            self._home.pooler.mkdir(mode=0o700, exist_ok=True)
            if POOLER not in book:
                version = ask_version(self.program())
                add_pooler(self._home.topology, port=book.add(POOLER), version=str(version))
        elif self.is_on:
            self.stop()
            shutil.rmtree(self._home.pooler)
            remove_pooler(self._home.topology)
            book.remove(POOLER)

    def up(self, book: PortBook) -> None:
        """Have it running, on files that fit the topology and the servers.

        Raises:
            PgBouncerError: the pools do not fit the servers, or a server does not tell its secrets.
            StartFailed: it did not come up.
        """
        started = book.start(POOLER, self._start)
        self._report(f"{POOLER}: {'started on' if started else 'runs already,'} port {book[POOLER]}")

    def _start(self, port: int) -> bool:
        from ops.pgbouncer.pooler import (
            Pooler,
        )  # brings SQLAlchemy, which the verbs of others do not wait for

        pooler = Pooler(Topology.load(self._home.topology))
        # Every server made its own salt for a role, and a userlist has one line for it.
        pooler.equalise(dry_run=False)
        texts = pooler.files(pooler.wanted(pooler.version()), self._home.pooler)
        if files.changes(self._home.pooler, texts):
            self.stop()
            files.write(self._home.pooler, texts)
        return self.process.start(program=self.program(), port=port)

    def stop(self) -> bool:
        """Stop it; False when it did not run."""
        return self.process.stop()
