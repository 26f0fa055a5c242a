"""One at a time: two DBAs, a DBA and a migration, and a turn that is waited for while an index is built."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

import partitions
from ops.fleet import open_engine
from ops.partitions import service
from ops.waiting import wait_until
from partitions import RetryPolicy, manual
from partitions.actions import Action
from partitions.bounds import ValueList
from partitions.migration_ops import CreateIndexOnPartitionsOp, CreatePartialIndexOp, CreatePartitionOp
from sharding.topology import Topology
from tests.integration.operations_rig import run, scratch_database, script_of
from tests.project import PROJECT
from tests.psql import psql
from tests.servers import PostgresServers

LOCK = "hashtext('mes-storage partitions')"
HOLDER = (
    r"another session changes the partitions of this database.*pid \d+ \(.*idle for 0 s: SELECT pg_advisory"
)


@pytest.fixture
def database(postgres: PostgresServers) -> Iterator[tuple[Engine, str]]:
    """Give a database with one partitioned table."""
    with scratch_database(postgres) as found:
        yield found


@pytest.fixture
def owner(topology: Topology) -> Iterator[Engine]:
    """Connect to a shard as its owner."""
    with open_engine(topology, topology.databases["mes_0"], role="mes_owner") as engine:
        yield engine


@contextmanager
def occupied(engine: Engine) -> Iterator[Connection]:
    """Hold the lock of a database's partitions, in no transaction."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as holder:
        holder.exec_driver_sql(f"SELECT pg_advisory_lock({LOCK})")
        yield holder


def give_back(holder: Connection) -> None:
    holder.exec_driver_sql(f"SELECT pg_advisory_unlock({LOCK})")


def are_waiting(connection: Connection, count: int = 1) -> bool:
    """Tell whether so many sessions of this database have asked for the lock, and not had it."""
    asked = text(
        "SELECT count(*) FROM pg_stat_activity WHERE starts_with(query, 'SELECT pg_try_advisory_lock') "
        "AND datname = current_database() AND state = 'idle' AND pid NOT IN ("
        "    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)"
    )
    return bool(connection.scalar(asked) == count)


@contextmanager
def together(*works: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Do things at the same time; give the errors, when all have ended."""
    errors: list[BaseException] = []

    def attempt(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as fault:
            errors.append(fault)

    threads = [threading.Thread(target=attempt, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    yield errors
    for thread in threads:
        thread.join(timeout=60)


def test_waiting_for_a_turn_does_not_fail_the_index_that_is_being_built(database: tuple[Engine, str]) -> None:
    engine, _ = database
    is_taken = threading.Event()

    def wait() -> None:
        assert is_taken.wait(timeout=20)
        with partitions.open_executor(engine):
            pass

    with together(wait) as errors, partitions.open_executor(engine, RetryPolicy(attempts=1)) as executor:
        is_taken.set()
        build = manual.index(executor.catalog(["orders"])["orders"], "orders_partner_idx", "partner")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watcher:
            assert wait_until(lambda: are_waiting(watcher), timeout_seconds=20)
        # It waits for every snapshot that is older, also that of a session which waits for us.
        executor.run(build)
    assert errors == []


def test_two_dbas_add_a_value_each_and_none_is_lost(topology: Topology, owner: Engine) -> None:
    def add(value: str) -> Callable[[], object]:
        def choose(connection: Connection) -> list[Action]:
            orders = partitions.read_catalog(connection, ["orders"])["orders"]
            return manual.add(orders, "orders_hot", [value], key="status")

        return lambda: service.run_chosen(topology, service.partitioned(topology, PROJECT), choose)

    with occupied(owner) as holder, together(add("ON_HOLD"), add("LOST")) as errors:
        assert wait_until(lambda: are_waiting(holder, 2), timeout_seconds=20)
        give_back(holder)
    assert errors == []
    for each in service.read_catalogs(topology, PROJECT):
        assert each.result is not None
        hot = each.result["orders"].partition("orders_hot")
        assert hot is not None
        assert isinstance(hot.bound, ValueList)
        assert {"ON_HOLD", "LOST"} <= hot.bound.values


NEW = CreatePartitionOp("orders_new", of="orders", values=["A"], lock_timeout_seconds=0.4)
PARTNER = CreateIndexOnPartitionsOp("orders_partner_idx", table="orders", columns=["partner"])
FEW = CreatePartialIndexOp(
    "few_idx", table="orders_hot", columns=["partner"], where="status = 'NEW'", concurrently=True
)


def test_migration_in_its_transaction_names_who_changes_partitions(database: tuple[Engine, str]) -> None:
    engine, conninfo = database
    with occupied(engine):
        with pytest.raises(DBAPIError, match=HOLDER) as refused:
            run(engine, [NEW])
        # As any other lock that was not had in time: `mesctl migrate` tries again.
        assert getattr(refused.value.orig, "sqlstate", None) == "55P03"
        with pytest.raises(subprocess.CalledProcessError) as printed:
            psql(conninfo, script_of([NEW]))
        assert "another session changes the partitions" in printed.value.stderr
    run(engine, [NEW])
    with occupied(engine):  # the turn has ended with the transaction
        pass


@pytest.mark.parametrize("operation", [PARTNER, FEW])
def test_migration_outside_of_its_transaction_waits_for_its_turn(
    database: tuple[Engine, str], operation: CreateIndexOnPartitionsOp | CreatePartialIndexOp
) -> None:
    engine, _ = database
    with occupied(engine) as holder, together(lambda: run(engine, [operation])) as errors:
        assert wait_until(lambda: are_waiting(holder), timeout_seconds=20)
        assert holder.scalar(text("SELECT to_regclass(:name)"), {"name": operation.name}) is None
        give_back(holder)
    assert errors == []
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT to_regclass(:name)"), {"name": operation.name}) is not None


def test_script_gives_its_turn_back_when_psql_goes_on(database: tuple[Engine, str]) -> None:
    _, conninfo = database
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();"
    assert psql(conninfo, script_of([PARTNER, FEW]) + held).split()[-1] == "0"
