"""`check --deep` on real rows: each fault is made, found, told with its way out, and mended by that."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

import partitions
from app.models.policies import ARCHIVE
from partitions.archive import move
from partitions.check import PartitionFinding
from partitions.row_checks import RowCheckProgress, Window, WindowSize, check_rows, walk_windows
from sharding.ids import first_id_at
from tests.integration.archive_rig import add_orders, assert_whole, order_ids
from tests.integration.partitions_rig import MES, NOW
from tests.integration.partitions_shard import engine_of, own_shard
from tests.psql import psql
from tests.servers import PostgresServers

SMALL = WindowSize(rows=4, fewest_rows=2)
LIVE, ARCHIVED = order_ids(6), order_ids(6, made=datetime(2026, 11, 10, tzinfo=UTC))


@pytest.fixture(scope="module")
def dbname(postgres: PostgresServers, templates: Mapping[str, str]) -> Iterator[str]:
    """Clone a shard for the tests of this file."""
    with own_shard(postgres, templates, prefix="deep") as name:
        yield name


@pytest.fixture
def owner(postgres: PostgresServers, dbname: str) -> Engine:
    """Connect to a shard with six live orders, and six archived ones."""
    engine = engine_of(postgres.conninfo(dbname, role="mes_owner"))
    partitions.apply(engine, MES, NOW)
    run(
        engine, *(f"TRUNCATE {live}, {archive}" for live, archive in ARCHIVE.moves.items()), "TRUNCATE orders"
    )
    with engine.begin() as connection:
        add_orders(connection, ARCHIVED)
    move(engine, ARCHIVE, NOW)
    with engine.begin() as connection:
        add_orders(connection, LIVE, status="SHIPPED")
    assert_whole(engine, [*LIVE, *ARCHIVED])
    return engine


def deep(owner: Engine, size: WindowSize = SMALL) -> list[PartitionFinding]:
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return check_rows(connection, MES, [ARCHIVE], size=size)


def run(owner: Engine, *statements: str) -> None:
    with owner.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def where(findings: list[PartitionFinding]) -> list[tuple[str, str]]:
    return [(found.table, found.partition) for found in findings]


def test_whole_orders_are_no_fault_and_progress_ends_at_all_rows(owner: Engine) -> None:
    run(owner, "ANALYZE")
    told: list[RowCheckProgress] = []
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert check_rows(connection, MES, [ARCHIVE], size=SMALL, report=told.append) == []
    # Each of the 72 rows is read as one of a partition, of a tree, of a child: none of them once only.
    assert told[-1].rows == told[-1].of_rows > 72
    assert [each.rows for each in told] == sorted(each.rows for each in told)


def test_order_that_stands_live_and_archived_is_told_with_both(owner: Engine) -> None:
    run(
        owner,
        "INSERT INTO orders (order_id, status, channel, summary, version) "
        f"SELECT order_id, 'CLOSED', channel, summary, version FROM orders_archive "
        f"WHERE order_id >= {ARCHIVED[4]}",
    )
    [found] = deep(owner)
    assert (found.table, found.fault) == (
        "orders",
        f"2 order_id stand in it and in orders_archive: {ARCHIVED[4]}, {ARCHIVED[5]}",
    )
    assert f"SELECT * FROM orders_archive WHERE order_id = {ARCHIVED[4]}" in found.fix
    assert "from orders, order_items, order_events, or from orders_archive" in found.fix


def test_children_in_the_other_tree_than_their_order_are_moved_by_the_fix(owner: Engine) -> None:
    run(
        owner,
        f"WITH gone AS (DELETE FROM order_items_archive WHERE order_id = {ARCHIVED[0]} RETURNING *) "
        "INSERT INTO order_items SELECT * FROM gone",
    )
    [found] = deep(owner)
    assert found.table == "order_items"
    assert found.fault == f"rows of 1 order_id that stand in orders_archive, not in orders: {ARCHIVED[0]}"
    run(owner, found.fix)
    assert deep(owner) == []
    assert_whole(owner, [*LIVE, *ARCHIVED])


def test_archived_children_of_a_live_order_are_moved_back_by_the_fix(owner: Engine) -> None:
    moved = ARCHIVED[:2]
    run(
        owner,
        "WITH gone AS (DELETE FROM orders_archive WHERE order_id <= "
        f"{moved[-1]} RETURNING order_id, status, channel, summary, version, changed_at) "
        "INSERT INTO orders (order_id, status, channel, summary, version, changed_at) SELECT * FROM gone",
    )
    findings = deep(owner)
    assert where(findings) == [("order_items_archive", ""), ("order_events_archive", "")]
    for found in findings:
        assert f"rows of 2 order_id that stand in orders, not in orders_archive: {moved[0]}" in found.fault
        run(owner, found.fix)
    assert deep(owner) == []


def test_children_without_an_order_are_told_by_table(owner: Engine) -> None:
    run(
        owner,
        f"DELETE FROM orders WHERE order_id = {LIVE[2]}",
        f"DELETE FROM orders_archive WHERE order_id = {ARCHIVED[3]}",
    )
    findings = deep(owner)
    assert where(findings) == [
        ("order_items", ""),
        ("order_items_archive", ""),
        ("order_events", ""),
        ("order_events_archive", ""),
    ]
    fault = f"rows of 1 order_id that stand neither in orders_archive nor in orders: {ARCHIVED[3]}"
    assert findings[1].fault == fault
    for found in findings:
        run(owner, found.fix[found.fix.index("DELETE") :])
    assert deep(owner) == []


def test_row_in_the_wrong_month_is_moved_by_the_fix(
    owner: Engine, dbname: str, postgres: PostgresServers
) -> None:
    misplace(postgres.conninfo(dbname), first_id_at(NOW) + 1)
    [found] = deep(owner)
    assert where([found]) == [("orders_archive", "orders_archive_2026_12")]
    assert found.fault == f"1 rows are outside its bound: order_id {first_id_at(NOW) + 1}"
    psql(postgres.conninfo(dbname), found.fix)
    assert deep(owner) == []


def test_row_that_stands_in_its_month_and_in_another_is_told_so(
    owner: Engine, dbname: str, postgres: PostgresServers
) -> None:
    misplace(postgres.conninfo(dbname), ARCHIVED[0])
    [found] = deep(owner)
    assert found.fault == (
        f"1 rows are outside its bound, and stand in another partition too: order_id {ARCHIVED[0]}"
    )


def misplace(conninfo: str, order_id: int) -> None:
    """Put a row of November into December's partition, as a restore can: only a superuser is able to."""
    month = "orders_archive_2026_12"
    psql(
        conninfo,
        f"""
        SELECT pg_get_expr(relpartbound, oid) AS bound FROM pg_class WHERE relname = '{month}' \\gset
        SELECT pg_get_constraintdef(oid) AS condition FROM pg_constraint
            WHERE conname = '{month}_month_check' \\gset
        ALTER TABLE orders_archive DETACH PARTITION {month};
        ALTER TABLE {month} DROP CONSTRAINT {month}_month_check;
        INSERT INTO {month} (order_id, status, channel, summary, version)
            VALUES ({order_id}, 'CLOSED', 'B2C', 'ring', 1);
        ALTER TABLE {month} ADD CONSTRAINT {month}_month_check :condition NOT VALID;
        UPDATE pg_constraint SET convalidated = true WHERE conname = '{month}_month_check';
        \\connect
        ALTER TABLE orders_archive ATTACH PARTITION {month} :bound;
        """,
    )


def test_window_that_statement_timeout_cuts_off_is_halved(owner: Engine) -> None:
    seen: list[int] = []
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET statement_timeout = '500ms'")

        def look(window: Window) -> list[int]:
            # A tenth of a second for each of the 12 rows.
            query = "SELECT order_id FROM order_items, pg_sleep(order_id - order_id + 0.1) WHERE {}"
            return list(connection.exec_driver_sql(query.format(window.holds(["order_id"]))).scalars())

        for rows, found in walk_windows(connection, "order_items", ["order_id"], look, size=WindowSize(8, 1)):
            assert rows < 8
            seen += found
        assert sorted(seen) == sorted([*LIVE, *LIVE])
        with pytest.raises(DBAPIError, match="statement timeout"):
            list(walk_windows(connection, "order_items", ["order_id"], look, size=WindowSize(8, 8)))
