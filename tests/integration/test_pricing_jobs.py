"""Leases: one holder at a time, whoever dies."""

import asyncio

import pytest
from sqlalchemy import text

from app.console.demo.shapes import Shape
from app.pricing import jobs
from app.pricing.jobs import Lease
from tests.integration.pricing_rig import Rig, rig, shared_rig
from tests.integration.test_messaging_traces import PARENT, in_trace

__all__ = ["rig", "shared_rig"]

RING = Shape("ring", "stl", b"a ring")


async def lease(rig: Rig, holder: str, *, seconds: float = 60) -> Lease | None:
    async with rig.sessions.clusters["mes_0"].write() as session:
        return await jobs.lease(session, holder=holder, lease_seconds=seconds)


async def finish(rig: Rig, held: Lease) -> bool:
    async with rig.sessions.write(held.order_id) as session:
        return await jobs.finish(session, held)


async def test_a_job_has_one_holder(rig: Rig) -> None:
    order_id = await rig.submit(RING, shard="mes_0")
    held = await lease(rig, "anna")
    assert held == Lease(order_id=order_id, holder="anna", attempt=1)
    assert await lease(rig, "bert") is None
    assert await finish(rig, held)
    assert await rig.job(order_id) is None


async def test_no_job_is_no_error(rig: Rig) -> None:
    assert await lease(rig, "anna") is None


async def test_the_job_that_waits_longest_comes_first(rig: Rig) -> None:
    orders = [await rig.submit(RING, shard="mes_0") for _ in range(3)]
    taken = [await lease(rig, "anna") for _ in orders]
    assert [held and held.order_id for held in taken] == orders


async def test_workers_do_not_wait_for_each_other(rig: Rig) -> None:
    """Both leases are taken in transactions that are open at the same time."""
    orders = {await rig.submit(RING, shard="mes_0") for _ in range(2)}
    cluster = rig.sessions.clusters["mes_0"]
    async with asyncio.timeout(5), cluster.write() as anna, cluster.write() as bert, cluster.write() as carl:
        first = await jobs.lease(anna, holder="anna", lease_seconds=60)
        second = await jobs.lease(bert, holder="bert", lease_seconds=60)
        third = await jobs.lease(carl, holder="carl", lease_seconds=60)
    assert {held and held.order_id for held in (first, second)} == orders
    assert third is None


async def test_a_lease_that_expired_is_taken_by_another_and_worth_nothing(rig: Rig) -> None:
    order_id = await rig.submit(RING, shard="mes_0")
    stale = await lease(rig, "anna", seconds=0)
    held = await lease(rig, "bert")
    assert stale is not None
    assert held == Lease(order_id=order_id, holder="bert", attempt=2, expired=1)
    assert held.tries == 1
    assert not await finish(rig, stale)
    async with rig.sessions.write(order_id) as session:
        await jobs.give_back(session, stale, rest_seconds=0, counted=False)
    assert await finish(rig, held)


async def test_the_same_worker_cannot_use_its_own_older_lease(rig: Rig) -> None:
    await rig.submit(RING, shard="mes_0")
    stale = await lease(rig, "anna", seconds=0)
    held = await lease(rig, "anna")
    assert stale is not None
    assert held is not None
    assert not await finish(rig, stale)
    assert await finish(rig, held)


@pytest.mark.parametrize(("counted", "attempt"), [(True, 2), (False, 1)])
async def test_a_job_that_was_given_back_can_be_taken_again(rig: Rig, counted: bool, attempt: int) -> None:
    order_id = await rig.submit(RING, shard="mes_0")
    held = await lease(rig, "anna")
    assert held is not None
    async with rig.sessions.write(order_id) as session:
        await jobs.give_back(session, held, rest_seconds=0, counted=counted)
    assert await lease(rig, "bert") == Lease(order_id=order_id, holder="bert", attempt=attempt)


async def test_a_job_names_the_trace_in_which_it_was_made_as_long_as_that_was_just_now(rig: Rig) -> None:
    with in_trace():
        order_id = await rig.submit(RING, shard="mes_0")
    held = await lease(rig, "anna", seconds=0)
    assert held == Lease(order_id=order_id, holder="anna", attempt=1, traceparent=PARENT)
    await rig.set_job(order_id, created_at=text("'-infinity'"))
    held = await lease(rig, "bert")
    assert held is not None
    assert (held.traceparent, held.is_fresh) == (PARENT, False)


async def test_a_job_that_was_given_back_rests(rig: Rig) -> None:
    order_id = await rig.submit(RING, shard="mes_0")
    held = await lease(rig, "anna")
    assert held is not None
    async with rig.sessions.write(order_id) as session:
        await jobs.give_back(session, held, rest_seconds=60, counted=True)
    assert await lease(rig, "bert") is None


OLD_TAKES = """
UPDATE pricing_jobs
SET leased_by = :holder, lease_expires_at = now() + interval '1 minute', attempts = attempts + 1
WHERE order_id = (
    SELECT order_id FROM pricing_jobs WHERE lease_expires_at <= now() ORDER BY lease_expires_at LIMIT 1
) RETURNING order_id
"""


async def without_turns(rig: Rig, *order_ids: int) -> None:
    """Make the jobs what a release before turns has inserted."""
    for order_id in order_ids:
        async with rig.sessions.write(order_id) as session:
            await session.execute(text("DELETE FROM pricing_jobs WHERE order_id = :id"), {"id": order_id})
            await session.execute(text("INSERT INTO pricing_jobs (order_id) VALUES (:id)"), {"id": order_id})


async def first(rig: Rig) -> float | None:
    async with rig.sessions.clusters["mes_0"].write() as session:
        return await jobs.first(session)


async def test_jobs_of_a_release_without_turns_stand_in_front_of_no_one(rig: Rig) -> None:
    """A partner's thirty, which the old MES has inserted, and then one of another, by the new one."""
    many = [await rig.submit(RING, shard="mes_0", partner="many") for _ in range(30)]
    await without_turns(rig, *many)
    lone = await rig.submit(RING, shard="mes_0", partner="lone")
    taken: list[int] = []
    for _ in range(31):
        assert await first(rig) is not None
        held = await lease(rig, "anna")
        assert held is not None
        taken.append(held.order_id)
    assert lone in taken[:2]
    assert [order_id for order_id in taken if order_id != lone] == many


async def test_workers_place_such_jobs_side_by_side(rig: Rig) -> None:
    many = [await rig.submit(RING, shard="mes_0", partner=f"p{number % 3}") for number in range(20)]
    await without_turns(rig, *many)
    await asyncio.gather(*(first(rig) for _ in range(4)))
    placed = [await rig.job(order_id) for order_id in many]
    at = [(job.sender, job.position) for job in placed if job is not None]
    assert len(set(at)) == 20
    assert {sender for sender, _ in at} == {"partner p0", "partner p1", "partner p2"}


async def test_a_worker_of_a_release_without_turns_takes_jobs_beside_a_new_one(rig: Rig) -> None:
    orders = {await rig.submit(RING, shard="mes_0") for _ in range(2)}
    async with rig.sessions.clusters["mes_0"].write() as session:
        old = await session.scalar(text(OLD_TAKES), {"holder": "old"})
    held = await lease(rig, "anna")
    assert held is not None
    assert {old, held.order_id} == orders
    assert await lease(rig, "anna") is None
