"""What sessions inherit, for asyncio and for threads. Written by hand, for here SQLAlchemy itself differs.

An AsyncSession holds a Session that does the work; for threads that Session is the session.
"""

from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import immutabledict

from readreplica.errors import CommitInDoubt, NoTransaction, SessionNotEntered
from readreplica.fate import Outcome
from readreplica.freshness import ANY, Freshness
from readreplica.metrics import Reason
from readreplica.token import UNKNOWN_POSITION, CausalToken, Position

P = ParamSpec("P")
T = TypeVar("T")


class Want(NamedTuple):
    """What one read session asks for."""

    freshness: Freshness = ANY
    position: Position | None = None
    """What the node must have replayed: the token's position in this cluster."""

    can_wait: bool = False
    """Whether waiting for replay may help."""

    autocommit: bool = False
    avoided: frozenset[str] = frozenset()
    """Nodes that failed this unit before."""


class Router(Protocol):
    """Finds the node for a read session; a cluster is one."""

    def pin(self, session: Session, want: Want, *, waited: bool) -> tuple[str, Reason]:
        """Bind the session to a node that is fit; give the node's name and why it is that one.

        Takes the connection at once, so that a node that cannot be reached is found here. With asyncio it
        runs inside SQLAlchemy's greenlet.
        """


class Gate(Protocol):
    """What a write session passes at its begin and its end."""

    name: str
    is_open: bool
    """Whether `open` was awaited once."""

    committed: Callable[[CausalToken], None]
    """Is told of each commit."""

    def enter_write(self) -> None:
        """Count a unit of writing, or refuse it.

        Raises:
            WritesRefused: a switch-over is under way.
        """

    def leave_write(self) -> None:
        """Count its end."""


class Unit(Protocol):
    """What goes along with a session for whoever asked for the session; this package only hands it on."""

    @property
    def options(self) -> immutabledict[str, Any]:
        """Execution options for every statement of the session."""

    def close(self) -> None:
        """Hear that the session has closed; it may be told so again."""


class UnitSession(Session):
    """A session that a unit may go along with."""

    def __init__(self, bind: Engine | None = None, *, unit: Unit | None = None, **options: Any) -> None:
        super().__init__(bind, expire_on_commit=False, **options)
        self.unit = unit
        if unit is not None:
            self.execution_options = unit.options

    def close(self) -> None:
        """Close, and tell the unit."""
        super().close()
        if self.unit is not None:
            self.unit.close()


class PinnedSession(UnitSession):
    """Takes its node when the first statement needs a connection, and keeps it.

    SQLAlchemy asks `get_bind` inside the greenlet of that statement; a greenlet of our own for the
    connection would cost a fiftieth of a point read.
    """

    node: str | None = None
    reason: Reason | None = None
    _waited = False

    def __init__(self, *, router: Router, want: Want, unit: Unit | None = None, **options: Any) -> None:
        # Past UnitSession's own: a point read is a few hundred calls, and this is made for each.
        Session.__init__(self, expire_on_commit=False, **options)
        self.unit = unit
        if unit is not None:
            self.execution_options = unit.options
        self._router = router
        self._want = want

    def adopt(self, want: Want, *, waited: bool) -> None:
        """Ask for this instead, and note whether the session has waited for it."""
        self._want, self._waited = want, waited

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        """Give the node's engine; the first call finds the node."""
        if self.bind is None:
            try:
                self.node, self.reason = self._router.pin(self, self._want, waited=self._waited)
            except BaseException:
                # Or the next statement would go to whichever node was tried last, fit or not.
                self.bind = None
                raise
        # What SQLAlchemy's own would find out: a session with one bind has that.
        return self.bind or super().get_bind(*args, **options)


@event.listens_for(PinnedSession, "after_begin")
def _set_autocommit(session: PinnedSession, transaction: SessionTransaction, connection: Connection) -> None:
    """Have each transaction of a session be of the kind that the session is.

    Whoever has a connection puts it right, and nobody when it goes back: the pool may have no greenlet then.
    """
    if not transaction.nested:
        raw: Any = connection.connection
        dbapi_connection = raw.dbapi_connection
        autocommit = session._want.autocommit and getattr(raw.driver_connection, "refuses_writes", False)
        if dbapi_connection.autocommit is not autocommit:
            dbapi_connection.autocommit = autocommit


class WritingSession(UnitSession):
    """Knows what became of its commits, whichever way they are made: `commit`, or a block of `begin`."""

    is_entered = False
    """Whether it is inside its `async with`: outside of it nothing counts its writes."""

    has_committed = False
    """Whether something of it is committed already, for certain."""

    _outcome: Outcome | None = None
    _doubt: CommitInDoubt | None = None
    _token = CausalToken()

    def __init__(self, bind: Engine, *, gate: Gate, unit: Unit | None = None, **options: Any) -> None:
        super().__init__(bind, unit=unit, **options)
        self._gate = gate

    @property
    def token(self) -> CausalToken:
        """What a read must have seen to see this unit; empty before the commit, or without anything to do.

        After a COMMIT in doubt it names no position, and sends the read to the primary.
        """
        self.note_outcome()
        return self._token

    @property
    def doubt(self) -> CommitInDoubt | None:
        """What `Cluster.resolve` takes, where a COMMIT was called off before its answer came."""
        self.note_outcome()
        return self._doubt

    def settle(self, position: Position | None) -> None:
        """Take in where the primary stood when a COMMIT in doubt was found committed; None: it was not."""
        self._outcome, self._doubt = Outcome(position), None
        self.note_outcome()

    def get_bind(self, *_: Any, **__: Any) -> Engine | Connection:
        """Give the primary's engine, to a session that has passed the gate."""
        if not self.is_entered or self.bind is None:
            raise SessionNotEntered(self._gate.name)
        return self.bind

    def close(self) -> None:
        """Close, and tell what was committed though the answer was not awaited to its end."""
        super().close()
        self.note_outcome()

    def _watch(self, outcome: Outcome) -> None:
        self.note_outcome()
        self._outcome = outcome

    def note_outcome(self) -> None:
        """Tell what is known by now of the last COMMIT, once."""
        outcome = self._outcome
        if outcome is None:
            return
        position = outcome.committed
        if position is not None:
            self.has_committed = True
        if outcome.doubt is not None:
            # One object, for `resolve` notes in it what `token_of` reads.
            self._doubt = CommitInDoubt(self._gate.name, **outcome.doubt._asdict())
            position = UNKNOWN_POSITION
        if position is not None:
            self._outcome = None
            self._token = CausalToken({self._gate.name: position})
            self._gate.committed(self._token)


@event.listens_for(WritingSession, "after_begin")
def _watch_outcome(session: WritingSession, transaction: SessionTransaction, connection: Connection) -> None:
    if transaction.nested:
        return
    # After the commit the pool has the connection back, so it is looked up before.
    writer: Any = connection.connection.driver_connection
    if writer.autocommit:
        raise NoTransaction(session._gate.name)
    writer.outcome = Outcome()
    session._watch(writer.outcome)


@event.listens_for(WritingSession, "after_commit")
def _note_commit(session: WritingSession) -> None:
    session.note_outcome()


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

    def adopt(self, want: Want, *, waited: bool) -> None:
        """Ask for this instead, and note whether the session has waited for it."""
        self.sync_session.adopt(want, waited=waited)


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
    def doubt(self) -> CommitInDoubt | None:
        """What `Cluster.resolve` takes, where a COMMIT was called off before its answer came."""
        return self.sync_session.doubt

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
