"""The client that partners copy, by the gateway: it orders, waits, hears by webhook, and asks for prices."""

import asyncio
import importlib.util
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import uvicorn

from app.console.gateway import DOORS
from app.console.identities import create_all
from app.kit.caller import Role
from app.kit.clock import utc_now
from app.quotes import answer_quote, quote_id_of
from app.serve import server_config
from ops.ports import LOOPBACK
from readreplica.sessions import WriteSession
from sharding.topology import Topology
from tests.integration.gateway_rig import HOST, SOURCE, one_door, run_envoy
from tests.integration.services_rig import MODEL, Services, eventually, fast_settings, open_services
from tests.integration.webhook_receiver import receiving

PARTNER = "atelier-nord"
FILE = Path(__file__).parents[2] / "examples" / "partner" / "partner.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("partner_example", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Through:
    """The services, and a partner's client that comes by the gateway with an API key."""

    services: Services
    client: httpx.Client
    example: ModuleType

    @property
    def partner(self) -> Any:
        return self.example.Partner(self.client, PARTNER)


@pytest.fixture
async def through(topology: Topology, tmp_path: Path) -> AsyncIterator[Through]:
    """Serve the MES by HTTP, and a gateway before it: the client is one for threads, as a partner's is."""
    changes = {"webhook_local": True, "trusted_proxies": SOURCE}
    async with open_services(topology, **changes) as services:
        app: Any = services.mes._transport
        made = fast_settings(topology).model_copy(update=changes)
        server = uvicorn.Server(server_config(app.app, made, host=LOOPBACK, port=0))
        running = asyncio.create_task(server.serve())
        async with asyncio.timeout(30):
            while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
                await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        routes = [route for route in DOORS["external"] if route.service == "mes"]
        gateway = one_door(tmp_path, "external", routes, service=port)
        with ExitStack() as opened:
            await asyncio.to_thread(opened.enter_context, run_envoy(gateway, tmp_path / "gateway"))
            key = (await asyncio.to_thread(create_all, topology, {PARTNER: Role.PARTNER}))[PARTNER]
            client = httpx.Client(
                base_url=f"https://{LOOPBACK}:{gateway.section.doors['external'].port}",
                headers={"Authorization": f"Bearer {key}", "Host": HOST},
                verify=ssl.create_default_context(cafile=str(tmp_path / "ca.pem")),
            )
            opened.enter_context(client)
            usage = partial(asyncio.to_thread, client.get, "/v1/usage")
            await eventually(usage, lambda answer: answer.status_code == 200)  # the key is known by then
            yield Through(services, client, load())
        server.should_exit = True
        await running


async def test_the_example_orders_waits_and_verifies(through: Through, tmp_path: Path) -> None:
    services, example, partner = through.services, through.example, through.partner
    ring = tmp_path / "ring.stl"
    ring.write_bytes(MODEL)
    async with receiving() as receiver:
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
    # And a price without an order; a worker answers it meanwhile.
    del order["reference"]
    asked = asyncio.create_task(asyncio.to_thread(partner.quote, ring, seconds=30, **order))
    path = f"/v1/partners/{PARTNER}/quotes"
    answer = await asyncio.to_thread(
        through.client.post, path, files={"file": ("ring.stl", MODEL)}, data=order
    )
    key = quote_id_of(answer.json()["quote_id"])

    async def price(session: WriteSession) -> None:
        now = utc_now()
        ends = now + timedelta(days=1)
        await answer_quote(session, key, now=now, ends_at=ends, unit_price=Decimal(4), price=Decimal(12))

    await services.shards.transact(key, price)
    quote = await asked
    assert (quote["state"], quote["price"], quote["quantity"]) == ("priced", "12.00", 3)
