"""What routing costs: a read by order id through the library, and the same read on a plain session."""

from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from app.models.mes import MesOrder
from app.models.status import Channel, Status
from sharding.engines import open_cluster
from sharding.ids import first_id_at
from sharding.sessions import ShardedSessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.benchmarks.harness import Measured, benchmark, compare, platform

ORDER_ID = first_id_at(datetime(2026, 1, 1, tzinfo=UTC))


@benchmark(name="routing_overhead", target=1.10)
async def routing_overhead() -> Measured:
    """Compare on one node: a routed read session with one point read, and a plain session with that read."""
    with platform() as topology:
        async with open_cluster(topology, "mes_0", role="mes", application_name="bench") as cluster:
            sessions = ShardedSessions(ShardMap.even(["mes_0"], topology.buckets), {"mes_0": cluster})
            await _make_order(sessions)
            engine = _plain_engine(topology)
            try:
                return await _measure(sessions, engine)
            finally:
                await engine.dispose()


async def _measure(sessions: ShardedSessions, engine: AsyncEngine) -> Measured:
    async def routed() -> MesOrder:
        async with sessions.read(ORDER_ID) as session:
            return await session.get_one(MesOrder, ORDER_ID)

    async def plain() -> MesOrder:
        async with AsyncSession(engine) as session:
            return await session.get_one(MesOrder, ORDER_ID)

    found = await compare(routed, plain, rounds=300, calls=10)
    detail = f"{found.subject_seconds * 1e6:.0f} us routed, {found.reference_seconds * 1e6:.0f} us plain"
    return Measured(round(found.ratio, 3), f"{detail}, both on the replica")


def _plain_engine(topology: Topology) -> AsyncEngine:
    replica = topology.database("mes_0").replicas[0].name
    return create_async_engine(topology.url("mes_0", role="mes", replica=replica))


async def _make_order(sessions: ShardedSessions) -> None:
    async with sessions.write(ORDER_ID) as session:
        session.add(
            MesOrder(
                order_id=ORDER_ID,
                status=Status.SUBMITTED,
                channel=Channel.B2C,
                summary="ring",
            )
        )
    # The replica must have it before the plain session, which does not wait, looks for it.
    async with sessions.read(ORDER_ID, after=session.token) as reader:
        await reader.get_one(MesOrder, ORDER_ID)
