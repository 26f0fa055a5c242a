"""The client that partners copy, by the gateway: it orders, waits, hears by webhook, and asks for prices."""

import asyncio
import importlib.util
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
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
from app.mes.application import build
from app.quotes import answer_quote, quote_id_of
from app.serve import server_config
from app.topology import Location
from ops.ports import LOOPBACK
from readreplica.sessions import WriteSession
from sharding.topology import Topology
from tests.integration.gateway_rig import HOST, SOURCE, one_door, run_envoy
from tests.integration.services_rig import (
    MODEL,
    Services,
    client_of,
    eventually,
    fast_settings,
    ok,
    open_services,
    problem,
    save_map,
)
from tests.integration.webhook_receiver import receiving

PARTNER = "atelier-nord"
CHANGES = {"webhook_local": True, "trusted_proxies": SOURCE}
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
    """The services, and a partner's client that comes by the gateway with an API key.

    `tried` is the MES of a sandbox behind the same door, `trying` a client with a key of it, and `operator`
    the header of who sees its orders.
    """

    services: Services
    client: httpx.Client
    tried: httpx.AsyncClient
    trying: httpx.Client
    operator: dict[str, str]
    example: ModuleType

    @property
    def partner(self) -> Any:
        return self.example.Partner(self.client, PARTNER)


@asynccontextmanager
async def listening(app: Any, topology: Topology) -> AsyncIterator[int]:
    """Serve an application by HTTP, behind the gateway; give its port."""
    made = fast_settings(topology).model_copy(update=CHANGES)
    server = uvicorn.Server(server_config(app, made, host=LOOPBACK, port=0))
    running = asyncio.create_task(server.serve())
    async with asyncio.timeout(30):
        while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running


def in_sandbox(topology: Topology, folder: Path) -> Topology:
    """Return a platform of its own for trying out; of the server of Redis it has another database."""
    url = topology.section("redis", Location).url
    text = topology.path.read_text().replace(f'"{url}"', f'"{url}/1"')
    path = folder / "sandbox.toml"
    path.write_text(f"{text}\n[access]\nsandbox = true\n")
    return Topology.load(path)


@pytest.fixture
async def through(topology: Topology, module_topology: Topology, tmp_path: Path) -> AsyncIterator[Through]:
    """Serve the MES by HTTP, and a gateway before it: the client is one for threads, as a partner's is."""
    sandbox = in_sandbox(module_topology, tmp_path)
    await save_map(sandbox)
    trying_out = build(fast_settings(sandbox).model_copy(update=CHANGES), sandbox)
    async with open_services(topology, **CHANGES) as services, client_of(trying_out) as tried:
        app: Any = services.mes._transport
        async with listening(app.app, topology) as port, listening(trying_out, sandbox) as tried_port:
            routes = [route for route in DOORS["external"] if route.service == "mes"]
            gateway = one_door(tmp_path, "external", routes, service=port, tried=tried_port)
            with ExitStack() as opened:
                await asyncio.to_thread(opened.enter_context, run_envoy(gateway, tmp_path / "gateway"))
                clients = []
                for of in (topology, sandbox):
                    made = await asyncio.to_thread(
                        create_all, of, {PARTNER: Role.PARTNER, "Rosa": Role.OPERATOR}
                    )
                    key, operator = made[PARTNER], {"Authorization": f"Bearer {made['Rosa']}"}
                    client = httpx.Client(
                        base_url=f"https://{LOOPBACK}:{gateway.section.doors['external'].port}",
                        headers={"Authorization": f"Bearer {key}", "Host": HOST},
                        verify=ssl.create_default_context(cafile=str(tmp_path / "ca.pem")),
                    )
                    clients.append(opened.enter_context(client))
                    usage = partial(asyncio.to_thread, client.get, "/v1/usage")
                    await eventually(
                        usage, lambda answer: answer.status_code == 200
                    )  # the key is known by then
                yield Through(services, clients[0], tried, clients[1], operator, load())


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
    await what_is_tried_out_is_made_by_no_one(through, ring)


async def what_is_tried_out_is_made_by_no_one(through: Through, ring: Path) -> None:
    """The same client with a key of the sandbox, by the same door: its order is in the sandbox alone."""
    assert through.trying.headers["Authorization"].startswith("Bearer mt_")
    partner = through.example.Partner(through.trying, PARTNER)
    order = {"material": "brass", "finish": "matte", "quantity": "3", "reference": "TRY-1"}
    made = await asyncio.to_thread(partner.submit, ring, **order)
    own = f"/v1/partners/{PARTNER}/orders"
    shown = await eventually(
        partial(asyncio.to_thread, through.trying.get, f"{own}/{made['order_id']}"),
        lambda answer: answer.status_code == 200 and answer.json()["waiting"] is None,
    )
    assert shown["reference"] == "TRY-1"
    tried = ok(await asyncio.to_thread(through.trying.get, own))["orders"]
    assert [each["order_id"] for each in tried] == [made["order_id"]]
    # Operators of the sandbox have it, and those who make things have not; nor has the partner's own list.
    ok(await through.tried.get(f"/v1/orders/{made['order_id']}", headers=through.operator))
    problem(await through.services.mes.get(f"/v1/orders/{made['order_id']}"), 404)
    problem(await asyncio.to_thread(through.client.get, f"{own}/{made['order_id']}"), 404)
    ours = ok(await asyncio.to_thread(through.client.get, own))["orders"]
    assert "TRY-1" not in {each["reference"] for each in ours}
