"""What the guard of a shard costs who inserts: with it, and without."""

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import psycopg

from ops.fleet import open_engine
from sharding.ownership import Ownership, set_ownership
from sharding.topology import Topology
from tests.benchmarks.harness import Measured, benchmark, platform
from tests.project import GUARDED

ROWS = 200_000
ROUNDS = 9
COLUMNS = "(order_id, status, channel, summary, version)"
MANY = (
    f"INSERT INTO {{}} {COLUMNS} SELECT id << 22, 'SUBMITTED', 'B2C', 'signet ring', 1 "
    f"FROM generate_series(1::bigint, {ROWS}) AS id"
)
ONE = f"INSERT INTO {{}} {COLUMNS} VALUES (%s, 'SUBMITTED', 'B2C', 'signet ring', 1)"
EVENT = "INSERT INTO {} (order_id, event_no, status, at, actor) VALUES (%s, 1, 'SUBMITTED', now(), 'Rosa')"
BARE = """
CREATE TABLE bare_orders (LIKE orders INCLUDING ALL EXCLUDING CONSTRAINTS) PARTITION BY LIST (status);
CREATE TABLE bare_hot (LIKE orders_hot INCLUDING ALL EXCLUDING CONSTRAINTS);
ALTER TABLE bare_orders ATTACH PARTITION bare_hot FOR VALUES IN ('SUBMITTED');
CREATE TABLE bare_events (LIKE order_events INCLUDING ALL EXCLUDING CONSTRAINTS);
GRANT ALL ON bare_orders, bare_events TO mes;
"""
GUARDED_TABLES, BARE_TABLES = ("orders", "order_events"), ("bare_orders", "bare_events")


@benchmark(name="guard_overhead", target=1.05)
def guard_overhead() -> Measured:
    """Insert many orders by one statement, the hardest case: nothing else is in the way of the check."""
    with shard() as (owner, _):
        pairs = []
        for turn in range(ROUNDS):
            spent = {}
            for orders in ("orders", "bare_orders") if turn % 2 else ("bare_orders", "orders"):
                owner.execute(f"TRUNCATE {orders}")
                owner.execute("CHECKPOINT")
                start = perf_counter()
                owner.execute(MANY.format(orders))
                spent[orders] = perf_counter() - start
            pairs.append((spent["orders"], spent["bare_orders"]))
    ratio = median(guarded / bare for guarded, bare in pairs)
    return Measured(round(ratio, 3), f"{ROWS} rows by one INSERT, {_per_row(pairs)} us a row with the guard")


@benchmark(name="guard_overhead_transaction", target=1.05)
def guard_overhead_transaction() -> Measured:
    """Insert one order with a line of its history in a transaction, as a service does."""
    with shard() as (_, service):
        pairs = [_one_each(service, number) for number in range(3000)]
    ratio = median(guarded for guarded, _ in pairs) / median(bare for _, bare in pairs)
    micros = median(guarded - bare for guarded, bare in pairs) * 1e6
    return Measured(round(ratio, 3), f"two rows, {micros:.0f} us more for a transaction on one connection")


def _one_each(service: psycopg.Connection, number: int) -> tuple[float, float]:
    spent: list[float] = [0.0, 0.0]
    for which in (0, 1) if number % 2 else (1, 0):
        orders, events = (GUARDED_TABLES, BARE_TABLES)[which]
        start = perf_counter()
        with service.transaction():
            service.execute(ONE.format(orders), [number << 22])
            service.execute(EVENT.format(events), [number << 22])
        spent[which] = perf_counter() - start
    return spent[0], spent[1]


def _per_row(pairs: list[tuple[float, float]]) -> str:
    return f"{min(guarded for guarded, _ in pairs) / ROWS * 1e6:.2f}"


@contextmanager
def shard() -> Iterator[tuple[psycopg.Connection, psycopg.Connection]]:
    """Give connections of superuser and service to a shard that owns everything, with bare twins."""
    with platform() as topology:
        _guard(topology)
        superuser = topology.url("mes_0", role="postgres").set(drivername="postgresql")
        service = topology.url("mes_0", role="mes").set(drivername="postgresql")
        with (
            psycopg.connect(superuser.render_as_string(), autocommit=True) as owner,
            psycopg.connect(service.render_as_string(), autocommit=True) as mes,
        ):
            owner.execute(BARE)
            yield owner, mes


def _guard(topology: Topology) -> None:
    database = topology.database("mes_0")
    with open_engine(topology, database, role=database.owner) as engine:
        set_ownership(engine, Ownership("mes_0", 1, "1" * topology.trees["mes"].buckets), tables=GUARDED)
