"""How many modules an order's id passes through: what a reader opens who follows an order."""

from app.models.mes import MesOrder
from tests.benchmarks.harness import Measured, benchmark, platform
from tests.benchmarks.order_way import OrderWay, tracing
from tests.integration.services_rig import ok, open_services


@benchmark(name="order_way", target=10, unit="modules")
async def order_way() -> Measured:
    """Count from the endpoint by which an operator takes an order to COMMIT on its shard."""
    with platform() as topology:
        async with open_services(topology) as services:
            order_id = await services.approved()
            with tracing(begins_in="app.mes.endpoints") as way:
                ok(await services.take(order_id))
    return _measured(way, order_id)


@benchmark(name="order_way_read", target=7, unit="modules")
async def order_way_read() -> Measured:
    """Count from `sessions.read` of a key to the order."""
    with platform() as topology:
        async with open_services(topology) as services:
            order_id = await services.b2b()
            with tracing() as way:
                async with services.shards.read(int(order_id)) as session:
                    await session.get_one(MesOrder, int(order_id))
    return _measured(way, order_id)


def _measured(way: OrderWay, order_id: str) -> Measured:
    lines = way.describe(int(order_id)).splitlines()
    return Measured(len(way.modules(int(order_id))), "; ".join(line.strip() for line in lines))
