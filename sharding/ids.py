"""Order ids: 63 bits that carry their time, 41 of milliseconds, 10 of node, 12 of sequence.

An id grows with time, so a by-id look-up prunes to one archive partition and the newest orders are
those with the highest ids. What a process may make is bounded by its node lease (`sharding.directory`):
a node number and a window of id time, and windows of one node never overlap.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from os import register_at_fork
from threading import Lock
from weakref import WeakSet

from sharding.errors import NodeLeaseExpired

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
EPOCH_UNIX_MS = int(EPOCH.timestamp()) * 1000
NODE_BITS = 10
SEQUENCE_BITS = 12
NODES = 1 << NODE_BITS
TIME_SHIFT = NODE_BITS + SEQUENCE_BITS
MAX_ID = (1 << 63) - 1
_MAX_MS = MAX_ID >> TIME_SHIFT
_LAST_SEQUENCE = (1 << SEQUENCE_BITS) - 1
_MILLISECOND = timedelta(milliseconds=1)


def id_time_ms(instant: datetime) -> int:
    """Count the whole milliseconds from the epoch of ids to an instant.

    Raises:
        ValueError: the instant has no time zone, or no id has that time (before 2024 or after 2093).
    """
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone: an id's time is UTC")
    milliseconds = (instant - EPOCH) // _MILLISECOND
    if not 0 <= milliseconds <= _MAX_MS:
        raise ValueError(f"{instant} is outside the time of ids: {EPOCH} to {instant_of(MAX_ID)}")
    return milliseconds


def first_id_at(instant: datetime) -> int:
    """Return the smallest id of an instant's millisecond: an id that is not below it was made since then."""
    return id_time_ms(instant) << TIME_SHIFT


def instant_of(order_id: int) -> datetime:
    """Return when an id was made, in UTC, to the millisecond.

    Raises:
        ValueError: the number is no order id.
    """
    if not 0 <= order_id <= MAX_ID:
        raise ValueError(f"{order_id} is no id: they go from 0 to 2**63 - 1")
    return EPOCH + timedelta(milliseconds=order_id >> TIME_SHIFT)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWindow:
    """The right to make ids with one node number, for id time from `floor_ms` to just below `ceiling_ms`."""

    node: int
    floor_ms: int
    ceiling_ms: int


_generators: WeakSet["IdGenerator"] = WeakSet()


def _forget_in_child() -> None:
    for generator in list(_generators):
        generator.forget()


register_at_fork(after_in_child=_forget_in_child)


def system_clock_ms() -> int:
    """Read the system clock as id time."""
    return time.time_ns() // 1_000_000 - EPOCH_UNIX_MS


class IdGenerator:
    """Makes the ids of one process: strictly growing, from any thread, within its window.

    A clock that steps back is ignored: the generator stays at its last millisecond and goes on counting.
    """

    def __init__(self, window: NodeWindow, *, clock_ms: Callable[[], int] = system_clock_ms) -> None:
        """Start in a window.

        Parameters:
            window: what the node lease allows.
            clock_ms: returns the present id time; the tests pass their own.
        """
        self._window = window
        self._clock_ms = clock_ms
        self._last_ms = -1
        self._sequence = _LAST_SEQUENCE
        self._lock = Lock()
        _generators.add(self)

    def forget(self) -> None:
        """Make no more ids: this is a forked process, and its parent goes on in the same window."""
        self._lock = Lock()  # the thread that held it is not in this process
        self._window = replace(self._window, ceiling_ms=0)

    def use(self, window: NodeWindow) -> None:
        """Go on in another window: the same lease renewed, or a lease of another node."""
        with self._lock:
            if window.node != self._window.node:
                # In one millisecond, a lower node number would make a lower id: leave that millisecond.
                self._sequence = _LAST_SEQUENCE
            self._window = window

    def stop(self) -> int:
        """Make no more ids.

        Returns:
            The id time of the newest id; -1 if there is none.
        """
        with self._lock:
            self._window = replace(self._window, ceiling_ms=0)
            return self._last_ms

    def next_id(self) -> int:
        """Make the next id.

        Raises:
            NodeLeaseExpired: the window is over; it was not renewed, or this clock is ahead of it.
        """
        with self._lock:
            window = self._window
            milliseconds, sequence = self._next_moment(max(self._clock_ms(), window.floor_ms))
            if milliseconds >= window.ceiling_ms:
                raise NodeLeaseExpired(node=window.node, now_ms=milliseconds, ceiling_ms=window.ceiling_ms)
            # Only now: a refused attempt, perhaps of a clock that jumped, must leave no trace.
            self._last_ms, self._sequence = milliseconds, sequence
            return milliseconds << TIME_SHIFT | window.node << SEQUENCE_BITS | sequence

    def _next_moment(self, now_ms: int) -> tuple[int, int]:
        if now_ms > self._last_ms:
            return now_ms, 0
        if self._sequence < _LAST_SEQUENCE:
            return self._last_ms, self._sequence + 1
        return self._last_ms + 1, 0
