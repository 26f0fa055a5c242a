"""What history costs the board: pages read for its lists, and how many statements a page asks for.

10,000 orders wait, and 10,000 or 1,000,000 have ended. The lists are the repository's own, asked for through
the driver so often that PostgreSQL has chosen its plan for good, and PostgreSQL counts what they touch.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.pool import NullPool

from app.board import repository
from app.board.repository import Filters
from app.models.status import DONE, HOT, Channel, Status
from readreplica.cluster import Cluster
from readreplica.sessions import AnySession, WriteSession
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.benchmarks.harness import Measured, benchmark, platform

WAITING, FEW, MANY = 10_000, 10_000, 1_000_000
EXECUTIONS = 10
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
MONTH = datetime(2026, 11, 1, tzinfo=UTC)

LOAD = text("""
    INSERT INTO orders (order_id, status, channel, summary, created_at, changed_at, crm_status, mes_status,
        price, price_valid_until, customer_name, customer_email, partner, operator, materials, quantity,
        cancel_refused_at, shipped_at, words)
    SELECT i, status, CASE WHEN i % 3 = 0 THEN 'B2B' ELSE 'B2C' END, '2 x ring.stl, gold_18k, polished',
        at, at, status, status, 20 + i % 900, at + interval '30 days', 'Ada ' || i % 5000,
        'ada' || i % 5000 || '@example.org', CASE WHEN i % 3 = 0 THEN 'atelier-' || i % 50 END,
        'Rosa ' || i % 40, ARRAY[(ARRAY['gold_18k', 'silver_925', 'brass'])[1 + i % 3]], 2,
        CASE WHEN i % 500 = 0 THEN at END, CASE WHEN status IN ('SHIPPED', 'CLOSED') THEN at END,
        array_to_tsvector(ARRAY['ada', i::text, 'ring', 'stl', 'c' || i % 5000])
    FROM (
        SELECT i, CAST(:now AS timestamptz) - i % 100000 * interval '1 minute' AS at,
            (CAST(:statuses AS text[]))[1 + i % cardinality(CAST(:statuses AS text[]))] AS status
        FROM generate_series(CAST(:first AS bigint), :last - 1) AS i
    ) AS made
""")

Read = Callable[[AnySession], Awaitable[Any]]

FILTERS = Filters(materials=["brass"], price_from=Decimal(100), channel=Channel.B2C)
PAGES: Mapping[str, tuple[Read, ...]] = {
    "operator": (
        repository.new_orders,
        lambda session: repository.new_orders(session, FILTERS),
        lambda session: repository.my_orders(session, "Rosa 7"),
    ),
    "seller": (
        repository.to_confirm,
        lambda session: repository.expiring(session, before=NOW),
        repository.refused_cancellations,
        lambda session: repository.waiting_long(session, since=NOW - timedelta(days=10)),
    ),
    "customer": (lambda session: repository.search(session, "c77 ring", limit=10),),
}
"""The lists that each page shows."""

GROWING = "customer"
"""A customer's history is as long as it is: its page is counted, and compared with nothing."""


@benchmark(name="board_paint", target=1.1)
async def board_paint() -> Measured:
    """Compare the pages that the lists of a page touch with 1,000,000 and with 10,000 ended orders."""
    found = await measure()
    ratio = {name: many / few for name, (few, many, _) in found.items() if name != GROWING}
    worst = max(ratio, key=lambda name: ratio[name])
    said = ", ".join(f"{name} {few} and {many} pages" for name, (few, many, _) in found.items())
    return Measured(ratio[worst], f"{said}, with {FEW} and with {MANY} ended; the worst is {worst}")


@benchmark(name="board_queries", target=6, unit="statements")
async def board_queries() -> Measured:
    """Count the statements of the page that asks for most."""
    found = await measure()
    said = ", ".join(f"{name} {statements}" for name, (*_, statements) in found.items())
    return Measured(max(statements for *_, statements in found.values()), said)


_found: dict[str, tuple[int, int, int]] = {}


async def measure() -> Mapping[str, tuple[int, int, int]]:
    """Return of each page what it touches with few and with many ended orders, and its statements."""
    if not _found:
        with platform() as topology:
            owner = create_engine(topology.url("board", role="board_owner"), poolclass=NullPool)
            load(owner, 0, WAITING, sorted(HOT))
            load(owner, WAITING, WAITING + FEW, sorted(DONE))
            few = await touched(topology)
            load(owner, WAITING + FEW, WAITING + MANY, sorted(DONE))
            many = await touched(topology)
        _found.update({name: (few[name][0], *many[name]) for name in PAGES})
    return _found


def load(owner: Engine, first: int, last: int, statuses: list[Status]) -> None:
    """Insert orders `first` to `last`, and let PostgreSQL know them."""
    with owner.begin() as connection:
        values = {"now": NOW, "statuses": statuses, "first": first, "last": last}
        connection.execute(LOAD, values)
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE orders")


async def touched(topology: Topology) -> dict[str, tuple[int, int]]:
    """Return of each page how much it touches, and how many statements it asks for."""
    found = {}
    async with open_cluster(topology, "board", role="board", application_name="bench") as board:
        for name, reads in PAGES.items():
            statements = await _ask(board, reads)
            async with board.write() as session:
                for _ in range(EXECUTIONS):
                    await _read(session, reads)
                before = await _count(session)
                for _ in range(EXECUTIONS):
                    await _read(session, reads)
                found[name] = round((await _count(session) - before) / EXECUTIONS), statements
    return found


async def _read(session: WriteSession, reads: tuple[Read, ...]) -> None:
    for read in reads:
        await read(session)


async def _ask(board: Cluster, reads: tuple[Read, ...]) -> int:
    """Count the statements of a page."""
    seen: list[str] = []
    engine = board.primary.sync_engine

    def note(_c: Any, _u: Any, statement: str, _p: Any, _x: Any, _m: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        async with board.write() as session:
            await _read(session, reads)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    return len(seen)


_BLOCKS = text("""
    SELECT coalesce(sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit), 0)::bigint
    FROM pg_statio_user_tables
""")


async def _count(session: WriteSession) -> int:
    """Return how many blocks of tables and indexes were touched so far, by all sessions; there is one."""
    await session.execute(text("SELECT pg_stat_force_next_flush()"))
    await session.commit()
    await session.execute(text("SELECT pg_stat_clear_snapshot()"))
    return int((await session.execute(_BLOCKS)).scalar_one())
