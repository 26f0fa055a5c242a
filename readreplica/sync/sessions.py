# Generated from readreplica/sessions.py by `make sync`: change that file, not this one.
"""The two kinds of session. They are siblings, so that mypy refuses a reader where a writer is needed."""

from types import TracebackType
from typing import Self, TypeAlias

from sqlalchemy import Engine

from readreplica.freshness import ReadRequest
from readreplica.session_base import ReadBase, SessionHooks, WriteBase
from readreplica.sync.routing import Router
from readreplica.sync.writer import WriteGate


class ReadSession(ReadBase):
    """A unit of reading on one node, and the server refuses to write.

    It has one snapshot, unless autocommit was asked for. Made by `Cluster.read` and used with `with`;
    objects stay readable after it.
    """

    _router: Router

    def __init__(self, router: Router, request: ReadRequest, *, hooks: SessionHooks | None = None) -> None:
        super().__init__(router=router, request=request, hooks=hooks)
        self._router = router

    def __enter__(self) -> Self:
        session = self
        if session.request.position is not None:
            session.request, session.waited = self._router.prepare(session.request)
        return self


class WriteSession(WriteBase):
    """A unit of writing on the primary: commits when its block ends well, and rolls back on an error.

    Made by `Cluster.write` and used with `with`; objects stay readable after it, and `token` is what a
    read must have seen to see the unit.

    Whichever way it is committed (the end of the block, `commit`, a block of `begin`), it may raise:
        CommitInDoubt: the answer was lost; ask `Cluster.resolve` before doing the unit again.

    Cancelling the task (a timeout, Ctrl-C) does not cancel COMMIT on the server; `in_doubt` is then what
    `Cluster.resolve` takes.
    """

    _gate: WriteGate

    def __init__(self, gate: WriteGate, engine: Engine, *, hooks: SessionHooks | None = None) -> None:
        super().__init__(engine, gate=gate, hooks=hooks)
        self._gate = gate

    def __enter__(self) -> Self:
        gate = self._gate
        if not gate.is_open:
            gate.open()
        gate.begin_write()
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
                # Recorded in this task, for SQLAlchemy closes in one of its own.
                self.record_outcome()
                super().__exit__(kind, value, traceback)
            finally:
                self.is_entered = False
                self._gate.end_write()


AnySession: TypeAlias = ReadSession | WriteSession
"""For functions that only read: either kind will do."""
