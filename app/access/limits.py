"""How much a partner or a customer may ask for: requests, orders and bytes, and how much at once.

All limits of a caller are decided in one call to Redis, by its clock, whatever clocks and processes are.
Rates are kept by GCRA, as in ATM's traffic management (ITU-T I.371, annex A): one number, which is when the
next request would come if all came evenly. Where one limit refuses, nothing is taken of the others.

While Redis is away, requests are let in, for that is a fault of ours; but orders are limited by each process
alone, to a part of what is allowed.
"""

import math
import struct
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple
from uuid import uuid4

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from app import instruments
from app.access.pipelining import Command, PipelinedScript
from app.access.refusals import RateLimited, RefusedCallers
from app.kit.caller import Caller, Role, network_of

LEASE_SECONDS = 60.0  # after it a place is free whose process has died; longer than a request may take
REDIS_SECONDS = 0.25
"""How long Redis may take to decide. Much longer than it takes: a process that is busy is late itself, and
who keeps it busy must not be let in for that."""
PAUSE_SECONDS = 1.0
LOCAL_SHARE = 4  # a process alone lets this part of the orders in: there are about as many processes
_MOST_LOCAL = 10_000
_LIMITS = ("requests", "orders", "bytes", "concurrent requests")
_ASKED, _SAID = struct.Struct("<11d"), struct.Struct("<7d")
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
    # Of one order's link: a shop's visitor.
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

ADDRESS_PLAN = plan(
    requests_per_second=40,
    burst=200,
    orders_per_day=2_000,
    bytes_per_second=4 * 2**20,
    bytes_burst=128 * 2**20,
    concurrent=32,
)
"""Of all customers of one address together, by whatever links: many may share it, as those of one office."""

ORDERS: Mapping[tuple[str, str], int] = {
    ("POST", "/v1/partners/{partner}/orders"): 1,
    ("POST", "/v1/partners/{partner}/orders/batch"): 0,
    ("POST", "/v1/orders"): 1,
}
"""The routes that make orders, and how many; what a batch holds is taken once it is read."""


class Left(NamedTuple):
    """What is left of a limit: `remaining` now, all in `reset_seconds`; `most` comes in `window_seconds`."""

    name: str
    most: int
    remaining: int
    reset_seconds: int
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
        states = ", ".join(f'"{each.name}";r={each.remaining};t={each.reset_seconds}' for each in self.left)
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


# KEYS: the state, and the places. ARGV: eleven numbers (how many places there are, how long one is held in
# us, and of each rate its interval in us, burst and cost), and the name of a place. Returns seven: which
# limit refuses (0: none; places come after the rates), in how many us it would not, the time, the places that
# are taken, and when each rate is whole again. Numbers are packed: as texts they took most of the time.
# What a stranger has written there, and what is months ahead, is as if it were not there.
_TAKE = """
local given = {struct.unpack('<ddddddddddd', ARGV[1])}
local most, held, name = given[1], given[2], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local kept = redis.pcall('GET', KEYS[1])
local is_kept = type(kept) == 'string' and #kept == 24
local due = is_kept and {struct.unpack('<ddd', kept)} or {now, now, now}
local before, refused, wait, longest, asked = {}, 0, 0, 0, 0
for i = 1, 3 do
    local interval, burst, cost = given[3 * i], given[3 * i + 1], given[3 * i + 2]
    local at = due[i]
    if not (at > now and at < now + 1e13) then at = now end
    local ends = at + cost * interval
    local late = ends - burst * interval - now
    if refused == 0 and cost > 0 and late > 1 and at > now then
        refused, wait = i, math.min(late, at - now)
    end
    before[i], due[i] = at, ends
    longest, asked = math.max(longest, ends - now), asked + cost
end
local busy = redis.pcall('ZCARD', KEYS[2])
if type(busy) ~= 'number' then
    redis.call('DEL', KEYS[2])
    busy = 0
end
if name ~= '' and busy >= most then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
    redis.call('ZREMRANGEBYSCORE', KEYS[2], now + held, '+inf')
    busy = redis.call('ZCARD', KEYS[2])
    if refused == 0 and busy >= most then
        local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
        refused, wait = 4, math.min(first[2] - now, 1000000)
    end
end
if refused ~= 0 then
    return struct.pack('<ddddddd', refused, wait, now, busy, before[1], before[2], before[3])
end
if asked > 0 then
    local whole = math.ceil(longest / 1000) + 1000
    redis.call('SET', KEYS[1], struct.pack('<ddd', due[1], due[2], due[3]), 'PX', whole)
end
if name ~= '' then
    redis.call('ZADD', KEYS[2], now + held, name)
    redis.call('PEXPIRE', KEYS[2], math.ceil(held / 1000) + 1000)
    busy = busy + 1
end
return struct.pack('<ddddddd', 0, 0, now, busy, due[1], due[2], due[3])
"""


class CallerLimits:
    """Limits the callers of a service; used by `app.kit.strict`."""

    def __init__(
        self,
        redis: Redis,
        *,
        plans: Mapping[Role, Plan] = PLANS,
        address_plan: Plan = ADDRESS_PLAN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the limits of a process.

        Parameters:
            redis: where all processes count together.
            plans: the limits of each role that has some.
            address_plan: of all who come from one address without an identity.
            clock: a monotonic clock, in seconds, for what this process decides alone.
        """
        self.redis = redis
        self._take = PipelinedScript(redis, _TAKE)
        self._plans = plans
        self._address_plan = address_plan
        self._clock = clock
        self._asks_again_at = 0.0
        self._local: OrderedDict[str, float] = OrderedDict()
        self.refusals = RefusedCallers(clock)

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

    def _limits_of(self, caller: Caller) -> Sequence[tuple[str, Plan]]:
        """Return whose limits a caller's requests count to: an identity's; or of an address, and of a link.

        A customer has as many links as orders; all that he sends by them counts to his address too.
        """
        made = self.plan_of(caller)
        if made is None:
            return ()
        if caller.identity_id is not None:
            return ((f"{caller.role}:{caller.identity_id}", made),)
        found = [(f"{caller.role}:{network_of(caller.address)}", self._address_plan)]
        if caller.credential is not None:
            found.append((f"{caller.role}:{caller.credential}", made))
        return found

    def held(self, caller: Caller) -> RateLimited | None:
        """Return why each request of a caller is refused at this moment; None if Redis must say it."""
        return self.refusals.held(subject for subject, _ in self._limits_of(caller))

    @asynccontextmanager
    async def taken(
        self, caller: Caller, method: str, route: str, size: Callable[[], int]
    ) -> AsyncIterator[dict[str, str]]:
        """Take what a request costs, and a place for the block; gives the headers of the answer.

        Parameters:
            caller: who asks.
            method: of HTTP.
            route: the template of the path.
            size: returns the bytes of its body, as far as they are known. What has come in the block beyond
                what was known before is owed: it is let in, and later requests wait for it.

        Raises:
            RateLimited: a limit has no room for it.
        """
        costs = (1.0, float(ORDERS.get((method, route), 0)), float(size()))
        headers: dict[str, str] = {}
        async with AsyncExitStack() as places:
            for subject, limits in self._limits_of(caller):
                place = self._place(caller.role, subject, limits, costs, size)
                headers = await places.enter_async_context(place)
            yield headers

    @asynccontextmanager
    async def _place(
        self, role: Role, subject: str, limits: Plan, costs: Sequence[float], size: Callable[[], int]
    ) -> AsyncIterator[dict[str, str]]:
        lease = uuid4().hex
        await self.refusals.let_others_pass(subject)
        asked_at = self._clock()
        verdict = await self._decided(limits, subject, costs, lease)
        if verdict is None:
            self._decide_alone(limits, subject, orders=costs[1])
            yield {}
            return
        if verdict.refused_by is not None:
            # A request is refused as each would be; an order, or a body, because it is one or so large.
            is_each = verdict.refused_by == limits.requests.name
            until = asked_at + verdict.retry_after_seconds if is_each else -math.inf
            self.refusals.note(subject, _refusal(verdict), until=until)
            await self.refusals.let_others_pass(subject)
        _refuse(role, verdict)
        try:
            yield verdict.headers
        finally:
            # Where this waits for Redis, that is only until what is sent is in the hands of the system.
            await self._take.send(_release(subject, lease), seconds=REDIS_SECONDS)
            if (owed := size() - costs[2]) > 0:
                arguments = _arguments(_letting_in(limits), (0.0, 0.0, owed), "")
                await self._take.tell(_keys(subject), arguments, seconds=REDIS_SECONDS)

    async def take_orders(self, caller: Caller, count: int) -> dict[str, str]:
        """Take what a request has turned out to cost, once its body is read; return headers of the answer.

        Raises:
            RateLimited: there is no room for as many orders, and none is taken.
        """
        headers: dict[str, str] = {}
        for subject, limits in self._limits_of(caller):
            verdict = await self._decided(limits, subject, (0.0, float(count), 0.0), "")
            if verdict is None:
                self._decide_alone(limits, subject, orders=count)
            else:
                _refuse(caller.role, verdict)
                headers = verdict.headers
        return headers

    async def settled(self) -> None:
        """Wait until places that were freed are free, and close the connection."""
        await self._take.aclose(seconds=REDIS_SECONDS)

    async def usage(self, caller: Caller) -> tuple[Left, ...]:
        """Return what is left of a caller's limits, and take nothing; nothing while Redis is away."""
        for subject, limits in self._limits_of(caller)[-1:]:
            verdict = await self._decided(limits, subject, (0.0, 0.0, 0.0), "")
            return () if verdict is None else verdict.left
        return ()

    async def _decided(
        self, limits: Plan, subject: str, costs: Sequence[float], lease: str
    ) -> Verdict | None:
        """Have Redis decide; None if it does not answer in time."""
        if self._clock() < self._asks_again_at:
            return None
        try:
            found = await self._take.ask(
                _keys(subject),
                _arguments(limits, costs, lease),
                undo=_release(subject, lease) if lease else None,
                seconds=REDIS_SECONDS,
            )
        except (RedisError, OSError, TimeoutError) as error:
            # What Redis has refused says nothing of other callers.
            if not isinstance(error, ResponseError):
                self._asks_again_at = self._clock() + PAUSE_SECONDS
            instruments.limits_unknown()
            log.warning("limits_unknown", error=str(error) or type(error).__name__)
            return None
        return _verdict(limits, found)

    def _decide_alone(self, limits: Plan, subject: str, *, orders: float) -> None:
        """Limit the orders of a caller in this process, or raise; everything else is let in."""
        if not orders:
            return
        rate = limits.requests
        own = replace(rate, amount=rate.amount / LOCAL_SHARE, burst=max(1.0, rate.burst / LOCAL_SHARE))
        due = self._local.pop(subject, 0.0)
        (after,), refused, wait = decide((own,), (due,), (orders,), self._clock())
        self._local[subject] = after
        if len(self._local) > _MOST_LOCAL:
            self._local.popitem(last=False)
        if refused is not None:
            raise RateLimited("orders", wait, {})


def _refuse(role: Role, verdict: Verdict) -> None:
    """Raise if a limit has no room."""
    if verdict.refused_by is not None:
        instruments.request_limited(role.value, verdict.refused_by)
        raise _refusal(verdict)


def _refusal(verdict: Verdict) -> RateLimited:
    return RateLimited(verdict.refused_by or "", verdict.retry_after_seconds, verdict.headers)


def _letting_in(limits: Plan) -> Plan:
    """Return limits that refuse no bytes, and count them."""
    return replace(limits, bytes=replace(limits.bytes, burst=math.inf))


def _keys(subject: str) -> tuple[str, str]:
    # In a cluster of Redis what is in braces decides the node.
    return f"limit:{{{subject}}}:due", f"limit:{{{subject}}}:places"


def _release(subject: str, lease: str) -> Command:
    return ("ZREM", _keys(subject)[1], lease)


def _arguments(limits: Plan, costs: Sequence[float], lease: str) -> tuple[bytes, str]:
    """Return what the script is asked with."""
    numbers: list[float] = [limits.concurrent, LEASE_SECONDS * 1e6]
    for rate, cost in zip(limits.rates, costs, strict=True):
        numbers += (rate.interval_seconds * 1e6, rate.burst, cost)
    return _ASKED.pack(*numbers), lease


def _verdict(limits: Plan, found: bytes) -> Verdict:
    """Read what the script has said."""
    refused, wait, now, busy, *due = _SAID.unpack(found)
    left = [_left(rate, (at - now) / 1e6) for rate, at in zip(limits.rates, due, strict=True)]
    places = Left("concurrent", limits.concurrent, max(0, limits.concurrent - int(busy)), 0, 1)
    return Verdict((*left, places), _LIMITS[int(refused) - 1] if refused else None, wait / 1e6)


def _left(rate: RateLimit, owed_seconds: float) -> Left:
    remaining = max(0.0, rate.burst - owed_seconds / rate.interval_seconds)
    window = math.ceil(rate.burst * rate.interval_seconds)
    return Left(rate.name, int(rate.burst), math.floor(remaining + 1e-6), math.ceil(owed_seconds), window)
