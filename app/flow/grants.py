"""Grants: how many messages MES lets each sender send to it, and the senders' allowances that they feed.

MES measures, and publishes a grant for each sender in Redis. A sender that hears none sends at the floor: it
never stops for want of Redis' memory, and does not drown MES either. A grant is signed, has an end by Redis'
clock, and is refused where one that was issued later has been heard: it can neither be made up nor be kept
for later. What is not sent waits in the sender's outbox.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from time import monotonic
from typing import Literal

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from app.messaging.errors import EntryRefused, shortened
from app.messaging.routing import ServiceName
from app.messaging.signing import EntrySigner, Refusals
from app.messaging.streams import fields_of

LONGEST_GRANT = timedelta(seconds=30)
"""How long a grant is good at most: so soon after MES has stopped, its senders go at the floor."""

PARTNERS = "partners"
"""The sender that is no service: the orders of partners, which MES itself takes out of its intake."""

_HOLDER_SECONDS = 2.0
"""After so long without a word of it, another process may draw on the grant."""

# Redis' clock may be set back by a little between two grants.
_CLOCK_STEP = timedelta(seconds=1)
_KIND: Literal["grant"] = "grant"


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What MES lets one sender send.

    Parameters:
        sender: a service, or `PARTNERS`.
        per_second: messages to MES in a second; 0 is a pause.
        burst: the most at once, after a rest.
        issued_at: when, by Redis' clock.
        expires_at: until when it is good, by Redis' clock; `LONGEST_GRANT` later at most.
        reason: one line for people.
    """

    sender: str
    per_second: float
    burst: int
    issued_at: datetime
    expires_at: datetime
    reason: str

    def __post_init__(self) -> None:
        """Check the figures.

        Raises:
            ValueError: they are no grant.
        """
        if not 0 <= self.per_second < inf or self.burst < 0:
            raise ValueError(f"a grant of {self.per_second} in a second, {self.burst} at once")
        if not timedelta(0) < self.lasts <= LONGEST_GRANT:
            raise ValueError(f"a grant is good for {LONGEST_GRANT.total_seconds():g} s at most")

    @property
    def lasts(self) -> timedelta:
        """How long it is good."""
        return self.expires_at - self.issued_at


class GrantMalformed(EntryRefused):
    """It is signed, but no grant that this version can read."""

    reason = "malformed"
    because = "it is no grant that this version can read"


class GrantOfThePast(EntryRefused):
    """A later one has been heard: somebody has kept it, and written it again."""

    reason = "of the past"
    because = "a grant that was issued later has been heard"


def grant_key(sender: str) -> str:
    """Name the key under which a sender's grant stands."""
    return f"flow:grant:mes:{sender}"


async def redis_now(redis: Redis) -> datetime:
    """Read Redis' clock, by which grants are dated."""
    return _moment(*await redis.time())


def _moment(seconds: int, microseconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)


async def publish(redis: Redis, signer: EntrySigner, grant: Grant) -> None:
    """Write a grant, in place of the one before, where its sender reads it.

    Raises:
        RedisError, OSError: Redis is away, or refuses.
    """
    said = {
        "per_second": repr(grant.per_second),
        "burst": str(grant.burst),
        "issued_at": grant.issued_at.isoformat(),
        "expires_at": grant.expires_at.isoformat(),
        "reason": grant.reason,
    }
    reader = signer.service if grant.sender == PARTNERS else ServiceName(grant.sender)
    entry = signer.sign(said, kind=_KIND, destination=grant.sender, peer=reader)
    key = grant_key(grant.sender)
    # Whatever a hand has left under the key goes as well.
    pipeline = redis.pipeline(transaction=True)
    pipeline.delete(key)
    pipeline.hset(key, mapping=fields_of(entry))
    pipeline.pexpire(key, grant.lasts)
    await pipeline.execute()


async def read_grant(
    redis: Redis,
    signer: EntrySigner,
    sender: str,
    *,
    heard: Grant | None = None,
    refusals: Refusals | None = None,
) -> Grant | None:
    """Read a sender's grant; None if there is none that is good now.

    Parameters:
        redis: a client made by `open_redis`.
        signer: of the service that reads.
        sender: whose grant.
        heard: the one that was heard before.
        refusals: counts and logs what is there and no grant.

    Raises:
        RedisError, OSError: Redis is away, or refuses to say the time.
    """
    pipeline = redis.pipeline(transaction=False)
    pipeline.time()
    pipeline.hgetall(grant_key(sender))
    time, entry = await pipeline.execute(raise_on_error=False)
    if isinstance(time, ResponseError):
        raise time
    if not entry:
        return None
    try:
        # Where the key holds no hash, Redis says so instead.
        grant = _verified(signer, sender, {} if isinstance(entry, ResponseError) else entry)
        if heard is not None and grant.issued_at < heard.issued_at:
            raise GrantOfThePast(_KIND, entry)
    except EntryRefused as error:
        if refusals is not None:
            refusals.note(error)
        return None
    is_good = grant.issued_at - _CLOCK_STEP <= _moment(*time) < grant.expires_at
    return grant if is_good else None


def _verified(signer: EntrySigner, sender: str, entry: Mapping[str, str]) -> Grant:
    """Read what `publish` wrote.

    Raises:
        EntryRefused: it is not what MES has written for this sender.
    """
    by, said = signer.verify(entry, kind=_KIND, destination=sender)
    if by is not ServiceName.MES:
        raise GrantMalformed(_KIND, entry)
    try:
        return Grant(
            sender=sender,
            per_second=float(said["per_second"]),
            burst=int(said["burst"]),
            issued_at=_with_zone(said["issued_at"]),
            expires_at=_with_zone(said["expires_at"]),
            reason=shortened(said["reason"]),
        )
    except (KeyError, ValueError, OverflowError):
        raise GrantMalformed(_KIND, entry) from None


def _with_zone(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return moment


class Allowance:
    """A token bucket that grants fill; while none is good it fills at the floor.

    Each process has one of its own. So of several that send for one sender only the holder draws on it.
    """

    def __init__(
        self, *, floor_per_second: float, floor_burst: int = 1, clock: Callable[[], float] = monotonic
    ) -> None:
        """Begin at the floor, with one burst.

        Parameters:
            floor_per_second: how many may be sent in a second while no grant is heard; above 0.
            floor_burst: and how many at once, after a rest; above 0.
            clock: a monotonic clock, in seconds.
        """
        self._floor = floor_per_second, floor_burst
        self._clock = clock
        self._grant: Grant | None = None
        self._ends = -inf
        self._per_second, self._burst = self._floor
        self._tokens = float(floor_burst)
        self._filled_at = clock()
        self._is_held = True

    @property
    def grant(self) -> Grant | None:
        """The grant that is good now; None at the floor."""
        self._fill()
        return self._grant

    @property
    def per_second(self) -> float:
        """How many messages in a second it lets through now; 0 in a pause."""
        self._fill()
        return self._per_second

    def hear(self, grant: Grant | None) -> None:
        """Go on by a grant that was read just now; None: there is none, so at the floor."""
        self._fill()
        if grant is not None and (self._grant is None or grant.issued_at != self._grant.issued_at):
            # By the own clock, for the time in which Redis does not answer.
            self._ends = self._clock() + grant.lasts.total_seconds()
        self._set(grant)

    def hold(self, *, is_held: bool) -> None:
        """Draw on the grant from now on, or leave it to another process. Who begins has saved up nothing."""
        self._fill()
        if not (is_held and self._is_held):
            self._tokens = 0.0
        self._is_held = is_held

    def take(self, limit: int) -> int:
        """Take up to `limit` messages out of the bucket; return how many may be sent."""
        self._fill()
        if not self._is_held:
            return 0
        taken = max(0, min(limit, int(self._tokens)))
        self._tokens -= taken
        return taken

    def give_back(self, count: int) -> None:
        """Put back what was taken and not sent."""
        self._fill()
        if self._per_second > 0 and self._is_held:
            self._tokens = min(self._burst, self._tokens + count)

    def seconds_for(self, messages: int) -> float | None:
        """Return in how long so many messages may be sent, if the rate stays; None in a pause."""
        self._fill()
        return None if self._per_second == 0 else max(0.0, messages - self._tokens) / self._per_second

    def _fill(self) -> None:
        now = self._clock()
        if self._grant is not None and now >= self._ends:
            self._add(self._ends)
            self._set(None)
        self._add(now)

    def _add(self, until: float) -> None:
        seconds = max(0.0, until - self._filled_at)
        self._tokens = min(self._burst, self._tokens + seconds * self._per_second)
        self._filled_at = max(self._filled_at, until)

    def _set(self, grant: Grant | None) -> None:
        self._grant = grant
        self._per_second, self._burst = self._floor if grant is None else (grant.per_second, grant.burst)
        if self._per_second > 0:
            # A rate that may send nothing at once would send nothing at all.
            self._burst = max(1, self._burst)
        self._tokens = min(self._tokens, self._burst if self._per_second > 0 else 0)


def holder_key(sender: str) -> str:
    """Name the key that says which process of a sender draws on its grant."""
    return f"flow:holder:{sender}"


class HeardAllowance(Allowance):
    """An allowance that reads its grants by itself, and finds out whether this process draws on them.

    The first that says so in Redis does, until it is silent or has taken nothing for a while: one that
    cannot read its database any more leaves it to another. If Redis forgets it, another may send one burst.
    """

    def __init__(
        self,
        redis: Redis,
        signer: EntrySigner,
        sender: str,
        *,
        floor_per_second: float,
        floor_burst: int = 1,
        every_seconds: float = 0.5,
        holder: str | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Read the grants of a sender.

        Parameters:
            redis: a client made by `open_redis`.
            signer: of the service that reads.
            sender: whose grants.
            floor_per_second: as of `Allowance`.
            floor_burst: as of `Allowance`.
            every_seconds: the most often that it asks Redis.
            holder: a name that no other process has; None for the only one that sends.
            clock: as of `Allowance`.
        """
        super().__init__(floor_per_second=floor_per_second, floor_burst=floor_burst, clock=clock)
        self._redis = redis
        self._signer = signer
        self._sender = sender
        self._every_seconds = every_seconds
        self._holder = holder
        self._has_worked = True
        self._next = -inf
        self._latest: Grant | None = None
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("grants").bind(sender=sender)
        self.refusals = Refusals(self._log)

    async def refresh(self) -> None:
        """Read the grant, unless that was just done.

        Raises:
            RedisError, OSError: Redis is away; what was heard is good until it ends.
        """
        now = self._clock()
        if now < self._next:
            return
        # One that ended long ago says nothing of the present clock of Redis, which may be another one's.
        heard = self._latest if now < self._ends + LONGEST_GRANT.total_seconds() else None
        grant = await read_grant(self._redis, self._signer, self._sender, heard=heard, refusals=self.refusals)
        if self._holder is not None:
            self.hold(is_held=self._has_worked and await self._is_holder(self._holder))
            self._has_worked = False
        self._next = now + self._every_seconds
        self._latest = grant or self._latest
        before = self.per_second
        self.hear(grant)
        if self.per_second != before:
            said = grant.reason if grant is not None else "no grant is heard"
            self._log.info("grant_heard", per_second=self.per_second, reason=said)

    def take(self, limit: int) -> int:
        """Take up to `limit` messages. A process that asks has its database, and so may be the holder."""
        self._has_worked = True
        return super().take(limit)

    async def _is_holder(self, name: str) -> bool:
        key, lasts_ms = holder_key(self._sender), round(_HOLDER_SECONDS * 1000)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(key, name, nx=True, px=lasts_ms)
        pipeline.get(key)
        pipeline.pttl(key)
        _, holder, left_ms = await pipeline.execute(raise_on_error=False)
        if isinstance(left_ms, NoPermissionError):
            return True  # its user is of an older release
        # No holder says that it stays for ever: that is of a hand, as is what is no text.
        ends_soon = isinstance(left_ms, int) and 0 <= left_ms <= lasts_ms
        if isinstance(holder, str) and holder != name and ends_soon:
            return False
        try:
            await self._redis.set(key, name, px=lasts_ms)
        except ResponseError:
            return self._is_held  # such as a Redis that is full: another process can write no more there
        return True
