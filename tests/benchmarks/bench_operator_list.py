"""What history costs an operator: pages read for the 50 newest orders of a status, counted by PostgreSQL.

20,000 active orders stand among the newest 100,000; all others have ended. The statement is the service's
own, prepared by the driver and run ten times before it is explained: a plan that is good for the first
executions only would be found out.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

from app.mes.repository import newest
from app.models.status import DONE, HOT, Status
from sharding.ids import id_time_ms
from tests.benchmarks.harness import Measured, benchmark, platform

STATUS = Status.MANUFACTURING_APPROVED
"""What an operator looks for: orders that can be taken."""

ACTIVE, FEW, MANY = 20_000, 100_000, 1_000_000
EXECUTIONS = 10
PAGE = 50
NEWEST_MS = id_time_ms(datetime(2026, 11, 1, tzinfo=UTC))

# Order i is the i-th newest; one is made every 30 seconds. Every fifth of the newest 100,000 is active.
LOAD = text("""
    INSERT INTO orders (order_id, status, channel, summary, price, version, created_at, changed_at)
    SELECT (:newest_ms - i * 30000::bigint) << 22,
           CASE WHEN i % 5 = 0 AND i < 5 * :active
                THEN (CAST(:hot AS text[]))[1 + (i / 5 * 7919) % cardinality(CAST(:hot AS text[]))]
                ELSE (CAST(:done AS text[]))[1 + i % cardinality(CAST(:done AS text[]))] END,
           'B2C', 'ring, gold_18k, polished, 1 piece', 420.00, 5, now(), now()
    FROM generate_series(CAST(:first AS bigint), :last - 1) AS i
    ORDER BY i DESC
""")


@dataclass(frozen=True)
class Cost:
    """How many pages a statement touched, and by which way."""

    pages: int
    way: str


@dataclass(frozen=True)
class Findings:
    """The operator's page with few and with many finished orders, and with many on one table.

    `one_table` is the plan that PostgreSQL chooses there, `by_status` the one that uses the index on status.
    """

    few: Cost
    many: Cost
    one_table: Cost
    by_status: Cost
    load_seconds: float


@benchmark(name="operator_list_pages", target=15, unit="pages")
def operator_list_pages() -> Measured:
    """Count the pages with 1,000,000 finished orders."""
    found = measure()
    detail = (
        f"{found.many.way}; on one table: {found.one_table.pages} pages ({found.one_table.way}, good only "
        f"while the wanted orders are the newest), {found.by_status.pages} by its index on status "
        f"({found.by_status.way}); {ACTIVE + MANY} orders loaded in {found.load_seconds:.0f} s"
    )
    return Measured(found.many.pages, detail)


@benchmark(name="operator_list_growth", target=1.1)
def operator_list_growth() -> Measured:
    """Compare the pages with 1,000,000 and with 100,000 finished orders."""
    found = measure()
    detail = f"{found.many.pages} pages with {MANY} finished orders, {found.few.pages} with {FEW}"
    return Measured(found.many.pages / found.few.pages, detail)


@cache
def measure() -> Findings:
    """Load the orders and count, once for both benchmarks."""
    with platform() as topology:
        owner = create_engine(topology.url("mes_0", role="mes_owner"), poolclass=NullPool)
        mes = create_engine(topology.url("mes_0", role="mes"), poolclass=NullPool)
        started = time.perf_counter()
        load(owner, 0, ACTIVE + FEW)
        few = cost(mes)
        load(owner, ACTIVE + FEW, ACTIVE + MANY)
        loaded = time.perf_counter() - started
        many = cost(mes)
        make_one_table(owner)
        one_table = "SET search_path = one_table"
        # Without plain index scans, which would walk the primary key, the index on status is left.
        by_status = cost(mes, one_table, "SET enable_indexscan = off")
        return Findings(few, many, cost(mes, one_table), by_status, loaded)


def load(owner: Engine, first: int, last: int) -> None:
    """Insert orders `first` to `last`, and let PostgreSQL know them."""
    values = {
        "newest_ms": NEWEST_MS,
        "active": ACTIVE,
        "hot": sorted(HOT),
        "done": sorted(DONE),
        "first": first,
        "last": last,
    }
    with owner.begin() as connection:
        connection.execute(LOAD, values)
        # Autovacuum analyzes partitions, but never their parent.
        connection.exec_driver_sql("ANALYZE orders")


def make_one_table(owner: Engine) -> None:
    """Put the same orders into one table with an index on status; its schema lets the same SELECT find it."""
    with owner.begin() as connection:
        for statement in (
            "CREATE SCHEMA one_table",
            "CREATE TABLE one_table.orders (LIKE public.orders)",
            "INSERT INTO one_table.orders SELECT * FROM public.orders ORDER BY order_id",
            "ALTER TABLE one_table.orders ADD PRIMARY KEY (order_id)",
            "CREATE INDEX ON one_table.orders (status)",
            "ANALYZE one_table.orders",
            "GRANT USAGE ON SCHEMA one_table TO mes",
            "GRANT SELECT ON one_table.orders TO mes",
        ):
            connection.exec_driver_sql(statement)


def cost(engine: Engine, *settings: str) -> Cost:
    """Explain the service's statement as the driver has prepared it, after ten executions."""
    with engine.connect() as connection:
        for setting in settings:
            connection.exec_driver_sql(setting)
        for _ in range(EXECUTIONS):
            assert len(connection.execute(newest(STATUS).limit(PAGE)).all()) == PAGE
        # The LIMIT is its only parameter.
        [[explained]] = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE {prepared(connection)} ({PAGE})"
        )
    plan = explained[0]["Plan"]
    return Cost(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], describe(plan))


def prepared(connection: Connection) -> str:
    """Name the one statement that the driver has prepared on this connection."""
    names = connection.exec_driver_sql("SELECT name FROM pg_prepared_statements WHERE NOT from_sql")
    return str(names.scalar_one())


def describe(plan: dict[str, Any]) -> str:
    """Name the scans of a plan."""
    if not plan.get("Plans"):
        return " on ".join(filter(None, (plan["Node Type"], plan.get("Index Name"))))
    return ", ".join(describe(child) for child in plan["Plans"])
