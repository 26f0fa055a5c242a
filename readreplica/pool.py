"""Nodes and the pools of their connections: which are replaced, and when. Shared by asyncio and threads.

SQLAlchemy compares wall-clock times to invalidate a whole pool, which a clock that jumps back makes wrong,
and asks the server whether a connection is alive, which is a round trip. Here each connection belongs to a
generation of its pool. And nothing arrives on an idle connection except its end, so a readable socket is a
dead connection.
"""

import math
import select
import socket
from collections.abc import Callable
from enum import StrEnum
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet, ref

import psycopg
from psycopg.pq import ConnStatus
from psycopg.pq.abc import PGconn
from sqlalchemy import Dialect, Engine, QueuePool, event
from sqlalchemy.exc import DisconnectionError

from readreplica.health import NodeHealth, Observation
from readreplica.wal import INCARNATION, Position

_STAMP = "readreplica_stamp"


def shut(connection: Any) -> None:
    """Shut a psycopg connection's socket: what waits for an answer gets an OperationalError at once.

    A frozen or unreachable server answers neither a query nor its cancellation, so nothing is sent to it.

    Parameters:
        connection: a psycopg connection of either kind; it may be closed already.
    """
    try:
        descriptor = connection.fileno()
        # A copy of the descriptor: the connection closes its own.
        with socket.socket(fileno=socket.dup(descriptor)) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    except Exception:
        return


class _Stamp(NamedTuple):
    """What the check of a pooled connection needs; put together once, for it is used at every checkout."""

    generation: int
    pgconn: PGconn
    poll: Callable[[int], Any]


class PoolGeneration:
    """The generation of an engine's pool: connections of an older one are replaced at their next checkout."""

    def __init__(self, engine: Engine) -> None:
        self._engine = ref(engine)
        self._generation = 0
        self._open: WeakSet[Any] = WeakSet()
        self._lock = Lock()
        event.listen(engine, "connect", self._stamp)
        event.listen(engine, "checkout", self._check)

    def evict(self, *, abort: bool = False) -> None:
        """Begin a new generation: every connection that is there now will be replaced.

        Parameters:
            abort: shut those that are open as well; what waits on them fails. For a server that may never
                answer again.
        """
        self._generation += 1
        if not abort:
            return
        with self._lock:
            doomed = list(self._open)
            self._open.clear()
        for connection in doomed:
            shut(connection)

    def admit(self, record: Any) -> None:
        """Count a connection that is being opened as one of the present generation."""
        record.info[_STAMP] = record.info[_STAMP]._replace(generation=self._generation)

    def _stamp(self, dbapi_connection: Any, record: Any) -> None:
        connection = getattr(dbapi_connection, "driver_connection", dbapi_connection)
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        record.info[_STAMP] = _Stamp(self._generation, connection.pgconn, poll.poll)
        with self._lock:
            self._open.add(connection)

    def _check(self, _connection: Any, record: Any, _fairy: Any) -> None:
        generation, pgconn, poll = record.info[_STAMP]
        if generation != self._generation or pgconn.status == ConnStatus.BAD or poll(0):
            raise DisconnectionError

    def close(self) -> None:
        """Close each connection that is in use when it comes back, instead of pooling it."""
        engine = self._engine()
        if engine is not None:
            event.listen(engine, "checkin", _invalidate)


def _invalidate(_: Any, record: Any) -> None:
    if record.dbapi_connection is not None:
        record.invalidate()


_generations: WeakKeyDictionary[Engine, PoolGeneration] = WeakKeyDictionary()


def pool_generation_of(engine: Engine) -> PoolGeneration:
    """Return the generation of an engine's pool. It begins at the first call, before any connection."""
    generation = _generations.get(engine)
    if generation is None:
        generation = _generations[engine] = PoolGeneration(engine)
    return generation


class EngineKind(StrEnum):
    """What the connections of an engine are for."""

    WRITER = "writer"
    READER = "reader"


# By dialect, which an engine shares with those that its `execution_options` returns.
_kinds: WeakKeyDictionary[Dialect, EngineKind] = WeakKeyDictionary()


def register_engine(engine: Engine, kind: EngineKind) -> None:
    """Record the kind of a new engine, and begin the generation of its pool."""
    pool_generation_of(engine)
    _kinds[engine.dialect] = kind


def kind_of(engine: Engine) -> EngineKind | None:
    """Return the kind of an engine of `readreplica.engines`; None for any other."""
    return _kinds.get(engine.dialect)


def read_incarnation(connection: Any) -> str | None:
    """Ask a new connection of a pool which server it leads to: `Observation.incarnation`.

    One round trip, and nothing that a role may be denied by default.

    Parameters:
        connection: the driver's, or SQLAlchemy's around an asynchronous one. If it fails, it is closed.

    Returns:
        None where the server refuses to answer.
    """
    try:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"SELECT {INCARNATION}")
        found: str = cursor.fetchone()[0]
        cursor.close()
        connection.autocommit = False
    except (psycopg.ProgrammingError, psycopg.NotSupportedError):
        connection.autocommit = False
        return None
    except BaseException:
        connection.close()  # it is in no pool yet
        raise
    return found


class ClusterNode:
    """One node as this process sees it: its pool, its last observation, and whether it serves reads.

    It is the primary or a replica; which one may change, so it has its name and address only.
    """

    def __init__(self, name: str, engine: Engine, *, replica_name: str | None = None) -> None:
        """Add a node.

        Parameters:
            name: its name, which it keeps.
            engine: the pool of a reader engine to it.
            replica_name: its name for people and in metrics while it is a replica, if it is another.
        """
        self.name = name
        self.replica_name = replica_name or name
        self.engine = engine
        self.pool_generation = pool_generation_of(engine)
        self.health = NodeHealth()
        self.assessed_at = -math.inf
        self.observation: Observation | None = None
        """The answer to its last poll, while that counts."""
        self.incarnation = ""
        """Which server its newest connection led to: see `Observation.incarnation`."""
        self.reconnects = 0
        """How often a reader's connection led to another server than those before."""
        self.generation = 0
        """Grows with whatever makes its observation void, and the answers to polls from before that."""
        self._lock = Lock()
        self._checked_out: WeakSet[Any] = WeakSet()
        if not isinstance(engine.pool, QueuePool):
            self._count()

    @property
    def address(self) -> str:
        """Where it listens, as HOST:PORT."""
        return f"{self.engine.url.host}:{self.engine.url.port or 5432}"

    def load(self) -> int:
        """Return how many of this process's sessions it serves now."""
        pool = self.engine.pool  # looked up each time: dispose() makes another
        return pool.checkedout() if isinstance(pool, QueuePool) else len(self._checked_out)

    def _count(self) -> None:
        """Count connections in use for a pool that does not, from before they connect."""

        def add(_: Any, record: Any, *_others: Any) -> None:
            self._checked_out.add(record)

        event.listen(self.engine, "do_connect", add)
        event.listen(self.engine, "checkout", add)
        event.listen(self.engine, "checkin", lambda _, record: self._checked_out.discard(record))

    def covers(self, wanted: Position, *, primary_timeline: int) -> bool:
        """Return whether it is known to have replayed a position; it is, until a connection to it is lost."""
        seen = self.observation
        return seen is not None and seen.covers(wanted, primary_timeline=primary_timeline)

    def forget(self) -> None:
        """Drop its observation: it may come back rebuilt from an older copy."""
        with self._lock:
            self.observation = None
            self.generation += 1

    def record(self, observation: Observation, *, generation: int) -> bool:
        """Keep the answer to a poll; False if it is void by now.

        Parameters:
            observation: the answer.
            generation: the node's, when it was polled.
        """
        with self._lock:
            if generation != self.generation:
                return False
            found = observation.incarnation
            if found and self.incarnation and found != self.incarnation:
                # The readers' connections may lead to the server of before; what is known is not of it.
                self.pool_generation.evict()
                self.generation += 1
            self.incarnation = found or self.incarnation
            self.observation = observation
        return True

    def record_connection(self, incarnation: str, record: Any) -> bool:
        """Keep where a reader's new connection leads to; False if that is another server than before.

        The address was moved, or the server was restarted, and may have less than before. Its observation is
        dropped then, and the pool replaces its other connections.

        Parameters:
            incarnation: of the server that is behind it.
            record: the pool's, of the connection.
        """
        with self._lock:
            known, self.incarnation = self.incarnation, incarnation
            if known in ("", incarnation):
                return True
            self.reconnects += 1  # before the generation: a poll of the new one must reach the new server
            self.observation = None
            self.generation += 1
            self.pool_generation.evict()
            self.pool_generation.admit(record)
        return False
