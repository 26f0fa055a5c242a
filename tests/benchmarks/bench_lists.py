"""The operators' list out of Redis: whether it is ever wrong, and what it saves the database."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from httpx import AsyncClient
from pydantic import SecretStr

from app.mes.application import build as build_mes
from sharding.topology import Topology
from tests.benchmarks.harness import Measured, benchmark, platform
from tests.callers import by_operator
from tests.integration.services_rig import Services, client_of, fast_settings, ok, open_services

STATUS = "MANUFACTURING_APPROVED"
KEPT = {"cursor_key": SecretStr("a key of all processes"), "caller_header": "X-Caller"}
LATE_SECONDS = 1.0
"""A list is wrong if it does not show what was committed longer ago than this."""

_AFTER_SECONDS = 0.3
"""What was committed while the list was read, the primaries are seen to have a little later."""

SECONDS = 20.0
TAKERS = 6
MAKERS = 3
OPERATORS = 200
EACH_SECONDS = 5.0
"""How often an operator looks."""


@dataclass(frozen=True)
class Listing:
    """What an operator was shown, and which orders that operator had taken before."""

    began: float
    ended: float
    shown: frozenset[str]
    own: frozenset[str]


@dataclass(frozen=True)
class Truth:
    """What the primaries had at a time between two."""

    began: float
    ended: float
    orders: frozenset[str]


@dataclass
class Checked:
    """Lists and the truth, side by side.

    Parameters:
        truths: one after the other.
        listings: in any order.
        taken: when each order that an operator took was known to be taken.
    """

    truths: list[Truth] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    taken: dict[str, float] = field(default_factory=dict)

    def stale(self) -> tuple[int, int, int]:
        """Count the lists that were compared, that were wrong for too long, and older than own changes."""
        compared = [each for each in self.listings if self._was_there(each) is not None]
        late = sum(bool(self._missing(each) or self._gone(each)) for each in compared)
        return len(compared), late, sum(bool(each.shown & each.own) for each in self.listings)

    def _was_there(self, listing: Listing) -> Truth | None:
        """Return the last truth from before the time that a list may be late; None if nothing can be said."""
        before = [truth for truth in self.truths if truth.ended <= listing.began - LATE_SECONDS]
        # A full page is the newest of more.
        return before[-1] if before and all(len(each.orders) < 50 for each in self._since(listing)) else None

    def _since(self, listing: Listing) -> list[Truth]:
        return [
            truth
            for truth in self.truths
            if listing.began - LATE_SECONDS <= truth.began and truth.ended <= listing.ended + _AFTER_SECONDS
        ]

    def _missing(self, listing: Listing) -> frozenset[str]:
        """Return what was there for all of the time, and is not shown."""
        before, since = self._was_there(listing), self._since(listing)
        if before is None or not since or since[-1].ended < listing.ended:
            return frozenset()  # it may have been taken since
        return before.orders.intersection(*(truth.orders for truth in since)) - listing.shown

    def _gone(self, listing: Listing) -> frozenset[str]:
        """Return what is shown, and was taken before that time.

        Not what no truth has: an order may come and be taken between two of them.
        """
        until = listing.began - LATE_SECONDS
        return frozenset(order for order in listing.shown if self.taken.get(order, listing.ended) < until)


async def _watch(topology: Topology, checked: Checked, over: asyncio.Event) -> None:
    """Ask the primaries, by plain SQL, again and again."""
    async with _connections(topology) as shards:
        while not over.is_set():
            began, found = time.monotonic(), set()
            for shard in shards:
                rows = await shard.execute("SELECT order_id FROM orders WHERE status = %s", (STATUS,))
                found |= {str(order_id) for (order_id,) in await rows.fetchall()}
            checked.truths.append(Truth(began, time.monotonic(), frozenset(found)))
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _connections(
    topology: Topology, *, with_replicas: bool = False
) -> AsyncIterator[list[psycopg.AsyncConnection]]:
    """Connect to the shards' primaries, and to their replicas as well."""
    async with AsyncExitStack() as stack:
        nodes = []
        for shard, database in topology.databases_of("mes").items():
            replicas = [replica.name for replica in database.replicas] if with_replicas else []
            for replica in (None, *replicas):
                url = topology.url(shard, role="mes", replica=replica)
                text = url.set(drivername="postgresql").render_as_string(hide_password=False)
                connection = await psycopg.AsyncConnection.connect(text, autocommit=True)
                nodes.append(await stack.enter_async_context(connection))
        yield nodes


async def _operator(mes: AsyncClient, name: str, checked: Checked, over: asyncio.Event) -> None:
    """Look, and take one of what is shown, and look again."""
    own: set[str] = set()
    while not over.is_set():
        shown = await _list(mes, name, checked, own)
        for order_id in sorted(shown, key=lambda each: hash((name, each)))[:1]:
            answer = await mes.post(
                f"/v1/orders/{order_id}/take", headers=by_operator(name) | {"X-Caller": name}
            )
            # 409: another one was faster.
            if answer.status_code == 200:
                own.add(order_id)
                checked.taken[order_id] = time.monotonic()
            await _list(mes, name, checked, own)
        await asyncio.sleep(0.1)


async def _list(mes: AsyncClient, name: str, checked: Checked, own: Collection[str]) -> frozenset[str]:
    began, own = time.monotonic(), frozenset(own)
    answer = await mes.get(f"/v1/orders?status={STATUS}", headers=by_operator(name) | {"X-Caller": name})
    shown = frozenset(order["order_id"] for order in ok(answer)["orders"])
    checked.listings.append(Listing(began, time.monotonic(), shown, own))
    return shown


async def _maker(services: Services, over: asyncio.Event) -> None:
    """Bring orders to where they are taken, and do not wait to see them there: they may be taken before."""
    while not over.is_set():
        order_id = await services.b2b()
        await services.price(order_id)
        await services.shows(services.crm, order_id, "PRICE_CALCULATED")
        ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))


@benchmark(name="list_stale", target=0, unit="lists")
async def list_stale() -> Measured:
    """Compare what operators of two processes see with the primaries, while orders come and are taken."""
    checked, over = Checked(), asyncio.Event()
    with platform() as topology:
        settings = fast_settings(topology).model_copy(update=KEPT)
        async with (
            open_services(topology, **KEPT) as services,
            client_of(build_mes(settings, topology)) as other,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(_watch(topology, checked, over))
            for number in range(TAKERS):
                mes = (services.mes, other)[number % 2]
                tasks.create_task(_operator(mes, f"operator {number}", checked, over))
            for _ in range(MAKERS):
                tasks.create_task(_maker(services, over))
            await asyncio.sleep(SECONDS)
            over.set()
    compared, late, older = checked.stale()
    changes = len(frozenset.union(*(truth.orders for truth in checked.truths)))
    return Measured(
        late + older,
        f"of {len(checked.listings)} lists {compared} were compared with {len(checked.truths)} readings of "
        f"the primaries, while {changes} orders came: {late} wrong for over {LATE_SECONDS:.0f} s, {older} "
        "older than the caller's own change",
    )


@dataclass(frozen=True)
class Work:
    """What the databases of the MES had to do."""

    transactions: float
    pages: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.transactions + other.transactions, self.pages + other.pages)

    def __sub__(self, other: "Work") -> "Work":
        return Work(self.transactions - other.transactions, self.pages - other.pages)

    def __mul__(self, factor: float) -> "Work":
        return Work(self.transactions * factor, self.pages * factor)

    def per_second(self) -> str:
        """Say what an operator costs in a second, of the work for one look."""
        transactions, pages = self.transactions / EACH_SECONDS, self.pages / EACH_SECONDS
        return f"{transactions:.3f} transactions and {pages:.1f} pages per operator and second"


@benchmark(name="list_load", target=1.0)
async def list_load() -> Measured:
    """Compare the pages that the databases of the MES read for a look at the list, with and without Redis."""
    kept, asked = [await _work_of_a_look(settings) for settings in (KEPT, {"caller_header": "X-Caller"})]
    return Measured(
        kept.pages / asked.pages,
        f"{OPERATORS} operators who look each {EACH_SECONDS:.0f} s: {kept.per_second()}; without Redis "
        f"{asked.per_second()}",
    )


async def _work_of_a_look(settings: Mapping[str, Any]) -> Work:
    with platform() as topology:
        async with open_services(topology, **settings) as services:
            for order_id in [await services.approved() for _ in range(20)]:
                await services.shows(services.mes, order_id, STATUS)
            before = await _counters(topology)
            await asyncio.sleep(SECONDS)
            idle = await _counters(topology) - before
            before = await _counters(topology)
            looks = sum(
                await asyncio.gather(*(_looking(services.mes, number) for number in range(OPERATORS)))
            )
            work = await _counters(topology) - before
    return (work - idle) * (1 / looks)


async def _looking(mes: AsyncClient, number: int) -> int:
    """Look again and again, for as long as the databases were watched without; return how often."""
    name, looks, began = f"operator {number}", 0, time.monotonic()
    while (next_look := began + EACH_SECONDS * (looks + number / OPERATORS)) < began + SECONDS:
        await asyncio.sleep(max(0.0, next_look - time.monotonic()))
        headers = by_operator(name) | {"X-Caller": name}
        ok(await mes.get(f"/v1/orders?status={STATUS}", headers=headers))
        looks += 1
    await asyncio.sleep(max(0.0, began + SECONDS - time.monotonic()))
    return looks


async def _counters(topology: Topology) -> Work:
    """Read what all servers have done, once each of their processes has said so: a second after its work."""
    await asyncio.sleep(1.5)
    work = Work(0, 0)
    async with _connections(topology, with_replicas=True) as nodes:
        for node in nodes:
            found = await node.execute(
                "SELECT xact_commit + xact_rollback, blks_hit + blks_read FROM pg_stat_database"
                " WHERE datname = current_database()"
            )
            row = await found.fetchone()
            assert row is not None
            work += Work(*row)
    return work
