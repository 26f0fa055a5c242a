"""How much a partner or a customer may ask for: requests, orders and bytes, and how much at once.

All limits of a caller are decided in one call to Redis, by its clock, whatever clocks and processes are.
Rates are kept by GCRA, as in ATM's traffic management (ITU-T I.371, annex A): one number, which is when the
next request would come if all came evenly. Where one limit refuses, nothing is taken of the others.

While Redis is away, requests are let in, for that is a fault of ours; but orders are limited by each process
alone, to a part of what is allowed.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import instruments
from app.access.errors import AccessError
from app.kit.caller import Caller, Role
from app.kit.tasks import answer_within

LEASE_SECONDS = 60.0  # after it a place is free whose process has died; longer than a request may take
REDIS_SECONDS = 0.25
"""How long Redis may take to decide. Much longer than it takes: a process that is busy is late itself, and
who keeps it busy must not be let in for that."""
PAUSE_SECONDS = 1.0
LOCAL_SHARE = 4  # a process alone lets this part of the orders in: there are about as many processes
_MOST_LOCAL = 10_000
_DAY = 24 * 3600.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("limits")


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """So much in a time, and so much of it at once after a rest.

    Parameters:
        name: as answers have it.
        amount: what may be asked for in `seconds`.
        seconds: the time.
        burst: the most at once.
    """

    name: str
    amount: float
    seconds: float
    burst: float

    @property
    def interval_seconds(self) -> float:
        """How long one unit takes to come back."""
        return self.seconds / self.amount


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All limits of a caller."""

    requests: RateLimit
    orders: RateLimit
    bytes: RateLimit
    concurrent: int

    @property
    def rates(self) -> tuple[RateLimit, ...]:
        """Those by GCRA, in the order in which they are asked."""
        return (self.requests, self.orders, self.bytes)


def plan(
    *,
    requests_per_second: float,
    burst: float,
    orders_per_day: float,
    bytes_per_second: float,
    bytes_burst: float,
    concurrent: int,
) -> Plan:
    """Make the limits of a caller; a day's orders come back evenly, and may be used at once."""
    return Plan(
        requests=RateLimit(name="requests", amount=requests_per_second, seconds=1.0, burst=burst),
        orders=RateLimit(name="orders", amount=orders_per_day, seconds=_DAY, burst=orders_per_day),
        bytes=RateLimit(name="bytes", amount=bytes_per_second, seconds=1.0, burst=bytes_burst),
        concurrent=concurrent,
    )


PLANS: Mapping[Role, Plan] = {
    Role.PARTNER: plan(
        requests_per_second=20,
        burst=40,
        orders_per_day=5_000,
        bytes_per_second=2 * 2**20,
        bytes_burst=64 * 2**20,
        concurrent=16,
    ),
    # Of one order's link, or of one address: a shop's visitor.
    Role.CUSTOMER: plan(
        requests_per_second=10,
        burst=50,
        orders_per_day=2_000,
        bytes_per_second=2**20,
        bytes_burst=64 * 2**20,
        concurrent=8,
    ),
}
"""Who is limited, and how. Staff and services are not: they are ours."""

ORDERS: Mapping[tuple[str, str], int] = {
    ("POST", "/v1/partners/{partner}/orders"): 1,
    ("POST", "/v1/partners/{partner}/orders/batch"): 20,
    ("POST", "/v1/orders"): 1,
}
"""How many orders a route may make at most, for that is asked before the body is read."""


class RateLimited(AccessError):
    """A caller asks for more than it may; nothing of the request was done."""

    def __init__(self, limit: str, retry_after_seconds: float, headers: Mapping[str, str]) -> None:
        self.limit = limit
        self.retry_after_seconds = max(1, math.ceil(retry_after_seconds))
        self._headers = dict(headers)
        super().__init__(
            f"more {limit} than are allowed: repeat this in {self.retry_after_seconds} seconds; "
            "GET /v1/usage says how much is left"
        )

    def answer_headers(self) -> dict[str, str]:
        """Return the headers of the answer."""
        return self._headers


@dataclass(frozen=True)
class Left:
    """What is left of a limit: `remaining` now, all of it in `seconds`; `most` comes in `window_seconds`."""

    name: str
    most: int
    remaining: int
    seconds: int
    window_seconds: int


@dataclass(frozen=True)
class Verdict:
    """What was decided: `refused_by` names the limit that has no room, None if all have."""

    left: tuple[Left, ...]
    refused_by: str | None = None
    retry_after_seconds: float = 0.0

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer, as draft-ietf-httpapi-ratelimit-headers-10 has them."""
        policies = ", ".join(f'"{each.name}";q={each.most};w={each.window_seconds}' for each in self.left)
        states = ", ".join(f'"{each.name}";r={each.remaining};t={each.seconds}' for each in self.left)
        return {"RateLimit-Policy": policies, "RateLimit": states} if self.left else {}


def decide(
    rates: Sequence[RateLimit], due: Sequence[float], costs: Sequence[float], now: float
) -> tuple[list[float], int | None, float]:
    """Decide by GCRA, as the script in Redis does; pure.

    Parameters:
        rates: the limits.
        due: of each, when the next unit would come if all came evenly, in seconds.
        costs: of each, how much is asked for.
        now: the time, in seconds.

    Returns:
        of each its new `due`; which refuses, None for none; in how many seconds it would not.
    """
    after = []
    for number, (rate, at, cost) in enumerate(zip(rates, due, costs, strict=True)):
        begins = max(at, now)
        ends = begins + cost * rate.interval_seconds
        wait = ends - rate.burst * rate.interval_seconds - now
        # What is larger than a burst is let in when nothing else is owed.
        if cost > 0 and wait > 1e-6 and begins > now:
            return list(due), number, min(wait, begins - now)
        after.append(ends if cost > 0 else at)
    return after, None, 0.0


# KEYS: the state, and the places. ARGV: numbers with commas between (how many places there are, how long one
# is held in us, and of each rate its interval in us, burst and cost), and the name of a place. Returns which
# limit refuses (0: none; places come after the rates), in how many us it would not, the time, the places that
# are taken, and when each rate is whole again.
_TAKE = """
local given = {}
for each in string.gmatch(ARGV[1], '[^,]+') do
    given[#given + 1] = tonumber(each)
end
local most, held, name, count = given[1], given[2], ARGV[2], (#given - 2) / 3
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local kept = redis.call('HMGET', KEYS[1], 1, 2, 3)
local due, refused, wait, longest = {}, 0, 0, 0
for i = 1, count do
    local interval, burst, cost = given[3 * i], given[3 * i + 1], given[3 * i + 2]
    local at = tonumber(kept[i] or '0')
    local begins = math.max(at, now)
    local ends = begins + cost * interval
    local late = ends - burst * interval - now
    if refused == 0 and cost > 0 and late > 1 and begins > now then
        refused, wait = i, math.min(late, begins - now)
    end
    due[i] = cost > 0 and ends or at
    longest = math.max(longest, due[i] - now)
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local busy = redis.call('ZCARD', KEYS[2])
if refused == 0 and name ~= '' and busy >= most then
    local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
    refused, wait = count + 1, math.min(first[2] - now, 1000000)
end
local answer = {refused, string.format('%.0f', wait), string.format('%.0f', now), busy}
if refused == 0 then
    local changed = {}
    for i = 1, count do
        if given[3 * i + 2] > 0 then
            changed[#changed + 1] = i
            changed[#changed + 1] = string.format('%.0f', due[i])
        end
    end
    if #changed > 0 then
        redis.call('HSET', KEYS[1], unpack(changed))
        redis.call('PEXPIRE', KEYS[1], math.ceil(longest / 1000) + 1000)
    end
    if name ~= '' then
        redis.call('ZADD', KEYS[2], now + held, name)
        redis.call('PEXPIRE', KEYS[2], math.ceil(held / 1000) + 1000)
        answer[4] = busy + 1
    end
end
for i = 1, count do
    local at = refused == 0 and due[i] or tonumber(kept[i] or '0')
    answer[4 + i] = string.format('%.0f', math.max(at, now))
end
return answer
"""


class CallerLimits:
    """Limits the callers of a service; used by `app.kit.strict`."""

    def __init__(
        self,
        redis: Redis,
        *,
        plans: Mapping[Role, Plan] = PLANS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the limits of a process.

        Parameters:
            redis: where all processes count together.
            plans: the limits of each role that has some.
            clock: a monotonic clock, in seconds, for what this process decides alone.
        """
        self.redis = redis
        self._questions = _Questions(redis)
        self._plans = plans
        self._clock = clock
        self._asks_again_at = 0.0
        self._local: OrderedDict[str, float] = OrderedDict()

    def plan_of(self, caller: Caller) -> Plan | None:
        """Return a caller's limits; None if it has none, as what our own services ask for has."""
        made = self._plans.get(caller.role)
        if made is None or (caller.credential or "").startswith("service:"):
            return None
        own = caller.limits
        if not own:
            return made
        return Plan(
            requests=replace(
                made.requests,
                amount=own.get("requests_per_second", made.requests.amount),
                burst=own.get("burst", made.requests.burst),
            ),
            orders=replace(
                made.orders,
                amount=own.get("orders_per_day", made.orders.amount),
                burst=own.get("orders_per_day", made.orders.burst),
            ),
            bytes=replace(made.bytes, amount=own.get("bytes_per_second", made.bytes.amount)),
            concurrent=int(own.get("concurrent", made.concurrent)),
        )

    @asynccontextmanager
    async def taken(
        self, caller: Caller, method: str, route: str, size: int
    ) -> AsyncIterator[Mapping[str, str]]:
        """Take what a request costs, and a place for the block; gives the headers of the answer.

        Parameters:
            caller: who asks.
            method: of HTTP.
            route: the template of the path.
            size: the bytes of its body.

        Raises:
            RateLimited: a limit has no room for it.
        """
        limits = self.plan_of(caller)
        if limits is None:
            yield {}
            return
        orders = ORDERS.get((method, route), 0)
        subject, lease = subject_of(caller), uuid4().hex
        try:
            verdict = await self._decided(limits, subject, (1.0, float(orders), float(size)), lease)
        except asyncio.CancelledError:
            self._questions.release(subject, lease)  # its place may have been taken
            raise
        if verdict is None:
            self._decide_alone(limits, subject, is_order=orders > 0)
            yield {}
            return
        if verdict.refused_by is not None:
            instruments.request_limited(caller.role.value, verdict.refused_by)
            raise RateLimited(verdict.refused_by, verdict.retry_after_seconds, verdict.headers)
        try:
            yield verdict.headers
        finally:
            self._questions.release(subject, lease)

    async def settled(self) -> None:
        """Wait until places that were freed are free: before the client of Redis is closed."""
        await self._questions.settled()

    async def usage(self, caller: Caller) -> tuple[Left, ...]:
        """Return what is left of a caller's limits, and take nothing; nothing while Redis is away."""
        limits = self.plan_of(caller)
        if limits is None:
            return ()
        verdict = await self._decided(limits, subject_of(caller), (0.0, 0.0, 0.0), "")
        return () if verdict is None else verdict.left

    async def _decided(
        self, limits: Plan, subject: str, costs: Sequence[float], lease: str
    ) -> Verdict | None:
        """Have Redis decide; None if it does not answer in time."""
        if self._clock() < self._asks_again_at:
            return None
        try:
            found = await self._questions.ask(_keys(subject), _arguments(limits, costs, lease))
        except (RedisError, OSError, TimeoutError) as error:
            self._asks_again_at = self._clock() + PAUSE_SECONDS
            instruments.limits_unknown()
            log.warning("limits_unknown", error=str(error) or type(error).__name__)
            return None
        return _verdict(limits, found)

    def _decide_alone(self, limits: Plan, subject: str, *, is_order: bool) -> None:
        """Limit the orders of a caller in this process, or raise; everything else is let in."""
        if not is_order:
            return
        orders = limits.requests
        own = replace(orders, amount=orders.amount / LOCAL_SHARE, burst=max(1.0, orders.burst / LOCAL_SHARE))
        due = self._local.pop(subject, 0.0)
        (after,), refused, wait = decide((own,), (due,), (1.0,), self._clock())
        self._local[subject] = after
        if len(self._local) > _MOST_LOCAL:
            self._local.popitem(last=False)
        if refused is not None:
            raise RateLimited("orders", wait, {})


class _Questions:
    """Asks Redis for all requests of a moment at once: a flood costs a round trip for many, not for each."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._take = redis.register_script(_TAKE)
        self._asked: list[tuple[Sequence[str], Sequence[Any], asyncio.Future[list[int]]]] = []
        self._released: list[tuple[str, str]] = []
        self._is_asking = False
        self._asking: asyncio.Task[None] | None = None

    async def ask(self, keys: Sequence[str], arguments: Sequence[Any]) -> list[int]:
        """Return what the script says; RedisError, OSError or TimeoutError where Redis did not answer."""
        if not self._is_asking:
            return await self._ask_alone(keys, arguments)
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._asked.append((keys, arguments, answer))
        return await answer

    async def _ask_alone(self, keys: Sequence[str], arguments: Sequence[Any]) -> list[int]:
        """Ask at once; those that come meanwhile are asked together afterwards."""
        self._is_asking = True
        try:
            found = await answer_within(self._take(keys=keys, args=arguments), seconds=REDIS_SECONDS)
            return [int(each) for each in found]
        finally:
            self._is_asking = False
            self._begin()

    def release(self, subject: str, lease: str) -> None:
        """Free a place, and wait for nothing: it is free when its lease ends at the latest."""
        self._released.append((_keys(subject)[1], lease))
        self._begin()

    async def settled(self) -> None:
        """Wait until nothing is asked any more: a client that is closed before would connect once more."""
        while self._asking is not None and not self._asking.done():
            await asyncio.wait({self._asking})

    def _begin(self) -> None:
        """Have a task ask what has gathered."""
        if not self._is_asking and (self._asked or self._released):
            self._is_asking = True
            self._asking = asyncio.get_running_loop().create_task(self._ask_all())

    async def _ask_all(self) -> None:
        try:
            await self._ask_gathered()
        finally:
            self._is_asking = False

    async def _ask_gathered(self) -> None:
        while self._asked or self._released:
            asked, self._asked = self._asked, []
            released, self._released = self._released, []
            answers: Sequence[Any]
            try:
                answers = await answer_within(self._send(asked, released), seconds=REDIS_SECONDS)
            except (RedisError, OSError, TimeoutError) as error:
                answers = [error] * len(asked)
            for (_, _, waiting), answer in zip(asked, answers, strict=True):
                if waiting.done():  # its request has ended meanwhile
                    continue
                if isinstance(answer, Exception):
                    waiting.set_exception(answer)
                else:
                    waiting.set_result([int(each) for each in answer])

    async def _send(
        self,
        asked: Sequence[tuple[Sequence[str], Sequence[Any], asyncio.Future[list[int]]]],
        released: Sequence[tuple[str, str]],
    ) -> Sequence[Any]:
        if len(asked) == 1 and not released:
            (keys, arguments, _) = asked[0]
            return [await self._take(keys=keys, args=arguments)]
        pipeline = self._redis.pipeline(transaction=False)
        # First: a place that was given back is free for who asks next.
        for key, lease in released:
            pipeline.zrem(key, lease)
        for keys, arguments, _ in asked:
            await self._take(keys=keys, args=arguments, client=pipeline)
        return (await pipeline.execute(raise_on_error=False))[len(released) :]


def subject_of(caller: Caller) -> str:
    """Return whose limits a request counts to: an identity's, else those of a link, else of an address."""
    if caller.identity_id is not None:
        return f"{caller.role}:{caller.identity_id}"
    return f"{caller.role}:{caller.credential or caller.address or 'unknown'}"


def _keys(subject: str) -> tuple[str, str]:
    # In a cluster of Redis what is in braces decides the node.
    return f"limit:{{{subject}}}:rates", f"limit:{{{subject}}}:places"


def _arguments(limits: Plan, costs: Sequence[float], lease: str) -> tuple[str, str]:
    """Return what the script is asked with."""
    numbers: list[float] = [limits.concurrent, LEASE_SECONDS * 1e6]
    for rate, cost in zip(limits.rates, costs, strict=True):
        numbers += (round(rate.interval_seconds * 1e6, 3), rate.burst, cost)
    return ",".join(map(repr, numbers)), lease


def _verdict(limits: Plan, found: Sequence[int]) -> Verdict:
    """Read what the script has said."""
    refused, wait, now, busy, *due = found
    left = [_left(rate, (at - now) / 1e6) for rate, at in zip(limits.rates, due, strict=True)]
    places = Left("concurrent", limits.concurrent, max(0, limits.concurrent - busy), 0, 1)
    names = [*(rate.name for rate in limits.rates), "concurrent requests"]
    return Verdict((*left, places), names[refused - 1] if refused else None, wait / 1e6)


def _left(rate: RateLimit, owed_seconds: float) -> Left:
    remaining = max(0.0, rate.burst - owed_seconds / rate.interval_seconds)
    window = math.ceil(rate.burst * rate.interval_seconds)
    return Left(rate.name, int(rate.burst), math.floor(remaining + 1e-6), math.ceil(owed_seconds), window)
