"""A relay sends to a destination what it allows, oldest first, and to the others all; nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import text

from app.messaging.routing import ServiceName
from sharding.topology import Topology
from tests.integration.messaging_rig import Rig, open_rig, owe, running, until

CRM, MES = ServiceName.CRM, ServiceName.MES


@dataclass
class Counted:
    """An allowance that a test sets, and that notes what was taken."""

    left: int = 0
    heard: int = 0
    taken: list[int] = field(default_factory=list)

    async def refresh(self) -> None:
        self.heard += 1

    def take(self, limit: int, /) -> int:
        count = min(limit, self.left)
        self.left -= count
        self.taken.append(count)
        return count

    def give_back(self, count: int, /) -> None:
        self.left += count


@pytest.fixture
async def rig(topology: Topology) -> AsyncIterator[Rig]:
    """Connect to empty databases and an empty Redis."""
    async with open_rig(topology) as rig:
        await rig.wipe()
        yield rig


async def subjects(rig: Rig, service: ServiceName) -> list[int]:
    entries: Any = await rig.redis.xrange(f"orders:{service.value}")
    return [int(fields["subject"]) for _, fields in entries]


async def test_only_what_is_owed_to_mes_is_limited_and_the_oldest_goes_first(rig: Rig) -> None:
    for order_id in (3, 1, 2, 5, 4):
        async with rig.shop.write() as session:
            await owe(session, order_id, "a", (CRM, MES))
    allowance = Counted(left=2)
    relay = rig.relay(retry_seconds=60, allowances={MES: allowance})

    await relay.turn()
    assert sorted(await subjects(rig, CRM)) == [1, 2, 3, 4, 5], "the CRM gets all at once"
    assert await subjects(rig, MES) == [3, 1]
    await relay.turn()
    assert await subjects(rig, MES) == [3, 1], "and MES nothing in a pause"
    allowance.left = 10
    await relay.turn()
    assert await subjects(rig, MES) == [3, 1, 2, 5, 4]
    assert allowance.left == 7, "what was not sent was given back"
    assert allowance.heard == 3


async def test_nothing_is_lost_and_each_order_is_in_order_while_limited(rig: Rig) -> None:
    allowance = Counted()
    words = [f"{number}" for number in range(4)]
    await asyncio.gather(*(rig.owe(order_id, *words) for order_id in range(10)))

    async def more() -> bool:
        allowance.left = 3
        return not await rig.owed()

    async with running(rig.relay(allowances={CRM: allowance}), rig.consumer()):
        await until(more)
    assert await rig.history() == dict.fromkeys(range(10), words)
    assert max(allowance.taken) <= 3


async def test_a_row_that_commits_late_is_sent(rig: Rig) -> None:
    seconds = 0.0
    relay = rig.relay(retry_seconds=60, clock=lambda: seconds)
    async with rig.worker_shop.write() as late:
        await owe(late, 1, "early number, late commit")
        await late.flush()
        await rig.owe(2, "b")
        await relay.turn()
        assert await subjects(rig, CRM) == [2]
        # The mark is behind the number of the row by now.
        seconds = 2.0
        await rig.owe(3, "c")
        await relay.turn()
        seconds = 4.0
        await relay.turn()
    seconds = 10.0
    await relay.turn()
    assert await subjects(rig, CRM) == [2, 3, 1]


async def test_the_next_message_of_an_order_goes_as_soon_as_the_one_before_is_settled(rig: Rig) -> None:
    # No look at everything is due: it is found because it follows.
    relay = rig.relay(retry_seconds=3600, look_seconds=900)
    await rig.owe(1, "a", "b", "c")
    async with running(relay, rig.consumer()):
        await rig.until_settled()
    assert await rig.history() == {1: ["a", "b", "c"]}


async def pages(rig: Rig, after: int) -> int:
    """Count the pages that a claim of new messages reads."""
    async with rig.shop.write() as session:
        [[plan]] = await session.execute(
            text(
                "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) SELECT order_id FROM outbox"
                " WHERE set_aside_at IS NULL AND destination = 'crm' AND attempts = 0"
                f" AND sequence > {after} ORDER BY sequence LIMIT 100"
            )
        )
    top = plan[0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])


async def test_behind_an_open_transaction_a_claim_reads_no_more_pages(rig: Rig) -> None:
    relay = rig.relay(retry_seconds=60)
    async with rig.crm.write() as _, rig.worker_shop.write() as holder:
        await holder.execute(text("SELECT pg_current_xact_id(), count(*) FROM outbox"))
        async with rig.shop.write() as session:
            for order_id in range(3000):
                await owe(session, order_id, "a")
        while len(await subjects(rig, CRM)) < 3000:
            await relay.turn()
        async with rig.shop.write() as session:
            await session.execute(text("DELETE FROM outbox"))
        dead = await pages(rig, -1)
        await rig.owe(9999, "b")
        progress = relay._progress["crm"]
        behind = await pages(rig, progress._seen[-1][1])
    assert dead > 50, "the dead rows are there, and a claim from the beginning reads them"
    assert behind <= 12
