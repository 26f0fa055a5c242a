"""The operators' list out of Redis: right within a second, never older than the caller's own change."""

import asyncio
import time
from functools import partial

from pydantic import SecretStr
from redis.asyncio import Redis

from app import topology as sections
from app.mes.hot_list import GOOD_MS, HotLists
from app.mes.schemas import MesOrderPage
from app.messaging.streams import open_redis
from app.models.status import Status
from readreplica.context import causality
from readreplica.token import CausalToken
from readreplica.wal import UNKNOWN_POSITION
from sharding.topology import Topology
from tests.callers import by_operator
from tests.integration.messaging_rig import until
from tests.integration.services_rig import Services, ok, open_services

KEYS = {"cursor_key": SecretStr("a key of all processes"), "caller_header": "X-Caller"}


async def listed(services: Services, caller: str, status: str = "MANUFACTURING_APPROVED") -> list[str]:
    """List orders as one operator."""
    answer = await services.mes.get(f"/v1/orders?status={status}", headers={"X-Caller": caller})
    return [order["order_id"] for order in ok(answer)["orders"]]


async def take(services: Services, caller: str, order_id: str) -> None:
    ok(
        await services.mes.post(
            f"/v1/orders/{order_id}/take", headers=by_operator(caller) | {"X-Caller": caller}
        )
    )


def redis_of(topology: Topology) -> Redis:
    return open_redis(sections.redis_url(topology, "test"))


async def test_operators_see_what_they_have_changed_however_many_look(topology: Topology) -> None:
    async with open_services(topology, **KEYS) as services:
        orders = [await services.approved() for _ in range(4)]
        wrong: list[str] = []

        async def operator(number: int) -> None:
            caller = f"operator {number}"
            if number < len(orders):
                await take(services, caller, orders[number])
                if orders[number] in await listed(services, caller):
                    wrong.append(caller)
            await listed(services, caller)

        # No more at once than a process works on.
        for first in range(0, 200, 40):
            await asyncio.gather(*(operator(number) for number in range(first, first + 40)))
        assert wrong == []
        async with redis_of(topology) as redis:

            async def is_kept() -> bool:
                assert await listed(services, "another") == []
                return bool(await redis.exists("flow:list:MANUFACTURING_APPROVED:page"))

            await until(is_kept)


async def test_a_change_that_no_operator_made_is_shown_within_a_second(topology: Topology) -> None:
    async with open_services(topology, **KEYS) as services:
        assert await listed(services, "Rosa") == []
        order_id = await services.approved()
        await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
        shown_at = time.monotonic()

        async def is_listed() -> bool:
            return await listed(services, "Rosa") == [order_id]

        await until(is_listed)
        assert time.monotonic() - shown_at < 1


async def test_a_page_that_is_no_page_or_is_of_an_older_generation_is_not_shown(topology: Topology) -> None:
    async with open_services(topology, **KEYS) as services, redis_of(topology) as redis:
        order_id = await services.approved()
        await redis.set("flow:list:MANUFACTURING_APPROVED:page", "{}")
        await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
        assert await listed(services, "Rosa") == [order_id]
        await redis.hincrby("flow:list:MANUFACTURING_APPROVED:changes", "generation", 1)
        await redis.delete("flow:list:MANUFACTURING_APPROVED:page")
        assert await listed(services, "Rosa") == [order_id]


async def test_the_database_answers_when_redis_forgets_or_stands_still(topology: Topology) -> None:
    async with open_services(topology, **KEYS) as services, redis_of(topology) as redis:
        order_id = await services.approved()
        await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
        await redis.flushall()
        assert await listed(services, "Rosa") == [order_id]
        # Every command of every client waits.
        await redis.client_pause(3000)
        began = time.monotonic()
        assert await listed(services, "Rosa") == [order_id]
        assert time.monotonic() - began < 2.5
        await redis.client_unpause()


def test_a_page_is_good_for_less_than_a_second() -> None:
    assert GOOD_MS < 1000


async def test_a_page_whose_callers_have_gone_is_shown_to_none_that_come_later(topology: Topology) -> None:
    async with redis_of(topology) as redis:
        lists = HotLists(redis)
        old, new = (MesOrderPage(orders=[], next_cursor=name) for name in ("old", "new"))
        gate = asyncio.Event()

        async def slow(_after: CausalToken) -> MesOrderPage:
            await gate.wait()
            return old

        async def quick(_after: CausalToken) -> MesOrderPage:
            return new

        first = asyncio.create_task(lists.page(Status.SUBMITTED, slow))
        await until(partial(is_filling, lists))
        first.cancel()
        gate.set()
        await asyncio.wait({first})
        await until(partial(is_filled, lists))
        await redis.delete("flow:list:SUBMITTED:page")  # as half a second does
        assert await lists.page(Status.SUBMITTED, quick) == new


async def is_filling(lists: HotLists) -> bool:
    return bool(lists._filling)


async def is_filled(lists: HotLists) -> bool:
    return not lists._filling or lists._filling[Status.SUBMITTED].task.done()


async def test_who_comes_half_a_second_after_a_slow_reading_began_does_not_wait_for_it(
    topology: Topology,
) -> None:
    async with redis_of(topology) as redis:
        seconds = 100.0
        lists = HotLists(redis, clock=lambda: seconds)
        old, new = (MesOrderPage(orders=[], next_cursor=name) for name in ("old", "new"))
        gate = asyncio.Event()

        async def slow(_after: CausalToken) -> MesOrderPage:
            await gate.wait()
            return old

        async def quick(_after: CausalToken) -> MesOrderPage:
            return new

        first = asyncio.create_task(lists.page(Status.SUBMITTED, slow))
        await until(partial(is_filling, lists))
        seconds += 0.6
        second = asyncio.create_task(lists.page(Status.SUBMITTED, quick))
        done, _ = await asyncio.wait({second}, timeout=5)
        gate.set()
        assert done
        assert (await second, await first) == (new, old)


OLD, NEW = (MesOrderPage(orders=[], next_cursor=name) for name in ("old", "new"))


async def test_who_has_changed_an_order_does_not_wait_for_what_was_being_read(topology: Topology) -> None:
    """In whichever process: a primary may show a commit later than one that has a higher position."""
    async with redis_of(topology) as redis:
        ours, others = HotLists(redis), HotLists(redis)
        gate = asyncio.Event()

        async def slow(_after: CausalToken) -> MesOrderPage:
            await gate.wait()
            return OLD

        async def quick(_after: CausalToken) -> MesOrderPage:
            return NEW

        waiting = [asyncio.create_task(lists.page(Status.SUBMITTED, slow)) for lists in (ours, others)]
        await until(partial(is_filling, ours))
        await until(partial(is_filling, others))
        await ours.changed(Status.SUBMITTED)
        for lists in (ours, others):
            assert await asyncio.wait_for(lists.page(Status.SUBMITTED, quick), 5) == NEW
        gate.set()
        assert await asyncio.gather(*waiting) == [OLD, OLD]
        assert await ours.page(Status.SUBMITTED, quick) == NEW


async def test_a_page_that_is_kept_late_is_shown_no_longer_for_that(topology: Topology) -> None:
    """A frozen Redis does what it was sent when it goes on, however long ago that was."""
    async with redis_of(topology) as redis, redis_of(topology) as another:
        lists, later = HotLists(redis), HotLists(another)

        async def old(_after: CausalToken) -> MesOrderPage:
            await another.client_pause(700, all=False)  # what writes waits
            return OLD

        async def new(_after: CausalToken) -> MesOrderPage:
            return NEW

        assert await lists.page(Status.SUBMITTED, old) == OLD
        await another.set("written", "once it goes on", ex=5)
        assert await later.page(Status.SUBMITTED, new) == NEW


async def test_a_position_that_is_not_known_is_in_no_stamp(topology: Topology) -> None:
    async with redis_of(topology) as redis:
        lists = HotLists(redis)
        pages = iter([OLD, NEW])

        async def read(_after: CausalToken) -> MesOrderPage:
            return next(pages)

        with causality(CausalToken({"mes_0": UNKNOWN_POSITION})):
            assert await lists.page(Status.SUBMITTED, read) == OLD
            assert await lists.page(Status.SUBMITTED, read) == NEW
