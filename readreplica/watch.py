"""The loop that asks one node: at its leisure for the monitor, quickly for those who wait for replay.

All who wait for a node share its one connection and its one question, whatever their number.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from readreplica.concurrency import Background, Event, deadline, sleep, wait_for
from readreplica.faults import is_refusal
from readreplica.health import Fault, Observation
from readreplica.nodes import Node
from readreplica.options import ReplicaOptions
from readreplica.probe import connect_arguments, read_answer, seen, wait_statement
from readreplica.sockets import shut
from readreplica.token import Position

# Most commits are replayed within a quarter of a millisecond, so the first pauses are short.
FIRST_PAUSE_SECONDS = 0.0005
LONGEST_PAUSE_SECONDS = 0.01
HURRIED_PAUSE_SECONDS = 0.05
SERVER_WAIT_SECONDS = 0.05
STOP_SECONDS = 0.5


class Report(Protocol):
    """Is told what a node said."""

    def __call__(self, node: Node, said: Observation | Fault, *, era: int) -> None:
        """Take it in; `era` is the node's when it was asked."""


@dataclass(eq=False)
class Waiter:
    """Somebody who waits for a position to be replayed, by any of the nodes that were told of it."""

    position: Position
    done: Event = field(default_factory=Event)


class NodeWatch:
    """Asks one node, and passes on what it says."""

    def __init__(
        self,
        node: Node,
        *,
        cluster: str,
        options: ReplicaOptions,
        clock: Callable[[], float],
        report: Report,
        is_urgent: Callable[[], bool],
        covers: Callable[[Node, Position], bool],
    ) -> None:
        """Prepare to ask a node; `start` begins.

        Parameters:
            node: the node.
            cluster: the cluster's name, for pg_stat_activity.
            options: how often, and how long an answer may take.
            clock: a monotonic clock, in seconds.
            report: is given each answer, or why there was none.
            is_urgent: whether the cluster looks for its primary now.
            covers: tells whether a node has replayed a position.
        """
        self.node = node
        self.answered = Event()
        self._options = options
        self._clock = clock
        self._report = report
        self._is_urgent = is_urgent
        self._covers = covers
        self._arguments = connect_arguments(node.engine.url, application_name=f"{cluster} monitor")
        self._question = seen(timeout_seconds=options.answer_seconds)
        self._connection: AsyncConnection[TupleRow] | None = None
        self._moves = node.moves
        self._waiters: list[Waiter] = []
        self._wake = Event()
        self._timed_out = False
        self._stopping = False
        self._background = Background(self._run, name=f"watch of {cluster} {node.name}")

    def start(self) -> None:
        """Begin to ask."""
        self._background.start()

    async def stop(self) -> None:
        """End asking, and close the connection."""
        self._stopping = True
        self._wake.set()
        if not await self._background.ended(timeout_seconds=STOP_SECONDS):
            if self._connection is not None:
                shut(self._connection)
            await self._background.stop()
        await self._disconnect()

    def add(self, waiter: Waiter) -> None:
        """Ask quickly until the node has replayed what the waiter waits for, or the waiter is removed."""
        self._waiters.append(waiter)
        self._wake.set()

    @property
    def waiters(self) -> Sequence[Waiter]:
        """Those who wait for the node's replay."""
        return tuple(self._waiters)

    def remove(self, waiter: Waiter) -> None:
        """Forget a waiter."""
        with suppress(ValueError):
            self._waiters.remove(waiter)

    def hurry(self) -> None:
        """Ask at once."""
        self.answered.clear()
        self._wake.set()

    async def _run(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while not self._stopping:
            self._wake.clear()
            await self._ask()
            if self._connection is None:
                # However many are in a hurry: a server that is down is not asked in a tight loop.
                await sleep(HURRIED_PAUSE_SECONDS)
            if self._waiters:
                # Somebody who comes to wait meanwhile is served by the same question.
                somebody_came = await wait_for(self._wake, timeout_seconds=pause_seconds)
                longer = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
                pause_seconds = FIRST_PAUSE_SECONDS if somebody_came else longer
                continue
            pause_seconds = FIRST_PAUSE_SECONDS
            usual = HURRIED_PAUSE_SECONDS if self._is_urgent() else self._options.poll_seconds
            await wait_for(self._wake, timeout_seconds=usual)

    async def _ask(self) -> None:
        era = self.node.era
        try:
            self._report(self.node, await self._answer(), era=era)
        except psycopg.Error as error:
            if self._stopping:
                return
            await self._disconnect()
            # Who took a connection and then said nothing is frozen or cut off; others refuse, or are gone.
            is_silent = isinstance(error, psycopg.errors.ConnectionTimeout | psycopg.errors.QueryCanceled)
            refuses = Fault.REFUSES if is_refusal(error) else Fault.UNREACHABLE
            self._report(self.node, Fault.SILENT if is_silent or self._timed_out else refuses, era=era)
        self.answered.set()
        for waiter in list(self._waiters):
            if self._covers(self.node, waiter.position):
                waiter.done.set()
                self.remove(waiter)

    async def _answer(self) -> Observation:
        asked_at = self._clock()
        self._timed_out = False
        if self._moves != self.node.moves:
            # The address leads to another server by now, and this connection may lead to the one before.
            self._moves = self.node.moves
            await self._disconnect()
        if self._connection is None:
            self._connection = await AsyncConnection.connect(**self._arguments)
            asked_at = self._clock()
        connection = self._connection
        limit = self._options.answer_seconds
        try:
            async with deadline(connection, timeout_seconds=limit + SERVER_WAIT_SECONDS):
                await self._wait_in_server(connection)
                cursor = await connection.execute(self._question)
                while cursor.description is None:
                    cursor.nextset()
                [row] = await cursor.fetchall()
        except psycopg.OperationalError:
            self._timed_out = self._clock() - asked_at >= limit
            raise
        return read_answer(row, at=asked_at, server_version=connection.info.server_version)

    async def _wait_in_server(self, connection: AsyncConnection[TupleRow]) -> None:
        first = min((waiter.position.lsn for waiter in list(self._waiters)), default=None)
        if first is None or self.node.seen is None or not self.node.seen.in_recovery:
            return
        version = connection.info.server_version
        statement = wait_statement(version, first, timeout_seconds=SERVER_WAIT_SECONDS)
        if statement is not None:
            await connection.execute(statement)

    async def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()
