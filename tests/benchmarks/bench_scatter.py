"""What a SELECT over four shards costs beside the same SELECT on one.

The shards are databases of one server. Each is read through a view: one waits before its first row, one
burns CPU before it, for the SELECT itself may hold no function with such an effect.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
from sqlalchemy import BigInteger, Column, DateTime, MetaData, Table, Text, select

from app.models.base import CHANNEL, MONEY, STATUS
from readreplica.cluster import Cluster
from sharding.keys import shard_key
from sharding.scatter import CursorKeys, Page, scatter
from tests.benchmarks.harness import Measured, benchmark, compare
from tests.integration.scatter_rig import SHARDS, open_one, shard_of
from tests.servers import PostgresServers, run_postgres

ORDERS = 40_000
PAGE, LARGE_PAGE = 50, 4_000
WAIT_SECONDS, BURN_SECONDS = 0.020, 0.010
KEYS = CursorKeys.random()

# Such a subquery runs once for a query, before its first row.
TABLES = """
    CREATE TABLE orders (order_id bigint PRIMARY KEY, status text NOT NULL, channel text NOT NULL,
                         summary text NOT NULL, price numeric(12, 2), reason text, created_at timestamptz,
                         changed_at timestamptz, partner text, operator text);
    CREATE FUNCTION burn(loops int) RETURNS int LANGUAGE plpgsql VOLATILE AS $$
        BEGIN FOR i IN 1..loops LOOP NULL; END LOOP; RETURN 1; END $$;
    CREATE VIEW waiting AS SELECT * FROM orders WHERE (SELECT pg_sleep({wait}) IS NOT NULL);
"""
BURNING = "CREATE VIEW burning AS SELECT * FROM orders WHERE (SELECT burn({loops}) = 1)"


def declare(name: str) -> Table:
    """Declare what an operator's list shows of an order, as a table or as a view."""
    return Table(
        name,
        MetaData(),
        Column("order_id", BigInteger, primary_key=True),
        Column("status", STATUS, nullable=False),
        Column("channel", CHANNEL, nullable=False),
        Column("summary", Text, nullable=False),
        Column("price", MONEY),
        Column("reason", Text),
        Column("created_at", DateTime(timezone=True)),
        Column("changed_at", DateTime(timezone=True)),
        Column("partner", Text),
        Column("operator", Text),
        info=shard_key("order_id"),
    )


@dataclass(frozen=True)
class Shards:
    """Four shards, and one database with all of their rows."""

    clusters: Mapping[str, Cluster]
    whole: Cluster

    async def page(self, table: Table, limit: int) -> Page[Any]:
        """Read a page of the newest orders over the shards."""
        newest = select(table).order_by(table.c.order_id.desc())
        return await scatter(self.clusters, newest, limit=limit, keys=KEYS, shard_of=shard_of)

    async def plain(self, cluster: Cluster, table: Table, limit: int) -> Any:
        """Read as many rows of one database on a plain session."""
        async with cluster.read() as session:
            newest = select(table).order_by(table.c.order_id.desc()).limit(limit)
            return (await session.execute(newest)).all()


@benchmark(name="scatter_cost", target=1.3)
async def scatter_cost() -> Measured:
    """Compare an ordered page of four shards with one of a single shard, where each query waits 20 ms."""
    async with shards() as four:
        return await _page_of(
            four, declare("waiting"), rounds=25, what=f"each query waits {WAIT_SECONDS * 1e3:g} ms"
        )


@benchmark(name="scatter_cpu", target=2.5)
async def scatter_cpu() -> Measured:
    """Compare the same where each query burns 10 ms of the server's CPU."""
    async with shards() as four:
        return await _page_of(
            four, declare("burning"), rounds=25, what=f"each query burns {BURN_SECONDS * 1e3:g} ms"
        )


async def _page_of(four: Shards, table: Table, *, rounds: int, what: str) -> Measured:
    one = four.clusters[SHARDS[0]]
    found = await compare(
        lambda: four.page(table, PAGE), lambda: four.plain(one, table, PAGE + 1), rounds=rounds, calls=4
    )
    detail = f"{found.subject_seconds * 1e3:.1f} ms over four, {found.reference_seconds * 1e3:.1f} ms on one"
    return Measured(round(found.ratio, 3), f"{detail}; {what}")


@benchmark(name="scatter_rows", target=4, unit="rows")
async def scatter_rows() -> Measured:
    """Count the rows that four shards send for each row of a page of 50, over a hundred pages."""
    table, cursor, ratios = declare("orders"), None, []
    newest = select(table).order_by(table.c.order_id.desc())
    async with shards() as four:
        for _ in range(100):
            page = await scatter(four.clusters, newest, limit=PAGE, cursor=cursor, keys=KEYS)
            ratios.append(page.fetched_rows / len(page.rows))
            cursor = page.next_cursor
    detail = f"mean of 100 pages of {PAGE}; the worst page {max(ratios):.2f}"
    return Measured(round(sum(ratios) / len(ratios), 3), detail)


@benchmark(name="scatter_overhead", target=1.5)
async def scatter_overhead() -> Measured:
    """Compare the client's CPU per row: a page of 4,000 over four shards, and those rows of a plain session.

    On a page of 50 four sessions cost four times what one does, whatever is done with the rows; that ratio
    is told beside.
    """
    table = declare("orders")
    async with shards() as four:
        large = await _cpu_ratio(four, table, LARGE_PAGE, rounds=15)
        small = await _cpu_ratio(four, table, PAGE, rounds=60)
    return Measured(round(large, 3), f"rows of a page of {LARGE_PAGE}; for a page of {PAGE} {small:.2f}")


async def _cpu_ratio(four: Shards, table: Table, limit: int, *, rounds: int) -> float:
    async def spread() -> Any:
        return await four.page(table, limit)

    async def plain() -> Any:
        return await four.plain(four.whole, table, limit)

    await spread()
    await plain()
    return median([await _cpu_of(spread) / await _cpu_of(plain) for _ in range(rounds)])


async def _cpu_of(work: Callable[[], Awaitable[object]]) -> float:
    start = time.process_time()
    await work()
    return time.process_time() - start


@asynccontextmanager
async def shards() -> AsyncIterator[Shards]:
    """Run a server with four shards and a database that holds all."""
    with TemporaryDirectory(prefix="mes-storage-bench-") as folder, ExitStack() as stack:
        servers = stack.enter_context(run_postgres(Path(folder)))
        _fill(servers)
        async with AsyncExitStack() as closing:
            clusters = {name: open_one(servers, name, f"bench_{name}") for name in [*SHARDS, "whole"]}
            for cluster in clusters.values():
                closing.push_async_callback(cluster.close)
            yield Shards({name: clusters[name] for name in SHARDS}, clusters["whole"])


def _fill(servers: PostgresServers) -> None:
    ids: dict[str, list[int]] = {name: [] for name in SHARDS}
    for order_id in range(ORDERS):
        ids[shard_of(order_id)].append(order_id)
    ids["whole"] = list(range(ORDERS))
    with servers.primary.connect() as admin:
        loops = _loops_for(admin)
        for name, own in ids.items():
            admin.execute(f"CREATE DATABASE bench_{name}".encode())
            with psycopg.connect(servers.conninfo(f"bench_{name}"), autocommit=True) as connection:
                connection.execute(TABLES.format(wait=WAIT_SECONDS).encode())
                connection.execute(BURNING.format(loops=loops).encode())
                connection.execute(
                    "INSERT INTO orders"
                    " SELECT id, 'SUBMITTED', 'B2B', 'ring, gold', 420, NULL, now(), now(), 'partner', NULL"
                    " FROM unnest(%s::bigint[]) AS id",
                    [own],
                )
                connection.execute("VACUUM ANALYZE orders")


def _loops_for(connection: psycopg.Connection[Any]) -> int:
    """Find how many turns of an empty loop take this machine 10 ms."""
    loop = "DO $$ BEGIN FOR i IN 1..1000000 LOOP NULL; END LOOP; END $$"
    times = []
    for _ in range(5):
        start = time.perf_counter()
        connection.execute(loop)
        times.append(time.perf_counter() - start)
    return round(1_000_000 * BURN_SECONDS / min(times))
