"""What history costs the board: pages read for its lists, and how many statements a page asks for.

10,000 orders wait, and 10,000 or 1,000,000 have ended. The pages are asked for over HTTP of the board's own
application, so often that PostgreSQL has chosen its plan for good, and PostgreSQL counts what they touch.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.pool import NullPool

from app.board.application import build as build_board
from app.kit.caller import Role
from app.models.status import DONE, HOT, Status
from sharding.topology import Topology
from tests.benchmarks.harness import Measured, benchmark, platform
from tests.callers import acting
from tests.integration.board_rig import with_board
from tests.integration.services_rig import client_of, fast_settings

WAITING, FEW, MANY = 10_000, 10_000, 1_000_000
EXECUTIONS = 10
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)

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

PAGES: Mapping[str, tuple[str, Role]] = {
    "operator": ("/", Role.OPERATOR),
    "filtered": ("/?material=brass&price_from=100&channel=B2C", Role.OPERATOR),
    "seller": ("/sales", Role.SELLER),
    "customer": ("/search?q=c77+ring", Role.OPERATOR),
}
"""The pages, as a browser asks for them, and who does."""

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
        with platform() as made:
            topology = _without_replicas(with_board(made))
            owner = create_engine(topology.url("board", role="board_owner"), poolclass=NullPool)
            load(owner, 0, WAITING, sorted(HOT))
            load(owner, WAITING, WAITING + FEW, sorted(DONE))
            few = await touched(topology)
            load(owner, WAITING + FEW, WAITING + MANY, sorted(DONE))
            many = await touched(topology)
        _found.update({name: (few[name][0], *many[name]) for name in PAGES})
    return _found


def _without_replicas(topology: Topology) -> Topology:
    """Have all reads on the one server that counts."""
    path = topology.path
    path.write_text(re.sub(r"(?m)^replicas = .*$", "replicas = []", path.read_text()))
    return Topology.load(path)


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
    counting = create_engine(topology.url("board", role="board_owner"), poolclass=NullPool)
    async with client_of(build_board(fast_settings(topology), topology)) as client:
        for name, (path, role) in PAGES.items():

            async def ask(path: str = path, role: Role = role) -> None:
                (await client.get(path, headers=acting("Rosa 7", role))).raise_for_status()

            with counted_statements() as statements:
                await ask()
            for _ in range(EXECUTIONS):
                await ask()
            before = await _counted(ask, counting)
            found[name] = await _counted(ask, counting) - before, len(statements)
    return found


_BLOCKS = text("""
    SELECT coalesce(sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit), 0)::bigint
    FROM pg_statio_user_tables
""")


async def _counted(ask: Callable[[], Awaitable[None]], counting: Engine) -> int:
    """Ask for a page once more; return how many blocks of tables and indexes were touched so far."""
    # A server process sends what it has counted at the end of a transaction, once in a second at most.
    await asyncio.sleep(1.2)
    await ask()
    with counting.connect() as connection:
        return int(connection.execute(_BLOCKS).scalar_one())


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    """Collect the statements that this process asks about orders."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if "orders" in statement or "order_" in statement:
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)
