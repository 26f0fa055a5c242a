"""Units of work that meet a concurrent transaction."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from app.models.mes import MesOrder
from app.models.status import Channel, Status
from ops.waiting import wait_until
from readreplica.cluster import Cluster
from readreplica.errors import RetriesExhausted
from readreplica.sessions import WriteSession
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.servers import PostgresServers

# Core statements: what the mapper would add to them is not the subject here.
SET_STATUS = text("UPDATE orders SET status = :status WHERE order_id = :order_id")
SET_SUMMARY = text("UPDATE orders SET summary = summary || '!' WHERE order_id = :order_id")


@pytest.fixture
async def cluster(routed: Topology) -> AsyncIterator[Cluster]:
    async with open_cluster(routed, "mes_0", role="mes", application_name="test") as cluster:
        async with cluster.write() as session:
            for order_id in (1, 2):
                session.add(
                    MesOrder(order_id=order_id, status=Status.SHIPPED, channel=Channel.B2C, summary="ring")
                )
        yield cluster


async def summary_of(cluster: Cluster, order_id: int) -> str:
    async with cluster.write() as session:
        return (await session.get_one(MesOrder, order_id)).summary


async def until_somebody_waits(postgres: PostgresServers) -> None:
    query = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with postgres.primary.connect() as connection:
        found = await asyncio.to_thread(
            wait_until, lambda: connection.execute(query).fetchone() == (True,), timeout_seconds=10
        )
    assert found, "nobody waits for a lock"


async def test_a_row_that_moved_to_another_partition_is_found_by_the_next_attempt(
    cluster: Cluster, postgres: PostgresServers
) -> None:
    attempts = 0

    async def work(session: WriteSession) -> str:
        nonlocal attempts
        attempts += 1
        await session.execute(SET_SUMMARY, {"order_id": 1})
        return "done"

    async with cluster.write() as mover:
        await mover.execute(SET_STATUS, {"order_id": 1, "status": "CLOSED"})
        unit = asyncio.create_task(cluster.transact(work))
        await until_somebody_waits(postgres)
    assert (await unit).value == "done"
    assert attempts == 2
    assert await summary_of(cluster, 1) == "ring!"


async def test_two_units_in_deadlock_are_both_done_in_the_end(cluster: Cluster) -> None:
    both_hold_one = asyncio.Barrier(2)
    attempts = 0

    async def locked(session: WriteSession, order_ids: tuple[int, int]) -> None:
        nonlocal attempts
        attempts += 1
        first = attempts <= 2
        for order_id in order_ids:
            await session.execute(SET_SUMMARY, {"order_id": order_id})
            if first and order_id == order_ids[0]:
                await both_hold_one.wait()

    async with asyncio.TaskGroup() as group:
        for order_ids in ((1, 2), (2, 1)):
            group.create_task(cluster.transact(lambda session, ids=order_ids: locked(session, ids)))  # type: ignore[misc]
    assert attempts == 3
    assert await summary_of(cluster, 1) == "ring!!"


async def test_the_attempts_are_bounded(cluster: Cluster) -> None:
    attempts = 0

    async def work(session: WriteSession) -> None:
        nonlocal attempts
        attempts += 1
        await session.execute(SET_SUMMARY, {"order_id": 1})
        await session.execute(text("DO $$ BEGIN RAISE 'never' USING ERRCODE = '40001'; END $$"))

    with pytest.raises(RetriesExhausted, match=r"mes_0 was given up after 3 attempts, .* 40001") as caught:
        await cluster.transact(work, attempts=3)
    assert (attempts, caught.value.attempts, caught.value.sqlstate) == (3, 3, "40001")
    assert await summary_of(cluster, 1) == "ring"


async def test_any_other_error_ends_the_unit_at_once(cluster: Cluster) -> None:
    attempts = 0

    async def work(session: WriteSession) -> None:
        nonlocal attempts
        attempts += 1
        session.add(MesOrder(order_id=1, status=Status.SHIPPED, channel=Channel.B2C, summary="twice"))

    with pytest.raises(IntegrityError):
        await cluster.transact(work)
    assert attempts == 1


async def test_what_work_returned_comes_with_the_token_of_its_commit(cluster: Cluster) -> None:
    async def work(session: WriteSession) -> WriteSession:
        await session.execute(SET_SUMMARY, {"order_id": 1})
        return session

    done = await cluster.transact(work)
    assert done.token
    assert done.token == done.value.token
    async with cluster.read(after=done.token) as reader:
        assert (await reader.get_one(MesOrder, 1)).summary == "ring!"
