"""What sessions inherit, for asyncio and for threads. Written by hand, for here SQLAlchemy itself differs.

An AsyncSession holds a Session that does the work; for threads that Session is the session.
"""

from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import immutabledict

from readreplica.freshness import ANY, Freshness
from readreplica.metrics import Reason
from readreplica.token import Position

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

    sync_session_class = UnitSession


class WriteBase(UnitSession):
    """A session for threads that is called as an AsyncSession is."""

    def run_sync(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        """Call a function with this session."""
        return function(self, *args, **options)
