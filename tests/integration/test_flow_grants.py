"""Grants in a real Redis: heard, ended, made up, of the past, and lost with Redis."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app import topology as sections
from app.flow.grants import PARTNERS, Grant, HeardAllowance, grant_key, publish, read_grant, redis_now
from app.messaging.routing import ServiceName
from app.messaging.signing import EntrySigner, Refusals
from app.messaging.streams import fields_of, open_redis
from sharding.topology import Topology
from tests.message_keys import signer_of

MES, CRM, SHOP = map(signer_of, (ServiceName.MES, ServiceName.CRM, ServiceName.SHOP))
SECONDS = timedelta(seconds=1)


@pytest.fixture
async def redis(topology: Topology) -> AsyncIterator[Redis]:
    """Connect to an empty Redis."""
    async with open_redis(sections.redis_url(topology, "test")) as redis:
        await redis.flushall()
        yield redis


async def grant(redis: Redis, per_second: float = 50, *, sender: str = "crm", age: float = 0) -> Grant:
    issued_at = await redis_now(redis) - age * SECONDS
    return Grant(
        sender=sender,
        per_second=per_second,
        burst=10,
        issued_at=issued_at,
        expires_at=issued_at + 10 * SECONDS,
        reason="pricing queue is 42 s old",
    )


@pytest.mark.parametrize(("sender", "reader"), [("crm", CRM), ("shop", SHOP), (PARTNERS, MES)])
async def test_what_is_published_is_read(redis: Redis, sender: str, reader: EntrySigner) -> None:
    said = await grant(redis, sender=sender)
    await publish(redis, MES, said)
    assert await read_grant(redis, reader, sender) == said
    assert 0 < await redis.pttl(grant_key(sender)) <= 10_000


async def test_a_grant_that_has_ended_is_none(redis: Redis) -> None:
    await publish(redis, MES, await grant(redis, age=11))
    assert await read_grant(redis, CRM, "crm") is None


async def test_a_grant_of_a_clock_that_was_set_back_is_none(redis: Redis) -> None:
    await publish(redis, MES, await grant(redis, age=-3600))
    assert await read_grant(redis, CRM, "crm") is None


async def kept_under(redis: Redis, sender: str) -> dict[Any, Any]:
    return await redis.hgetall(grant_key(sender))


async def refused(redis: Redis, heard: Grant | None = None) -> dict[str, int]:
    refusals = Refusals()
    with capture_logs():
        assert await read_grant(redis, CRM, "crm", heard=heard, refusals=refusals) is None
    return dict(refusals.counts)


async def test_a_grant_that_is_made_up_is_refused_by_name(redis: Redis) -> None:
    assert await refused(redis) == {}
    await redis.hset(grant_key("crm"), mapping={"per_second": "1e6", "burst": "1000"})
    assert await refused(redis) == {"unsigned": 1}

    await publish(redis, MES, await grant(redis))
    await redis.hset(grant_key("crm"), "per_second", "1e6")
    assert await refused(redis) == {"forged": 1}

    # Another sender's grant is no grant for the CRM.
    await publish(redis, MES, await grant(redis, sender="shop"))
    await redis.delete(grant_key("crm"))
    await redis.hset(grant_key("crm"), mapping=await kept_under(redis, "shop"))
    assert await refused(redis) == {"misdirected": 1}

    # The Shop shares keys with the CRM, and grants nothing with them.
    await redis.delete(grant_key("crm"))
    said = {"per_second": "5", "burst": "5", "issued_at": "", "expires_at": "", "reason": ""}
    forged = SHOP.sign(said, kind="grant", destination="crm", peer=ServiceName.CRM)
    await redis.hset(grant_key("crm"), mapping=fields_of(forged))
    assert await refused(redis) == {"malformed": 1}

    await redis.delete(grant_key("crm"))
    await redis.set(grant_key("crm"), "what a hand wrote")
    assert await refused(redis) == {"unsigned": 1}
    await publish(redis, MES, await grant(redis))
    assert await read_grant(redis, CRM, "crm") is not None, "MES writes over it"


async def test_a_peer_cannot_grant_in_the_name_of_mes_to_its_intake(redis: Redis) -> None:
    # The CRM has one of the two keys with which MES signs for itself.
    forged = CRM.sign({"per_second": "9"}, kind="grant", destination=PARTNERS, peer=ServiceName.MES)
    await redis.hset(grant_key(PARTNERS), mapping=fields_of({**forged, "signer": "mes"}))
    refusals = Refusals()
    with capture_logs():
        assert await read_grant(redis, MES, PARTNERS, refusals=refusals) is None
    assert refusals.counts == {"forged": 1}


async def test_a_grant_of_the_past_is_refused_by_name(redis: Redis) -> None:
    old, new = await grant(redis, 500, age=5), await grant(redis, 1)
    await publish(redis, MES, old)
    kept = await kept_under(redis, "crm")
    await publish(redis, MES, new)
    await redis.delete(grant_key("crm"))
    await redis.hset(grant_key("crm"), mapping=kept)
    assert await read_grant(redis, CRM, "crm") == old, "it is good for who has heard no later one"
    assert await refused(redis, heard=new) == {"of the past": 1}


async def test_an_allowance_follows_its_grants_and_goes_at_the_floor_when_redis_was_wiped(
    redis: Redis,
) -> None:
    subject = HeardAllowance(redis, CRM, "crm", floor_per_second=2, every_seconds=0)
    await subject.refresh()
    assert subject.per_second == 2
    await publish(redis, MES, await grant(redis, 50))
    await subject.refresh()
    assert subject.per_second == 50
    await publish(redis, MES, await grant(redis, 0))
    await subject.refresh()
    assert (subject.per_second, subject.take(5)) == (0, 0)

    await redis.flushall()
    with capture_logs() as logs:
        await subject.refresh()
    assert subject.per_second == 2
    assert logs[-1]["event"] == "grant_heard"
    assert logs[-1]["reason"] == "no grant is heard"


async def test_an_allowance_takes_no_grant_of_the_past(redis: Redis) -> None:
    subject = HeardAllowance(redis, CRM, "crm", floor_per_second=2, every_seconds=0)
    old = await grant(redis, 500, age=2)
    await publish(redis, MES, await grant(redis, 1))
    await subject.refresh()
    await publish(redis, MES, old)
    with capture_logs():
        await subject.refresh()
        await subject.refresh()
    assert subject.per_second == 2, "and goes at the floor, not by the old one"
    assert subject.refusals.counts == {"of the past": 2}
