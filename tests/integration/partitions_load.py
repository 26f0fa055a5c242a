"""Readers and writers as the services have them, which tell how long their slowest statement took."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count

from sqlalchemy import Connection, Engine, Executable, text

from app.mes.repository import newest
from app.models.status import Status
from ops.waiting import wait_until
from sharding.ids import first_id_at

LIFE = [
    Status.SUBMITTED,
    Status.PRICE_CALCULATED,
    Status.MANUFACTURING_APPROVED,
    Status.SHIPPED,
    Status.CLOSED,
]

INSERT = text(
    "INSERT INTO orders (order_id, status, channel, summary, version) VALUES (:id, :status, 'B2C', 'ring', 1)"
)
ADVANCE = text("UPDATE orders SET status = :status, version = version + 1 WHERE order_id = :id")
ARCHIVE = text(
    "WITH gone AS (DELETE FROM orders_done WHERE order_id = :id RETURNING *) "
    "INSERT INTO orders_archive SELECT * FROM gone"
)
BY_ID = text("SELECT status FROM orders WHERE order_id = :id")
ARCHIVED_BY_ID = text("SELECT status FROM orders_archive WHERE order_id = :id")


@dataclass
class Load:
    """What the load has seen: statements, the slowest of them, and every error."""

    statements: int = 0
    longest_seconds: float = 0.0
    orders: int = 0
    errors: list[BaseException] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time a statement."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        with self.lock:
            self.statements += 1
            self.longest_seconds = max(self.longest_seconds, seconds)

    def wait_for_more(self, statements: int, *, timeout_seconds: float = 30.0) -> None:
        """Return when so many more statements have come."""
        goal = self.statements + statements
        if not wait_until(lambda: self.statements >= goal, timeout_seconds=timeout_seconds):
            raise TimeoutError(f"the load stands still: {self.errors}")


@contextmanager
def under_load(
    engine: Engine, at: datetime, *, writers: int = 2, readers: int = 1, report_seconds: float = 0.7
) -> Iterator[Load]:
    """Run orders through their life, from many threads, until the block ends.

    Parameters:
        engine: connects as the service.
        at: the orders get the ids of this instant.
        writers: how many threads write.
        readers: how many threads read lists.
        report_seconds: how long the transactions are of a reader who holds his locks all the while.
    """
    load, over, ids = Load(), threading.Event(), count(first_id_at(at))

    def live(connection: Connection) -> None:
        order = next(ids)
        _do(load, connection, INSERT, id=order, status=LIFE[0])
        for status in LIFE[1:]:
            _do(load, connection, ADVANCE, id=order, status=status)
            _do(load, connection, BY_ID, id=order)
        _do(load, connection, ARCHIVE, id=order)
        with load.lock:
            load.orders += 1

    def look(connection: Connection) -> None:
        for status in LIFE:
            _do(load, connection, newest(status).limit(50))
        _do(load, connection, ARCHIVED_BY_ID, id=first_id_at(at))

    def report(connection: Connection) -> None:
        connection.execute(text("SELECT count(*) FROM orders, orders_archive WHERE false"))
        connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": report_seconds})
        connection.rollback()

    def work(once: Callable[[Connection], None]) -> None:
        try:
            with engine.connect() as connection:
                while not over.is_set():
                    once(connection)
        except BaseException as error:
            load.errors.append(error)

    threads = [threading.Thread(target=work, args=(live,)) for _ in range(writers)]
    threads += [threading.Thread(target=work, args=(look,)) for _ in range(readers)]
    threads.append(threading.Thread(target=work, args=(report,)))
    for thread in threads:
        thread.start()
    try:
        load.wait_for_more(50)
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _do(load: Load, connection: Connection, statement: Executable, **values: object) -> None:
    with load.timed():
        connection.execute(statement, values)
        connection.commit()
