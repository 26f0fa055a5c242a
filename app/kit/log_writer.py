"""Where log lines go, on a thread of their own: nothing of the service waits for its log.

Lines wait in a queue that is bounded in lines and in bytes. What finds it full (the disk is slow, the reader
of a pipe is frozen), or cannot be written (a full disk, a closed pipe), is dropped and counted; the next line
that is written says so.
"""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol, TextIO

MOST_LINES = 10_000
"""How many lines may wait."""

MOST_BYTES = 16 * 2**20
"""How much all lines may have that wait or are just being written, whatever the length of one."""

CLOSE_SECONDS = 2.0
"""How long the end of a process waits for its last lines."""

_BATCH = 500
_BATCH_BYTES = 2**20
_STREAMS = (1, 2)


class Output(Protocol):
    """Takes whole lines, at once or in parts."""

    def write(self, data: bytes) -> int:
        """Write bytes, and return how many were taken.

        Raises:
            OSError, ValueError: none were.
        """


class DescriptorOutput:
    """A file descriptor, of its own: that of stderr may be closed, and its number used for a connection."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = os.dup(descriptor)

    def write(self, data: bytes) -> int:
        """Write to the descriptor."""
        return os.write(self._descriptor, data)


class StreamOutput:
    """A text stream without a descriptor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        """Write and flush."""
        self._stream.write(data.decode())
        self._stream.flush()
        return len(data)


class NoOutput:
    """The stderr of a process that was started without one."""

    def write(self, data: bytes) -> int:
        """Refuse."""
        raise OSError(f"{len(data)} bytes have nowhere to go")


class RotatingFile:
    """A file that begins anew when it has grown large: NAME, then NAME.1 (the newest of the older ones), ...

    A file that was renamed or removed by another program, such as logrotate, is opened anew as well. Where
    stdout or stderr of the process is this file, they move along: a traceback of the interpreter would be
    written to an older file otherwise, and be lost with it.
    """

    def __init__(self, path: Path, *, max_bytes: int, kept: int) -> None:
        """Open the file.

        Parameters:
            path: its name.
            max_bytes: its size at most, but for the lines that are written together.
            kept: how many older files stay.

        Raises:
            OSError: it cannot be opened.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._kept = kept
        self._descriptor = _open(path)

    def write(self, data: bytes) -> int:
        """Append, and rotate first where that is due."""
        # Should that fail, the file that is open goes on: its lines are worth more than its size.
        with suppress(OSError):
            self._keep_up()
        return os.write(self._descriptor, data)

    def _keep_up(self) -> None:
        ours = os.fstat(self._descriptor)
        if not self._is_at(ours):
            self._reopen(ours)
        elif ours.st_size > self._max_bytes:
            with _alone(self._path.parent) as is_alone:
                if is_alone and self._is_at(ours):
                    self._shift()
                if is_alone:
                    self._reopen(ours)

    def _is_at(self, ours: os.stat_result) -> bool:
        try:
            return os.path.samestat(self._path.stat(), ours)
        except FileNotFoundError:
            return False

    def _shift(self) -> None:
        older = [self._path.with_name(f"{self._path.name}.{number}") for number in range(1, self._kept + 1)]
        for newer, name in reversed(list(pairwise([self._path, *older]))):
            with suppress(FileNotFoundError):
                newer.replace(name)
        if not older:
            self._path.unlink(missing_ok=True)

    def _reopen(self, ours: os.stat_result) -> None:
        fresh = _open(self._path)
        for stream in _STREAMS:
            with suppress(OSError):  # it is closed
                if os.path.samestat(os.fstat(stream), ours):
                    os.dup2(fresh, stream)
        os.close(self._descriptor)
        self._descriptor = fresh


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Hold the lock under which logs of a folder are rotated; `mesctl up` and `status` take it as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


class LogWriter:
    """Writes lines in their order, later and never in the caller's time."""

    def __init__(
        self,
        output: Output,
        *,
        tell_dropped: Callable[[int], str],
        count_dropped: Callable[[int], None] = lambda _count: None,
        most_lines: int = MOST_LINES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """Start the thread.

        Parameters:
            output: where the lines go.
            tell_dropped: makes the line that says how many were dropped.
            count_dropped: called with how many are dropped just now.
            most_lines: how many may wait.
            most_bytes: how much may wait, what is being written included.
        """
        self._output = output
        self._tell_dropped = tell_dropped
        self._count_dropped = count_dropped
        self._most_lines = most_lines
        self._most_bytes = most_bytes
        # It has no bound of its own, but may be used in a signal handler; `write` looks at its size.
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        # For numbers, never while something is written. A handler of a signal may hold it already.
        self._lock = threading.RLock()
        self._waiting_bytes = 0
        self._refused = 0
        self._failed = 0
        self._told = 0
        self._is_torn = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many lines were dropped."""
        return self._refused + self._failed

    @property
    def waiting_bytes(self) -> int:
        """How much waits or is just being written."""
        return self._waiting_bytes

    def write(self, *lines: str) -> None:
        """Take lines, or count them."""
        refused = 0
        with self._lock:
            for line in lines:
                data = f"{line}\n".encode(errors="backslashreplace")
                has_room = self._waiting_bytes + len(data) <= self._most_bytes
                if has_room and self._lines.qsize() < self._most_lines:
                    self._waiting_bytes += len(data)
                    self._lines.put(data)
                else:
                    refused += 1
            self._refused += refused
        if refused:
            self._count_dropped(refused)

    def close(self, *, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Write what waits, and end; what cannot be written in that time is left."""
        self._lines.put(None)
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while True:
            batch = self._take()
            lines = [line for line in batch if line is not None]
            self._deliver(lines)
            with self._lock:
                self._waiting_bytes -= sum(map(len, lines))
            if None in batch:
                return

    def _take(self) -> list[bytes | None]:
        batch = [self._lines.get()]
        size = len(batch[0] or b"")
        with suppress(Empty):
            while len(batch) < _BATCH and size < _BATCH_BYTES:
                batch.append(self._lines.get_nowait())
                size += len(batch[-1] or b"")
        return batch

    def _deliver(self, lines: list[bytes]) -> None:
        dropped = self.dropped
        told = [f"{self._tell_dropped(dropped - self._told)}\n".encode()] if dropped > self._told else []
        if not lines and not told:
            return
        data = b"".join([*told, *lines])
        written = self._write_all(b"\n" + data if self._is_torn else data)
        if written is None:
            self._told = dropped
            return
        # What was written in part is not counted as written, and the next line begins on a line of its own.
        self._failed += len(lines)
        self._count_dropped(len(lines))

    def _write_all(self, data: bytes) -> int | None:
        """Write everything and return None, or how many bytes went before it failed."""
        done = 0
        while done < len(data):
            try:
                done += self._output.write(data[done:])
            except (OSError, ValueError):  # ValueError: of a closed stream
                self._is_torn = self._is_torn or done > 0
                return done
        self._is_torn = False
        return None
