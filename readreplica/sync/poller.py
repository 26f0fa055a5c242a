# Generated from readreplica/poller.py by `make sync`: change that file, not this one.
"""Polls one node: every `poll_seconds` for the monitor, quickly while reads wait for replay.

All reads that wait for a node share its one connection and its one poll, whatever their number.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow
from sqlalchemy import URL

from readreplica.errors import is_rejection
from readreplica.health import NodeFault, Observation, read_observation
from readreplica.options import CONNECT_TIMEOUT_SECONDS, ReplicaOptions
from readreplica.pool import ClusterNode, shut
from readreplica.sync.concurrency import BackgroundThread, Event, deadline, sleep, wait_for
from readreplica.wal import Position, poll_statement, wait_statement

# Most commits are replayed within a quarter of a millisecond, so the first pauses are short.
FIRST_PAUSE_SECONDS = 0.0005
LONGEST_PAUSE_SECONDS = 0.01
URGENT_POLL_SECONDS = 0.05
SERVER_WAIT_SECONDS = 0.05
STOP_SECONDS = 0.5


class Report(Protocol):
    """Takes the results of polls; the monitor does."""

    def __call__(self, node: ClusterNode, result: Observation | NodeFault, *, generation: int) -> None:
        """Record a result; `generation` is the node's when it was polled."""


@dataclass(eq=False)
class ReplayWaiter:
    """A read that waits for a position to be replayed by any of the nodes whose pollers have it."""

    position: Position
    done: Event = field(default_factory=Event)


def connect_arguments(url: URL, *, application_name: str) -> Mapping[str, Any]:
    """Return psycopg's arguments for a connection, not of a pool, to the server of a URL."""
    return {
        **url.translate_connect_args(username="user", database="dbname"),
        **url.query,
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "autocommit": True,
        "prepare_threshold": None,
    }


class NodePoller:
    """Polls one node in the background, and reports each result."""

    def __init__(
        self,
        node: ClusterNode,
        *,
        cluster: str,
        options: ReplicaOptions,
        clock: Callable[[], float],
        report: Report,
        is_urgent: Callable[[], bool],
        covers: Callable[[ClusterNode, Position], bool],
    ) -> None:
        """Prepare to poll a node; `start` begins.

        Parameters:
            node: the node.
            cluster: the cluster's name, for pg_stat_activity.
            options: how often, and how long an answer may take.
            clock: a monotonic clock, in seconds.
            report: called with each answer, or with the reason why there was none.
            is_urgent: returns whether the cluster is looking for its primary now.
            covers: returns whether a node has replayed a position.
        """
        self.node = node
        self.polled = Event()
        """Set after each poll, whatever its result."""
        self._options = options
        self._clock = clock
        self._report = report
        self._is_urgent = is_urgent
        self._covers = covers
        self._arguments = connect_arguments(node.engine.url, application_name=f"{cluster} monitor")
        self._statement = poll_statement(timeout_seconds=options.answer_seconds)
        self._connection: Connection[TupleRow] | None = None
        self._reconnects = node.reconnects
        self._waiters: list[ReplayWaiter] = []
        self._wake = Event()
        self._timed_out = False
        self._stopping = False
        self._background = BackgroundThread(self._run, name=f"poller of {cluster} {node.name}")

    def start(self) -> None:
        """Begin to poll."""
        self._background.start()

    def stop(self) -> None:
        """End polling, and close the connection."""
        self._stopping = True
        self._wake.set()
        if not self._background.ended(timeout_seconds=STOP_SECONDS):
            if self._connection is not None:
                shut(self._connection)
            self._background.stop()
        self._disconnect()

    def add(self, waiter: ReplayWaiter) -> None:
        """Poll quickly until the node has replayed what the waiter waits for, or the waiter is removed."""
        self._waiters.append(waiter)
        self._wake.set()

    @property
    def waiters(self) -> Sequence[ReplayWaiter]:
        """The reads that wait for the node's replay."""
        return tuple(self._waiters)

    def remove(self, waiter: ReplayWaiter) -> None:
        """Remove a waiter; it may be gone already."""
        with suppress(ValueError):
            self._waiters.remove(waiter)

    def poll_now(self) -> None:
        """Poll at once instead of at the next period."""
        self.polled.clear()
        self._wake.set()

    def _run(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while not self._stopping:
            self._wake.clear()
            self._poll()
            if self._connection is None:
                # However many wait: a server that is down is not polled in a tight loop.
                sleep(URGENT_POLL_SECONDS)
            if self._waiters:
                # A read that begins to wait meanwhile is served by the same poll.
                has_new_waiter = wait_for(self._wake, timeout_seconds=pause_seconds)
                longer = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
                pause_seconds = FIRST_PAUSE_SECONDS if has_new_waiter else longer
                continue
            pause_seconds = FIRST_PAUSE_SECONDS
            usual = URGENT_POLL_SECONDS if self._is_urgent() else self._options.poll_seconds
            wait_for(self._wake, timeout_seconds=usual)

    def _poll(self) -> None:
        generation = self.node.generation
        try:
            self._report(self.node, self._observe(), generation=generation)
        except psycopg.Error as error:
            if self._stopping:
                return
            self._disconnect()
            self._report(self.node, self._fault_of(error), generation=generation)
        self.polled.set()
        for waiter in list(self._waiters):
            if self._covers(self.node, waiter.position):
                waiter.done.set()
                self.remove(waiter)

    def _fault_of(self, error: psycopg.Error) -> NodeFault:
        # A server that took a connection and did not answer is frozen or cut off; others reject, or are gone.
        is_silent = isinstance(error, psycopg.errors.ConnectionTimeout | psycopg.errors.QueryCanceled)
        if is_silent or self._timed_out:
            return NodeFault.SILENT
        return NodeFault.REFUSES if is_rejection(error) else NodeFault.UNREACHABLE

    def _observe(self) -> Observation:
        asked_at = self._clock()
        self._timed_out = False
        if self._reconnects != self.node.reconnects:
            # The address leads to another server by now, and this connection may lead to the one before.
            self._reconnects = self.node.reconnects
            self._disconnect()
        if self._connection is None:
            self._connection = Connection.connect(**self._arguments)
            asked_at = self._clock()
        connection = self._connection
        limit = self._options.answer_seconds
        try:
            with deadline(connection, timeout_seconds=limit + SERVER_WAIT_SECONDS):
                self._wait_in_server(connection)
                cursor = connection.execute(self._statement)
                while cursor.description is None:
                    cursor.nextset()
                [row] = cursor.fetchall()
        except psycopg.OperationalError:
            self._timed_out = self._clock() - asked_at >= limit
            raise
        return read_observation(row, at=asked_at, server_version=connection.info.server_version)

    def _wait_in_server(self, connection: Connection[TupleRow]) -> None:
        first = min((waiter.position.lsn for waiter in list(self._waiters)), default=None)
        seen = self.node.observation
        if first is None or seen is None or not seen.in_recovery:
            return
        version = connection.info.server_version
        statement = wait_statement(version, first, timeout_seconds=SERVER_WAIT_SECONDS)
        if statement is not None:
            connection.execute(statement)

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()
