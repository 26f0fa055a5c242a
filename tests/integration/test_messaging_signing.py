"""Who reaches Redis cannot give an order, nor acknowledge one, and a key is changed under traffic."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from app import topology as sections
from app.messaging.routing import ServiceName
from app.messaging.signing import EntrySigner, parse_peer_keys
from app.messaging.streams import fields_of, open_redis
from sharding.topology import Topology
from tests.integration.messaging_rig import (
    STREAM,
    Fields,
    Rig,
    open_rig,
    owe,
    running,
    signed_ack,
    until,
)
from tests.integration.services_rig import open_services
from tests.message_keys import ALL_KEYS, signer_of

ACKS = "acks:shop"


@pytest.fixture
async def rig(topology: Topology) -> AsyncIterator[Rig]:
    async with open_rig(topology) as rig:
        yield rig


def approval(order_id: str) -> dict[str, str]:
    now = datetime.now(UTC).isoformat()
    return {
        "id": str(uuid4()),
        "source": "crm",
        "type": "order.approved",
        "subject": order_id,
        "time": now,
        "data": '{"actor": "Sara"}',
        "attempt": "1",
        "senttime": now,
    }


async def test_an_approval_by_hand_changes_nothing_and_is_named(topology: Topology) -> None:
    """Unsigned; by the CRM's name with a key that is not its own; and truly signed, by a stolen Shop."""
    stolen = EntrySigner(ServiceName.SHOP, parse_peer_keys(ALL_KEYS))
    async with open_services(topology) as services, open_redis(sections.redis_url(topology, "test")) as redis:
        order_id = await services.b2b()
        await services.price(order_id)
        await services.shows(services.mes, order_id, "PRICE_CALCULATED")
        entry = approval(order_id)
        by_shop = stolen.sign(entry, kind="message", destination="mes", peer=ServiceName.MES)
        strange = signer_of(ServiceName.CRM).sign(
            entry, kind="message", destination="mes", peer=ServiceName.MES
        )

        with capture_logs() as logs:
            for given in (entry, strange, by_shop):
                await redis.xadd("orders:mes", fields_of(given))

            named = (
                f"type=order.approved subject={order_id} source=crm: no service that this one hears from",
                "key 'k1' of crm is not among MES_STORAGE_MESSAGE_KEYS",
                "shop may not send order.approved to mes",
            )

            async def all_are_named() -> bool:
                said = [str(log.get("error") or log.get("reason")) for log in logs]
                return all(any(words in each for each in said) for words in named)

            await until(all_are_named)

        await services.shows(services.mes, order_id, "PRICE_CALCULATED")
        await services.shows(services.crm, order_id, "PRICE_CALCULATED")


async def settled_by(rig: Rig, entry: Fields) -> bool:
    """Give the relay an acknowledgement; say whether the message is no longer owed, or is set aside."""
    await rig.redis.xadd(ACKS, entry)
    await rig.relay().turn()
    assert await rig.redis.xlen(ACKS) == 0
    rows = await rig.owed()
    return not rows or rows[0].set_aside_at is not None


@pytest.mark.parametrize("outcome", ["done", "set_aside"])
async def test_a_forged_acknowledgement_settles_nothing(rig: Rig, outcome: str) -> None:
    await rig.owe(1, "a")
    [row] = await rig.owed()
    ack: Fields = {"id": str(row.message_id), "outcome": outcome}
    genuine = signed_ack(ack)
    of_the_mes = signer_of(ServiceName.MES).sign(
        ack, kind="acknowledgement", destination="shop", peer=ServiceName.SHOP
    )
    other_key = signer_of(ServiceName.CRM, "k2").sign(
        ack, kind="acknowledgement", destination="shop", peer=ServiceName.SHOP
    )
    forged: list[Fields] = [
        ack,
        {**genuine, "outcome": "set_aside" if outcome == "done" else "done"},
        {**genuine, "signature": "k1.AAAA"},
        dict(other_key),
        # The MES may acknowledge, but not what is owed to the CRM.
        dict(of_the_mes),
    ]

    with capture_logs() as logs:
        for entry in forged:
            assert not await settled_by(rig, entry)
    assert {log["reason"] for log in logs if log["event"] == "entry_refused"} == {
        "unsigned",
        "forged",
        "unknown key",
    }
    assert await settled_by(rig, genuine)


async def test_a_replayed_message_changes_nothing(rig: Rig) -> None:
    await rig.owe(1, "a")
    await rig.relay().turn()
    [copy] = await rig.sent()
    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()
    async with rig.shop.write() as session:
        await owe(session, 2, "x", [ServiceName.MES])
    await rig.relay().turn()
    entries: Any = await rig.redis.xrange("orders:mes")
    [(_, elsewhere)] = entries

    consumer = rig.consumer()
    with capture_logs() as logs:
        async with running(consumer):
            for entry in (copy, elsewhere, {**elsewhere, "destination": "crm"}):
                await rig.redis.xadd(STREAM, fields_of(entry))

            async def all_are_read() -> bool:
                return bool(consumer.refusals.counts.total() == 2) and any(
                    log["event"] == "message_repeated" for log in logs
                )

            await until(all_are_read)

    assert consumer.refusals.counts == {"misdirected": 1, "forged": 1}
    assert await rig.history() == {1: ["a"]}


Names = tuple[str, ...]
OLD, SECOND, FIRST, NEW = ("k1",), ("k1", "k2"), ("k2", "k1"), ("k2",)

ROTATIONS: Mapping[str, list[tuple[Names, Names]]] = {
    # The keys of the Shop and of the CRM, which restart one after the other.
    "as the runbook says": [
        (OLD, OLD),
        (SECOND, OLD),
        (SECOND, SECOND),
        (FIRST, SECOND),
        (FIRST, FIRST),
        (NEW, FIRST),
        (NEW, NEW),
    ],
    # What is under way, or comes before both have it, is refused, and sent again with the new key.
    "all at once": [(OLD, OLD), (NEW, OLD), (NEW, NEW)],
}


@pytest.mark.parametrize("how", ROTATIONS)
async def test_a_key_that_is_changed_under_traffic_loses_nothing(rig: Rig, how: str) -> None:
    steps = ROTATIONS[how]
    words = {order_id: [f"{order_id}.{n}" for n in range(len(steps))] for order_id in range(1, 9)}

    for n, (of_shop, of_crm) in enumerate(steps):
        relay = rig.relay(signer=signer_of(ServiceName.SHOP, *of_shop))
        consumer = rig.consumer(signer=signer_of(ServiceName.CRM, *of_crm))
        async with running(relay, consumer):
            for order_id, of_order in words.items():
                await rig.owe(order_id, of_order[n])
            if n == len(steps) - 1:
                await rig.until_settled()

    assert await rig.history() == words
    assert await rig.owed() == []
