"""Quotes: until when a price may be approved, and what a change of the price list does to those that wait."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

import pytest
import pytest_asyncio
from sqlalchemy import update

from app.console.quotes import OpenQuote, QuoteState, open_quotes
from app.files import ModelStore
from app.kit.clock import utc_now
from app.models.crm import CrmOrder
from app.pricing.pricer import Pricer
from app.pricing.worker import Worker
from app.topology import files_url
from ops.shards import reference_tables
from readreplica.cluster import Cluster
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.integration.life_rig import RING
from tests.integration.messaging_rig import running
from tests.integration.pricing_rig import SOON, CountingSandbox
from tests.integration.services_rig import Json, Services, eventually, ok, open_services, problem
from tests.project import MES, PRICE_LIST


@pytest_asyncio.fixture
async def services(topology: Topology) -> AsyncIterator[Services]:
    async with open_services(topology) as services:
        yield services


@pytest_asyncio.fixture
async def crm(topology: Topology) -> AsyncIterator[Cluster]:
    async with open_cluster(topology, "crm", role="crm", application_name="test") as crm:
        yield crm


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[CountingSandbox]:
    async with CountingSandbox() as sandbox:
        sandbox.measured = []
        yield sandbox


@pytest.fixture
def worker(services: Services, sandbox: CountingSandbox, topology: Topology) -> Worker:
    pricer = Pricer(
        services.shards,
        ModelStore.open(files_url(topology)),
        sandbox,
        now=utc_now,
        max_attempts=3,
        price_valid_for=timedelta(days=30),
    )
    return Worker(services.shards, pricer, holder="worker", options=SOON)


async def ordered(services: Services, material: str) -> str:
    return await services.placed(await services.b2b_response(content=RING, material=material))


async def quoted(services: Services, order_id: str) -> Json:
    """Wait until the CRM has a price, and no new one is asked for."""
    return await eventually(
        partial(services.crm.get, f"/v1/orders/{order_id}"),
        lambda answer: (
            answer.status_code == 200
            and answer.json()["status"] == "PRICE_CALCULATED"
            and answer.json()["requote_requested_at"] is None
        ),
    )


async def found(topology: Topology) -> dict[str, QuoteState]:
    async with open_quotes(topology) as quotes:
        return {str(each.order_id): each.state async for each in quotes.find(now=utc_now())}


@asynccontextmanager
async def priced(services: Services, worker: Worker, *materials: str) -> AsyncIterator[list[str]]:
    async with running(worker):
        orders = [await ordered(services, material) for material in materials]
        for order_id in orders:
            await quoted(services, order_id)
    yield orders


async def test_a_price_that_has_ended_is_approved_after_a_new_one_was_asked_for(
    services: Services, worker: Worker, sandbox: CountingSandbox, crm: Cluster, topology: Topology
) -> None:
    async with priced(services, worker, "brass") as [order_id]:
        fresh = await quoted(services, order_id)
        ends = datetime.fromisoformat(fresh["price_valid_until"])
        assert timedelta(days=29) < ends - utc_now() < timedelta(days=30)
        past = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        async with crm.write() as session:
            await session.execute(update(CrmOrder).values(price_valid_until=past))
        assert await found(topology) == {order_id: QuoteState.EXPIRED}

        refused = problem(await services.crm.post(f"/v1/orders/{order_id}/approve"), 409)
        assert refused["type"].endswith(":price-expired")
        assert "valid until 2026-01-02T03:04:05+00:00" in refused["detail"]
        assert f"POST /v1/orders/{order_id}/requote" in refused["detail"]

        ok(await services.crm.post(f"/v1/orders/{order_id}/requote"), 202)
        again = ok(await services.crm.post(f"/v1/orders/{order_id}/requote"), 202)
        assert again["requote_requested_at"] is not None
        assert await found(topology) == {order_id: QuoteState.ASKED}
        pending = problem(await services.crm.post(f"/v1/orders/{order_id}/approve"), 409)
        assert pending["type"].endswith(":price-renewal-pending")

        # A worker of an older release has dropped it: after a while a seller who asks again is heard.
        asked = again["requote_requested_at"]
        async with crm.write() as session:
            await session.execute(update(CrmOrder).values(requote_requested_at=past))
        later = ok(await services.crm.post(f"/v1/orders/{order_id}/requote"), 202)
        assert later["requote_requested_at"] > asked
        await eventually(
            partial(services.mes.get, f"/v1/orders/{order_id}"),
            lambda answer: (
                sum("requote_requested" in line["detail"] for line in answer.json()["history"]) == 2
            ),
        )

        async with running(worker):
            renewed = await quoted(services, order_id)
    assert datetime.fromisoformat(renewed["price_valid_until"]) > ends
    assert (renewed["price"], renewed["tariff_version"]) == (fresh["price"], fresh["tariff_version"])
    ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))
    history = (await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED"))["history"]
    assert [sorted(line["detail"])[-1:] for line in history] == [
        [],
        ["tariff_version"],
        ["requote_requested"],
        ["requote_requested"],
        ["price_renewed"],
        [],
    ]
    assert len(sandbox.measured) == 1
    # What is approved has its price.
    problem(await services.crm.post(f"/v1/orders/{order_id}/requote"), 409)


async def test_a_change_of_one_metal_renews_the_prices_with_that_metal_and_measures_nothing(
    services: Services, worker: Worker, sandbox: CountingSandbox, topology: Topology
) -> None:
    await reference_tables.load(topology, MES, rows := reference_tables.read_file(PRICE_LIST, MES))
    async with priced(services, worker, "brass", "gold_18k", "brass") as [brass, gold, other]:
        before = [await quoted(services, each) for each in (brass, gold, other)]
        assert set((await found(topology)).values()) == {QuoteState.VALID}

        # Twenty thousand times as dear: above the minimum.
        dearer = [
            {**row, "eur_per_g": Decimal(1200)} if row["material"] == "brass" else row
            for row in rows["materials"]
        ]
        await reference_tables.load(topology, MES, {"materials": dearer})
        states = await found(topology)
        assert states == {
            brass: QuoteState.TOUCHED,
            gold: QuoteState.VALID,
            other: QuoteState.TOUCHED,
        }
        # What was given stays: a seller may confirm it until its end.
        ok(await services.crm.post(f"/v1/orders/{other}/approve"))

        async with open_quotes(topology) as quotes:
            touched = [each async for each in quotes.find(now=utc_now()) if each.state is QuoteState.TOUCHED]
            asked: list[OpenQuote] = await quotes.renew(touched, actor="Ines")
        assert [str(each.order_id) for each in asked] == [brass]
        async with running(worker):
            after = [await quoted(services, each) for each in (brass, gold)]
    assert Decimal(after[0]["price"]) > 1000 * Decimal(before[0]["price"]) / 100
    assert after[0]["tariff_version"] != before[0]["tariff_version"]
    assert after[1] == before[1]
    assert set((await found(topology)).values()) == {QuoteState.VALID}
    assert len(sandbox.measured) == 1


async def test_a_new_price_that_comes_too_late_changes_nothing(
    services: Services, worker: Worker, crm: Cluster
) -> None:
    """The order was cancelled while it was priced anew."""
    async with priced(services, worker, "brass") as [order_id]:
        ok(await services.crm.post(f"/v1/orders/{order_id}/requote"), 202)
        wish = {"reason": "too dear"}
        ok(await services.crm.post(f"/v1/orders/{order_id}/cancel", json=wish), 202)
        await services.shows(services.crm, order_id, "CANCELLED")
        async with running(worker):
            shown = await services.shows(services.mes, order_id, "CANCELLED")
    assert "price_renewed" not in [key for line in shown["history"] for key in line["detail"]]


async def test_without_a_validity_a_price_has_no_end_and_old_readers_take_it(
    services: Services, sandbox: CountingSandbox, topology: Topology
) -> None:
    """The message has no field that a release before quotes would refuse."""
    models = ModelStore.open(files_url(topology))
    pricer = Pricer(services.shards, models, sandbox, now=utc_now, max_attempts=3)
    endless = Worker(services.shards, pricer, holder="worker", options=SOON)
    async with priced(services, endless, "brass") as [order_id]:
        shown = await quoted(services, order_id)
    assert (shown["price_valid_until"], shown["tariff_version"]) == (None, None)
    (line,) = [each for each in shown["history"] if each["status"] == "PRICE_CALCULATED"]
    assert line["detail"].keys() == {"price", "items"}
    ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))


async def test_a_price_that_a_seller_sets_is_that_of_all_services_and_says_what_it_was(
    services: Services, worker: Worker
) -> None:
    async with priced(services, worker, "brass") as [order_id]:
        before = await quoted(services, order_id)
        wish = {"price": "390.00", "reason": "a faithful customer"}
        ok(await services.crm.post(f"/v1/orders/{order_id}/price", json=wish), 202)
        set_by_hand = await eventually(
            partial(services.crm.get, f"/v1/orders/{order_id}"),
            lambda answer: answer.json()["requote_requested_at"] is None,
        )
        assert (set_by_hand["price"], set_by_hand["tariff_version"]) == ("390.00", before["tariff_version"])
        ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))
        shown = await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
        problem(await services.crm.post(f"/v1/orders/{order_id}/price", json=wish), 409)
    assert shown["price"] == "390.00"
    calculated, changed = (line["detail"] for line in shown["history"][1:3])
    [measured] = calculated["measured"]
    assert len(measured["box_mm"]) == 3
    assert measured["metal_eur"] > "0"
    assert (changed["from"], changed["reason"]) == (before["price"], "a faithful customer")
