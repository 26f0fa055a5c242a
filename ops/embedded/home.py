"""The folder of the embedded platform: its paths, its lock, and its logs.

Logs are kept within bounds while their writers run: copy, then truncate. Every component appends to its file
(O_APPEND), so after a truncation it goes on at the beginning. Lines that are written between copy and
truncation are lost; a rename would lose all that come after it.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from ops.embedded.errors import HomeBusy, NotOurFolder

OURS = (
    *("data", "valkey", "files", "logs", "run", "pgbouncer", "monitoring"),
    *("gateway", "certificates", "pages"),
    *("topology.toml", "topology.partial", "pgpass", "pgpass.partial"),
    "platform.lock",
)
"""Everything that `up` makes there, or the services (files: `[files]` of the order system).

The lock comes last, for it marks the folder as ours.
"""

SERVERS_ONLY = "servers"

EVERYTHING = "everything"


MAX_BYTES = 10 * 2**20

KEPT = 3
"""How many older files there are of a log: NAME.log.1 is the newest of them."""


class Home:
    """The paths of a platform's folder, and its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.topology = self.path / "topology.toml"
        self.passfile = self.path / "pgpass"
        self.valkey = self.path / "valkey"
        self.pooler = self.path / "pgbouncer"
        self.monitoring = self.path / "monitoring"
        self.gateway = self.path / "gateway"
        self.certificates = self.path / "certificates"
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
        """Create the folder, if it is not there.

        Raises:
            NotOurFolder: it holds other things: data would be mixed, and later removed, with them.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The passwords may be there already: another home may have them in this one.
        if not self.exists() and {entry.name for entry in self.path.iterdir()} - {self.passfile.name}:
            raise NotOurFolder(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the platform; the kernel releases that of a killed process.

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
        """Store what should run: SERVERS_ONLY, EVERYTHING, or nothing."""
        if what is None:
            self._wanted.unlink(missing_ok=True)
            return
        self._wanted.parent.mkdir(parents=True, exist_ok=True)
        self._wanted.write_text(what)

    def wanted(self) -> str | None:
        """Return what should run; None for nothing."""
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


def rotate(folder: Path, *, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> list[Path]:
    """Rotate the logs of a folder that are larger than a limit; the oldest file of each is removed.

    Parameters:
        folder: with logs, *.log; it may be missing.
        max_bytes: the size of a log, and of each of its older files, at most.
        kept: how many older files a log has.

    Returns:
        the logs that were rotated; none while another process rotates them.
    """
    if not folder.is_dir():
        return []
    with _alone(folder) as is_alone:
        large = [log for log in sorted(folder.glob("*.log")) if log.stat().st_size > max_bytes]
        for log in large if is_alone else ():
            _rotate(log, max_bytes, kept)
        return large if is_alone else []


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def _rotate(log: Path, max_bytes: int, kept: int) -> None:
    older = [log.with_name(f"{log.name}.{number}") for number in range(1, kept + 1)]
    for newer, name in reversed(list(pairwise(older))):
        with suppress(FileNotFoundError):
            newer.replace(name)
    try:
        _copy_end(log, older[0], max_bytes)
    except OSError:
        # The disk is full, perhaps of this log: its room is worth more than its lines.
        older[0].unlink(missing_ok=True)
    os.truncate(log, 0)


def _copy_end(log: Path, to: Path, max_bytes: int) -> None:
    """Copy the last whole lines of a log: one that grew for long would take as much room again."""
    with log.open("rb") as source, to.open("wb") as target:
        os.fchmod(target.fileno(), log.stat().st_mode & 0o777)
        source.seek(-min(max_bytes, log.stat().st_size), os.SEEK_END)
        end = source.read(max_bytes)
        target.write(end[end.find(b"\n") + 1 :] if len(end) == max_bytes else end)
