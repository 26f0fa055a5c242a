# Generated from readreplica/gate.py by `make twins`: change that file, not this one.
"""The gate that every unit of writing passes, so that a planned switch-over can hold them back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from readreplica.errors import SwitchoverFailed, WritesRefused
from readreplica.sync.concurrency import Event, Lock, wait_for
from readreplica.token import CausalToken


class WriteGate:
    """Counts the units of writing of one cluster in this process."""

    def __init__(self, name: str, *, hear_all: Callable[[], None]) -> None:
        """Prepare to count.

        Parameters:
            name: the cluster's.
            hear_all: waits, bounded, until every node has told what it is.
        """
        self.name = name
        self.is_open = False
        """Whether the nodes were heard: before that a primary from before a failover would be written."""
        self._hear_all = hear_all
        self.committed: Callable[[CausalToken], None] = lambda _token: None
        """Is told of each commit."""
        self._writing = 0
        self._holds_writes = False
        self._is_drained = Event()
        self._lock = Lock()

    def open(self) -> None:
        """Before the first write hear every node, so that the primary is known by its role."""
        self._hear_all()
        self.is_open = True

    def enter_write(self) -> None:
        """Count a unit of writing, or refuse it while a switch-over is under way."""
        with self._lock:
            if self._holds_writes:
                raise WritesRefused(self.name, retry_after_seconds=1.0)
            self._writing += 1

    def leave_write(self) -> None:
        """Count its end."""
        with self._lock:
            self._writing -= 1
            if self._writing == 0 and self._holds_writes:
                self._is_drained.set()

    @contextmanager
    def drained(self, *, timeout_seconds: float) -> Iterator[None]:
        """Hold this process's writes back for a planned switch-over: refuse new ones, await those under way.

        Inside the block the primary gets no write of this process's sessions; promote another there. After
        it, writes go to whichever node is the primary then.

        Raises:
            SwitchoverFailed: writes were under way still after all that time. Writes go on.
        """
        with self._lock:
            if self._holds_writes:
                raise SwitchoverFailed(self.name, "another switch-over of it is under way in this process")
            self._holds_writes = True
            self._is_drained.clear()
            if self._writing == 0:
                self._is_drained.set()
        try:
            if not wait_for(self._is_drained, timeout_seconds=timeout_seconds):
                fault = f"{self._writing} writes were under way still after {timeout_seconds:g} s"
                raise SwitchoverFailed(self.name, fault)
            yield
        finally:
            self._holds_writes = False
