"""Having a pool replace its connections, without a clock and without asking the server. For both twins."""

import select
from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet, ref

from psycopg.pq import ConnStatus
from psycopg.pq.abc import PGconn
from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError

from readreplica.sockets import shut

_STAMP = "readreplica_stamp"


class _Stamp(NamedTuple):
    """What a look at a pooled connection needs; put together once, for it is taken at every checkout."""

    epoch: int
    pgconn: PGconn
    poll: Callable[[int], Any]


class PoolEpoch:
    """Tells the connections of now, and alive, from those that the pool must replace when they are asked for.

    SQLAlchemy compares wall-clock times to give a whole pool up, which a clock that jumps back makes wrong,
    and asks the server whether a connection is alive, which is a round trip. Nothing arrives on an idle
    connection except the end of it, so here a readable socket is a dead connection.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = ref(engine)
        self._epoch = 0
        self._open: WeakSet[Any] = WeakSet()
        self._lock = Lock()
        event.listen(engine, "connect", self._stamp)
        event.listen(engine, "checkout", self._check)

    def evict(self, *, abort: bool = False) -> None:
        """Have every connection of now replaced.

        Parameters:
            abort: end those that are open as well; what waits on them fails. For a server that may never
                answer again.
        """
        self._epoch += 1
        if not abort:
            return
        with self._lock:
            doomed = list(self._open)
            self._open.clear()
        for connection in doomed:
            shut(connection)

    def admit(self, record: Any) -> None:
        """Count a connection that is being opened among those of now, after all others were evicted."""
        record.info[_STAMP] = record.info[_STAMP]._replace(epoch=self._epoch)

    def _stamp(self, dbapi_connection: Any, record: Any) -> None:
        connection = getattr(dbapi_connection, "driver_connection", dbapi_connection)
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        record.info[_STAMP] = _Stamp(self._epoch, connection.pgconn, poll.poll)
        with self._lock:
            self._open.add(connection)

    def _check(self, _connection: Any, record: Any, _fairy: Any) -> None:
        epoch, pgconn, poll = record.info[_STAMP]
        if epoch != self._epoch or pgconn.status == ConnStatus.BAD or poll(0):
            raise DisconnectionError

    def close(self) -> None:
        """Have each connection that is in use closed when it comes back: the pool is nobody's by then."""
        engine = self._engine()
        if engine is not None:
            event.listen(engine, "checkin", _end)


def _end(_: Any, record: Any) -> None:
    if record.dbapi_connection is not None:
        record.invalidate()


_epochs: WeakKeyDictionary[Engine, PoolEpoch] = WeakKeyDictionary()


def epoch_of(engine: Engine) -> PoolEpoch:
    """Give the epoch of an engine's pool. It begins when this is first asked, before anybody connects."""
    epoch = _epochs.get(engine)
    if epoch is None:
        epoch = _epochs[engine] = PoolEpoch(engine)
    return epoch
