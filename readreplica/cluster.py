"""A cluster: one primary with its streaming replicas, and the sessions on them.

Version 0.1 trusts the addresses that it is given: it does not look for the new primary after a failover,
and it learns that a replica is down or behind only from its own reads. After a failover, reads with a token
of the new timeline go to the primary until each replica has made a restartpoint.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TypeVar

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from readreplica.replicas import ReplicaNode
from readreplica.retry import retry_unit
from readreplica.sessions import ReadSession, WriteSession
from readreplica.token import CausalToken, Position

log: structlog.stdlib.BoundLogger = structlog.get_logger("readreplica")

T = TypeVar("T")
PRIMARY = "primary"


class Cluster:
    """Gives read and write sessions on one primary and its replicas."""

    def __init__(
        self,
        name: str,
        *,
        primary: AsyncEngine,
        primary_reader: AsyncEngine,
        replicas: Mapping[str, AsyncEngine],
        replay_wait_seconds: float = 0.05,
        outage_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put a cluster together from engines of `readreplica.engines`; `close` disposes them.

        Parameters:
            name: the cluster's name in causal tokens.
            primary: a writer engine to the primary.
            primary_reader: a reader engine to the primary, for reads that no replica can serve. A pool of its
                own: what is read there cannot write, and readers do not take the writers' connections.
            replicas: reader engines to the replicas, by name.
            replay_wait_seconds: how long a read with a token waits for a replica before it takes the primary.
            outage_seconds: how long a replica that cannot be reached is left alone.
            clock: a monotonic clock, in seconds.
        """
        self.name = name
        self.primary = primary
        self._primary_reader = primary_reader
        self._replicas = [ReplicaNode(node, engine) for node, engine in replicas.items()]
        self._replay_wait_seconds = replay_wait_seconds
        self._outage_seconds = outage_seconds
        self._clock = clock
        self._turn = 0

    def read(self, *, after: CausalToken | None = None) -> ReadSession:
        """Make a read session; its first statement pins it to one node.

        Parameters:
            after: what the read must have seen. Without it any replica will do.
        """
        # Each read begins at another replica; those that must ask for replay first spread so as well.
        self._turn += 1
        return ReadSession(self, after.positions.get(self.name) if after else None)

    def write(self) -> WriteSession:
        """Make a write session; it commits when its `async with` ends well."""
        return WriteSession(self.name, self.primary)

    async def transact(self, work: Callable[[WriteSession], Awaitable[T]], *, attempts: int = 5) -> T:
        """Do a unit of work in a write session, again from its start if a concurrent transaction ended it.

        Parameters:
            work: is given a fresh write session at each attempt, and must have no effect outside of it.
            attempts: how often it is tried at most.

        Returns:
            What `work` returned. The session it was given holds the token then.

        Raises:
            RetriesExhausted: every attempt ended in SQLSTATE 40001 or 40P01.
        """

        async def unit() -> T:
            async with self.write() as session:
                return await work(session)

        return await retry_unit(self.name, unit, attempts=attempts)

    async def close(self) -> None:
        """Close every pooled connection."""
        for node in self._replicas:
            await node.stop_asking()
        for engine in (self.primary, self._primary_reader, *(node.engine for node in self._replicas)):
            await engine.dispose()

    async def wait_for_replay(self, after: Position) -> None:
        """Return when a replica has replayed a position, or when the time for it is over."""
        if any(node.covers(after) for node in self._live()):
            return
        # The time limit is over everything: a replica that does not even answer must not hold a read up.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._replay_wait_seconds):
                await self._ask_until_replayed(after)

    def pin(self, session: Session, after: Position | None) -> str:
        """Bind a read session to a replica that has what it must have seen, else to the primary."""
        for node in self._live():
            if after is not None and not node.covers(after):
                continue
            session.bind = node.engine.sync_engine
            try:
                session.connection()
                return node.name
            except OperationalError as error:
                self._put_out(node, error)
        session.bind = self._primary_reader.sync_engine
        return PRIMARY

    def _live(self) -> list[ReplicaNode]:
        """Give the replicas that are not out, beginning with the one whose turn it is."""
        now = self._clock()
        live = [node for node in self._replicas if not node.is_out(now)]
        first = self._turn % len(live) if live else 0
        return live[first:] + live[:first]

    async def _ask_until_replayed(self, after: Position) -> None:
        # Most commits are replayed within a quarter of a millisecond, so the first pauses are short.
        pause_seconds = 0.0005
        while live := self._live():
            for node in live:
                # Shared and shielded: many readers ask once, and an answer that comes too late for this one
                # (a first connection takes longer than the wait) still serves the next.
                await asyncio.shield(node.asking(self._ask))
                if node.covers(after):
                    return
            await asyncio.sleep(pause_seconds)
            pause_seconds *= 2

    async def _ask(self, node: ReplicaNode) -> None:
        try:
            await node.ask()
        except OperationalError as error:
            self._put_out(node, error)
        except PoolExhausted:
            # The readers of this process are many; that says nothing about the replica.
            return

    def _put_out(self, node: ReplicaNode, error: OperationalError) -> None:
        node.put_out(self._clock() + self._outage_seconds)
        log.warning(
            "replica left alone",
            cluster=self.name,
            replica=node.name,
            seconds=self._outage_seconds,
            error=str(error.orig).strip(),
        )
