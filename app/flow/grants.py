"""What a sender may send to the MES: a rate that the MES grants, and the sender's account of it.

The MES writes one grant for each sender to Redis, again each second. `GrantListener` reads it; `Allowance`
is a token bucket that it fills. Redis may be wiped, and the MES may be away. Then no grant is heard, and the
floor holds: a sender neither stops nor floods a MES that comes back.

All times in a grant are those of Redis' clock: the clocks of two services may disagree.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.kit.tasks import sleep_unless
from app.messaging.errors import EntryRefused
from app.messaging.routing import ServiceName
from app.messaging.signing import EntrySigner, Refusals
from app.messaging.streams import fields_of

LONGEST_SECONDS = 30.0
"""How long a grant may hold: what a MES that has died has granted ends by itself."""
_MOST_PER_SECOND = 100_000.0
_FORGET_SECONDS = 60.0
"""When a listener forgets what it heard last: Redis may have come back with a clock that is behind."""


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What one sender may send to the MES.

    Parameters:
        sender: the service that sends.
        per_second: messages in a second, on average; 0 while it is paused.
        burst: messages at once after a rest, at least 1.
        issued_at: when the MES granted it, by Redis' clock.
        expires_at: when it ends, by Redis' clock.
        reason: why it is this much, in one line for people.
    """

    sender: str
    per_second: float
    burst: int
    issued_at: datetime
    expires_at: datetime
    reason: str

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense.

        Raises:
            ValueError: it names the parameter.
        """
        if not 0 <= self.per_second <= _MOST_PER_SECOND:
            raise ValueError(f"per_second: from 0 to {_MOST_PER_SECOND:g}, and not {self.per_second}")
        if not 1 <= self.burst <= _MOST_PER_SECOND:
            raise ValueError(f"burst: from 1 to {_MOST_PER_SECOND:g}, and not {self.burst}")
        if not timedelta(0) < self.expires_at - self.issued_at <= timedelta(seconds=LONGEST_SECONDS):
            raise ValueError(f"expires_at: within {LONGEST_SECONDS:g} s of issued_at")


def grant_key(sender: str) -> str:
    """Name the key of a sender's grant."""
    return f"flow:grant:{sender}"


async def redis_now(redis: Redis) -> datetime:
    """Return the time by Redis' clock."""
    seconds, microseconds = await redis.time()
    return _at(seconds, microseconds)


async def publish(redis: Redis, signer: EntrySigner, grant: Grant) -> None:
    """Write a grant for its sender to hear. Redis drops it when it ends.

    Parameters:
        redis: a client made by `open_redis`.
        signer: of the MES.
        grant: what is granted.
    """
    key = grant_key(grant.sender)
    entry = {
        "per_second": repr(grant.per_second),
        "burst": str(grant.burst),
        "issued_at": grant.issued_at.isoformat(),
        "expires_at": grant.expires_at.isoformat(),
        "reason": grant.reason,
    }
    signed = signer.sign(entry, kind="grant", destination=key, peer=ServiceName(grant.sender))
    pipeline = redis.pipeline(transaction=True)
    pipeline.delete(key)  # a key of another type, or fields that a hand has added
    pipeline.hset(key, mapping=fields_of(signed))
    pipeline.pexpireat(key, grant.expires_at)
    await pipeline.execute()


class GrantListener:
    """Reads the grant of one sender; one that is forged, has ended, or is older than another, is none."""

    def __init__(
        self, redis: Redis, signer: EntrySigner, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make a listener.

        Parameters:
            redis: a client made by `open_redis`.
            signer: of the service that sends, whose grant is read.
            clock: counts seconds.
        """
        self._redis = redis
        self._signer = signer
        self._clock = clock
        self._last: tuple[datetime, float] | None = None
        self.refusals = Refusals(structlog.get_logger("flow"))

    async def read(self) -> Grant | None:
        """Return the grant that holds now, or None.

        Raises:
            RedisError, OSError: Redis is away.
        """
        key = grant_key(self._signer.service.value)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.time()
        pipeline.hgetall(key)
        (seconds, microseconds), entry = await pipeline.execute()
        if not entry:
            return None
        try:
            sender, fields = self._signer.verify(entry, kind="grant", destination=key)
        except EntryRefused as error:
            self.refusals.note(error)
            return None
        if sender is not ServiceName.MES:
            return None
        return self._believed(fields, _at(seconds, microseconds))

    def _believed(self, fields: Mapping[str, str], now: datetime) -> Grant | None:
        with suppress(KeyError, ValueError):
            grant = _grant(self._signer.service.value, fields)
            heard = self._clock()
            if self._last is not None and heard - self._last[1] < _FORGET_SECONDS:
                newest, _ = self._last
                if grant.issued_at < newest:
                    return None  # a grant of the past, copied back
            if not grant.issued_at - timedelta(seconds=LONGEST_SECONDS) <= now < grant.expires_at:
                return None
            self._last = (grant.issued_at, heard)
            return grant
        return None


def _grant(sender: str, fields: Mapping[str, str]) -> Grant:
    return Grant(
        sender=sender,
        per_second=float(fields["per_second"]),
        burst=int(fields["burst"]),
        issued_at=datetime.fromisoformat(fields["issued_at"]),
        expires_at=datetime.fromisoformat(fields["expires_at"]),
        reason=fields["reason"],
    )


def _at(seconds: int, microseconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)


class Allowance:
    """How many messages may be sent now: a token bucket that a grant fills, or else the floor."""

    def __init__(self, *, floor_per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Make an allowance that is at the floor.

        Parameters:
            floor_per_second: what may be sent in a second while no grant is heard.
            clock: counts seconds.
        """
        self._floor = floor_per_second
        self._clock = clock
        self._until = clock()
        self._left = self._burst = float(max(1, math.ceil(floor_per_second)))
        self._per_second = floor_per_second
        self._grant: Grant | None = None

    @property
    def per_second(self) -> float:
        """What may be sent in a second."""
        return self._per_second

    @property
    def grant(self) -> Grant | None:
        """The grant that was heard last; None at the floor."""
        return self._grant

    def hear(self, grant: Grant | None) -> None:
        """Go on by a grant from now on, or by the floor where there is none."""
        self._refill()
        self._grant = grant
        self._per_second = self._floor if grant is None else grant.per_second
        self._burst = float(max(1, math.ceil(self._floor)) if grant is None else grant.burst)
        self._left = min(self._left, self._burst)

    def take(self, wanted: int) -> int:
        """Take what may be sent now.

        Parameters:
            wanted: the most that is wanted.

        Returns:
            how many may be sent; what is not sent is to be given back.
        """
        self._refill()
        taken = max(0, min(wanted, math.floor(self._left)))
        if self._per_second == 0:
            taken = 0  # paused: what is left of a burst is not to be sent either
        self._left -= taken
        return taken

    def give_back(self, unused: int) -> None:
        """Return what was taken and not sent."""
        self._left = min(self._left + unused, self._burst)

    def seconds_for(self, messages: int) -> float | None:
        """Return how long so many messages take from now on; None while paused."""
        if self._per_second == 0:
            return None
        self._refill()
        return max(0.0, messages - self._left) / self._per_second

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._until) * self._per_second)
        self._until = now


async def listen(
    listener: GrantListener, allowance: Allowance, stop: asyncio.Event, *, every_seconds: float = 0.5
) -> None:
    """Keep an allowance by what is granted, until `stop` is set. While Redis is away, the floor holds."""
    while not stop.is_set():
        try:
            allowance.hear(await listener.read())
        except (RedisError, OSError):
            allowance.hear(None)
        await sleep_unless(stop, every_seconds)
