"""How much a caller may ask for: the script in Redis against a model, and a partner who floods."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from app import topology as sections
from app.access import identities
from app.access.limits import CallerLimits, Plan, RateLimited, _arguments, decide, plan
from app.kit import tasks
from app.kit.caller import Caller, Role
from app.messaging.streams import open_redis
from readreplica.sessions import WriteSession
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.integration.services_rig import eventually, new_key, ok, open_services, problem

SLOW = plan(
    requests_per_second=0.01, burst=5, orders_per_day=3, bytes_per_second=1, bytes_burst=1000, concurrent=20
)
POST = ("POST", "/v1/partners/{partner}/orders")
GET = ("GET", "/v1/orders/{order_id}")


MADE: list[CallerLimits] = []


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Wait for Redis on a machine that is busy, but where a test is about how long that is waited for."""
    if "slow_redis" not in request.node.name:
        monkeypatch.setattr("app.access.limits.REDIS_SECONDS", 10.0)


@pytest.fixture
async def redis(topology: Topology) -> AsyncIterator[Redis]:
    async with open_redis(sections.redis_url(topology, "test")) as client:
        yield client
        while MADE:
            await MADE.pop().settled()


def partner(**more: Any) -> Caller:
    return Caller(name="atelier-nord", role=Role.PARTNER, identity_id=uuid4().int >> 66, **more)


def of(redis: Redis, limits: Plan = SLOW) -> CallerLimits:
    MADE.append(CallerLimits(redis, plans={Role.PARTNER: limits}))
    return MADE[-1]


async def ask(
    limits: CallerLimits, caller: Caller, route: tuple[str, str] = GET, size: int = 0
) -> str | None:
    """Ask once; give the limit that refuses."""
    try:
        async with limits.taken(caller, *route, size):
            return None
    except RateLimited as refused:
        return refused.limit


async def test_each_limit_refuses_what_is_beyond_it(redis: Redis) -> None:
    limits = of(redis)
    assert [await ask(limits, caller) for caller in [partner()] * 6] == [None] * 5 + ["requests"]
    assert [await ask(limits, caller, POST) for caller in [partner()] * 4] == [None] * 3 + ["orders"]
    assert [await ask(limits, each, GET, 600) for each in [partner()] * 2] == [None, "bytes"]


async def test_what_is_refused_takes_nothing_of_the_other_limits(redis: Redis) -> None:
    limits, caller = of(redis), partner()
    assert await ask(limits, caller, GET, 900) is None
    for _ in range(10):
        assert await ask(limits, caller, GET, 900) == "bytes"
    assert [await ask(limits, caller) for _ in range(5)] == [None] * 4 + ["requests"]


async def test_what_is_larger_than_a_burst_is_let_in_after_a_rest(redis: Redis) -> None:
    limits, caller = of(redis), partner()
    assert await ask(limits, caller, GET, 50_000) is None
    assert await ask(limits, caller, GET, 1) == "bytes"


async def test_places_are_taken_and_given_back(redis: Redis) -> None:
    limits, caller = of(redis, replace(SLOW, concurrent=2)), partner()
    async with limits.taken(caller, *GET, 0), limits.taken(caller, *GET, 0):
        assert await ask(limits, caller) == "concurrent requests"
    # Asked after they were given back: both go to Redis in their order.
    assert [await ask(limits, caller) for _ in range(2)] == [None, None]


async def test_answers_say_what_is_left(redis: Redis) -> None:
    limits, caller = of(redis), partner()
    async with limits.taken(caller, *POST, 100) as headers:
        assert headers["RateLimit-Policy"] == (
            '"requests";q=5;w=500, "orders";q=3;w=86400, "bytes";q=1000;w=1000, "concurrent";q=20;w=1'
        )
        assert headers["RateLimit"] == (
            '"requests";r=4;t=100, "orders";r=2;t=28800, "bytes";r=900;t=100, "concurrent";r=19;t=0'
        )
    assert [each.remaining for each in await limits.usage(caller)][:3] == [4, 2, 900]
    # To look takes nothing.
    assert [each.remaining for each in await limits.usage(caller)][:3] == [4, 2, 900]


async def test_who_is_ours_has_no_limits(redis: Redis) -> None:
    limits = of(redis)
    for caller in (
        Caller(name="Rosa", role=Role.OPERATOR),
        Caller(name="atelier-nord", role=Role.PARTNER, credential="service:board"),
    ):
        for _ in range(20):
            assert await ask(limits, caller) is None


async def test_an_identity_may_have_limits_of_its_own(redis: Redis) -> None:
    limits, caller = of(redis), partner(limits={"burst": 2, "requests_per_second": 0.01})
    assert [await ask(limits, caller) for _ in range(3)] == [None, None, "requests"]


async def test_without_redis_requests_are_let_in_and_orders_by_a_part(topology: Topology) -> None:
    moment = 100.0
    async with open_redis("redis://127.0.0.1:1/0") as away:
        limits = CallerLimits(
            away,
            plans={
                Role.PARTNER: plan(
                    requests_per_second=4,
                    burst=20,
                    orders_per_day=1,
                    bytes_per_second=1,
                    bytes_burst=1,
                    concurrent=1,
                )
            },
            clock=lambda: moment,
        )
        caller = partner()
        assert {await ask(limits, caller) for _ in range(30)} == {None}
        assert [await ask(limits, caller, POST) for _ in range(7)] == [None] * 5 + ["orders"] * 2
        moment += 1.0
        assert [await ask(limits, caller, POST) for _ in range(2)] == [None, "orders"]
        assert await limits.usage(caller) == ()


async def test_a_slow_redis_is_not_waited_for(redis: Redis, topology: Topology) -> None:
    limits, caller = of(redis), partner()
    await redis.client_pause(2000)
    began = time.monotonic()
    assert {await ask(limits, caller) for _ in range(20)} == {None}
    assert time.monotonic() - began < 1.5
    # The question that was left comes to its end, before its client is closed.
    await asyncio.gather(*tasks._left, return_exceptions=True)


async def test_a_wiped_redis_begins_anew(redis: Redis) -> None:
    limits, caller = of(redis), partner()
    assert [await ask(limits, caller) for _ in range(6)][-1] == "requests"
    await redis.flushall()
    await redis.script_flush()
    assert await ask(limits, caller) is None


RATES = st.builds(
    partial(plan, orders_per_day=50, concurrent=10_000),
    requests_per_second=st.floats(0.5, 5000),
    burst=st.integers(1, 50),
    bytes_per_second=st.integers(1, 10**7),
    bytes_burst=st.integers(1, 10**6),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limits=RATES, asked=st.lists(st.tuples(st.booleans(), st.integers(0, 200_000)), min_size=1, max_size=40)
)
def test_the_script_decides_as_the_model(
    topology: Topology, limits: Plan, asked: list[tuple[bool, int]]
) -> None:
    """The same numbers, by the times that Redis itself has used."""

    async def compare() -> None:
        async with open_redis(sections.redis_url(topology, "test")) as client:
            script = CallerLimits(client)._questions._take
            keys = [f"limit:{{{uuid4()}}}:rates", f"limit:{{{uuid4()}}}:places"]
            due = [0.0, 0.0, 0.0]
            for is_order, size in asked:
                costs = (1.0, float(is_order), float(size))
                found = [int(each) for each in await script(keys=keys, args=_arguments(limits, costs, ""))]
                refused, now = found[0], found[2] / 1e6
                after, expected, _ = decide(limits.rates, due, costs, now)
                # Within a microsecond of the border either is right.
                if (refused - 1 if refused else None) != expected:
                    shifted = {decide(limits.rates, due, costs, now + each)[1] for each in (-1e-5, 1e-5)}
                    assert (refused - 1 if refused else None) in shifted
                    return
                due = after
                for at, whole in zip(due, found[4:], strict=True):
                    assert abs(max(at, now) - whole / 1e6) < 1e-3 + 1e-6 * abs(at - now)

    asyncio.run(compare())


async def test_a_partner_who_floods_is_refused_and_a_polite_one_is_not(topology: Topology) -> None:
    """Ten times the limit at once, through the services, beside another partner."""
    async with (
        open_services(topology) as services,
        open_cluster(topology, "directory", role="directory_owner", application_name="test") as directory,
    ):

        async def make(session: WriteSession) -> dict[str, str]:
            made = {}
            for name in ("loud", "polite"):
                made[name] = (await identities.create(session, name, Role.PARTNER, by="test")).text
            await identities.limit(session, "loud", {"requests_per_second": 1, "burst": 10})
            return made

        keys = (await directory.transact(make)).value
        headers = {name: {"Authorization": f"Bearer {key}"} for name, key in keys.items()}
        usage = partial(services.mes.get, "/v1/usage", headers=headers["polite"])
        shown = await eventually(usage, lambda answer: answer.status_code == 200, seconds=5)
        assert [each["name"] for each in shown["limits"]] == ["requests", "orders", "bytes", "concurrent"]
        began = time.monotonic()
        loud = [
            asyncio.create_task(services.mes.get("/v1/orders/17", headers=headers["loud"]))
            for _ in range(100)
        ]
        polite = [ok(await usage()) for _ in range(5)]
        answers = await asyncio.gather(*loud)
        let_in = [answer for answer in answers if answer.status_code == 404]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(let_in) + len(refused) == 100
        assert len(let_in) <= 10 + 1 + (time.monotonic() - began)
        assert len(polite) == 5
        said = problem(refused[0], 429)
        assert said["type"].endswith(":rate-limited")
        assert int(refused[0].headers["Retry-After"]) >= 1
        assert refused[0].headers["RateLimit"].startswith('"requests";r=0')
        assert let_in[0].headers["RateLimit-Policy"].startswith('"requests";q=10')
        # Nothing of what was refused was done: an order that is refused is not made.
        order: dict[str, Any] = {
            "files": {"file": ("ring.stl", b"solid")},
            "data": {"material": "brass", "finish": "matte", "quantity": "3"},
            "headers": headers["loud"] | {"Idempotency-Key": new_key()},
        }
        problem(await services.mes.post("/v1/partners/loud/orders", **order), 429)
