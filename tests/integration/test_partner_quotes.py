"""What partners ask the price of without an order: by HTTP, priced by real workers, and kept to by orders."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from unittest.mock import ANY

import pytest
from sqlalchemy import delete, func, insert, select, update

from app.console.demo.shapes import band_ring, stl_binary
from app.files import ModelStore
from app.kit.caller import Role
from app.kit.clock import utc_now
from app.mes import quotes
from app.models.mes import MesOrder, PartnerQuote, PricingJob
from app.pricing.pricer import Pricer
from app.pricing.sandbox import Sandbox
from app.pricing.worker import Worker
from app.quotes import MOST_WAITING, Asked, quote_id_of, quote_name
from app.topology import files_url
from sharding.topology import Topology
from tests.callers import acting
from tests.integration.messaging_rig import running
from tests.integration.pricing_rig import SOON
from tests.integration.services_rig import (
    MODEL,
    Json,
    Services,
    eventually,
    new_key,
    ok,
    open_services,
    problem,
)

PARTNER = "atelier-nord"
ORDER = {"material": "brass", "finish": "matte", "quantity": "3"}


def ring(width_mm: float) -> bytes:
    """Return a model of its own, so that each test has a quote of its own."""
    return stl_binary(band_ring(radius_mm=9.0, width_mm=width_mm, thickness_mm=1.5))


@dataclass
class Rig:
    """The services, and the sandbox of a worker that a test may run."""

    services: Services
    worker: Worker

    async def ask(self, *, partner: str = PARTNER, content: bytes | None = None, **fields: str) -> Any:
        files = None if content is None else {"file": ("ring.stl", content)}
        return await self.services.mes.post(
            f"/v1/partners/{partner}/quotes",
            data={**ORDER, **fields},
            files=files,
            headers=acting(partner, Role.PARTNER),
        )

    async def show(self, quote_id: str, *, partner: str = PARTNER) -> Any:
        path = f"/v1/partners/{partner}/quotes/{quote_id}"
        return await self.services.mes.get(path, headers=acting(partner, Role.PARTNER))

    async def quoted(self, content: bytes, **fields: str) -> Json:
        """Ask, with a worker at work; return the quote with its price."""
        async with running(self.worker):
            asked = await self.ask(content=content, **fields)
            assert asked.status_code in {200, 202}, asked.text
            return await eventually(
                lambda: self.show(asked.json()["quote_id"]), lambda answer: answer.json()["state"] == "priced"
            )

    async def order(self, content: bytes, *, partner: str = PARTNER, **changes: str) -> Json:
        """Order, with a worker at work; return the order with its price."""
        answer = await self.services.mes.post(
            f"/v1/partners/{partner}/orders",
            data={**ORDER, **changes},
            files={"file": ("other-name.stl", content)},
            headers={"Idempotency-Key": new_key(), **acting(partner, Role.PARTNER)},
        )
        path = f"/v1/partners/{partner}/orders/{ok(answer, 202)['order_id']}"
        async with running(self.worker):
            return await eventually(
                lambda: self.services.mes.get(path, headers=acting(partner, Role.PARTNER)),
                lambda shown: shown.json().get("price") is not None,
            )

    async def change(self, quote_id: str, **values: Any) -> None:
        key = quote_id_of(quote_id)
        async with self.services.shards.write(key) as session:
            await session.execute(update(PartnerQuote).where(PartnerQuote.quote_id == key).values(values))


@pytest.fixture(scope="module")
async def rig(module_topology: Topology) -> AsyncIterator[Rig]:
    async with open_services(module_topology) as services, Sandbox(concurrency=2) as sandbox:
        models = await asyncio.to_thread(ModelStore.open, files_url(module_topology))
        pricer = Pricer(services.shards, models, sandbox, now=utc_now, max_attempts=3)
        yield Rig(services, Worker(services.shards, pricer, holder="worker", options=SOON))


async def test_a_price_without_an_order(rig: Rig) -> None:
    content = ring(4.0)
    first = await rig.ask(content=content)
    assert first.status_code == 202
    waiting = first.json()
    assert first.headers["location"] == f"/v1/partners/{PARTNER}/quotes/{waiting['quote_id']}"
    assert first.headers["retry-after"] == "1"
    assert (waiting["state"], waiting["price"], waiting["valid_until"]) == ("waiting", None, None)
    priced = await rig.quoted(content)
    assert priced["quote_id"] == waiting["quote_id"]
    assert float(priced["price"]) == pytest.approx(3 * float(priced["unit_price"]))
    assert priced["valid_until"] is not None
    # It is known by now, and so answered at once; a worker is not needed.
    again = await rig.ask(content=content)
    assert again.status_code == 200
    assert again.json() == priced
    async with rig.services.shards.write(key := quote_id_of(priced["quote_id"])) as session:
        assert await session.scalar(select(MesOrder.order_id).where(MesOrder.order_id == key)) is None
        assert await session.scalar(select(PricingJob.order_id).where(PricingJob.order_id == key)) is None


async def test_a_measured_model_is_priced_while_the_request_waits(rig: Rig) -> None:
    content = ring(4.5)
    await rig.quoted(content)
    async with running(rig.worker):
        other = await rig.ask(content=content, quantity="7")
    assert other.status_code == 200
    assert (other.json()["state"], other.json()["quantity"]) == ("priced", 7)


async def test_many_who_ask_the_same_at_once_have_one_quote_and_one_job(rig: Rig) -> None:
    content = ring(5.0)
    answers = await asyncio.gather(*(rig.ask(content=content) for _ in range(8)))
    [quote_id] = {answer.json()["quote_id"] for answer in answers}
    key = quote_id_of(quote_id)
    async with rig.services.shards.write(key) as session:
        jobs = select(func.count()).select_from(PricingJob).where(PricingJob.order_id == key)
        assert await session.scalar(jobs) == 1
        await session.execute(delete(PricingJob).where(PricingJob.order_id == key))
    # A worker of a release before takes the job, finds no order, and drops it.
    await rig.ask(content=content)
    async with rig.services.shards.write(key) as session:
        assert await session.scalar(jobs) == 1


async def test_an_order_for_the_same_has_the_price_of_the_quote_until_it_ends(rig: Rig) -> None:
    content = ring(5.5)
    quote = await rig.quoted(content)
    # As if the price list had changed since.
    await rig.change(quote["quote_id"], price="99.00", unit_price="33.00")
    order = await rig.order(content)
    assert order["price"] == "99.00"
    assert order["items"][0]["unit_price"] == "33.00"
    assert order["price_valid_until"] == quote["valid_until"]
    # Another's, and another quantity, are not what was quoted.
    assert (await rig.order(content, partner="bijoux-sud"))["price"] == quote["price"]
    assert (await rig.order(content, quantity="2"))["price"] != "99.00"
    await rig.change(quote["quote_id"], ends_at=utc_now() - timedelta(seconds=1))
    problem(await rig.show(quote["quote_id"]), 404)
    assert (await rig.order(content))["price"] == quote["price"]
    # Asked again, it is made anew.
    renewed = await rig.quoted(content)
    assert (renewed["quote_id"], renewed["price"]) == (quote["quote_id"], quote["price"])


async def test_a_new_price_that_is_asked_for_is_that_of_now(rig: Rig) -> None:
    content = ring(5.7)
    quote = await rig.quoted(content)
    await rig.change(quote["quote_id"], price="99.00", unit_price="33.00")
    order = await rig.order(content)
    await rig.services.shows(rig.services.crm, order["order_id"], "PRICE_CALCULATED")
    as_partner = acting(PARTNER, Role.PARTNER)
    ok(await rig.services.crm.post(f"/v1/orders/{order['order_id']}/requote", headers=as_partner), 202)
    path = f"/v1/partners/{PARTNER}/orders/{order['order_id']}"
    async with running(rig.worker):
        await eventually(
            lambda: rig.services.mes.get(path, headers=as_partner),
            lambda shown: shown.json()["price"] == quote["price"],
        )


async def test_what_cannot_be_made_says_why(rig: Rig) -> None:
    async with running(rig.worker):
        answer = await rig.ask(content=MODEL)
        shown = await eventually(
            lambda: rig.show(answer.json()["quote_id"]), lambda found: found.json()["state"] != "waiting"
        )
    assert shown == {**answer.json(), "state": "refused", "reason": ANY, "price": None, "valid_until": None}
    assert shown["reason"]


async def test_by_a_model_that_was_uploaded(rig: Rig) -> None:
    content = ring(6.0)
    as_partner = acting(PARTNER, Role.PARTNER)
    models = f"/v1/partners/{PARTNER}/models"
    files = {"file": ("ring.stl", content)}
    model = ok(await rig.services.mes.post(models, files=files, headers=as_partner), 201)["model"]
    by_model = await rig.ask(model=model)
    by_file = await rig.ask(content=content)
    assert by_model.json()["quote_id"] == by_file.json()["quote_id"]
    problem(await rig.ask(partner="bijoux-sud", model=model), 422)
    problem(await rig.ask(), 422)
    both = await rig.services.mes.post(
        f"/v1/partners/{PARTNER}/quotes", data={**ORDER, "model": model}, files=files, headers=as_partner
    )
    assert "model-or-file" in problem(both, 422)["type"]


async def test_anothers_quote_is_as_none(rig: Rig) -> None:
    own = (await rig.ask(content=ring(6.5))).json()["quote_id"]
    foreign = problem(await rig.show(own, partner="bijoux-sud"), 404)
    none = "q_0000000000000001"
    missing = problem(await rig.show(none, partner="bijoux-sud"), 404)
    assert foreign["detail"].replace(own, none) == missing["detail"]
    problem(await rig.show("q_8000000000000000"), 422)


async def test_no_more_wait_than_may(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotes, "ANSWERED_WITHIN_SECONDS", 0.0)
    partner, content = "flood", ring(7.0)
    first = await rig.ask(partner=partner, content=content)
    shard = rig.services.shards.shard_of(quote_id_of(first.json()["quote_id"]))
    rows: list[dict[str, Any]] = []
    for number in range(10_000):
        asked = Asked(partner=partner, model_key=f"m{number}", material="brass", finish="matte", quantity=1)
        if rig.services.shards.shard_of(asked.quote_id) == shard and len(rows) < MOST_WAITING - 1:
            now = utc_now()
            row = {**vars(asked), "quote_id": asked.quote_id, "model_name": "m", "asked_at": now}
            rows.append({**row, "ends_at": now + timedelta(days=1)})
    async with rig.services.shards.write(rows[0]["quote_id"]) as session:
        await session.execute(insert(PartnerQuote), rows)
    same = await rig.ask(partner=partner, content=content)
    assert same.status_code == 202  # it is one of them
    statuses = set()
    for quantity in range(4, 30):
        answer = await rig.ask(partner=partner, content=content, quantity=str(quantity))
        statuses.add(answer.status_code)
        if answer.status_code == 429:
            assert answer.headers["retry-after"] == "10"
            break
    assert 429 in statuses


def test_ids_are_written_and_read() -> None:
    for quote_id in (-1, -(2**63), -12345):
        assert quote_id_of(quote_name(quote_id)) == quote_id
