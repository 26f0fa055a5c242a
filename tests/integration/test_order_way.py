"""An order's id is easy to follow: from an endpoint to COMMIT it passes through few modules."""

from collections.abc import AsyncIterator

import pytest_asyncio

from app.models.mes import MesOrder
from sharding.topology import Topology
from tests.benchmarks.order_way import OrderWay, tracing
from tests.integration.services_rig import Services, ok, open_services

MOST_TO_COMMIT = 10
MOST_TO_READ = 7


@pytest_asyncio.fixture
async def services(topology: Topology) -> AsyncIterator[Services]:
    async with open_services(topology) as services:
        yield services


def check(way: OrderWay, order_id: str, *, most: int) -> None:
    modules = way.modules(int(order_id))
    assert 0 < len(modules) <= most, way.describe(int(order_id))


async def test_the_way_of_an_order_that_the_shop_takes(services: Services) -> None:
    with tracing(begins_in="app.shop.endpoints") as way:
        order_id = ok(await services.start(), 201)["order_id"]
    assert way.is_committed
    assert {"app.shop.repository", "app.orders"} <= way.modules(int(order_id)).keys()
    check(way, order_id, most=MOST_TO_COMMIT)


async def test_the_way_of_an_order_that_a_customer_submits(services: Services) -> None:
    order_id = ok(await services.start(), 201)["order_id"]
    ok(await services.upload(order_id))
    with tracing(begins_in="app.shop.endpoints") as way:
        ok(await services.shop.post(f"/v1/orders/{order_id}/submit"))
    assert way.is_committed
    assert {"app.shop.endpoints", "app.orders", "app.messaging.outbox"} <= way.modules(int(order_id)).keys()
    check(way, order_id, most=MOST_TO_COMMIT)


async def test_the_way_of_an_order_that_an_operator_takes(services: Services) -> None:
    order_id = await services.approved()
    with tracing(begins_in="app.mes.endpoints") as way:
        ok(await services.take(order_id))
    assert way.is_committed
    assert {"app.mes.endpoints", "app.orders", "app.messaging.outbox"} <= way.modules(int(order_id)).keys()
    check(way, order_id, most=MOST_TO_COMMIT)


async def test_the_way_of_a_key_to_a_read_session(services: Services) -> None:
    order_id = await services.b2b()
    with tracing() as way:
        async with services.shards.read(int(order_id)) as session:
            await session.get_one(MesOrder, int(order_id))
    check(way, order_id, most=MOST_TO_READ)
