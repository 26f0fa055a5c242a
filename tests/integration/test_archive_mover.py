"""Finished orders go to their month, whole and once; what is not due stays."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

import partitions
from app.models.policies import ARCHIVE, ARCHIVE_MONTHS
from partitions import Month
from partitions.archive import ArchivedBatch, count_archived, move, read_backlog, read_columns, script
from partitions.errors import ArchiveBatchFailed, ArchiveColumnsDiffer, ArchiveCountMismatch
from sharding.topology import Topology
from tests.integration.archive_rig import LONG_AGO, NOW, add_orders, assert_whole, order_ids, rows, shard
from tests.psql import psql
from tests.servers import PostgresServers

FIRST_MONTH = Month(2026, 9)
BOTH_WAYS = pytest.mark.parametrize("by_key", [False, True], ids=["at once", "by key"])
"""A batch is locked by one statement, or row by row, as Citus wants it."""


@pytest.fixture
def owner(topology: Topology) -> Iterator[Engine]:
    """Connect to the shard as its owner; the archive has its months."""
    with shard(topology, role="mes_owner") as engine:
        partitions.apply(engine, ARCHIVE_MONTHS, NOW, since=FIRST_MONTH)
        yield engine


@pytest.fixture
def mes(topology: Topology, owner: Engine) -> Iterator[Engine]:
    """Connect to the shard as the archive job does, with data rights only."""
    with shard(topology) as engine:
        yield engine


def test_order_travels_with_its_items_and_events(mes: Engine) -> None:
    ids = order_ids(7)
    with mes.begin() as connection:
        add_orders(connection, ids)
        before = connection.execute(text("SELECT * FROM orders_done ORDER BY order_id")).mappings().all()

    moved = move(mes, ARCHIVE, NOW)

    assert moved == {"orders_done": 7, "order_items": 14, "order_events": 21}
    assert_whole(mes, ids)
    assert rows(mes, "orders") == Counter()
    with mes.connect() as connection:
        after = connection.execute(text("SELECT * FROM orders_archive ORDER BY order_id")).mappings().all()
        assert [dict(row) for row in after] == [dict(row) for row in before]
        assert count_archived(connection, ARCHIVE) == {"orders_archive_2026_09": 7}


def test_order_goes_to_the_month_in_which_it_was_made(mes: Engine) -> None:
    with mes.begin() as connection:
        add_orders(connection, order_ids(2, made=datetime(2026, 9, 30, 23, 59, 59, tzinfo=UTC)))
    move(mes, ARCHIVE, NOW)
    with mes.connect() as connection:
        assert count_archived(connection, ARCHIVE) == {
            "orders_archive_2026_09": 1,
            "orders_archive_2026_10": 1,
        }


def test_only_orders_past_the_grace_period_go(mes: Engine) -> None:
    due, fresh, active = order_ids(1), order_ids(2)[1:], order_ids(3)[2:]
    edge = NOW - ARCHIVE.grace
    with mes.begin() as connection:
        add_orders(connection, due, status="REJECTED", changed_at=edge - timedelta(microseconds=1))
        add_orders(connection, fresh, status="CANCELLED", changed_at=edge)
        add_orders(connection, active, status="SHIPPED", changed_at=LONG_AGO)
    move(mes, ARCHIVE, NOW)
    assert rows(mes, "orders") == Counter(fresh + active)
    assert rows(mes, "orders_archive") == Counter(due)


@pytest.mark.parametrize(
    "owed",
    [
        "INSERT INTO pricing_jobs (order_id) VALUES ({})",
        "INSERT INTO outbox (order_id, message_id, destination, type, data) "
        "VALUES ({}, gen_random_uuid(), 'crm', 'order.closed', '{{}}')",
    ],
)
def test_order_that_still_owes_something_stays(mes: Engine, owed: str) -> None:
    ids = order_ids(3)
    with mes.begin() as connection:
        add_orders(connection, ids)
        connection.exec_driver_sql(owed.format(ids[0]))
        waiting = read_backlog(connection, ARCHIVE, NOW)
    assert (waiting.rows, waiting.owed, waiting.oldest_key) == (2, 1, ids[1])
    move(mes, ARCHIVE, NOW)
    assert rows(mes, "orders") == Counter(ids[:1])
    assert_whole(mes, ids)


@BOTH_WAYS
def test_batches_are_full_until_the_last(mes: Engine, by_key: bool) -> None:
    ids, batches = order_ids(25), list[ArchivedBatch]()
    with mes.begin() as connection:
        add_orders(connection, ids)
    move(mes, ARCHIVE, NOW, batch_rows=10, lock_by_key=by_key, report=batches.append)
    assert [batch.locked for batch in batches] == [10, 10, 5]
    assert_whole(mes, ids)
    assert move(mes, ARCHIVE, NOW) == {"orders_done": 0, "order_items": 0, "order_events": 0}


@BOTH_WAYS
def test_orders_that_ended_first_go_first(mes: Engine, by_key: bool) -> None:
    ids, batches = order_ids(3), list[Counter[int]]()
    with mes.begin() as connection:
        for days, order_id in zip((1, 3, 2), ids, strict=True):
            add_orders(connection, [order_id], changed_at=LONG_AGO - timedelta(days=days))
    move(
        mes,
        ARCHIVE,
        NOW,
        batch_rows=1,
        lock_by_key=by_key,
        report=lambda _: batches.append(rows(mes, "orders_archive")),
    )
    assert batches == [Counter([ids[1]]), Counter(ids[1:]), Counter(ids)]


@BOTH_WAYS
@pytest.mark.parametrize("batch_rows", [1, 500])
def test_order_that_somebody_holds_is_left_for_the_next_run(
    mes: Engine, by_key: bool, batch_rows: int
) -> None:
    ids = order_ids(4)
    with mes.begin() as connection:
        add_orders(connection, ids)
    with mes.connect() as holder:
        holder.exec_driver_sql(f"SELECT FROM orders WHERE order_id = {ids[2]} FOR UPDATE")
        moved = move(mes, ARCHIVE, NOW, batch_rows=batch_rows, lock_by_key=by_key)
        assert moved["orders_done"] == 3
        assert rows(mes, "orders") == Counter([ids[2]])
    assert move(mes, ARCHIVE, NOW, lock_by_key=by_key)["orders_done"] == 1
    assert_whole(mes, ids)


def test_batch_for_which_a_month_is_missing_is_rolled_back(mes: Engine) -> None:
    ids = order_ids(2) + order_ids(1, made=datetime(2026, 7, 1, tzinfo=UTC))
    with mes.begin() as connection:
        add_orders(connection, ids)
    with pytest.raises(
        ArchiveBatchFailed, match="orders_done: a batch was rolled back: no partition of relation"
    ):
        move(mes, ARCHIVE, NOW)
    assert rows(mes, "orders") == Counter(ids)
    assert_whole(mes, ids)


def test_archive_that_swallows_rows_is_found_out(mes: Engine, owner: Engine) -> None:
    ids = order_ids(5)
    with owner.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN IF NEW.line_no = 2 THEN RETURN NULL; END IF; RETURN NEW; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER swallow BEFORE INSERT ON order_items_archive "
            "FOR EACH ROW EXECUTE FUNCTION swallow()"
        )
    with mes.begin() as connection:
        add_orders(connection, ids)
    with pytest.raises(
        ArchiveCountMismatch, match="10 rows left order_items but 5 came to order_items_archive"
    ):
        move(mes, ARCHIVE, NOW)
    assert rows(mes, "orders") == Counter(ids)
    assert_whole(mes, ids)


def test_archive_with_other_columns_is_refused_before_anything_moves(mes: Engine, owner: Engine) -> None:
    with owner.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE order_items ADD COLUMN engraving text")
    with pytest.raises(ArchiveColumnsDiffer, match="order_items and order_items_archive differ in engraving"):
        move(mes, ARCHIVE, NOW)


def test_columns_may_stand_in_another_order(mes: Engine, owner: Engine) -> None:
    with owner.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE orders_archive DROP COLUMN operator, DROP COLUMN partner")
        connection.exec_driver_sql(
            "ALTER TABLE orders_archive ADD COLUMN operator text, ADD COLUMN partner text"
        )
    ids = order_ids(1)
    with mes.begin() as connection:
        add_orders(connection, ids)
        connection.exec_driver_sql("UPDATE orders SET operator = 'olga', partner = 'acme'")
    move(mes, ARCHIVE, NOW)
    with mes.connect() as connection:
        found = connection.exec_driver_sql("SELECT operator, partner FROM orders_archive").one()
    assert tuple(found) == ("olga", "acme")


def test_grace_period_is_the_policys(mes: Engine) -> None:
    ids = order_ids(1)
    with mes.begin() as connection:
        add_orders(connection, ids, changed_at=NOW - timedelta(hours=2))
    assert move(mes, replace(ARCHIVE, grace=timedelta(hours=3)), NOW)["orders_done"] == 0
    assert move(mes, replace(ARCHIVE, grace=timedelta(hours=1)), NOW)["orders_done"] == 1


@BOTH_WAYS
def test_psql_runs_what_a_dry_run_prints(
    mes: Engine, topology: Topology, postgres: PostgresServers, by_key: bool
) -> None:
    ids = order_ids(12)
    with mes.begin() as connection:
        add_orders(connection, ids)
        columns = read_columns(connection, ARCHIVE)
    cutoff = f"'{NOW - ARCHIVE.grace}'"
    batch = script(ARCHIVE, columns, cutoff=cutoff, batch_rows=10, lock_by_key=by_key)
    for left in (2, 0, 0):
        psql(postgres.conninfo(topology.databases["mes_0"].dbname, role="mes"), batch)
        assert rows(mes, "orders").total() == left
        assert_whole(mes, ids)
