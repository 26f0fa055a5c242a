"""What routing costs: one unit of work by order id through the library, and the same on a plain session."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from app.models.mes import MesOrder
from app.models.status import Channel, Status
from sharding.engines import open_cluster
from sharding.ids import first_id_at
from sharding.sessions import ShardedSessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.benchmarks.harness import Comparison, Measured, benchmark, compare, platform

ORDER_ID = first_id_at(datetime(2026, 1, 1, tzinfo=UTC))


@benchmark(name="routing_overhead", target=1.05)
async def routing_overhead() -> Measured:
    """Compare on one node: a routed read session with one point read, and a plain session with that read."""
    async with routed_sessions() as (sessions, topology):
        replica = topology.database("mes_0").replicas[0].name
        engine = create_async_engine(topology.url("mes_0", role="mes", replica=replica))
        try:
            return _told(await _compare_reads(sessions, engine), "both on the replica")
        finally:
            await engine.dispose()


@benchmark(name="routing_overhead_write", target=1.05)
async def routing_overhead_write() -> Measured:
    """Compare a routed unit that locks, changes and commits an order with a plain session that does it.

    The routed one has its causal token as well.
    """
    async with routed_sessions() as (sessions, topology):
        engine = create_async_engine(topology.url("mes_0", role="mes"))
        try:
            return _told(await _compare_writes(sessions, engine), "SELECT FOR UPDATE, UPDATE, COMMIT")
        finally:
            await engine.dispose()


async def _compare_reads(sessions: ShardedSessions, engine: AsyncEngine) -> Comparison:
    async def routed() -> MesOrder:
        async with sessions.read(ORDER_ID) as session:
            return await session.get_one(MesOrder, ORDER_ID)

    async def plain() -> MesOrder:
        async with AsyncSession(engine) as session:
            return await session.get_one(MesOrder, ORDER_ID)

    return await compare(routed, plain, rounds=300, calls=10)


async def _compare_writes(sessions: ShardedSessions, engine: AsyncEngine) -> Comparison:
    async def routed() -> None:
        async with sessions.write(ORDER_ID) as session:
            _change(await session.get_one(MesOrder, ORDER_ID, with_for_update=True))

    async def plain() -> None:
        async with AsyncSession(engine) as session:
            _change(await session.get_one(MesOrder, ORDER_ID, with_for_update=True))
            await session.commit()

    return await compare(routed, plain, rounds=200, calls=10)


def _change(order: MesOrder) -> None:
    order.summary = "bangle" if order.summary == "ring" else "ring"


def _told(found: Comparison, what: str) -> Measured:
    detail = f"{found.subject_seconds * 1e6:.0f} us routed, {found.reference_seconds * 1e6:.0f} us plain"
    return Measured(round(found.ratio, 3), f"{detail}, {what}")


@asynccontextmanager
async def routed_sessions() -> AsyncIterator[tuple[ShardedSessions, Topology]]:
    """Give sessions that route to one shard, with one order on it that its replica has as well."""
    with platform() as topology:
        async with open_cluster(topology, "mes_0", role="mes", application_name="bench") as cluster:
            sessions = ShardedSessions(
                ShardMap.even(["mes_0"], topology.trees["mes"].buckets), {"mes_0": cluster}
            )
            async with sessions.write(ORDER_ID) as session:
                session.add(
                    MesOrder(order_id=ORDER_ID, status=Status.SUBMITTED, channel=Channel.B2C, summary="ring")
                )
            # The plain session, which does not wait, looks for it on the replica.
            async with sessions.read(ORDER_ID, after=session.token) as reader:
                await reader.get_one(MesOrder, ORDER_ID)
            yield sessions, topology
