# Generated from readreplica/sessions.py by `make twins`: change that file, not this one.
"""The two kinds of session. They are siblings, so that mypy refuses a reader where a writer is needed."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from readreplica.bases import ReadBase, Router, Unit, Want, WriteBase
from readreplica.errors import CommitInDoubt
from readreplica.sync.connections import Outcome, WriterConnection
from readreplica.token import UNKNOWN_POSITION, CausalToken, Position


class Waits(Router, Protocol):
    """A router that a session can wait for."""

    def prepare(self, want: Want) -> tuple[Want, bool]:
        """Wait for replay, if that is asked for; give what is left to ask for, and whether it has waited."""


class Gate(Protocol):
    """What a write session passes at its begin and its end."""

    name: str
    is_open: bool
    """Whether `open` was awaited once."""

    committed: Callable[[CausalToken], None]
    """Is told of each commit."""

    def open(self) -> None:
        """Find out who is the primary, before the first unit of writing."""

    def enter_write(self) -> None:
        """Count a unit of writing, or refuse it.

        Raises:
            WritesRefused: a switch-over is under way.
        """

    def leave_write(self) -> None:
        """Count its end."""


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

    Got from `Cluster.write` and used with `with`; objects stay readable after it.
    """

    token: CausalToken = CausalToken()
    """What a read must have seen to see this unit; empty before the commit, or if there was none to do.

    After a COMMIT in doubt it names no position, and sends the read to the primary.
    """

    def __init__(self, gate: Gate, engine: Engine, *, unit: Unit | None = None) -> None:
        super().__init__(engine, unit=unit)
        self._gate = gate

    def __enter__(self) -> Self:
        if not self._gate.is_open:
            self._gate.open()
        self._gate.enter_write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            try:
                super().__exit__(kind, value, traceback)
            finally:
                self._gate.leave_write()

    def commit(self) -> None:
        """Commit, and set `token`.

        Raises:
            CommitInDoubt: the answer was lost; ask `Cluster.resolve` before doing the unit again.
        """
        try:
            position = self.run_sync(_commit, self._gate.name)
        except CommitInDoubt:
            self._note(UNKNOWN_POSITION)  # whoever looks for what became of it is sent to the primary
            raise
        if position is not None:
            self._note(position)

    def _note(self, position: Position) -> None:
        self.token = CausalToken({self._gate.name: position})
        self._gate.committed(self.token)


def _commit(session: Session, cluster: str) -> Position | None:
    if not session.in_transaction():
        return None
    # After the commit the pool has the connection back, so it is looked up before.
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, WriterConnection)
    outcome = connection.outcome = Outcome()
    try:
        Session.commit(session)
    except DBAPIError as error:
        doubt = outcome.doubt
        if doubt is None:
            raise
        raise CommitInDoubt(cluster, **doubt._asdict()) from error
    return outcome.committed


AnySession: TypeAlias = ReadSession | WriteSession
"""For functions that only read: either kind will do."""
