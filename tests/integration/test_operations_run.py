"""Alembic operations on a real database: online, printed and run by psql, and back again."""

import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from alembic.operations import MigrateOperation
from sqlalchemy import BigInteger, Column, Engine, Text, text
from sqlalchemy.exc import DBAPIError

from partitions import read_catalog
from partitions.bounds import ValueList
from partitions.catalog import PartitionedTable
from partitions.errors import ActionFailed
from partitions.manual import add
from partitions.migration_ops import (
    AttachPartitionOp,
    CreateIndexOnPartitionsOp,
    CreatePartialIndexOp,
    CreatePartitionedTableOp,
    CreatePartitionOp,
    DetachPartitionOp,
    DropPartitionOp,
    RegroupPartitionsOp,
    ReplacePartialIndexOp,
)
from partitions.migration_ops.statements import BoundMissing
from tests.integration.operations_rig import facts, partition_of, run, scratch_database, script_of
from tests.integration.partitions_rig import run as run_action
from tests.psql import psql
from tests.servers import PostgresServers


@pytest.fixture
def database(postgres: PostgresServers) -> Iterator[tuple[Engine, str]]:
    """Give a database with one partitioned table."""
    with scratch_database(postgres) as found:
        yield found


GROUPS = {"orders_hot": ["NEW", "PACKING", "SHIPPED"], "orders_done": ["CLOSED"]}
IS_NEW = "status = 'NEW'::text"


def regroup(becomes: dict[str, list[str]]) -> RegroupPartitionsOp:
    return RegroupPartitionsOp("orders", key="status", existing=GROUPS, new=becomes)


EVENTS = CreatePartitionedTableOp(
    "events",
    [Column("event_id", BigInteger, primary_key=True), Column("note", Text)],
    postgresql_partition_by="RANGE (event_id)",
)

# An operation (after others that it needs), and a word of what it must have changed.
CHANGES: dict[str, tuple[list[MigrateOperation], str]] = {
    "partitioned table": ([EVENTS], "'RANGE (event_id)'"),
    "partition by values": (
        [CreatePartitionOp("orders_odd", of="orders", values=["A'B", "C"])],
        "orders_odd",
    ),
    "partition by keys": (
        [EVENTS, CreatePartitionOp("events_1", of="events", keys=(1, 100))],
        "FROM ('1') TO ('100')",
    ),
    "attach": (
        [AttachPartitionOp("orders_lost", of="orders", values=["LOST"], key="status")],
        "('orders_lost', 41, 'LOST')",
    ),
    "detach": (
        [DetachPartitionOp("orders_done", of="orders", values=["CLOSED"])],
        "('orders_done', None, None)",
    ),
    "detach concurrently": (
        [DetachPartitionOp("orders_done", of="orders", values=["CLOSED"], key="status", concurrently=True)],
        "('orders_done', None, None)",
    ),
    "partial index": (
        [CreatePartialIndexOp("new_idx", table="orders_hot", columns=["order_id DESC"], where=IS_NEW)],
        "new_idx",
    ),
    "partial index concurrently": (
        [
            CreatePartialIndexOp(
                "new_idx", table="orders_hot", columns=["partner"], where=IS_NEW, concurrently=True
            )
        ],
        "new_idx",
    ),
    "another predicate": (
        [
            CreatePartialIndexOp("hot_idx", table="orders_hot", columns=["partner"], where=IS_NEW),
            ReplacePartialIndexOp(
                "hot_idx",
                table="orders_hot",
                columns=["partner"],
                where=None,
                existing_where=IS_NEW,
                concurrently=True,
            ),
        ],
        "INDEX hot_idx ON public.orders_hot USING btree (partner)'",
    ),
    "index on all partitions": (
        [
            CreateIndexOnPartitionsOp(
                "orders_partner_idx", table="orders", columns=["partner", "order_id DESC"]
            )
        ],
        "orders_hot_partner_idx ON public.orders_hot USING btree (partner, order_id DESC)', True",
    ),
    "new status": (
        [regroup({**GROUPS, "orders_done": ["CANCELLED", "CLOSED"]})],
        "IN ('CANCELLED', 'CLOSED')",
    ),
    "status to another group": (
        [regroup({"orders_hot": ["NEW", "PACKING"], "orders_done": ["CLOSED", "SHIPPED"]})],
        "('orders_done', 2, 'SHIPPED')",
    ),
    "status to a new group": (
        [
            regroup(
                {"orders_hot": ["NEW", "SHIPPED"], "orders_done": ["CLOSED"], "orders_packing": ["PACKING"]}
            )
        ],
        "('orders_packing', 1, 'PACKING')",
    ),
}


@pytest.mark.parametrize(("operations", "word"), CHANGES.values(), ids=CHANGES.keys())
def test_operation_and_its_inverse_online_and_by_psql(
    database: tuple[Engine, str], operations: list[MigrateOperation], word: str
) -> None:
    engine, conninfo = database
    before = facts(engine)
    backwards = [operation.reverse() for operation in reversed(operations)]

    run(engine, operations)
    after = facts(engine)
    assert [fact for fact in after - before if word in fact]
    run(engine, backwards)
    assert facts(engine) == before

    psql(conninfo, script_of(operations))
    assert facts(engine) == after
    psql(conninfo, script_of(backwards))
    assert facts(engine) == before


def test_partition_with_rows_is_not_dropped(database: tuple[Engine, str]) -> None:
    engine, conninfo = database
    drop = DropPartitionOp("orders_done", of="orders", values=["CLOSED"])
    before = facts(engine)
    with pytest.raises(DBAPIError, match="orders_done has rows: move them first"):
        run(engine, [drop])
    with pytest.raises(subprocess.CalledProcessError):
        psql(conninfo, script_of([drop]))
    assert facts(engine) == before


def test_no_more_rows_move_under_the_lock_than_allowed(database: tuple[Engine, str]) -> None:
    engine, _ = database
    becomes = {"orders_hot": ["NEW", "PACKING"], "orders_done": ["CLOSED", "SHIPPED"]}
    ten_shipped = {"table": "orders", "key": "status", "existing": GROUPS, "new": becomes}
    with pytest.raises(DBAPIError, match="orders_hot: more than 9 rows have status SHIPPED"):
        run(engine, [RegroupPartitionsOp(**ten_shipped, max_rows=9)])  # type: ignore[arg-type]
    run(engine, [RegroupPartitionsOp(**ten_shipped, max_rows=10)])  # type: ignore[arg-type]
    with engine.connect() as connection:
        assert partition_of(connection, "SHIPPED") == {"orders_done"}


def test_group_whose_rows_nobody_takes_is_refused(database: tuple[Engine, str]) -> None:
    engine, _ = database
    before = facts(engine)
    with pytest.raises(DBAPIError, match="orders_done has rows"):
        run(engine, [regroup({"orders_hot": GROUPS["orders_hot"]})])
    assert facts(engine) == before


def test_own_index_that_equals_one_of_its_table_stays_its_own(
    database: tuple[Engine, str],
) -> None:
    engine, conninfo = database
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE INDEX own_idx ON orders_hot (partner)")
    run(engine, [CreateIndexOnPartitionsOp("orders_partner", table="orders", columns=["partner"])])
    becomes = {**GROUPS, "orders_hot": [*GROUPS["orders_hot"], "RETURNED"]}
    change = regroup(becomes)
    parts = (
        "SELECT inhrelid::regclass::text FROM pg_inherits "
        "WHERE inhparent = 'orders_partner'::regclass ORDER BY 1"
    )
    expected = ["orders_done_partner", "orders_hot_partner"]
    for again in range(2):
        if again:
            psql(conninfo, script_of([change.reverse()]))
        else:
            run(engine, [change])
        with engine.connect() as connection:
            assert connection.scalars(text(parts)).all() == expected


def test_partition_whose_columns_stand_in_another_order_takes_rows(database: tuple[Engine, str]) -> None:
    engine, _ = database
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE orders_sent (partner text, gone int, status text NOT NULL,"
            " order_id bigint NOT NULL, PRIMARY KEY (order_id, status));"
            "ALTER TABLE orders_sent DROP COLUMN gone;"
            "ALTER TABLE orders ATTACH PARTITION orders_sent FOR VALUES IN ('SENT')"
        )
    was = {**GROUPS, "orders_sent": ["SENT"]}
    becomes = {**GROUPS, "orders_hot": ["NEW", "PACKING"], "orders_sent": ["SENT", "SHIPPED"]}
    run(engine, [RegroupPartitionsOp("orders", key="status", existing=was, new=becomes)])
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT * FROM orders WHERE status = 'SHIPPED' ORDER BY order_id LIMIT 1")
        )
        assert [tuple(row) for row in found] == [(2, "SHIPPED", "p2")]
        assert partition_of(connection, "SHIPPED") == {"orders_sent"}


def test_index_that_a_killed_run_left_half_made_is_finished(database: tuple[Engine, str]) -> None:
    engine, conninfo = database
    psql(
        conninfo,
        "CREATE INDEX orders_partner_idx ON ONLY orders (partner);"
        "CREATE INDEX orders_done_partner_idx ON orders_done (partner);"
        "CREATE INDEX orders_hot_partner_idx ON orders_hot (partner);"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orders_hot_partner_idx'::regclass",
    )
    run(engine, [CreateIndexOnPartitionsOp("orders_partner_idx", table="orders", columns=["partner"])])
    indexes = [fact for fact in facts(engine) if "partner_idx" in fact]
    assert len(indexes) == 3
    assert [fact for fact in indexes if "True" not in fact] == []


def test_detach_that_was_cut_off_is_finished(database: tuple[Engine, str]) -> None:
    engine, conninfo = database
    with psycopg.connect(conninfo, autocommit=True) as dba, psycopg.connect(conninfo) as reader:
        reader.execute("SELECT count(*) FROM orders")
        dba.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            dba.execute("ALTER TABLE orders DETACH PARTITION orders_done CONCURRENTLY")
    with engine.connect() as connection:
        assert partition_of(connection, "CLOSED") == set()  # what makes a pending detach dangerous
    run(engine, [DetachPartitionOp("orders_done", of="orders", values=["CLOSED"], concurrently=True)])
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pg_inherits WHERE inhdetachpending")) == 0


def test_lock_that_is_not_free_is_waited_for_briefly(database: tuple[Engine, str]) -> None:
    engine, conninfo = database
    with psycopg.connect(conninfo) as other:
        other.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        create = CreatePartitionOp("orders_new", of="orders", values=["X"], lock_timeout_seconds=0.05)
        with pytest.raises(DBAPIError, match="lock timeout"):
            run(engine, [create])


@pytest.mark.parametrize("bound", [{}, {"values": ["A"], "keys": (1, 2)}])
def test_bound_must_be_one_of_two(bound: dict[str, object]) -> None:
    with pytest.raises(BoundMissing, match=r"orders_new: give either values=\[...\] or keys"):
        CreatePartitionOp("orders_new", of="orders", **bound).statements()  # type: ignore[arg-type]


def test_regrouping_does_not_take_away_a_value_that_its_revision_does_not_know(
    database: tuple[Engine, str],
) -> None:
    engine, conninfo = database
    [change] = add(_orders(engine), "orders_hot", ["ON 'HOLD'"], key="status")
    run_action(engine, change)
    late = regroup({**GROUPS, "orders_hot": [*GROUPS["orders_hot"], "RETURNED"]})
    before = facts(engine)
    with pytest.raises(ActionFailed, match="orders_hot holds values that this revision does not name"):
        run(engine, [late])
    with pytest.raises(subprocess.CalledProcessError) as printed:
        psql(conninfo, script_of([late]))
    assert "does not name and would take away" in printed.value.stderr
    assert facts(engine) == before
    was = {**GROUPS, "orders_hot": [*GROUPS["orders_hot"], "ON 'HOLD'"]}
    becomes = {**was, "orders_hot": [*was["orders_hot"], "RETURNED"]}
    run(engine, [RegroupPartitionsOp("orders", key="status", existing=was, new=becomes)])
    bound = _orders(engine).partition("orders_hot")
    assert bound is not None
    assert bound.bound == ValueList(frozenset(becomes["orders_hot"]))


def _orders(engine: Engine) -> PartitionedTable:
    with engine.connect() as connection:
        return read_catalog(connection, ["orders"])["orders"]
