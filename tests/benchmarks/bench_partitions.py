"""What the life of partitions costs the application, and what the number of months costs a read by id."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median

from sqlalchemy import Connection, DateTime, Engine, create_engine, text
from sqlalchemy.pool import NullPool

import partitions
from app.models.policies import ARCHIVE_MONTHS
from ops.embedded.postgres import SUPERUSER
from partitions import Month, MonthlyRange, RetryPolicy
from partitions.actions import Action
from partitions.catalog import Catalog
from partitions.manual import detach, drop
from partitions.steps import LockTimeouts
from sharding.ids import first_id_at
from tests.benchmarks.harness import Measured, benchmark, platform
from tests.integration.partitions_load import under_load
from tests.integration.partitions_rig import MES, NOW, online_actions

LOCK_TIMEOUT_SECONDS = 1.0
FEW_ROWS, MANY_ROWS = 10_000, 1_000_000
FEW_MONTHS, MANY_MONTHS = 12, 240
ROUNDS = 5
MONTH = "orders_archive_2026_11"
BY_ID = "SELECT * FROM orders_archive WHERE order_id = "

ARCHIVED = text("""
    INSERT INTO orders_archive (order_id, status, channel, summary, price, version)
    SELECT CAST(:first AS bigint) + i, 'CLOSED', 'B2C', 'ring, gold_18k, polished, 1 piece', 420.00, 5
    FROM generate_series(1, :rows) AS i
""")


FILES = text("""
    SELECT pg_relation_filepath(pg_class.oid) FROM pg_class
    WHERE CAST(:month AS regclass) IN (
        pg_class.oid, (SELECT indrelid FROM pg_index WHERE indexrelid = pg_class.oid),
        (SELECT owner.oid FROM pg_class AS owner WHERE owner.reltoastrelid = pg_class.oid)
    )
""")


@contextmanager
def shard() -> Iterator[tuple[Engine, Engine]]:
    """Give a shard with its months, as its owner and as the service."""
    with platform() as topology:
        owner = create_engine(topology.url("mes_0", role="mes_owner"), poolclass=NullPool)
        service = create_engine(topology.url("mes_0", role="mes"))
        partitions.apply(owner, MES, NOW)
        yield owner, service
        service.dispose()


@contextmanager
def superuser_of(owner: Engine) -> Iterator[Engine]:
    """Connect to the same database as superuser."""
    engine = create_engine(owner.url.set(username=SUPERUSER), poolclass=NullPool)
    yield engine
    engine.dispose()


@benchmark(name="ddl_block", target=1)
def ddl_block() -> Measured:
    """Run every online action under load, and compare the slowest query with lock_timeout."""
    waiting = RetryPolicy(
        timeouts=LockTimeouts(lock_timeout_seconds=LOCK_TIMEOUT_SECONDS), attempts=20, backoff_seconds=0.05
    )
    slowest, name, actions = 0.0, "", 0
    with shard() as (owner, service), under_load(service, NOW) as load:
        with partitions.open_executor(owner, waiting) as executor:
            for action in online_actions(owner):
                load.longest_seconds = 0.0
                executor.run(action)
                load.wait_for_more(50)
                actions += 1
                if load.longest_seconds > slowest:
                    slowest, name = load.longest_seconds, action.summary
        if load.errors:
            raise load.errors[0]
    detail = (
        f"{slowest * 1000:.0f} ms during {name!r}; {actions} actions, {load.statements} queries, "
        f"none failed; lock_timeout {LOCK_TIMEOUT_SECONDS:g} s"
    )
    return Measured(slowest / LOCK_TIMEOUT_SECONDS, detail)


@benchmark(name="retention_growth", target=2)
def retention_growth() -> Measured:
    """Compare detaching and dropping a month of many rows with one of few.

    What is dearer is the COMMIT of the DROP, in which the server drops its buffers and the kernel frees the
    pages of files that were written a moment ago. Nobody waits for it: the table is detached, and its lock is
    released before that (after 11 of 85 ms). TRUNCATE first, or a checkpoint, moves the work and does not
    lessen it. A month that leaves has rested for years, and is in no cache: that is measured as well.
    """
    with shard() as (owner, _), superuser_of(owner) as root:
        hot: dict[int, list[float]] = {FEW_ROWS: [], MANY_ROWS: []}
        rested: dict[int, list[float]] = {FEW_ROWS: [], MANY_ROWS: []}
        # In turn: what else the machine does hits all.
        for _ in range(ROUNDS):
            for rows in (FEW_ROWS, MANY_ROWS):
                hot[rows].append(retire(owner, rows))
                rested[rows].append(retire(owner, rows, rest=lambda: rest(root)))
        fill(owner, FEW_ROWS)
        delete_few = timed(lambda: delete(owner))
        fill(owner, MANY_ROWS)
        delete_many = timed(lambda: delete(owner))
    detail = (
        f"just written: {growth_of(hot)}; rested: {growth_of(rested)}; "
        f"a DELETE's growth is {delete_many / delete_few:.0f}"
    )
    return Measured(median(hot[MANY_ROWS]) / median(hot[FEW_ROWS]), detail)


def growth_of(seconds: Mapping[int, list[float]]) -> str:
    """Say what many rows cost beside few."""
    many, few = median(seconds[MANY_ROWS]), median(seconds[FEW_ROWS])
    return (
        f"{many / few:.2f} ({many * 1000:.0f} ms with {MANY_ROWS} rows, {few * 1000:.0f} ms with {FEW_ROWS})"
    )


def retire(owner: Engine, rows: int, *, rest: Callable[[], None] = lambda: None) -> float:
    """Fill the current month, and time its detach and its drop; it stands again afterwards."""
    fill(owner, rows)
    rest()
    with partitions.open_executor(owner) as executor:

        def run(choose: Callable[[Catalog], list[Action]]) -> None:
            for action in choose(executor.catalog(["orders_archive"])):
                executor.run(action)

        def leave() -> None:
            run(lambda catalog: detach(catalog["orders_archive"], MONTH, NOW))
            run(lambda catalog: drop(catalog["orders_archive"], MONTH, NOW, delay=timedelta(0)))

        seconds = timed(leave)
    partitions.apply(owner, MES, NOW)
    return seconds


def rest(root: Engine) -> None:
    """Write the files of the current month to disk and out of the kernel's cache, as if unused for long."""
    with root.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CHECKPOINT")
        folder = Path(connection.exec_driver_sql("SHOW data_directory").scalar_one())
        paths = list(connection.scalars(FILES, {"month": MONTH}))
    for path in (file for stem in paths for file in folder.glob(f"{stem}*")):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fill(owner: Engine, rows: int) -> None:
    """Put rows into the current month, and let the server write them out before anything is timed."""
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(ARCHIVED, {"first": first_id_at(NOW), "rows": rows})
        connection.exec_driver_sql("VACUUM ANALYZE orders_archive")


def delete(owner: Engine) -> None:
    """Remove the rows of the month as one would without partitions."""
    with owner.begin() as connection:
        connection.exec_driver_sql("DELETE FROM orders_archive")


def timed(action: Callable[[], object]) -> float:
    """Give the seconds that something took."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


@benchmark(name="plan_time_growth", target=1.5)
def plan_time_growth() -> Measured:
    """Compare the planning of a read by id with many and with few months of archive."""
    with shard() as (owner, service):
        make_months(owner, FEW_MONTHS)
        few = planning_ms(service)
        make_months(owner, MANY_MONTHS)
        many = planning_ms(service)
    detail = f"{many:.3f} ms with {MANY_MONTHS} months, {few:.3f} ms with {FEW_MONTHS}, as PostgreSQL says"
    return Measured(many / few, detail)


@benchmark(name="locks_by_id", target=8, unit="relations")
def locks_by_id() -> Measured:
    """Count the relations that a read by id locks with many months of archive."""
    with shard() as (owner, service):
        few = locks(service)
        make_months(owner, MANY_MONTHS)
        many = locks(service)
    return Measured(many, f"{many} with {MANY_MONTHS} months, {few} with {len(ARCHIVE_MONTHS) + 1}")


def make_months(owner: Engine, months: int) -> None:
    """Have so many months of orders, the earliest in January 2024."""
    [policy] = [policy for policy in ARCHIVE_MONTHS if policy.table == "orders_archive"]
    last = Month(2024, 1).later(months - 1 - policy.months_ahead)
    partitions.apply(owner, [policy], max(last.start, NOW), since=Month(2024, 1))


def planning_ms(service: Engine) -> float:
    """Give the median planning time of a read by id, on a connection that knows the table already."""
    with service.connect() as connection:
        explain = f"EXPLAIN (SUMMARY, FORMAT JSON) {BY_ID}{first_id_at(NOW)}"
        found = [connection.exec_driver_sql(explain).scalar_one()[0]["Planning Time"] for _ in range(300)]
    return float(median(found[50:]))


def locks(service: Engine) -> int:
    """Count what a read by id locks, parameters and all, after it was executed often enough to be cached."""
    query = text(f"{BY_ID}:id")
    with service.connect() as connection:
        for _ in range(20):
            held = _locked_by(connection, lambda: connection.execute(query, {"id": first_id_at(NOW)}).all())
    return held


PAYMENTS_OF_A_MONTH = 20_000
SOME, TEN_TIMES = 12, 120


@benchmark(name="by_id_months", target=SOME, unit="ratio")
def by_id_months() -> Measured:
    """Compare the pages that a read by id visits in a table of ten times as many months of time.

    The key is a timestamp, of which the id says nothing: without a time in the query PostgreSQL looks into
    the index of every month. With the time, or the range of it, it looks into one.
    """
    with shard() as (owner, _):
        few = pages_by_id(owner, SOME)
        many = pages_by_id(owner, TEN_TIMES)
        with_time = pages_by_id(owner, TEN_TIMES, " AND at >= '2026-11-01' AND at < '2026-12-01'")
    detail = (
        f"{many} pages with {TEN_TIMES} months, {few} with {SOME}; "
        f"{with_time} with {TEN_TIMES} when the query has the month too"
    )
    return Measured(many / few, detail)


def pages_by_id(owner: Engine, months: int, more: str = "") -> int:
    """Make a table of so many months, and count the pages of a read by id."""
    policy = MonthlyRange("by_id", key="at", key_type=DateTime, months_ahead=0)
    rows = (
        "INSERT INTO by_id SELECT 1000000 * month + row, date '2026-11-01' - make_interval(months => month) "
        f"FROM generate_series(0, {months - 1}) AS month, generate_series(1, {PAYMENTS_OF_A_MONTH}) AS row"
    )
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM by_id WHERE id = 17{more}"
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS by_id")
        columns = "id bigint, at timestamp, PRIMARY KEY (id, at)"
        connection.exec_driver_sql(f"CREATE TABLE by_id ({columns}) PARTITION BY RANGE (at)")
        partitions.apply(owner, [policy], NOW, since=Month.of(NOW).later(1 - months))
        connection.exec_driver_sql(rows)
        connection.exec_driver_sql("VACUUM ANALYZE by_id")
        [found] = connection.exec_driver_sql(explain).scalar_one()
        connection.exec_driver_sql("DROP TABLE by_id")
    return int(found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"])


def _locked_by(connection: Connection, read: Callable[[], object]) -> int:
    read()
    count = text("""
        SELECT count(*) FROM pg_locks JOIN pg_class ON pg_class.oid = relation
        WHERE pid = pg_backend_pid() AND relname LIKE 'orders%'
    """)
    held = int(connection.execute(count).scalar_one())
    connection.rollback()
    return held
