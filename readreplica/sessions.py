"""The two kinds of session. They are siblings, so that mypy refuses a reader where a writer is needed."""

from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from readreplica.connections import WriterConnection
from readreplica.token import CausalToken, Position


class Router(Protocol):
    """Finds the node for a read session; a cluster is one."""

    async def wait_for_replay(self, after: Position) -> None:
        """Return when a replica has replayed a position, or when it is not worth waiting longer."""

    def pin(self, session: Session, after: Position | None) -> str:
        """Bind the session to a node that has everything up to `after`, and name the node.

        Takes the connection at once, so that a node that cannot be reached is found here. Runs inside
        SQLAlchemy's greenlet.
        """


class _PinnedSession(Session):
    """Takes its node when the first statement needs a connection, and keeps it.

    SQLAlchemy asks `get_bind` inside the greenlet of that statement; a greenlet of our own for the
    connection would cost a fiftieth of a point read.
    """

    def __init__(self, *, router: Router, after: Position | None, **options: Any) -> None:
        super().__init__(expire_on_commit=False, **options)
        self.node: str | None = None
        self._router = router
        self._after = after

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        if self.bind is None:
            self.node = self._router.pin(self, self._after)
        return super().get_bind(*args, **options)


class ReadSession(AsyncSession):
    """A unit of reading: one node, one snapshot, and the server refuses to write.

    Got from `Cluster.read` and used with `async with`; objects stay readable after it.
    """

    sync_session: _PinnedSession
    sync_session_class = _PinnedSession

    def __init__(self, router: Router, after: Position | None) -> None:
        super().__init__(router=router, after=after)
        self._router = router
        self._after = after

    @property
    def node(self) -> str | None:
        """The node that answers: a replica's name, or `primary`; None before the first statement."""
        return self.sync_session.node

    async def __aenter__(self) -> Self:
        if self._after is not None:
            await self._router.wait_for_replay(self._after)
        return self


class WriteSession(AsyncSession):
    """A unit of writing on the primary: commits when its block ends well, and rolls back on an error.

    Got from `Cluster.write` and used with `async with`; objects stay readable after it.
    """

    token: CausalToken = CausalToken()
    """What a read must have seen to see this unit; empty before the commit, or if there was none to do."""

    def __init__(self, cluster: str, engine: AsyncEngine) -> None:
        super().__init__(engine, expire_on_commit=False)
        self._cluster = cluster

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.commit()
        finally:
            await super().__aexit__(kind, value, traceback)

    async def commit(self) -> None:
        """Commit, and set `token`."""
        position = await self.run_sync(_commit)
        if position is not None:
            self.token = CausalToken({self._cluster: position})


def _commit(session: Session) -> Position | None:
    if not session.in_transaction():
        return None
    # After the commit the pool has the connection back, so it is looked up before.
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, WriterConnection)
    connection.committed = None
    session.commit()
    return connection.committed


AnySession: TypeAlias = ReadSession | WriteSession
"""For functions that only read: either kind will do."""
