"""The client that partners copy, against the services: it orders, waits, hears by webhook and verifies."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import uvicorn

from app.kit.caller import Role
from sharding.topology import Topology
from tests.callers import acting
from tests.integration.services_rig import MODEL, Services, open_services
from tests.integration.webhook_receiver import receiving

FILE = Path(__file__).parents[2] / "examples" / "partner" / "partner.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("partner_example", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def served(topology: Topology) -> AsyncIterator[tuple[Services, str]]:
    """Serve the MES by HTTP: the client is one for threads, as a partner's is."""
    async with open_services(topology, webhook_local=True) as services:
        app: Any = services.mes._transport
        server = uvicorn.Server(uvicorn.Config(app.app, port=0, lifespan="off", log_config=None))
        running = asyncio.create_task(server.serve())
        async with asyncio.timeout(30):
            while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
                await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield services, f"http://127.0.0.1:{port}"
        server.should_exit = True
        await running


async def test_the_example_orders_waits_and_verifies(served: tuple[Services, str], tmp_path: Path) -> None:
    services, url = served
    example, ring = load(), tmp_path / "ring.stl"
    ring.write_bytes(MODEL)
    headers = acting("atelier-nord", Role.PARTNER)
    with httpx.Client(base_url=url, headers=headers) as client:
        async with receiving() as receiver:
            partner = example.Partner(client, "atelier-nord")
            hook = await asyncio.to_thread(partner.listen, receiver.url(), "order.price_calculated")
            order = {"material": "brass", "finish": "matte", "quantity": "3", "reference": "PO-1017"}
            made = await asyncio.to_thread(partner.submit, ring, **order)
            await services.shows(services.crm, made["order_id"], "SUBMITTED")
            await services.price(made["order_id"])
            shown = await asyncio.to_thread(partner.wait, made["order_id"], seconds=30)
            await receiver.wait(lambda found: bool(found.received))
    assert (shown["price"], shown["reference"]) == ("412.50", "PO-1017")
    [got] = receiver.received
    assert example.verify(hook["secret"], got.headers, got.body)["data"]["price"] == "412.50"
    with pytest.raises(ValueError, match="signature"):
        example.verify(hook["secret"], got.headers, got.body + b" ")
    with pytest.raises(ValueError, match="too long ago"):
        example.verify(hook["secret"], {**got.headers, "webhook-timestamp": "1"}, got.body)
