"""Orders on their way through Shop, CRM and MES, by HTTP and messages."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest_asyncio
from sqlalchemy import func, select, text

from app.models.mes import PricingJob
from app.orders import CRM, MES, lock_order
from readreplica.cluster import Cluster
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.callers import by_seller
from tests.integration.messaging_rig import until
from tests.integration.services_rig import Json, Services, eventually, ok, open_services, problem

MADE = ["MANUFACTURING_STARTED", "MANUFACTURING_COMPLETED", "PACKAGING", "SHIPPED"]
WHOLE_LIFE = ["SUBMITTED", "PRICE_CALCULATED", "MANUFACTURING_APPROVED", *MADE, "CLOSED"]


@pytest_asyncio.fixture
async def services(topology: Topology) -> AsyncIterator[Services]:
    async with open_services(topology) as services:
        yield services


def statuses(order: Json) -> list[str]:
    return [line["status"] for line in order["history"]]


async def make(services: Services, order_id: str) -> None:
    ok(await services.take(order_id))
    for status in MADE[1:]:
        ok(await services.advance(order_id, status))


async def test_customers_order_goes_through_all_services(services: Services) -> None:
    order_id = await services.b2c()
    await services.shows(services.mes, order_id, "SUBMITTED")
    await services.price(order_id)
    priced = await services.shows(services.shop, order_id, "PRICE_CALCULATED")
    assert priced["price"] == "412.50"
    assert priced["currency"] == "EUR"
    seen = await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    assert seen["customer"] == {"name": "Ada", "email": "ada@example.org"}

    ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))
    await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
    await make(services, order_id)
    await services.shows(services.crm, order_id, "SHIPPED")
    ok(await services.crm.post(f"/v1/orders/{order_id}/close"))

    in_shop = await services.shows(services.shop, order_id, "CLOSED")
    in_mes = await services.shows(services.mes, order_id, "CLOSED")
    in_crm = await services.shows(services.crm, order_id, "CLOSED")
    assert statuses(in_shop) == ["INITIATED", "FILE_UPLOADED", *WHOLE_LIFE]
    assert statuses(in_mes) == statuses(in_crm) == WHOLE_LIFE
    # The same events, so the same moments and the same people.
    assert [(line["at"], line["actor"]) for line in in_crm["history"]] == [
        (line["at"], line["actor"]) for line in in_mes["history"]
    ]


async def test_partners_order_reaches_the_crm_and_never_the_shop(services: Services) -> None:
    order_id = await services.b2b()
    seen = await services.shows(services.crm, order_id, "SUBMITTED")
    assert (seen["channel"], seen["partner"], seen["customer"]) == ("B2B", "atelier-nord", None)
    await services.price(order_id)
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))
    await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
    await make(services, order_id)
    await services.shows(services.crm, order_id, "SHIPPED")
    ok(await services.crm.post(f"/v1/orders/{order_id}/close", headers=by_seller("carrier")))
    assert statuses(await services.shows(services.mes, order_id, "CLOSED")) == WHOLE_LIFE
    problem(await services.shop.get(f"/v1/orders/{order_id}"), 404)


async def test_cancellation_is_a_request_until_mes_agrees(services: Services) -> None:
    order_id = await services.b2c()
    await services.shows(services.crm, order_id, "SUBMITTED")
    await services.shows(services.mes, order_id, "SUBMITTED")
    wish = {"reason": "she changed her mind"}
    requested = ok(await services.crm.post(f"/v1/orders/{order_id}/cancel", json=wish), 202)
    assert requested["status"] == "SUBMITTED"
    assert requested["cancel_requested_at"] is not None

    for client in (services.mes, services.crm, services.shop):
        cancelled = await services.shows(client, order_id, "CANCELLED")
        assert cancelled["reason"] == "she changed her mind"
    async with services.shards.write(int(order_id)) as session:
        waiting = await session.scalar(
            select(func.count()).select_from(PricingJob).where(PricingJob.order_id == int(order_id))
        )
    assert waiting == 0


async def test_nothing_is_approved_while_a_cancellation_waits_for_its_answer(services: Services) -> None:
    order_id = await services.b2b()
    await services.price(order_id)
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    cancel, approve = f"/v1/orders/{order_id}/cancel", f"/v1/orders/{order_id}/approve"
    wish = {"reason": "too dear"}
    async with services.shards.write(int(order_id)) as session:
        await lock_order(session, MES, int(order_id))  # so MES cannot answer yet
        first = ok(await services.crm.post(cancel, json=wish), 202)
        assert ok(await services.crm.post(cancel, json=wish), 202) == first
        refused = problem(await services.crm.post(approve), 409)
        assert refused["type"].endswith(":cancellation-pending")
        assert refused["since"] == first["cancel_requested_at"]
    cancelled = await services.shows(services.crm, order_id, "CANCELLED")
    assert statuses(cancelled) == ["SUBMITTED", "PRICE_CALCULATED", "PRICE_CALCULATED", "CANCELLED"]


async def test_cancellation_is_refused_once_an_operator_has_the_order(
    services: Services, topology: Topology
) -> None:
    order_id = await services.approved()
    wish = {"reason": "too slow"}
    async with (
        open_cluster(topology, "crm", role="crm", application_name="test") as crm,
        # The CRM must not hear of the operator before Sara asks: hold its order until she stands in line.
        crm.write() as session,
    ):
        await lock_order(session, CRM, int(order_id))
        asking = asyncio.create_task(services.crm.post(f"/v1/orders/{order_id}/cancel", json=wish))
        await until(partial(somebody_waits_for_a_lock, crm))
        ok(await services.take(order_id))
    assert ok(await asking, 202)["status"] == "MANUFACTURING_APPROVED"

    after = await eventually(
        lambda: services.crm.get(f"/v1/orders/{order_id}"),
        lambda answer: answer.json()["cancel_requested_at"] is None,
    )
    assert after["status"] == "MANUFACTURING_STARTED"
    [refusal] = [line["detail"] for line in after["history"] if "cancel_refused" in line["detail"]]
    assert "by Rosa" in refusal["cancel_refused"]


async def somebody_waits_for_a_lock(cluster: Cluster) -> bool:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with cluster.write() as session:
        return bool(await session.scalar(waiting))


async def test_operator_rejects_with_a_reason_that_the_customer_sees(services: Services) -> None:
    order_id = await services.b2c()
    await services.shows(services.mes, order_id, "SUBMITTED")
    await services.price(order_id)
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))
    await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
    ok(await services.take(order_id))
    ok(await services.advance(order_id, "REJECTED", reason="the band breaks when it is cast"))
    seen = await services.shows(services.shop, order_id, "REJECTED")
    assert seen["reason"] == "the band breaks when it is cast"


async def test_a_write_is_seen_by_a_read_that_carries_its_token(services: Services) -> None:
    for _ in range(20):
        written = await services.b2b_response()
        token = written.headers["Causal-Token"]
        order_id = ok(written, 202)["order_id"]
        shown = await services.mes.get(f"/v1/orders/{order_id}", headers={"Causal-Token": token})
        assert ok(shown)["order_id"] == order_id


async def test_new_upload_replaces_the_model_until_the_order_is_submitted(services: Services) -> None:
    order_id = ok(await services.start(), 201)["order_id"]
    ok(await services.upload(order_id, name="first.stl"))
    replaced = ok(await services.upload(order_id, name="C:\\models\\second.OBJ", content=b"v 0 0 0\n"))
    assert replaced["model_name"] == "second.OBJ"
    assert replaced["summary"] == "2 x second.OBJ, gold_18k, polished"
    ok(await services.shop.post(f"/v1/orders/{order_id}/submit"))
    refused = problem(await services.upload(order_id), 409)
    assert (refused["current"], refused["wanted"]) == ("SUBMITTED", "FILE_UPLOADED")


async def test_crm_lists_newest_first_by_status(services: Services) -> None:
    ids = [await services.b2b() for _ in range(5)]
    for order_id in ids:
        await services.shows(services.crm, order_id, "SUBMITTED")
    listed: list[str] = []
    cursor: str | None = None
    while True:
        query = {"status": "SUBMITTED", "limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = ok(await services.crm.get("/v1/orders", params=query))
        listed += [order["order_id"] for order in page["orders"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert listed == sorted(ids, key=int, reverse=True)
    assert ok(await services.crm.get("/v1/orders", params={"status": "SHIPPED"}))["orders"] == []
