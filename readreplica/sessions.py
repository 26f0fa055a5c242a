"""The two kinds of session. They are siblings, so that mypy refuses a reader where a writer is needed."""

from types import TracebackType
from typing import Protocol, Self, TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from readreplica.connections import WriterConnection
from readreplica.token import CausalToken, Position


class Router(Protocol):
    """Finds the node for a read session; a cluster is one."""

    async def route(self, session: "ReadSession", after: Position | None) -> None:
        """Pin the session to a node that has everything up to `after`."""


class ReadSession(AsyncSession):
    """A unit of reading: one node, one snapshot, and the server refuses to write.

    Got from `Cluster.read` and used with `async with`; objects stay readable after it.
    """

    node: str = ""
    """The node that this session is pinned to: a replica's name, or `primary`."""

    def __init__(self, router: Router, after: Position | None) -> None:
        super().__init__(expire_on_commit=False)
        self._router = router
        self._after = after

    async def __aenter__(self) -> Self:
        await self._router.route(self, self._after)
        return self

    async def pin(self, node: str, engine: AsyncEngine) -> None:
        """Take the connection of this unit now, so that a dead node is found before any work is done."""
        self.bind = engine
        self.node = node
        await self.run_sync(Session.connection)


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
