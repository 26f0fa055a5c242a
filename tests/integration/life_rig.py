"""The whole life of orders in the three services, priced by the real pricing worker."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.console.demo.shapes import band_ring, stl_binary
from sharding.topology import Topology
from tests.integration.services_rig import Services, ok

RING = stl_binary(band_ring(radius_mm=8.5, width_mm=4.0, thickness_mm=1.5))
MADE = ("MANUFACTURING_COMPLETED", "PACKAGING", "SHIPPED")
WHOLE_LIFE = [
    "SUBMITTED",
    "PRICE_CALCULATED",
    "MANUFACTURING_APPROVED",
    "MANUFACTURING_STARTED",
    *MADE,
    "CLOSED",
]


@asynccontextmanager
async def pricing(topology: Topology) -> AsyncIterator[None]:
    """Run `python -m app.pricing`."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.pricing",
        env=os.environ | {"MES_STORAGE_TOPOLOGY": str(topology.path)},
        stderr=DEVNULL,
    )
    try:
        yield
    finally:
        worker.terminate()
        await worker.wait()


async def submit(services: Services, channel: str) -> str:
    """Order a ring through the Shop or as a partner; return the order's id."""
    if channel == "B2B":
        return await services.placed(await services.b2b_response(content=RING))
    order_id = str(ok(await services.start(), 201)["order_id"])
    ok(await services.upload(order_id, content=RING))
    ok(await services.shop.post(f"/v1/orders/{order_id}/submit"))
    return order_id


async def make_and_ship(services: Services, order_id: str) -> None:
    """Bring a submitted order to the carrier, each service doing its part; a worker prices it meanwhile."""
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))
    await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
    ok(await services.take(order_id))
    for status in MADE:
        ok(await services.advance(order_id, status))
    await services.shows(services.crm, order_id, "SHIPPED")


async def make_and_close(services: Services, order_id: str) -> None:
    """Bring a submitted order to its end."""
    await make_and_ship(services, order_id)
    ok(await services.crm.post(f"/v1/orders/{order_id}/close"))
    await services.shows(services.mes, order_id, "CLOSED")
