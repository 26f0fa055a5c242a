"""Every action, there and back: what it does, what it refuses, and who is named when it waits."""

from collections.abc import Callable, Iterator, Mapping

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

import partitions
from app.models.policies import POLICIES
from ops.fleet import open_engine
from partitions import RetryPolicy, manual
from partitions.actions import Action, DetachPartition, DropTable
from partitions.actions import attach as attach_sql
from partitions.bounds import ValueList
from partitions.catalog import Catalog
from partitions.errors import ActionBlocked, ActionFailed, PartitionsBusy
from partitions.regroup import ChangeValues
from partitions.steps import ExecutionMode, LockTimeouts, SqlStep, render_step
from sharding.ids import first_id_at
from sharding.topology import Topology
from tests.integration.partitions_rig import (
    NOW,
    archive_row,
    catalog_of,
    detach_of,
    index_of,
    insert_order,
    run,
    split_of,
    where_orders_are,
)
from tests.psql import psql
from tests.servers import PostgresServers

MES = POLICIES
BRIEF = RetryPolicy(
    timeouts=LockTimeouts(lock_timeout_seconds=0.4, concurrent_lock_timeout_seconds=0.4),
    attempts=2,
    sleep=lambda _: None,
)

# Long enough to be seen waiting on a machine that has other work.
SEEN_WAITING = RetryPolicy(timeouts=LockTimeouts(lock_timeout_seconds=3), attempts=2, sleep=lambda _: None)


@pytest.fixture
def owner(topology: Topology) -> Iterator[Engine]:
    """Connect to a shard with its months as its owner."""
    with open_engine(topology, topology.databases["mes_0"], role="mes_owner") as engine:
        partitions.apply(engine, MES, NOW)
        yield engine


def test_detached_month_keeps_its_rows_and_comes_back(owner: Engine) -> None:
    with owner.begin() as connection:
        connection.exec_driver_sql(archive_row(first_id_at(NOW)))
    action = detach_of(owner, "orders_archive_2026_11")
    run(owner, action)
    with owner.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM orders_archive").scalar_one() == 0
    [lone] = catalog_of(owner)["orders_archive"].detached
    assert lone.mark is not None
    assert (lone.name, lone.mark.at) == ("orders_archive_2026_11", NOW)

    inverse = action.inverse()
    assert inverse is not None
    run(owner, inverse)
    with owner.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM orders_archive").scalar_one() == 1
    assert catalog_of(owner)["orders_archive"].detached == ()
    assert partitions.check(MES, catalog_of(owner), NOW) == []


def test_detach_that_was_cut_off_is_finished_and_the_month_attached_again(owner: Engine) -> None:
    with owner.connect() as old:
        old.exec_driver_sql("SELECT FROM orders_archive")
        with pytest.raises(ActionBlocked, match="SELECT FROM orders_archive"):
            run(owner, detach_of(owner, "orders_archive_2026_11"), BRIEF)
    faults = [found.fault for found in partitions.check(MES, catalog_of(owner), NOW)]
    assert "its detach was cut off: its rows are in no query of the table" in faults

    done = [action.summary for action in partitions.apply(owner, MES, NOW)]
    assert done == ["finish pending detach of orders_archive_2026_11", "attach orders_archive_2026_11"]
    assert partitions.check(MES, catalog_of(owner), NOW) == []


@pytest.mark.parametrize("by_hand", [False, True])
def test_check_that_a_detach_leaves_does_not_refuse_a_later_value(by_hand: bool, owner: Engine) -> None:
    [detach] = manual.detach(catalog_of(owner)["orders"], "orders_hot", NOW)
    before, attach = checks_of(owner, "orders_hot"), detach.inverse()
    run(owner, detach)
    assert before == []
    assert [name for name, _ in checks_of(owner, "orders_hot")] == ["orders_hot_status_check"]
    if by_hand:  # as a person does it in psql, who knows nothing of the CHECK
        hot = detach.bound if isinstance(detach, DetachPartition) else None
        assert isinstance(hot, ValueList)
        with owner.begin() as connection:
            connection.exec_driver_sql(attach_sql("orders", "orders_hot", hot))
            connection.exec_driver_sql("COMMENT ON TABLE orders_hot IS NULL")
        [found] = partitions.check(MES, catalog_of(owner), NOW)
        assert found.fault.startswith("its CHECK orders_hot_status_check was left")
        [done] = partitions.apply(owner, MES, NOW)
        assert done.summary == "orders_hot: drop orders_hot_status_check"
    else:
        run(owner, attach)
    assert checks_of(owner, "orders_hot") == []
    assert partitions.check(MES, catalog_of(owner), NOW) == []


def test_lock_goes_when_the_client_is_frozen_inside_the_transaction(owner: Engine) -> None:
    step = SqlStep(("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE",), mode=ExecutionMode.EXCLUSIVE)
    *begun, _commit = render_step(step, LockTimeouts(lock_timeout_seconds=1.0))
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as frozen:
        for line in begun:
            frozen.exec_driver_sql(line)
        with owner.connect() as application:
            application.exec_driver_sql("SET lock_timeout = '30s'")
            application.exec_driver_sql("SELECT FROM orders")  # waits until the server has ended the other
        with pytest.raises(DBAPIError, match="idle-in-transaction timeout"):
            frozen.exec_driver_sql("COMMIT")


def test_value_that_is_added_to_a_partition_with_such_a_check_is_taken(owner: Engine) -> None:
    [detach] = manual.detach(catalog_of(owner)["orders"], "orders_hot", NOW)
    run(owner, detach)
    with owner.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE orders_hot ADD CHECK (version > 0)")
        connection.exec_driver_sql(attach_sql("orders", "orders_hot", detach.bound))  # type: ignore[attr-defined]
    [change] = manual.add(catalog_of(owner)["orders"], "orders_hot", ["ON_HOLD"], key="status")
    run(owner, change)
    with owner.begin() as connection:
        insert_order(connection, 1, "ON_HOLD")
    # Somebody's own CHECK stays.
    assert [name for name, _ in checks_of(owner, "orders_hot")] == ["orders_hot_version_check"]


def test_month_that_comes_back_has_the_check_that_it_was_made_with(owner: Engine) -> None:
    month = "orders_archive_2026_11"
    before = checks_of(owner, month)
    detach = detach_of(owner, month)
    run(owner, detach)
    assert checks_of(owner, month) == before
    run(owner, detach.inverse())
    assert [name for name, _ in checks_of(owner, month)] == [f"{month}_month_check"]


def checks_of(owner: Engine, table: str) -> list[tuple[str, str]]:
    """Give the CHECKs of a table besides the shard's guard, which every table has."""
    with owner.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
            f"WHERE conrelid = '{table}'::regclass AND contype = 'c' "
            "AND conname <> 'shard_owns_check' ORDER BY 1"
        )
        return [(row[0], row[1]) for row in rows]


def test_declared_index_that_is_missing_is_built_and_taken_back(owner: Engine) -> None:
    index = "orders_hot_shipped_idx"
    with owner.begin() as connection:
        before = definition(connection, index)
        connection.exec_driver_sql(f"DROP INDEX {index}")
    [action] = partitions.apply(owner, MES, NOW)
    assert (action.summary, action.why) == (f"create index {index} on orders_hot", "declared, and missing")
    with owner.connect() as connection:
        assert definition(connection, index) == before
    assert partitions.check(MES, catalog_of(owner), NOW) == []
    run(owner, action.inverse())
    assert [found.fault for found in partitions.check(MES, catalog_of(owner), NOW)] == [
        f"the index {index} is missing"
    ]


def test_name_of_a_declared_index_that_something_else_has_is_told_and_left_alone(owner: Engine) -> None:
    with owner.begin() as connection:
        connection.exec_driver_sql("DROP INDEX orders_hot_shipped_idx")
        connection.exec_driver_sql("CREATE INDEX orders_hot_shipped_idx ON order_items (model_key)")
    with pytest.raises(ActionFailed, match="orders_hot_shipped_idx exists and is no index of orders_hot"):
        partitions.apply(owner, MES, NOW)
    with owner.connect() as connection:
        assert "order_items" in definition(connection, "orders_hot_shipped_idx")


def definition(connection: Connection, index: str) -> str:
    return str(connection.exec_driver_sql(f"SELECT pg_get_indexdef('{index}'::regclass)").scalar_one())


def test_table_that_was_attached_meanwhile_is_not_dropped(owner: Engine) -> None:
    with pytest.raises(ActionFailed, match="orders_archive_2026_11 is attached again: it was not dropped"):
        run(owner, DropTable(table="orders_archive", partition="orders_archive_2026_11"))
    assert catalog_of(owner)["orders_archive"].partition("orders_archive_2026_11") is not None


def test_value_is_added_and_taken_back(owner: Engine) -> None:
    hot = values(catalog_of(owner), "orders_hot")
    action = ChangeValues(
        table="orders", key="status", partition="orders_hot", before=hot, after=hot | {"ON_HOLD"}
    )
    run(owner, action)
    with owner.begin() as connection:
        insert_order(connection, 1, "ON_HOLD")
    with pytest.raises(ActionFailed, match="violated by some row"):
        run(owner, action.inverse())
    assert values(catalog_of(owner), "orders_hot") == hot | {"ON_HOLD"}
    with owner.begin() as connection:
        connection.exec_driver_sql("DELETE FROM orders")
    run(owner, action.inverse())
    assert partitions.check(MES, catalog_of(owner), NOW) == []


def test_value_is_added_without_a_scan_under_the_lock(owner: Engine, topology: Topology) -> None:
    hot = values(catalog_of(owner), "orders_hot")
    action = ChangeValues(
        table="orders", key="status", partition="orders_hot", before=hot, after=hot | {"ON_HOLD"}
    )
    with owner.connect() as connection:
        before = scans(connection)
    *proof, switch = action.steps()
    assert len(proof) == 2
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for step in proof:
            for statement in step.statements:
                connection.exec_driver_sql(statement)
        proved = scans(connection)
        for statement in switch.statements:
            connection.exec_driver_sql(statement)
        assert proved > before
        assert scans(connection) == proved


def test_split_moves_the_rows_and_merge_moves_them_back(owner: Engine) -> None:
    with owner.begin() as connection:
        for number, status in enumerate(["SUBMITTED", "SUBMITTED", "SHIPPED", "CLOSED"]):
            insert_order(connection, number, status)
    split = split_of(owner, "orders_hot", {"SUBMITTED"}, "orders_new")
    run(owner, split)
    assert where_orders_are(owner) == {"orders_new": 2, "orders_hot": 1, "orders_done": 1}
    found = catalog_of(owner)["orders"].partition("orders_new")
    assert found is not None
    assert found.bound == ValueList(frozenset({"SUBMITTED"}))
    of_partners = {f"orders_new_partner_{what}idx" for what in ("", "status_", "reference_")}
    assert found.indexes == {"orders_new_pkey", "orders_new_submitted_idx", *of_partners}

    run(owner, split.inverse())
    assert where_orders_are(owner) == {"orders_hot": 3, "orders_done": 1}
    assert partitions.check(MES, catalog_of(owner), NOW) == []


def test_split_of_more_rows_than_allowed_changes_nothing(owner: Engine) -> None:
    with owner.begin() as connection:
        for number in range(3):
            insert_order(connection, number, "SUBMITTED")
    with pytest.raises(ActionFailed, match="more than 2 rows would move from orders_hot"):
        run(owner, split_of(owner, "orders_hot", {"SUBMITTED"}, "orders_new", max_rows=2))
    # What had been prepared is taken away by the next run.
    assert [action.summary for action in partitions.apply(owner, MES, NOW)] == ["drop orders_new"]
    assert where_orders_are(owner) == {"orders_hot": 3}


def test_index_comes_on_every_partition_and_goes(owner: Engine) -> None:
    create = index_of(owner, "orders_archive")
    run(owner, create)
    [index] = [each for each in catalog_of(owner)["orders_archive"].indexes if each.name == create.index]
    assert index.valid
    assert len(index.parts) == len(create.partitions) == 4
    run(owner, create)
    run(owner, create.inverse())
    left = {each.name for each in catalog_of(owner)["orders_archive"].indexes}
    of_partners = {"orders_archive_partner_idx", "orders_archive_partner_reference_idx"}
    assert left == {"orders_archive_pkey", *of_partners}


def test_index_that_an_old_transaction_held_up_is_finished_by_the_next_run(owner: Engine) -> None:
    create = index_of(owner, "orders_archive")
    with owner.connect() as old:
        # By its own name: a writer of the parent would hold up the first step already.
        old.exec_driver_sql("LOCK TABLE orders_archive_2026_11 IN ROW EXCLUSIVE MODE")
        with pytest.raises(ActionBlocked, match="idle in transaction"):
            run(owner, create, BRIEF)
    faults = {found.fault for found in partitions.check(MES, catalog_of(owner), NOW)}
    assert f"the index {create.index} is not on every partition" in faults
    partitions.apply(owner, MES, NOW)
    assert partitions.check(MES, catalog_of(owner), NOW) == []


def test_who_blocks_is_named_with_pid_and_query(owner: Engine) -> None:
    split = split_of(owner, "orders_hot", {"SUBMITTED"}, "orders_new")
    with owner.connect() as other:
        pid = other.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        other.exec_driver_sql("LOCK TABLE orders_hot IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(ActionBlocked) as raised:
            run(owner, split, SEEN_WAITING)
    [blocker] = raised.value.blockers
    assert (blocker.pid, blocker.role, blocker.state) == (pid, "mes_owner", "idle in transaction")
    assert "LOCK TABLE orders_hot" in str(raised.value)
    assert "gave up after 2 attempts" in str(raised.value)


def test_blocker_of_another_role_is_named_with_the_way_to_see_its_query(
    owner: Engine, topology: Topology
) -> None:
    split = split_of(owner, "orders_hot", {"SUBMITTED"}, "orders_new")
    with (
        open_engine(topology, topology.databases["mes_0"], role="mes") as mes,
        mes.connect() as other,
    ):
        other.exec_driver_sql("SELECT FROM orders")
        hint = "its query is hidden: GRANT pg_read_all_stats TO mes_owner"
        with pytest.raises(ActionBlocked, match=rf"pid \d+ \(mes, .*{hint}"):
            run(owner, split, SEEN_WAITING)


def test_second_run_is_told_who_holds_the_first(owner: Engine) -> None:
    brief = RetryPolicy(lock_wait_seconds=0.2)
    with (
        partitions.open_executor(owner),
        pytest.raises(PartitionsBusy, match=r"pid \d+ \(mes_owner, mesctl\)"),
        partitions.open_executor(owner, brief),
    ):
        pytest.fail("two runs at once")


def test_pauses_double_up_to_their_bound_and_are_jittered() -> None:
    retry = RetryPolicy(backoff_seconds=1, max_backoff_seconds=5, jitter=lambda: 0.5)
    assert [retry.backoff(attempt) for attempt in (1, 2, 3, 4)] == [0.5, 1, 2, 2.5]


@pytest.mark.parametrize("kind", ["detach", "split", "index", "value"])
def test_psql_runs_what_is_rendered_there_and_back(
    kind: str, owner: Engine, topology: Topology, postgres: PostgresServers
) -> None:
    before = partitions.plan(MES, catalog_of(owner), NOW)
    hot = values(catalog_of(owner), "orders_hot")
    actions: Mapping[str, Callable[[], Action]] = {
        "detach": lambda: detach_of(owner, "orders_archive_2026_11"),
        "split": lambda: split_of(owner, "orders_hot", {"SHIPPED"}, "orders_shipped"),
        "index": lambda: index_of(owner, "orders_archive"),
        "value": lambda: ChangeValues(
            table="orders", key="status", partition="orders_hot", before=hot, after=hot | {"X"}
        ),
    }
    action = actions[kind]()
    inverse = action.inverse()
    assert inverse is not None
    conninfo = postgres.conninfo(topology.databases["mes_0"].dbname, role="mes_owner")
    psql(conninfo, partitions.render([action, inverse]))
    assert partitions.plan(MES, catalog_of(owner), NOW) == before == []
    assert partitions.check(MES, catalog_of(owner), NOW) == []


def values(catalog: Catalog, partition: str) -> frozenset[str]:
    found = catalog["orders"].partition(partition)
    assert found is not None
    assert isinstance(found.bound, ValueList)
    return found.bound.values


def scans(connection: Connection) -> int:
    """Count the sequential scans of orders_hot, with what this session has not reported yet."""
    connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    count = connection.exec_driver_sql("SELECT pg_stat_get_numscans('orders_hot'::regclass)").scalar_one()
    return int(count)
