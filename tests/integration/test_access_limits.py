"""How much a caller may ask for: the script in Redis against a model, and a partner who floods."""

import asyncio
import math
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
from app.access.limits import _SAID, CallerLimits, Plan, _arguments, decide, plan
from app.access.refusals import HELD_SECONDS, RateLimited
from app.kit.caller import Caller, Role
from app.messaging.streams import open_redis
from readreplica.sessions import WriteSession
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.integration.services_rig import Services, eventually, new_key, ok, open_services, problem

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
        async with limits.taken(caller, *route, lambda: size):
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


async def test_who_is_refused_keeps_no_other_waiting(redis: Redis) -> None:
    limits, loud, done = of(redis), partner(), list[str]()

    async def answered(caller: Caller, name: str) -> None:
        await ask(limits, caller)
        done.append(name)

    while await ask(limits, loud) is None:
        pass
    async with asyncio.TaskGroup() as tasks:
        for _ in range(200):
            tasks.create_task(answered(loud, "loud"))
        tasks.create_task(answered(partner(), "polite"))
    # It came last, and waited for a few of them.
    assert done.index("polite") < 50
    done.clear()
    impatient = partner()
    while await ask(limits, impatient) is None:
        pass
    async with asyncio.TaskGroup() as tasks:
        for _ in range(200):
            tasks.create_task(answered(loud, "loud"))
        tasks.create_task(answered(impatient, "impatient"))
    # Nor is one who was refused a moment ago behind all of another's.
    assert done.index("impatient") < 50


async def test_who_is_refused_is_so_until_its_moment_without_a_question_to_redis(redis: Redis) -> None:
    moment = 1000.0
    limits = CallerLimits(redis, plans={Role.PARTNER: SLOW}, clock=lambda: moment)
    MADE.append(limits)
    caller, other = partner(), partner()
    while (refused := await ask(limits, caller)) is None:
        assert limits.held(caller) is None
    held = limits.held(caller)
    assert held is not None
    assert (held.limit, held.retry_after_seconds) == (refused, 100)
    assert limits.held(other) is None
    # Of a limit that was raised, or a Redis that was wiped, a process hears within a second.
    moment += HELD_SECONDS - 0.1
    assert limits.held(caller) is not None
    await redis.flushdb()
    moment += 0.2
    assert limits.held(caller) is None
    assert await ask(limits, caller) is None
    # An order is refused for what it is: other requests are not.
    while await ask(limits, other, POST) is None:
        pass
    assert limits.held(other) is None
    assert await ask(limits, other) is None


async def test_places_are_taken_and_given_back(redis: Redis) -> None:
    limits, caller = of(redis, replace(SLOW, concurrent=2)), partner()
    async with limits.taken(caller, *GET, int), limits.taken(caller, *GET, int):
        assert await ask(limits, caller) == "concurrent requests"
    # Asked after they were given back: both go to Redis in their order.
    assert [await ask(limits, caller) for _ in range(2)] == [None, None]


async def test_answers_say_what_is_left(redis: Redis) -> None:
    limits, caller = of(redis), partner()
    async with limits.taken(caller, *POST, lambda: 100) as headers:
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


def places(caller: Caller) -> str:
    return f"limit:{{{caller.role}:{caller.identity_id}}}:places"


async def until_free(redis: Redis, caller: Caller) -> None:
    """Wait until no place of a caller is taken."""
    async with asyncio.timeout(10):
        while await redis.zcard(places(caller)):  # noqa: ASYNC110 (what is waited for is in another server)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("end", ["late", "cancelled", "disconnected"])
async def test_a_slow_redis_keeps_no_place_of_who_did_not_wait(redis: Redis, end: str) -> None:
    """Of an answer that is late, of a request that has ended before, and of a connection that is lost."""
    limits, caller = of(redis, replace(SLOW, requests=replace(SLOW.requests, burst=100))), partner()
    assert await ask(limits, caller) is None
    await redis.client_pause(500)
    asked = [asyncio.create_task(ask(limits, caller)) for _ in range(16)]
    await asyncio.sleep(0.05)
    if end == "cancelled":
        for task in asked:
            task.cancel()
    if end == "disconnected":
        assert limits._take._connection is not None
        await limits._take._connection.disconnect(nowait=True)
    await asyncio.gather(*asked, return_exceptions=True)
    await redis.ping()  # it answers again
    await limits._take.ask(("limit:x", "limit:y"), _arguments(SLOW, (0, 0, 0), ""), seconds=5)
    await until_free(redis, caller)


@pytest.mark.parametrize(
    "written", [b"nan", b"\x00\x00\x00\x00\x00\x00\xf8\x7f" * 3, b"\xff" * 24, {"1": "nan"}]
)
async def test_what_a_stranger_has_written_is_as_nothing(redis: Redis, written: Any) -> None:
    limits, caller = of(redis), partner()
    due = places(caller).replace("places", "due")
    if isinstance(written, bytes):
        await redis.set(due, written)
        await redis.set(places(caller), "x")
    else:
        await redis.hset(due, mapping=written)
        await redis.zadd(places(caller), {str(number): math.inf for number in range(SLOW.concurrent)})
    assert [await ask(limits, caller) for _ in range(6)] == [None] * 5 + ["requests"]
    assert [each.name for each in await limits.usage(caller)] != []


async def test_what_redis_refuses_of_one_caller_lets_no_other_one_in(redis: Redis) -> None:
    limits, caller, other = of(redis), partner(), partner()
    assert [await ask(limits, other) for _ in range(5)] == [None] * 5
    limits._take._sha, known = "0" * 40, limits._take._sha  # it answers NOSCRIPT, whatever is loaded
    assert await ask(limits, caller) is None
    limits._take._sha = known
    assert await ask(limits, other) == "requests"


async def test_links_of_one_address_count_together_and_one_link_counts_from_everywhere(redis: Redis) -> None:
    limits = CallerLimits(
        redis,
        plans={Role.CUSTOMER: SLOW},
        address_plan=replace(SLOW, requests=replace(SLOW.requests, burst=8)),
    )
    MADE.append(limits)

    def by_link(order: int, address: str) -> Caller:
        return Caller(name="customer", role=Role.CUSTOMER, credential=f"link:{order}", address=address)

    network = f"2001:db8:{uuid4().int >> 112:x}:1"
    orders = [uuid4().int >> 66 for _ in range(10)]
    # Another address of the same /64 is the same customer.
    found = [await ask(limits, by_link(order, f"{network}::{order % 7}")) for order in orders]
    assert found == [None] * 8 + ["requests"] * 2
    one = uuid4().int >> 66
    found = [await ask(limits, by_link(one, f"203.0.113.{number}")) for number in range(6)]
    assert found == [None] * 5 + ["requests"]


async def test_bytes_that_were_not_announced_are_owed(redis: Redis) -> None:
    limits, caller = of(redis), partner()
    come = iter([1, 5_000])
    async with limits.taken(caller, *GET, lambda: next(come)):
        pass
    assert await ask(limits, caller, GET, 1) == "bytes"
    assert [each.remaining for each in await limits.usage(caller)][2] == 0


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
            caller = CallerLimits(client)
            keys = [f"limit:{{{uuid4()}}}:rates", f"limit:{{{uuid4()}}}:places"]
            due = [0.0, 0.0, 0.0]
            for is_order, size in asked:
                costs = (1.0, float(is_order), float(size))
                answer = await caller._take.ask(keys, _arguments(limits, costs, ""), seconds=10)
                found = [int(each) for each in _SAID.unpack(answer)]
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
            await caller.settled()

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
            await identities.limit(session, "loud", {"requests_per_second": 0.01, "burst": 10})
            await identities.limit(session, "polite", {"bytes_per_second": 1024})
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
        # Each of them is answered alike, whichever part of the service does it.
        assert {answer.text for answer in refused} == {refused[0].text}
        assert all(answer.headers.keys() == refused[0].headers.keys() for answer in refused)
        # A key that is not good gets no answer about limits.
        problem(
            await services.mes.get("/v1/usage", headers={"Authorization": f"Bearer {keys['loud']}x"}), 401
        )
        # Nothing of what was refused was done: an order that is refused is not made.
        order: dict[str, Any] = {
            "files": {"file": ("ring.stl", b"solid")},
            "data": {"material": "brass", "finish": "matte", "quantity": "3"},
            "headers": headers["loud"] | {"Idempotency-Key": new_key()},
        }
        problem(await services.mes.post("/v1/partners/loud/orders", **order), 429)
        await what_a_request_holds_is_counted(services, headers["polite"])


async def what_a_request_holds_is_counted(services: Services, key: dict[str, str]) -> None:
    """Of a batch the orders that it holds, and of a body whose length is not said what has come."""
    before = await left(services, key)
    partner = "/v1/partners/polite"
    one = {"material": "brass", "finish": "matte", "quantity": 1, "model": "none", "idempotency_key": "1"}
    batch = await services.mes.post(f"{partner}/orders/batch", json={"orders": [one]}, headers=key)
    assert f'"orders";r={before["orders"] - 1};' in batch.headers["RateLimit"]
    assert (await left(services, key))["orders"] == before["orders"] - 1

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" " * 1000

    before = await left(services, key)
    json_text = {"Content-Type": "application/json", **key}
    problem(await services.mes.post(f"{partner}/webhooks", content=chunks(), headers=json_text), 400)
    assert before["bytes"] - (await left(services, key))["bytes"] > 40_000


async def left(services: Services, key: dict[str, str]) -> dict[str, int]:
    shown = ok(await services.mes.get("/v1/usage", headers=key))
    return {each["name"]: each["remaining"] for each in shown["limits"]}
