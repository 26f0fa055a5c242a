"""Orders to archive, and a look at where they are; run as a program, it is a job that can be killed.

python -m tests.integration.archive_rig TOPOLOGY DATABASE BATCH_ROWS
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine, text

from app.models.policies import ARCHIVE
from ops.fleet import open_engine
from partitions.archive import ArchivedBatch, move
from sharding.ids import first_id_at
from sharding.topology import Topology

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LONG_AGO = NOW - ARCHIVE.grace - timedelta(days=1)


@contextmanager
def shard(topology: Topology, name: str = "mes_0", *, role: str = "mes") -> Iterator[Engine]:
    """Connect to a shard as the archive job does."""
    with open_engine(topology, topology.databases[name], role=role) as engine:
        yield engine


def order_ids(count: int, *, made: datetime = datetime(2026, 9, 10, tzinfo=UTC)) -> list[int]:
    """Give the ids of orders that were made one second after another."""
    return [first_id_at(made + timedelta(seconds=second)) for second in range(count)]


def add_orders(
    connection: Connection, ids: Iterable[int], *, status: str = "CLOSED", changed_at: datetime = LONG_AGO
) -> None:
    """Insert orders, each with two items and three events."""
    values = {"ids": list(ids), "status": status, "changed_at": changed_at}
    for statement in (
        "INSERT INTO orders (order_id, status, channel, summary, price, version, changed_at) "
        "SELECT id, :status, 'B2C', 'ring ' || id, 42.5, 7, :changed_at "
        "FROM unnest(CAST(:ids AS bigint[])) id",
        "INSERT INTO order_items (order_id, line_no, material, finish, quantity, model_key, model_name) "
        "SELECT id, line, 'gold_18k', 'matte', 1, 'models/x.stl', 'ring.stl' "
        "FROM unnest(CAST(:ids AS bigint[])) id, generate_series(1, 2) line",
        "INSERT INTO order_events (order_id, event_no, status, at, actor, detail) "
        "SELECT id, event, :status, :changed_at, 'test', '{\"a\"\\: 1}' "
        "FROM unnest(CAST(:ids AS bigint[])) id, generate_series(1, 3) event",
    ):
        connection.execute(text(statement), values)


def rows(engine: Engine, table: str) -> Counter[int]:
    """Count the rows of a table by order id."""
    with engine.connect() as connection:
        return Counter(connection.scalars(text(f"SELECT order_id FROM {table}")))


def assert_whole(engine: Engine, ids: Iterable[int]) -> None:
    """Every order is live or archived, once, with all that belongs to it beside it."""
    live, archived = rows(engine, "orders"), rows(engine, "orders_archive")
    assert live + archived == Counter(ids)
    for table, count in (("order_items", 2), ("order_events", 3)):
        assert rows(engine, table) == Counter(dict.fromkeys(live, count))
        assert rows(engine, f"{table}_archive") == Counter(dict.fromkeys(archived, count))


def main(path: str, database: str, batch_rows: str) -> None:
    """Archive what is due, and say so after each batch."""

    def say(batch: ArchivedBatch) -> None:
        print(batch.locked, flush=True)  # noqa: T201 (the test reads it from the pipe)

    with shard(Topology.load(path), database) as engine:
        move(engine, ARCHIVE, NOW, batch_rows=int(batch_rows), report=say)


if __name__ == "__main__":
    main(*sys.argv[1:])
