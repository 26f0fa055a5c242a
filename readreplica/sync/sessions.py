# Generated from readreplica/sessions.py by `make twins`: change that file, not this one.
"""The two kinds of session. They are siblings, so that mypy refuses a reader where a writer is needed."""

from types import TracebackType
from typing import Protocol, Self, TypeAlias

from sqlalchemy import Engine

from readreplica.bases import Gate, ReadBase, Router, Unit, Want, WriteBase


class Waits(Router, Protocol):
    """A router that a session can wait for."""

    def prepare(self, want: Want) -> tuple[Want, bool]:
        """Wait for replay, if that is asked for; give what is left to ask for, and whether it has waited."""


class Opens(Gate, Protocol):
    """A gate that must be opened once."""

    def open(self) -> None:
        """Find out who is the primary, before the first unit of writing."""


class ReadSession(ReadBase):
    """A unit of reading on one node, and the server refuses to write.

    It has one snapshot, unless autocommit was asked for. Got from `Cluster.read` and used with `with`;
    objects stay readable after it.
    """

    def __init__(self, router: Waits, want: Want, *, unit: Unit | None = None) -> None:
        super().__init__(router=router, want=want, unit=unit)
        self._waits = router
        self._wanted = want

    def __enter__(self) -> Self:
        if self._wanted.position is not None:
            want, waited = self._waits.prepare(self._wanted)
            self.adopt(want, waited=waited)
        return self


class WriteSession(WriteBase):
    """A unit of writing on the primary: commits when its block ends well, and rolls back on an error.

    Got from `Cluster.write` and used with `with`; objects stay readable after it, and `token` is what a
    read must have seen to see the unit.

    Whichever way it is committed (the end of the block, `commit`, a block of `begin`), it may raise:
        CommitInDoubt: the answer was lost; ask `Cluster.resolve` before doing the unit again.

    Where the block is called off (a timeout, Ctrl-C) while the answer is awaited, that goes on its way, and
    `doubt` is what to ask `Cluster.resolve` about.
    """

    def __init__(self, gate: Opens, engine: Engine, *, unit: Unit | None = None) -> None:
        super().__init__(engine, gate=gate, unit=unit)
        self._opens = gate

    def __enter__(self) -> Self:
        gate = self._opens
        if not gate.is_open:
            gate.open()
        gate.enter_write()
        self.is_entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.in_transaction():
                self.commit()
        finally:
            try:
                # Told by this task, for SQLAlchemy closes in one of its own.
                self.note_outcome()
                super().__exit__(kind, value, traceback)
            finally:
                self.is_entered = False
                self._opens.leave_write()


AnySession: TypeAlias = ReadSession | WriteSession
"""For functions that only read: either kind will do."""
