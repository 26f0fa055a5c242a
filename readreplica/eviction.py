"""Giving up a whole pool at once, without a clock and without asking the server. Shared by both twins."""

from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError

from readreplica.sockets import shut

_EPOCH = "readreplica_epoch"


class PoolEpoch:
    """Tells the connections of now from those of before, which the pool replaces when they are asked for.

    SQLAlchemy compares wall-clock times for this, which a clock that jumps back makes wrong.
    """

    def __init__(self, engine: Engine) -> None:
        self._epoch = 0
        self._is_closed = False
        self._in_use: dict[int, Any] = {}
        event.listen(engine, "connect", self._stamp)
        event.listen(engine, "checkout", self._check)
        event.listen(engine, "checkin", self._release)

    def evict(self, *, abort: bool = False) -> None:
        """Have every connection of now replaced.

        Parameters:
            abort: end those that are in use as well; what waits on them fails. For a server that may never
                answer again.
        """
        self._epoch += 1
        if abort:
            for connection in list(self._in_use.values()):
                shut(connection)

    def _stamp(self, _: Any, record: Any) -> None:
        record.info[_EPOCH] = self._epoch

    def _check(self, connection: Any, record: Any, _: Any) -> None:
        if record.info.get(_EPOCH) != self._epoch:
            raise DisconnectionError
        self._in_use[id(record)] = getattr(connection, "driver_connection", connection)

    def _release(self, _: Any, record: Any) -> None:
        self._in_use.pop(id(record), None)
        if self._is_closed and record.dbapi_connection is not None:
            record.invalidate()

    def close(self) -> None:
        """Have each connection that is in use closed when it comes back: the pool is nobody's by then."""
        self._is_closed = True
