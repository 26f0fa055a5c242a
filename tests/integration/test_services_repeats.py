"""Who got no answer asks again: the change that he made is answered as before, and made once."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest_asyncio
from httpx import Response

from sharding.topology import Topology
from tests.callers import by_seller
from tests.integration.services_rig import Json, Services, ok, open_services, problem


@pytest_asyncio.fixture
async def services(topology: Topology) -> AsyncIterator[Services]:
    async with open_services(topology) as services:
        yield services


def statuses(shown: Json) -> list[str]:
    return [line["status"] for line in shown["history"]]


def refused(answer: Response, *, wanted: str) -> None:
    told = problem(answer, 409)
    assert (told["type"], told["wanted"]) == ("urn:mes-storage:problem:illegal-transition", wanted)


async def test_submitting_again_is_answered_as_before_however_far_the_order_is(services: Services) -> None:
    order_id = str(ok(await services.start(), 201)["order_id"])
    submit = f"/v1/orders/{order_id}/submit"
    refused(await services.shop.post(submit), wanted="SUBMITTED")  # there is no model yet
    ok(await services.upload(order_id))
    answers = await asyncio.gather(*(services.shop.post(submit) for _ in range(4)))
    assert len({answer.text for answer in answers}) == 1
    assert ok(answers[0])["status"] == "SUBMITTED"
    await services.shows(services.mes, order_id, "SUBMITTED")
    await services.price(order_id)
    shown = await services.shows(services.shop, order_id, "PRICE_CALCULATED")
    again = ok(await services.shop.post(submit))
    assert Decimal(again["price"]) == Decimal("412.50")
    assert statuses(shown).count("SUBMITTED") == 1


async def test_a_seller_who_decides_again_has_decided_once(services: Services) -> None:
    order_id = await services.b2b()
    await services.price(order_id)
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    approve, close = (f"/v1/orders/{order_id}/{verb}" for verb in ("approve", "close"))
    first = ok(await services.crm.post(approve))
    assert ok(await services.crm.post(approve)) == first
    refused(await services.crm.post(approve, headers=by_seller("Tom")), wanted="MANUFACTURING_APPROVED")
    refused(await services.crm.post(close), wanted="CLOSED")

    await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
    ok(await services.take(order_id))
    await services.shows(services.crm, order_id, "MANUFACTURING_STARTED")
    assert ok(await services.crm.post(approve))["status"] == "MANUFACTURING_STARTED"
    for status in ("MANUFACTURING_COMPLETED", "PACKAGING", "SHIPPED"):
        ok(await services.advance(order_id, status))
    await services.shows(services.crm, order_id, "SHIPPED")
    first = ok(await services.crm.post(close))
    assert ok(await services.crm.post(close)) == first
    refused(await services.crm.post(close, headers=by_seller("Tom")), wanted="CLOSED")
    shown = await services.shows(services.mes, order_id, "CLOSED")
    assert statuses(shown).count("CLOSED") == statuses(shown).count("MANUFACTURING_APPROVED") == 1


async def test_who_has_only_asked_to_cancel_has_not_approved(services: Services) -> None:
    order_id = await services.approved()  # by Sara
    # The history says of Tom, too, that the order was approved when he asked.
    ok(
        await services.crm.post(
            f"/v1/orders/{order_id}/cancel", json={"reason": "too slow"}, headers=by_seller("Tom")
        ),
        202,
    )
    await services.shows(services.crm, order_id, "CANCELLED")
    approve = f"/v1/orders/{order_id}/approve"
    refused(await services.crm.post(approve, headers=by_seller("Tom")), wanted="MANUFACTURING_APPROVED")
    assert ok(await services.crm.post(approve))["status"] == "CANCELLED"


async def test_a_cancellation_that_was_granted_is_answered_again(services: Services) -> None:
    order_id = await services.b2b()
    await services.shows(services.crm, order_id, "SUBMITTED")
    cancel, wish = f"/v1/orders/{order_id}/cancel", {"reason": "too dear"}
    ok(await services.crm.post(cancel, json=wish), 202)
    await services.shows(services.crm, order_id, "CANCELLED")
    assert ok(await services.crm.post(cancel, json=wish), 202)["status"] == "CANCELLED"
    refused(await services.crm.post(cancel, json={"reason": "too late"}), wanted="CANCELLED")
    refused(await services.crm.post(cancel, json=wish, headers=by_seller("Tom")), wanted="CANCELLED")


async def test_an_operator_who_advances_again_has_advanced_once(services: Services) -> None:
    order_id = await services.approved()
    ok(await services.take(order_id))
    answers = await asyncio.gather(*(services.advance(order_id, "MANUFACTURING_COMPLETED") for _ in range(4)))
    assert len({ok(answer)["changed_at"] for answer in answers}) == 1
    refused(
        await services.advance(order_id, "MANUFACTURING_COMPLETED", operator="Timo"),
        wanted="MANUFACTURING_COMPLETED",
    )
    ok(await services.advance(order_id, "PACKAGING"))
    assert ok(await services.advance(order_id, "MANUFACTURING_COMPLETED"))["status"] == "PACKAGING"
    shown = await services.shows(services.crm, order_id, "PACKAGING")
    assert statuses(shown).count("MANUFACTURING_COMPLETED") == 1


async def test_a_rejection_is_the_same_only_with_its_reason(services: Services) -> None:
    order_id = await services.approved()
    ok(await services.take(order_id))
    first = ok(await services.advance(order_id, "REJECTED", reason="no gold left"))
    assert ok(await services.advance(order_id, "REJECTED", reason="no gold left")) == first
    refused(await services.advance(order_id, "REJECTED", reason="it broke"), wanted="REJECTED")
