"""The base classes of sessions, for asyncio and for threads. Written by hand: here SQLAlchemy itself differs.

An AsyncSession holds a Session that does the work; for threads that Session is the session.
"""

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import immutabledict

from readreplica.errors import CommitInDoubt, NoTransaction, SessionNotEntered
from readreplica.freshness import ReadRequest
from readreplica.metrics import Reason
from readreplica.token import CausalToken
from readreplica.transaction_status import CommitOutcome
from readreplica.wal import UNKNOWN_POSITION, Position

P = ParamSpec("P")
T = TypeVar("T")


class ReadRouter(Protocol):
    """What a read session needs of its router."""

    def pin(self, session: Session, request: ReadRequest, *, waited: bool) -> tuple[str, Reason]:
        """Bind the session to a node that is fit; return the node's name and why it is that one.

        Takes the connection at once, so that a node that cannot be reached is found here. With asyncio it
        runs inside SQLAlchemy's greenlet.
        """


class CommitListener(Protocol):
    """What a write session needs of the gate that it passes."""

    name: str
    """The cluster's."""

    after_commit: Callable[[CausalToken], None]
    """Called with the token of each commit."""


class SessionHooks(Protocol):
    """What goes along with a session for its caller; this package calls it, and reads nothing of it."""

    @property
    def options(self) -> immutabledict[str, Any]:
        """Execution options for every statement of the session."""

    def close(self) -> None:
        """Release what the session held once it has closed; may be called again."""


class HookedSession(Session):
    """A session that hooks may go along with."""

    def __init__(
        self, bind: Engine | None = None, *, hooks: SessionHooks | None = None, **options: Any
    ) -> None:
        super().__init__(bind, expire_on_commit=False, **options)
        self.hooks = hooks
        if hooks is not None:
            self.execution_options = hooks.options

    def close(self) -> None:
        """Close, and call the hook for that."""
        super().close()
        if self.hooks is not None:
            self.hooks.close()


class PinnedSession(HookedSession):
    """Takes its node when the first statement needs a connection, and keeps it.

    SQLAlchemy asks `get_bind` inside the greenlet of that statement; a greenlet of our own for the
    connection would cost a fiftieth of a point read.
    """

    node: str | None = None
    reason: Reason | None = None
    waited = False
    """Whether it has waited for replay."""

    def __init__(
        self, *, router: ReadRouter, request: ReadRequest, hooks: SessionHooks | None = None, **options: Any
    ) -> None:
        # Past HookedSession's own: a point read is a few hundred calls, and this is made for each.
        Session.__init__(self, expire_on_commit=False, **options)
        self.hooks = hooks
        if hooks is not None:
            self.execution_options = hooks.options
        self._router = router
        self.request = request

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        """Return the node's engine; the first call finds the node."""
        if self.bind is None:
            try:
                self.node, self.reason = self._router.pin(self, self.request, waited=self.waited)
            except BaseException:
                # Or the next statement would go to the node that was tried last, fit or not.
                self.bind = None
                raise
        # What SQLAlchemy's own would return: a session with one bind has that.
        return self.bind or super().get_bind(*args, **options)


@event.listens_for(PinnedSession, "after_begin")
def _set_autocommit(session: PinnedSession, transaction: SessionTransaction, connection: Connection) -> None:
    """Set each transaction's connection to the session's autocommit.

    Each session sets it, and none resets it: when a connection goes back, the pool may have no greenlet.
    """
    if not transaction.nested:
        raw: Any = connection.connection
        dbapi_connection = raw.dbapi_connection
        autocommit = session.request.autocommit and getattr(raw.driver_connection, "refuses_writes", False)
        if dbapi_connection.autocommit is not autocommit:
            dbapi_connection.autocommit = autocommit


class WritingSession(HookedSession):
    """Keeps what became of its commits, whichever way they are made: `commit`, or a block of `begin`."""

    is_entered = False
    """Whether it is inside its `async with`: outside of it nothing counts its writes."""

    has_committed = False
    """Whether something of it is committed already, for certain."""

    _outcome: CommitOutcome | None = None
    _in_doubt: CommitInDoubt | None = None
    _token = CausalToken()

    def __init__(
        self, bind: Engine, *, gate: CommitListener, hooks: SessionHooks | None = None, **options: Any
    ) -> None:
        super().__init__(bind, hooks=hooks, **options)
        self._gate = gate

    @property
    def token(self) -> CausalToken:
        """What a read must have seen to see this unit; empty before the commit, or without anything to do.

        After a COMMIT in doubt it names no position, and sends the read to the primary.
        """
        self.record_outcome()
        return self._token

    @property
    def in_doubt(self) -> CommitInDoubt | None:
        """What `Cluster.resolve` takes, where the task was cancelled before COMMIT was answered."""
        self.record_outcome()
        return self._in_doubt

    def resolve_commit(self, position: Position | None) -> None:
        """Record where the primary stood when a COMMIT in doubt was found committed; None: it was aborted."""
        self._outcome, self._in_doubt = CommitOutcome(position), None
        self.record_outcome()
        if position is not None:
            self.dispatch.after_commit(self)  # SQLAlchemy's own was not called: its COMMIT has failed

    def get_bind(self, *_: Any, **__: Any) -> Engine | Connection:
        """Return the primary's engine, to a session that has passed the gate."""
        if not self.is_entered or self.bind is None:
            raise SessionNotEntered(self._gate.name)
        return self.bind

    def close(self) -> None:
        """Close, and record what was committed though the answer was not awaited to its end."""
        super().close()
        self.record_outcome()

    def _watch(self, outcome: CommitOutcome) -> None:
        self.record_outcome()
        self._outcome = outcome

    def record_outcome(self) -> None:
        """Record what is known by now of the last COMMIT, and call the gate's listener once."""
        outcome = self._outcome
        if outcome is None:
            return
        position = outcome.committed
        if position is not None:
            self.has_committed = True
        if outcome.in_doubt is not None:
            # One object, for `resolve` notes in it what `token_of` reads.
            self._in_doubt = CommitInDoubt(self._gate.name, **outcome.in_doubt._asdict())
            position = UNKNOWN_POSITION
        if position is not None:
            self._outcome = None
            self._token = CausalToken({self._gate.name: position})
            self._gate.after_commit(self._token)


@event.listens_for(WritingSession, "after_begin")
def _watch_outcome(session: WritingSession, transaction: SessionTransaction, connection: Connection) -> None:
    if transaction.nested:
        return
    # After the commit the pool has the connection back, so it is looked up before.
    writer: Any = connection.connection.driver_connection
    if writer.autocommit:
        raise NoTransaction(session._gate.name)
    writer.outcome = CommitOutcome()
    session._watch(writer.outcome)


@event.listens_for(WritingSession, "after_commit")
def _note_commit(session: WritingSession) -> None:
    session.record_outcome()


class AsyncReadBase(AsyncSession):
    """A pinned session for asyncio."""

    sync_session: PinnedSession
    sync_session_class = PinnedSession

    @property
    def node(self) -> str | None:
        """The node that answers: a replica's name, or `primary`; None before the first statement."""
        return self.sync_session.node

    @property
    def reason(self) -> Reason | None:
        """Why it went to that node; None before the first statement."""
        return self.sync_session.reason


ReadBase = PinnedSession
"""A pinned session for threads."""


class AsyncWriteBase(AsyncSession):
    """A write session for asyncio."""

    sync_session: WritingSession
    sync_session_class = WritingSession

    @property
    def token(self) -> CausalToken:
        """What a read must have seen to see this unit; empty before the commit, or without anything to do."""
        return self.sync_session.token

    @property
    def in_doubt(self) -> CommitInDoubt | None:
        """What `Cluster.resolve` takes, where the task was cancelled before COMMIT was answered."""
        return self.sync_session.in_doubt

    @property
    def has_committed(self) -> bool:
        """Whether something of it is committed already, for certain."""
        return self.sync_session.has_committed


class WriteBase(WritingSession):
    """A session for threads that is called as an AsyncSession is."""

    def run_sync(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        """Call a function with this session."""
        return function(self, *args, **options)
