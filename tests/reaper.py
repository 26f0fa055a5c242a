"""Ends what a test process leaves behind when it is killed: no fixture's `finally` runs then.

The test process holds the other end of this program's standard input. When that closes, whatever the
reason, every server and service whose pid file lies in the folder is ended.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def reaping(folder: Path) -> Iterator[None]:
    """Have everything that runs in `folder` ended, at the latest when this process ends."""
    command = [sys.executable, "-m", "tests.reaper", str(folder)]
    # A session of its own: Ctrl-C is for the tests, and this one is needed after it.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, start_new_session=True, cwd=Path(__file__).parents[1]
    ):
        yield


def reap(folder: Path) -> None:
    """End every process that a pid file in `folder` names and that does belong there."""
    for pidfile in folder.rglob("*.pid"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(pidfile.read_text().split()[0])
            if belongs(pid, folder):
                # PostgreSQL's immediate shutdown; the data are not needed any more.
                os.kill(pid, signal.SIGQUIT if pidfile.name == "postmaster.pid" else signal.SIGKILL)


def belongs(pid: int, folder: Path) -> bool:
    """Tell whether a process works in `folder`: a pid file may be old and its number another's by now."""
    process = Path("/proc") / str(pid)
    told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    # A service that was forked shows neither, but where it writes its log.
    places = ((process / name).readlink() for name in ("cwd", "fd/2"))
    return os.fsencode(folder) in told or any(place.is_relative_to(folder) for place in places)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    reap(Path(sys.argv[1]))
