"""What the tests of partitions share: actions on the MES tables as they stand, and orders to count."""

from collections.abc import Collection
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine

import partitions
from app.models.policies import POLICIES
from partitions import Waiting
from partitions.actions import Action
from partitions.byhand import detach, index, split
from partitions.catalog import Catalog
from partitions.indexes import CreateIndex

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MES = POLICIES["mes"]


def catalog_of(engine: Engine) -> Catalog:
    with engine.connect() as connection:
        return partitions.read_catalog(connection, [policy.table for policy in MES])


def run(engine: Engine, action: Action | None, waiting: Waiting | None = None) -> None:
    """Run one action."""
    assert action is not None
    with partitions.open_executor(engine, waiting) as executor:
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
