"""Bad input to services that run: it is refused by name, and orders go on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from sqlalchemy import insert, select

from app.models.crm import CrmOutbox
from app.models.shop import ShopOutbox
from readreplica.cluster import Cluster
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.integration.messaging_rig import until
from tests.integration.services_rig import Services, ok, open_services, problem

TEN_MEGABYTES = "x" * 10_000_000
UNKNOWN_ORDER = 4_611_686_018_427_387_904
Outbox = type[ShopOutbox] | type[CrmOutbox]


@dataclass
class Platform:
    """The services, and the databases of two of them, in which a hand or another release may write."""

    services: Services
    shop: Cluster
    crm: Cluster

    async def owe(self, outbox: Outbox, order_id: int, event: str, data: Any, **more: Any) -> UUID:
        """Have the Shop or the CRM owe the MES a message; give its id."""
        row = {
            "order_id": order_id,
            "message_id": uuid4(),
            "destination": "mes",
            "type": event,
            "data": data,
            **more,
        }
        async with self._of(outbox).write() as session:
            await session.execute(insert(outbox).values(row))
        return UUID(str(row["message_id"]))

    async def reason(self, outbox: Outbox, message_id: UUID) -> str | None:
        """Give why a message is a dead letter; None while it is none."""
        async with self._of(outbox).write() as session:
            query = select(outbox.set_aside_reason).where(outbox.message_id == message_id)
            found: str | None = await session.scalar(query)
            return found

    async def refused(self, outbox: Outbox, message_id: UUID) -> str:
        """Wait until a message is a dead letter; give why."""

        async def is_refused() -> bool:
            return await self.reason(outbox, message_id) is not None

        await until(is_refused)
        return str(await self.reason(outbox, message_id))

    async def attempts(self, outbox: Outbox, message_id: UUID) -> int:
        """Count how often a message was sent that is still owed."""
        async with self._of(outbox).write() as session:
            query = select(outbox.attempts).where(outbox.message_id == message_id)
            return await session.scalar(query) or 0

    async def goes_on(self) -> None:
        """Take an order from the Shop to the MES."""
        order_id = await self.services.b2c()
        await self.services.shows(self.services.mes, order_id, "SUBMITTED")

    def _of(self, outbox: Outbox) -> Cluster:
        return self.shop if outbox is ShopOutbox else self.crm


@asynccontextmanager
async def open_platform(topology: Topology) -> AsyncIterator[Platform]:
    async with (
        open_services(topology) as services,
        open_cluster(topology, "shop", role="shop", application_name="test") as shop,
        open_cluster(topology, "crm", role="crm", application_name="test") as crm,
    ):
        yield Platform(services, shop, crm)


@pytest_asyncio.fixture
async def platform(topology: Topology) -> AsyncIterator[Platform]:
    async with open_platform(topology) as platform:
        yield platform


@pytest.mark.parametrize(
    ("event", "data", "because"),
    [
        ("order.engraved", {"actor": "Ada"}, "unknown type 'order.engraved'"),
        ("order.approved.v2", {"actor": "Ada"}, "unknown type 'order.approved.v2'"),
        ("order.approved", {"actor": "Ada", "version": 2}, "version: Extra inputs are not permitted"),
        ("order.approved", {}, "actor: Field required"),
        ("order.shipped", {"actor": "Ada"}, "crm may not send order.shipped to mes"),
    ],
)
async def test_a_message_of_another_release_is_a_dead_letter_that_says_what_is_wrong(
    platform: Platform, event: str, data: Any, because: str
) -> None:
    bad = await platform.owe(CrmOutbox, 1, event, data)
    await platform.goes_on()
    assert because in await platform.refused(CrmOutbox, bad)
    await platform.goes_on()


async def test_events_out_of_order_are_refused_and_the_order_stays_as_it_is(platform: Platform) -> None:
    order_id = await platform.services.b2b()
    early = await platform.owe(CrmOutbox, int(order_id), "order.closed", {"actor": "Sara"})
    because = await platform.refused(CrmOutbox, early)
    assert f"order {order_id} is SUBMITTED and cannot become CLOSED" in because
    assert ok(await platform.services.mes.get(f"/v1/orders/{order_id}"))["status"] == "SUBMITTED"
    await platform.goes_on()


async def test_a_message_for_an_unknown_order_waits_for_it_and_holds_up_no_other(platform: Platform) -> None:
    early = await platform.owe(CrmOutbox, UNKNOWN_ORDER, "order.approved", {"actor": "Sara"})

    async def is_repeated() -> bool:
        return await platform.attempts(CrmOutbox, early) >= 3

    await until(is_repeated)
    assert await platform.reason(CrmOutbox, early) is None  # its order may be on its way
    await platform.goes_on()


async def test_a_message_of_ten_megabytes_is_refused_by_name(platform: Platform) -> None:
    order_id = await platform.services.b2b()
    await platform.services.price(order_id)
    large = await platform.owe(CrmOutbox, int(order_id), "order.approved", {"actor": TEN_MEGABYTES})
    because = await platform.refused(CrmOutbox, large)
    assert "its data has 10,000,013 characters; at most 1,048,576 are taken" in because
    await platform.goes_on()


async def test_a_request_of_ten_megabytes_is_refused_by_name(platform: Platform) -> None:
    services = platform.services
    order_id = await services.b2b()
    problem(await services.advance(order_id, TEN_MEGABYTES), 413)
    problem(await services.start(material=TEN_MEGABYTES), 413)
    problem(await services.b2b_response(content=TEN_MEGABYTES.encode()), 413)
    await platform.goes_on()


@pytest.mark.parametrize("days", [-400, 400])
async def test_a_message_is_taken_by_whatever_clock_it_was_written(platform: Platform, days: int) -> None:
    order_id = await platform.services.b2b()
    await platform.services.price(order_id)
    at = datetime.now(UTC) + timedelta(days=days)
    await platform.owe(
        CrmOutbox, int(order_id), "order.approved", {"actor": "Sara"}, created_at=at, next_attempt_at=at
    )
    await platform.services.shows(platform.services.mes, order_id, "MANUFACTURING_APPROVED")
    await platform.goes_on()
