"""The folder in which the embedded platform lives: where everything is, and who may change it now."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.embedded.errors import HomeBusy, NotOurFolder

OURS = (
    *("data", "valkey", "files", "logs", "run", "pgbouncer"),
    *("topology.toml", "topology.partial", "pgpass", "pgpass.partial"),
    "platform.lock",
)
"""Everything that `up` makes there, or the services (files: `[files]` of the order system).

The lock comes last, for it marks the folder as ours.
"""

SERVERS_ONLY = "servers"
EVERYTHING = "everything"


class Home:
    """The paths of a platform's folder, and its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.topology = self.path / "topology.toml"
        self.passfile = self.path / "pgpass"
        self.valkey = self.path / "valkey"
        self.pooler = self.path / "pgbouncer"
        self._lock = self.path / "platform.lock"
        self._wanted = self.path / "run" / "wanted"

    def data(self, cluster: str) -> Path:
        """Where a PostgreSQL cluster has its data folder."""
        return self.path / "data" / cluster

    def log(self, component: str) -> Path:
        """Where a component writes its log."""
        return self.logs / f"{component}.log"

    @property
    def logs(self) -> Path:
        """The folder of all logs."""
        return self.path / "logs"

    def pidfile(self, component: str) -> Path:
        """Where the pid of a daemon stands."""
        return self.path / "run" / f"{component}.pid"

    def exists(self) -> bool:
        """Whether a platform was ever made here."""
        return self._lock.exists()

    def make(self) -> None:
        """Have the folder.

        Raises:
            NotOurFolder: it holds other things: data would be mixed, and later removed, with them.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The passwords may be there already: another home may have them in this one.
        if not self.exists() and {entry.name for entry in self.path.iterdir()} - {self.passfile.name}:
            raise NotOurFolder(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the right to change the platform; the kernel takes it back from a killed process.

        Raises:
            HomeBusy: another process holds it.
        """
        with self._lock.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise HomeBusy(self.path, lock.read().strip() or "unknown") from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def want(self, what: str | None) -> None:
        """Remember what should run: SERVERS_ONLY, EVERYTHING, or nothing."""
        if what is None:
            self._wanted.unlink(missing_ok=True)
            return
        self._wanted.parent.mkdir(parents=True, exist_ok=True)
        self._wanted.write_text(what)

    def wanted(self) -> str | None:
        """Tell what should run."""
        return self._wanted.read_text() if self._wanted.exists() else None

    def delete(self) -> None:
        """Remove everything that `up` made, and the folder if nothing else is in it."""
        for name in OURS:
            entry = self.path / name
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()
