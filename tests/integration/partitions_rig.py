"""What the tests of partitions share: actions on the MES tables as they stand, and orders to count."""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine

import partitions
from app.models.policies import POLICIES
from partitions import RetryPolicy
from partitions.actions import Action, Analyze, DropTable
from partitions.catalog import Catalog
from partitions.indexes import CreateIndex
from partitions.manual import add, attach, detach, index, split

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MES = POLICIES


def catalog_of(engine: Engine) -> Catalog:
    with engine.connect() as connection:
        return partitions.read_catalog(connection, [policy.table for policy in MES])


def run(engine: Engine, action: Action | None, retry: RetryPolicy | None = None) -> None:
    """Run one action."""
    assert action is not None
    with partitions.open_executor(engine, retry) as executor:
        executor.run(action)


def detach_of(engine: Engine, partition: str) -> Action:
    """Detach a month of the orders' archive."""
    [action] = detach(catalog_of(engine)["orders_archive"], partition, NOW)
    return action


def split_of(
    engine: Engine, source: str, values: Collection[str], into: str, max_rows: int = 10_000
) -> Action:
    """Split statuses off a partition of the orders, without looking how many rows that moves."""
    with engine.connect() as connection:
        *_, action = split(
            connection,
            catalog_of(engine)["orders"],
            source,
            values,
            into=into,
            key="status",
            max_rows=max_rows,
            at=NOW,
            measure=False,
        )
    return action


def index_of(engine: Engine, table: str) -> CreateIndex:
    """Build an index on the column `channel` of a table."""
    return index(catalog_of(engine)[table], f"{table}_channel_idx", "channel")


def insert_order(connection: Connection, order_id: int, status: str) -> None:
    connection.exec_driver_sql(
        "INSERT INTO orders (order_id, status, channel, summary, version) "
        f"VALUES ({order_id}, '{status}', 'B2C', 'ring', 1)"
    )


def archive_row(order_id: int) -> str:
    return (
        "INSERT INTO orders_archive (order_id, status, channel, summary, version) "
        f"VALUES ({order_id}, 'CLOSED', 'B2C', 'ring', 1)"
    )


def where_orders_are(engine: Engine) -> dict[str, int]:
    """Count the orders by partition."""
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT tableoid::regclass::text, count(*) FROM orders GROUP BY 1")
        return {row[0]: row[1] for row in rows}


def online_actions(engine: Engine) -> Iterator[Action]:
    """Give every action that is done while the application runs, each when the one before it is done."""
    later = datetime(2027, 1, 23, tzinfo=UTC)
    yield from partitions.plan(MES, catalog_of(engine), later)
    yield detach_of(engine, "orders_archive_2027_04")
    [lone] = catalog_of(engine)["orders_archive"].detached
    yield from attach(catalog_of(engine)["orders_archive"], lone.name, NOW)
    yield detach_of(engine, "orders_archive_2027_04")
    yield DropTable(table="orders_archive", partition="orders_archive_2027_04")
    for value in ("ON_HOLD", "LOST"):
        [change] = add(catalog_of(engine)["orders"], "orders_hot", [value], key="status")
        yield change
    yield _inverse(change)
    split = split_of(engine, "orders_hot", {"SUBMITTED"}, "orders_new")
    yield split
    yield _inverse(split)
    for table in ("orders", "orders_archive"):
        create = index_of(engine, table)
        yield create
        yield _inverse(create)
        yield Analyze(table=table)


def _inverse(action: Action) -> Action:
    found = action.inverse()
    assert found is not None
    return found
