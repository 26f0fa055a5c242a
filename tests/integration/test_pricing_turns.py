"""Whose job is priced next: senders take turns, on one shard and on two, and every job is reached."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select

from app.flow.turns import ShardTurns, enqueue, next_position
from app.models.mes import PricingJob
from app.pricing import jobs
from app.pricing.jobs import Lease
from readreplica.sessions import WriteSession
from tests.integration.pricing_rig import Rig, rig, shared_rig

__all__ = ["rig", "shared_rig"]

SHARDS = ("mes_0", "mes_1")


@dataclass
class Lane:
    """What one lane of a worker is at."""

    holder: str
    turns: ShardTurns = field(default_factory=ShardTurns)
    held: Lease | None = None


@dataclass
class Floor:
    """Lanes that take jobs as workers do, and finish them in any order, on real shards."""

    rig: Rig
    shards: Sequence[str]
    lanes: list[Lane]
    ids: "count[int]"
    taken: list[int] = field(default_factory=list)

    def _new_ids(self, shard: str, jobs: int) -> list[int]:
        mine = (number for number in self.ids if self.rig.sessions.shard_of(number) == shard)
        return list(islice(mine, jobs))

    async def fill(self, sender: str, shard: str, *, jobs: int) -> None:
        """Give an empty shard what `enqueue` would, job after job, in one statement."""
        rows: list[dict[str, Any]] = []
        for order_id in self._new_ids(shard, jobs):
            first, last = (rows[place]["position"] if rows else None for place in (0, -1))
            position = next_position(reached=None, first=first, last=last)
            rows.append({"order_id": order_id, "sender": sender, "position": position})
        async with self.rig.sessions.clusters[shard].write() as session:
            await session.execute(insert(PricingJob), rows)

    async def submit(self, sender: str, shard: str, *, jobs: int = 1) -> list[int]:
        """Enqueue jobs of a sender on a shard."""
        order_ids = self._new_ids(shard, jobs)

        async def work(session: WriteSession) -> None:
            for order_id in order_ids:
                await enqueue(session, PricingJob(order_id=order_id, sender=sender))

        await self.rig.sessions.transact(order_ids[0], work)
        return order_ids

    async def step(self, lane: Lane) -> None:
        """Finish what a lane is at, and take the next job, from the shards in turn."""
        if lane.held is not None:
            async with self.rig.sessions.write(lane.held.order_id) as session:
                assert await jobs.finish(session, lane.held)
            lane.held = None
        firsts = {shard: await self.first(shard) for shard in self.shards}
        waiting = {shard: position for shard, position in firsts.items() if position is not None}
        shard = lane.turns.order(waiting)[0]
        lane.turns.took(shard, waiting[shard])
        async with self.rig.sessions.clusters[shard].write() as session:
            lane.held = await jobs.lease(session, holder=lane.holder, lease_seconds=600)
        assert lane.held is not None
        self.taken.append(lane.held.order_id)

    async def first(self, shard: str) -> float | None:
        """Read the position of a shard's next job."""
        async with self.rig.sessions.clusters[shard].write() as session:
            return await jobs.first(session)


def floor_of(rig: Rig, *, lanes: int, shards: int) -> Floor:
    return Floor(rig, SHARDS[:shards], [Lane(f"lane {number}") for number in range(lanes)], rig.ids)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("seed", range(3))
async def test_a_lone_job_waits_for_one_job_of_another_on_each_lane_and_shard_at_most(
    rig: Rig, shards: int, seed: int
) -> None:
    """Against 1,000 jobs of one sender, from wherever the lanes are by then."""
    chance = Random(seed)
    lanes = chance.randint(1, 5)
    floor = floor_of(rig, lanes=lanes, shards=shards)
    for shard in floor.shards:
        await floor.fill("partner many", shard, jobs=1000 // shards)
    for _ in range(chance.randint(0, 60)):
        await floor.step(chance.choice(floor.lanes))
    for _ in range(8):
        (lone,) = await floor.submit(f"partner lone {len(floor.taken)}", chance.choice(floor.shards))
        came = len(floor.taken)
        while lone not in floor.taken:
            await floor.step(chance.choice(floor.lanes))
        others = floor.taken[came : floor.taken.index(lone)]
        assert len(others) <= lanes * shards, f"{len(others)} jobs of the other came first"


@dataclass(frozen=True)
class Arrival:
    """A job of a sender that comes after `after` jobs were taken."""

    sender: str
    shard: str
    after: int


arrivals = st.lists(
    st.builds(
        Arrival, st.sampled_from(["a", "a", "a", "b", "c", "d"]), st.sampled_from(SHARDS), st.integers(0, 20)
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=20)
@given(arrivals=arrivals, lanes=st.integers(1, 4), seed=st.integers(0, 1000))
def test_jobs_of_a_sender_stand_apart_and_all_are_reached_whatever_comes_when(
    arrivals: list[Arrival], lanes: int, seed: int
) -> None:
    """Of the positions alone: all jobs are taken, and those of a sender stand apart, whatever comes when."""
    chance = Random(seed)
    held: dict[int, float] = {}
    waiting: list[tuple[float, int, str]] = []
    order: list[tuple[float, int, str]] = []
    came = deque(sorted(arrivals, key=lambda each: each.after))
    number = 0
    while came or waiting:
        while came and (came[0].after <= len(order) or not waiting):
            each = came.popleft()
            last = [position for position, _, sender in waiting if sender == each.sender]
            position = next_position(
                reached=max(held.values(), default=None),
                first=min((position for position, _, _ in waiting), default=None),
                last=max(last, default=None),
            )
            waiting.append((position, number, each.sender))
            number += 1
        if len(held) >= lanes:
            del held[chance.choice(list(held))]
        taken = min(waiting)
        waiting.remove(taken)
        held[taken[1]] = taken[0]
        order.append(taken)
        rest = [(sender, position) for position, _, sender in waiting]
        assert len(set(rest)) == len(rest), "two jobs of one sender stand at one position"
    assert sorted(each[1] for each in order) == list(range(number))


async def test_who_comes_later_all_the_time_keeps_no_job_from_its_turn(rig: Rig) -> None:
    """A new sender with each job that is taken; the last of ten old ones is reached all the same."""
    floor = floor_of(rig, lanes=1, shards=1)
    old = await floor.submit("partner many", "mes_0", jobs=10)
    for number in count():
        if old[-1] in floor.taken:
            break
        await floor.submit(f"customer {number}", "mes_0")
        await floor.step(floor.lanes[0])
        assert number < 500, "the old jobs are not reached"


async def test_in_the_gaps_between_jobs_as_well(rig: Rig) -> None:
    """As before, with no job leased whenever the new one comes."""
    floor = floor_of(rig, lanes=1, shards=1)
    old = await floor.submit("partner many", "mes_0", jobs=10)
    lane = floor.lanes[0]
    for number in count():
        if old[-1] in floor.taken:
            break
        await floor.step(lane)
        assert lane.held is not None
        async with rig.sessions.write(lane.held.order_id) as session:
            await jobs.finish(session, lane.held)
        lane.held = None
        await floor.submit(f"customer {number}", "mes_0")
        assert number < 500, "the old jobs are not reached"


async def test_jobs_that_fail_again_and_again_go_behind_the_others(rig: Rig) -> None:
    floor = floor_of(rig, lanes=1, shards=1)
    bad = await floor.submit("partner bad", "mes_0", jobs=3)
    (good,) = await floor.submit("partner good", "mes_0")
    tried: list[int] = []
    for _ in range(4):
        async with rig.sessions.clusters["mes_0"].write() as session:
            held = await jobs.lease(session, holder="anna", lease_seconds=600)
        assert held is not None
        tried.append(held.order_id)
        if held.order_id == good:
            break
        async with rig.sessions.write(held.order_id) as session:
            await jobs.give_back(session, held, rest_seconds=0.001, counted=False)
    assert good in tried[:3]
    assert bad[0] == tried[0]


async def test_jobs_of_one_sender_that_come_at_once_stand_apart(rig: Rig) -> None:
    floor = floor_of(rig, lanes=1, shards=2)
    await asyncio.gather(*(floor.submit("partner many", "mes_0") for _ in range(20)))
    await floor.fill("partner many", "mes_1", jobs=20)
    for shard in floor.shards:
        async with rig.sessions.clusters[shard].write() as session:
            found = sorted((await session.scalars(select(PricingJob.position))).all())
        assert found == [0.25 + number for number in range(20)]
