"""The logs of a platform, kept within bounds while their writers run: copy, then truncate.

Every component appends to its file (O_APPEND), so after a truncation it goes on at the beginning. Lines that
are written between copy and truncation are lost; a rename would lose all that come after it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

MAX_BYTES = 10 * 2**20
KEPT = 3
"""How many older files there are of a log: NAME.log.1 is the newest of them."""


def rotate(folder: Path, *, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> list[Path]:
    """Have no log in a folder larger than a limit; what is older than the older files is dropped.

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
