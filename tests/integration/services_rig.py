"""The three services on real databases and a real Redis, called as their clients call them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any

from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Auth, Response
from pydantic import SecretStr
from sqlalchemy import delete, func, literal, update

from app.crm.application import build as build_crm
from app.kit.clock import utc_now
from app.mes.application import build as build_mes
from app.messaging.events import PriceCalculated
from app.models.mes import MesOrderItem, PricingJob
from app.orders import MES, announce, apply_event, lock_order
from app.settings import Settings
from app.shop.application import build as build_shop
from readreplica.sessions import WriteSession
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.sessions import ShardedSessions, open_sessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.callers import ACCESS_KEYS, ActingAs, by_operator, caller_of
from tests.integration.messaging_rig import pauses
from tests.message_keys import ALL_KEYS

Json = dict[str, Any]
MODEL = b"solid ring\nendsolid ring\n"
MAX_UPLOAD_BYTES = 200_000
START: Json = {
    "customer": {"name": "Ada", "email": "ada@example.org"},
    "material": "gold_18k",
    "finish": "polished",
    "quantity": 2,
}
_keys = count(1)


def new_key() -> str:
    """Give an idempotency key that no other test has."""
    return f"key-{next(_keys)}"


@dataclass
class Services:
    """HTTP clients of the three services, and what the pricing worker would use."""

    shop: AsyncClient
    crm: AsyncClient
    mes: AsyncClient
    shards: ShardedSessions

    async def start(self, *, key: str | None = None, **changes: Any) -> Response:
        """Start an order in the Shop."""
        headers = {"Idempotency-Key": key or new_key()}
        return await self.shop.post("/v1/orders", json=START | changes, headers=headers)

    async def upload(self, order_id: str, *, name: str = "ring.stl", content: bytes = MODEL) -> Response:
        """Upload a model to the Shop."""
        return await self.shop.put(f"/v1/orders/{order_id}/model", files={"file": (name, content)})

    async def b2c(self) -> str:
        """Order through the Shop; give the order's id."""
        order_id = str(ok(await self.start(), 201)["order_id"])
        ok(await self.upload(order_id))
        ok(await self.shop.post(f"/v1/orders/{order_id}/submit"))
        return order_id

    async def b2b_response(
        self, *, key: str | None = None, name: str = "ring.stl", content: bytes = MODEL, **changes: Any
    ) -> Response:
        """Order as a partner."""
        return await self.mes.post(
            "/v1/partners/atelier-nord/orders",
            files={"file": (name, content)},
            data={"material": "brass", "finish": "matte", "quantity": "3"} | changes,
            headers={"Idempotency-Key": key or new_key()},
        )

    async def b2b(self) -> str:
        """Order as a partner, and wait until the order is placed; give its id."""
        return await self.placed(await self.b2b_response())

    async def placed(self, answer: Response) -> str:
        """Wait until a partner's order that was taken in is placed; give its id."""
        order_id = str(ok(answer, 202)["order_id"])
        await eventually(
            partial(self.mes.get, f"/v1/orders/{order_id}"),
            lambda shown: shown.status_code == 200 and shown.json()["waiting"] is None,
        )
        return order_id

    async def price(
        self, order_id: str, price: str = "412.50", *, how: Mapping[str, Any] | None = None
    ) -> None:
        """Do what the pricing worker does once it has measured the model, with what it says of that."""

        async def work(session: WriteSession) -> None:
            order = await lock_order(session, MES, int(order_id))
            event = PriceCalculated(actor="pricing", price=Decimal(price), items=())
            now = utc_now()
            if how is not None:
                of_order = update(MesOrderItem).where(MesOrderItem.order_id == order.order_id)
                each = func.round(literal(Decimal(price)) / MesOrderItem.quantity, 2)
                await session.execute(of_order.values(unit_price=each))
            await apply_event(session, MES, order, event, now=now, how=how)
            await announce(session, MES, order, event, now=now)
            await session.execute(delete(PricingJob).where(PricingJob.order_id == order.order_id))

        await self.shards.transact(int(order_id), work)

    async def approved(self) -> str:
        """Bring a partner's order to where operators take it; give its id."""
        order_id = await self.b2b()
        await self.price(order_id)
        await self.shows(self.crm, order_id, "PRICE_CALCULATED")
        ok(await self.crm.post(f"/v1/orders/{order_id}/approve"))
        await self.shows(self.mes, order_id, "MANUFACTURING_APPROVED")
        return order_id

    async def advance(self, order_id: str, to: str, *, operator: str = "Rosa", **more: Any) -> Response:
        """Advance an order in the MES."""
        return await self.mes.post(
            f"/v1/orders/{order_id}/advance", json={"to": to, **more}, headers=by_operator(operator)
        )

    async def take(self, order_id: str, *, operator: str = "Rosa") -> Response:
        """Take an order in the MES."""
        return await self.mes.post(f"/v1/orders/{order_id}/take", headers=by_operator(operator))

    async def shows(self, client: AsyncClient, order_id: str, status: str) -> Json:
        """Wait until a service shows an order with a status."""
        return await eventually(
            partial(client.get, f"/v1/orders/{order_id}"),
            lambda answer: answer.status_code == 200 and answer.json()["status"] == status,
        )


async def eventually(
    ask: Callable[[], Awaitable[Response]], holds: Callable[[Response], bool], *, seconds: float = 30.0
) -> Json:
    """Ask until the answer is as it should be, looking often and not for ever."""
    answer = await ask()
    try:
        async with asyncio.timeout(seconds):
            for pause in pauses():
                if holds(answer):
                    break
                await asyncio.sleep(pause)
                answer = await ask()
    except TimeoutError:
        raise AssertionError(f"after {seconds:g} s the answer is still {answer.text}") from None
    return dict(answer.json())


def ok(response: Response, status: int = 200) -> Json:
    """Give the JSON of an answer that must have this status."""
    assert response.status_code == status, response.text
    return dict(response.json())


def problem(response: Response, status: int) -> Json:
    """Give the JSON of an answer that must be a problem of this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content = dict(response.json())
    assert content["status"] == status
    assert {"type", "title", "detail", "instance"} <= content.keys()
    return content


async def save_map(topology: Topology) -> None:
    """Give the directory its first shard map, as bringing a platform up does."""
    async with open_cluster(
        topology, "directory", role="directory_owner", application_name="test"
    ) as directory:
        shards = ShardMap.even(list(topology.databases_of("mes")), topology.trees["mes"].buckets)
        await Directory(directory.primary, "mes").ensure_map(shards)


@asynccontextmanager
async def client_of(app: FastAPI, *, auth: Auth | None = None) -> AsyncIterator[AsyncClient]:
    """Run an application's lifespan, and give a client of it: an admin, unless a request says otherwise."""
    # As a server does, an unforeseen error is answered, and not raised into the client.
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=transport, base_url="http://service", auth=auth or ActingAs()) as client,
    ):
        yield client


def fast_settings(topology: Topology) -> Settings:
    """Make settings with small delays and a small upload limit.

    Relays look for new messages as often as in operation: the four of a test take half a core otherwise.
    """
    return Settings(
        topology=topology.path,
        max_upload_bytes=MAX_UPLOAD_BYTES,
        redelivery_seconds=0.2,
        flow_floor_per_second=1000.0,
        message_keys=SecretStr(ALL_KEYS),
        access_keys=SecretStr(ACCESS_KEYS),
    )


@asynccontextmanager
async def open_services(topology: Topology, **changes: Any) -> AsyncIterator[Services]:
    """Run the three services, with some settings of the test's own."""
    await save_map(topology)
    settings = fast_settings(topology).model_copy(update=changes)
    async with (
        client_of(build_shop(settings, topology)) as shop,
        client_of(build_crm(settings, topology), auth=caller_of("crm")) as crm,
        client_of(build_mes(settings, topology)) as mes,
        open_sessions(topology, role="mes", application_name="test-pricing") as shards,
    ):
        yield Services(shop, crm, mes, shards)
