"""Autogenerate: what changed in models and policies is rendered, runs, and leaves nothing to do."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import BigInteger, Column, Engine, Index, MetaData, Table, Text, text

from partitions import ListPartitions, MonthlyRange
from partitions.migration_ops import PLUGINS, POLICIES
from partitions.migration_ops.existing_schema import PartitionKeyDiffers
from sharding.ids import first_id_at
from tests.integration.operations_rig import (
    autogenerate,
    differences,
    execute,
    facts,
    partition_of,
    scratch_database,
)
from tests.servers import PostgresServers

HOT, DONE = ["NEW", "PACKING", "SHIPPED"], ["CLOSED"]
GROUPS = {"orders_hot": HOT, "orders_done": DONE}
SENT = "status = 'SHIPPED'::text"
Groups = Mapping[str, list[str]]


def models(
    groups: Groups = GROUPS,
    *,
    partition_by: str = "LIST (status)",
    predicate: str | None = SENT,
    partner_index: bool = False,
    note: bool = False,
) -> MetaData:
    """Declare an order with the partitions that have indexes of their own, and an archive by month."""
    metadata = MetaData()
    columns: list[Column[Any]] = [
        Column("order_id", BigInteger, primary_key=True, autoincrement=False),
        Column("status", Text, primary_key=True),
        Column("partner", Text),
    ]
    if note:
        columns.append(Column("note", Text))
    orders = Table("orders", metadata, *columns, postgresql_partition_by=partition_by)
    if partner_index:
        Index("orders_partner_idx", orders.c.partner)
    for name in groups:
        partition = orders.to_metadata(metadata, name=name)
        partition.dialect_options["postgresql"]["partition_by"] = None
        partition.info["partition_of"] = "orders"
        partition.primary_key.name = f"{name}_pkey"
    hot = metadata.tables["orders_hot"]
    where = None if predicate is None else text(predicate)
    Index("orders_hot_sent_idx", hot.c.order_id.desc(), postgresql_where=where)
    key = Column("order_id", BigInteger, primary_key=True, autoincrement=False)
    Table("old", metadata, key, postgresql_partition_by="RANGE (order_id)")
    metadata.info[POLICIES] = (
        ListPartitions(
            "orders",
            key="status",
            groups={name: frozenset(values) for name, values in groups.items()},
            row_id="order_id",
        ),
        MonthlyRange(table="old", key="order_id", key_at=first_id_at),
    )
    return metadata


@pytest.fixture
def engine(postgres: PostgresServers) -> Iterator[Engine]:
    """Give an empty database."""
    with scratch_database(postgres, "") as (found, _):
        yield found


@pytest.fixture
def migrated(engine: Engine) -> Engine:
    """Give a database that has what `models()` declares, made by what autogenerate renders."""
    execute(engine, autogenerate(engine, models())[0])
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO orders SELECT id, (ARRAY['NEW', 'PACKING', 'SHIPPED', 'CLOSED'])[1 + id %% 4], 'p'"
            "FROM generate_series(1, 40) AS id"
        )
    return engine


def test_new_tables_are_made_with_their_partitions(engine: Engine) -> None:
    upgrade, downgrade = autogenerate(engine, models())
    assert "op.create_partitioned_table('orders'," in upgrade
    assert "partition_by='LIST (status)'" in upgrade
    assert "op.create_partition(\n    'orders_hot',\n    of='orders',\n    values=['NEW'" in upgrade
    assert "op.create_partial_index(\n    'orders_hot_sent_idx'" in upgrade
    assert "concurrently=True" not in upgrade  # nobody uses a table that is just being made
    execute(engine, upgrade)
    assert differences(engine, models()) == []
    execute(engine, downgrade)
    assert facts_of_tables(engine) == set()


def facts_of_tables(engine: Engine) -> set[str]:
    return set(sqlalchemy.inspect(engine).get_table_names())


# What changed, and what the revision must say.
CHANGES: dict[str, tuple[MetaData, str]] = {
    "a status moved": (
        models({"orders_hot": ["NEW", "PACKING"], "orders_done": ["CLOSED", "SHIPPED"]}),
        "op.regroup_partitions(\n    'orders',\n    key='status',\n    existing=",
    ),
    "a status is new": (models({**GROUPS, "orders_done": ["CLOSED", "LOST"]}), "['CLOSED', 'LOST']"),
    "a group is new": (
        models({"orders_hot": ["NEW", "SHIPPED"], "orders_done": DONE, "orders_packing": ["PACKING"]}),
        "'orders_packing': ['PACKING']",
    ),
    "another predicate": (
        models(predicate="status = 'NEW'::text"),
        "existing_where=\"status = 'SHIPPED'::text\"",
    ),
    "no predicate": (models(predicate=None), "op.replace_partial_index("),
    "an index on the parent": (models(partner_index=True), "op.create_index_on_partitions("),
    "a column": (models(note=True), "op.add_column('orders'"),
}


@pytest.mark.parametrize(("metadata", "words"), CHANGES.values(), ids=CHANGES.keys())
def test_change_is_rendered_and_leaves_nothing_to_do(
    migrated: Engine, metadata: MetaData, words: str
) -> None:
    before = facts(migrated)
    upgrade, downgrade = autogenerate(migrated, metadata)
    assert words in upgrade
    assert "drop_partition" not in upgrade
    execute(migrated, upgrade)
    assert differences(migrated, metadata) == []
    execute(migrated, downgrade)
    assert facts(migrated) == before


def test_moved_status_takes_its_rows_along(migrated: Engine) -> None:
    metadata, _ = CHANGES["a status moved"]
    execute(migrated, autogenerate(migrated, metadata)[0])
    with migrated.connect() as connection:
        assert partition_of(connection, "SHIPPED") == {"orders_done"}


def test_partitions_months_and_inherited_indexes_are_never_dropped(migrated: Engine) -> None:
    with migrated.begin() as connection:
        for made in (
            "CREATE TABLE old_2026_11 PARTITION OF old FOR VALUES FROM (1) TO (100)",
            "CREATE TABLE old_2025_01 (order_id bigint PRIMARY KEY)",  # detached, and not dropped yet
            "CREATE INDEX old_2025_01_idx ON old_2025_01 (order_id)",
            "CREATE TABLE orders_hand_made PARTITION OF orders FOR VALUES IN ('ODD')",
            "CREATE INDEX orders_partner_idx ON orders (partner)",
        ):
            connection.exec_driver_sql(made)
    assert differences(migrated, models(partner_index=True)) == []
    # Nor without include_name, which leaves most of them out from the start.
    with migrated.connect() as connection:
        options = {"autogenerate_plugins": PLUGINS}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, models(partner_index=True)) == []


def test_stray_table_is_still_found(migrated: Engine) -> None:
    with migrated.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE stray (id int)")
    assert "op.drop_table('stray')" in autogenerate(migrated, models())[0]


def test_another_partition_key_is_an_error_that_says_what_to_do(migrated: Engine) -> None:
    with pytest.raises(
        PartitionKeyDiffers, match=r"orders is partitioned by LIST \(status\), .* a new table"
    ):
        differences(migrated, models(partition_by="LIST (partner)"))
