"""Policies applied to real tables, while others use them."""

import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, Engine, text

import partitions
from app.models.mes import ORDERS
from app.models.policies import ARCHIVE_MONTHS, POLICIES
from ops.fleet import open_engine
from ops.waiting import wait_until
from partitions import Month, MonthlyRange, RetryPolicy
from partitions.actions import Action, Analyze
from partitions.catalog import Catalog
from partitions.errors import ActionFailed, NotPartitioned
from partitions.steps import LockTimeouts
from sharding.ids import first_id_at
from sharding.topology import Topology
from tests.psql import psql
from tests.servers import PostgresServers

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MONTHS = ["2026_11", "2026_12", "2027_01", "2027_02"]
MES = POLICIES


@pytest.fixture
def owner(topology: Topology) -> Iterator[Engine]:
    """Connect to a shard as its owner."""
    with open_engine(topology, topology.databases["mes_0"], role="mes_owner") as engine:
        yield engine


def catalog(engine: Engine) -> Catalog:
    with engine.connect() as connection:
        return partitions.read_catalog(connection, [policy.table for policy in MES])


def brief(lock_timeout_seconds: float) -> RetryPolicy:
    """Wait briefly, and try twice without a pause."""
    limits = LockTimeouts(
        lock_timeout_seconds=lock_timeout_seconds, concurrent_lock_timeout_seconds=lock_timeout_seconds
    )
    return RetryPolicy(timeouts=limits, attempts=2, sleep=lambda _seconds: None)


def made(actions: Iterable[Action]) -> list[str]:
    """Give what was done to months; the statistics are another matter."""
    return [f"{action.table}: {action.summary}" for action in actions if not isinstance(action, Analyze)]


def archive_row(order_id: int) -> str:
    return (
        "INSERT INTO orders_archive (order_id, status, channel, summary, version) "
        f"VALUES ({order_id}, 'CLOSED', 'B2C', 'ring', 1)"
    )


def test_months_stand_after_the_first_run_and_the_second_has_nothing_to_do(owner: Engine) -> None:
    told: list[str] = []
    partitions.apply(owner, MES, NOW, report=lambda action: told.append(f"{action.table}: {action.summary}"))

    assert len(told) == len(ARCHIVE_MONTHS) * len(MONTHS) + len(MES)
    for policy in ARCHIVE_MONTHS:
        names = [partition.name for partition in catalog(owner)[policy.table].partitions]
        assert names == [f"{policy.table}_{month}" for month in MONTHS]
    assert partitions.apply(owner, MES, NOW) == []
    assert partitions.check(MES, catalog(owner), NOW) == []


def test_rows_go_to_the_month_of_their_id_and_no_further(owner: Engine) -> None:
    partitions.apply(owner, MES, NOW)
    november = Month(2026, 11).keys(first_id_at)
    with owner.begin() as connection:
        for order_id in (november.start, november.end - 1, november.end):
            connection.exec_driver_sql(archive_row(order_id))
        where = text("SELECT tableoid::regclass::text FROM orders_archive ORDER BY order_id")
        assert list(connection.scalars(where)) == ["orders_archive_2026_11"] * 2 + ["orders_archive_2026_12"]
    with pytest.raises(Exception, match="no partition of relation"), owner.begin() as connection:
        connection.exec_driver_sql(archive_row(november.start - 1))


def test_month_has_its_parents_key_and_index(owner: Engine) -> None:
    partitions.apply(owner, MES, NOW)
    month = catalog(owner)["orders_archive"].partition("orders_archive_2026_11")
    assert month is not None
    of_partners = {
        f"orders_archive_2026_11_partner_{what}idx" for what in ("order_id_", "reference_order_id_")
    }
    assert month.indexes == {"orders_archive_2026_11_pkey", *of_partners}
    assert month.invalid_indexes == frozenset()


def test_service_reaches_a_month_through_its_parent(topology: Topology, owner: Engine) -> None:
    partitions.apply(owner, MES, NOW)
    with open_engine(topology, topology.databases["mes_0"], role="mes") as mes, mes.begin() as connection:
        connection.exec_driver_sql(archive_row(first_id_at(NOW)))


def test_reader_and_writer_of_the_parent_do_not_hold_it_up(topology: Topology, owner: Engine) -> None:
    partitions.apply(owner, MES, NOW)
    with (
        open_engine(topology, topology.databases["mes_0"], role="mes") as mes,
        mes.connect() as writer,
        mes.connect() as reader,
    ):
        writer.exec_driver_sql(archive_row(first_id_at(NOW)))
        reader.exec_driver_sql("SELECT count(*) FROM orders_archive")
        # Both transactions are open and hold their locks on the parent.
        done = partitions.apply(owner, MES, datetime(2026, 12, 23, tzinfo=UTC), retry=brief(0.5))
        assert made(done) == [f"{policy.table}: create + attach 2027-03" for policy in ARCHIVE_MONTHS]


def test_lock_that_is_not_free_is_waited_for_briefly_and_named(owner: Engine) -> None:
    with owner.connect() as other:
        other.exec_driver_sql("LOCK TABLE order_items_archive IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(
            ActionFailed, match=r"order_items_archive: create \+ attach 2026-11: .*lock timeout"
        ):
            partitions.apply(owner, MES, NOW, retry=brief(0.1))
    # What came before it stays, half a month never does, and the next run does the rest.
    assert len(catalog(owner)["orders_archive"].partitions) == len(MONTHS)
    assert len(made(partitions.apply(owner, MES, NOW))) == 2 * len(MONTHS)


def test_two_runs_at_once_make_every_month_once(owner: Engine) -> None:
    done: list[int] = []

    def run() -> None:
        done.append(len(partitions.apply(owner, MES, NOW)))

    with owner.connect() as gate:
        gate.exec_driver_sql("SELECT pg_advisory_lock(hashtext('mes-storage partitions'))")
        runs = [threading.Thread(target=run) for _ in range(2)]
        for thread in runs:
            thread.start()
        assert wait_until(lambda: _waiting(gate) == 2, timeout_seconds=60)
    for thread in runs:
        thread.join(timeout=60)
    assert sorted(done) == [0, len(ARCHIVE_MONTHS) * len(MONTHS) + len(MES)]


def _waiting(connection: Connection) -> int:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_try_advisory_lock%' "
        "AND datname = current_database()"
    )
    # A transaction sees one snapshot of the statistics, unless it is told to look again.
    connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
    return connection.scalar(waiting) or 0


def test_psql_runs_what_a_dry_run_prints(
    topology: Topology, owner: Engine, postgres: PostgresServers
) -> None:
    script = partitions.render(partitions.plan(MES, catalog(owner), NOW))
    psql(postgres.conninfo(topology.databases["mes_0"].dbname, role="mes_owner"), script)
    assert partitions.plan(MES, catalog(owner), NOW) == []


def test_table_that_is_not_partitioned_is_named(owner: Engine) -> None:
    policy = MonthlyRange(table="order_items", key="order_id", key_at=first_id_at)
    with pytest.raises(NotPartitioned, match="order_items is not a partitioned table"):
        partitions.apply(owner, [policy], NOW)


def test_check_finds_what_differs_from_the_policy(owner: Engine) -> None:
    partitions.apply(owner, MES, NOW)
    with owner.begin() as connection:
        for change in (
            "DROP TABLE orders_archive_2026_12",
            "DROP INDEX orders_hot_packaging_idx",
            "ALTER TABLE orders DETACH PARTITION orders_done",
            "ALTER TABLE orders ATTACH PARTITION orders_done FOR VALUES IN ('CLOSED', 'LOST', 'REJECTED')",
            "CREATE TABLE orders_rest PARTITION OF orders FOR VALUES IN ('UNKNOWN')",
        ):
            connection.exec_driver_sql(change)
    faults = {f"{found.partition}: {found.fault}" for found in partitions.check(MES, catalog(owner), NOW)}
    assert faults == {
        "orders_archive_2026_12: 2026-12 is missing",
        "orders_hot: the index orders_hot_packaging_idx is missing",
        "orders_done: its bound lacks CANCELLED, holds LOST",
        "orders_rest: no policy names this partition",
    }


def test_check_finds_a_group_that_is_gone(owner: Engine) -> None:
    with owner.begin() as connection:
        connection.exec_driver_sql("DROP TABLE orders_hot")
    faults = [found.fault for found in partitions.check([ORDERS], catalog(owner), NOW)]
    assert faults[0] == "the partition is missing"


def test_check_finds_an_index_that_is_not_valid(
    owner: Engine, postgres: PostgresServers, topology: Topology
) -> None:
    partitions.apply(owner, MES, NOW)
    # As a CREATE INDEX CONCURRENTLY leaves it that was cut off.
    mark = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orders_hot_shipped_idx'::regclass"
    psql(postgres.conninfo(topology.databases["mes_0"].dbname), mark)
    findings = partitions.check(MES, catalog(owner), NOW)
    assert [(found.fault, found.fix) for found in findings] == [
        ("the index orders_hot_shipped_idx is invalid", "apply the policies")
    ]
    partitions.apply(owner, MES, NOW)
    assert partitions.check(MES, catalog(owner), NOW) == []
