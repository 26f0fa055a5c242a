"""How many orders are priced before one, and when its price may be expected: for those who wait.

MES reads the fronts of the queues of all shards, and publishes in Redis what becomes of the first ones. Each
place is signed for the service that reads it and lapses by itself. An order without one is "unknown": it is
far behind, or nothing was published.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.flow.turns import IS_LEASED, TURNS, ShardTurns
from app.kit.tasks import sleep_unless
from app.messaging.errors import EntryRefused
from app.messaging.routing import ServiceName
from app.messaging.signing import EntrySigner, Refusals
from app.models.base import OrderState
from app.models.mes import PricingJob
from app.models.status import Status
from readreplica.errors import Unavailable, one_line
from readreplica.sessions import AnySession
from sharding.sessions import ShardedSessions

log: structlog.stdlib.BoundLogger = structlog.get_logger("flow")

MOST_PLACES = 500
"""For how many orders places are published."""

KEEP_SECONDS = 10.0
EVERY_SECONDS = 2.0
HALF_LIFE_SECONDS = 60.0
"""After how long of being busy a finished order counts half for the rate."""

LEADER_KEY = "flow:places:leader"


class PricingPlace(BaseModel):
    """Where an order stands that waits for its price."""

    model_config = ConfigDict(frozen=True)

    place: int = Field(description="How many orders are priced before it; 0 also while it is priced.", ge=0)
    expected_seconds: int | None = Field(
        description="In how long the price may be expected; null while that is not known.", ge=0
    )


class QueuedJob(NamedTuple):
    """A job of one shard's queue."""

    order_id: int
    position: float
    is_held: bool


@dataclass
class Rate:
    """How many orders are priced in a second while any wait, of late. Pure."""

    _done: float = 0.0
    _seconds: float = 0.0
    _seen: frozenset[int] = field(default_factory=frozenset)

    def observe(self, order_ids: frozenset[int], *, seconds: float) -> None:
        """Note which orders are in the queue, so many seconds after the last time."""
        gone = len(self._seen - order_ids)
        if self._seen:
            fades = 0.5 ** (seconds / HALF_LIFE_SECONDS)
            self._done, self._seconds = self._done * fades + gone, self._seconds * fades + seconds
        self._seen = order_ids

    @property
    def per_second(self) -> float | None:
        """The rate; None as long as too little was seen."""
        return self._done / self._seconds if self._done >= 1 else None


def places_of(
    queues: Mapping[str, Sequence[QueuedJob]], *, per_second: float | None
) -> Mapping[int, PricingPlace]:
    """Return the places of the first orders, as a worker would take them.

    Parameters:
        queues: the jobs of each shard in the order of their turns.
        per_second: how many are priced in a second.
    """
    held = [job.order_id for queue in queues.values() for job in queue if job.is_held]
    found = {order_id: _place(0, len(held) / 2, per_second) for order_id in held}
    for before, order_id in enumerate(_in_turn(queues)):
        found[order_id] = _place(before, before + 0.5 + len(held), per_second)
    return found


def _place(before: int, ends: float, per_second: float | None) -> PricingPlace:
    """Return a place: `ends` orders will be done, with this one, until it is."""
    return PricingPlace(
        place=before, expected_seconds=None if per_second is None else round(ends / per_second)
    )


def _in_turn(queues: Mapping[str, Sequence[QueuedJob]]) -> Iterator[int]:
    """Yield those that wait, of all shards."""
    turns = ShardTurns()
    waiting = {shard: [job for job in queue if not job.is_held] for shard, queue in queues.items()}
    nexts = {shard: 0 for shard, jobs in waiting.items() if jobs}
    while nexts:
        firsts = {shard: waiting[shard][number].position for shard, number in nexts.items()}
        shard = turns.order(firsts)[0]
        turns.took(shard, firsts[shard])
        yield waiting[shard][nexts[shard]].order_id
        nexts[shard] += 1
        if nexts[shard] == len(waiting[shard]):
            del nexts[shard]


async def read_queue(session: AnySession) -> Sequence[QueuedJob]:
    """Read the front of one shard's queue."""
    front = select(PricingJob.order_id, PricingJob.position, IS_LEASED).order_by(*TURNS).limit(MOST_PLACES)
    return [QueuedJob(*row) for row in (await session.execute(front)).all()]


def _key(reader: ServiceName, order_id: int) -> str:
    return f"flow:place:{reader}:{order_id}"


async def publish_places(
    redis: Redis,
    signer: EntrySigner,
    places: Mapping[int, PricingPlace],
    *,
    keep_seconds: float = KEEP_SECONDS,
) -> None:
    """Write places where the services read them.

    Raises:
        RedisError, OSError: Redis is away, or refuses.
    """
    pipeline = redis.pipeline(transaction=False)
    for order_id, place in list(places.items())[:MOST_PLACES]:
        for reader in filter(signer.has_key, ServiceName):
            key = _key(reader, order_id)
            entry = signer.sign(
                {"place": place.model_dump_json()}, kind="place", destination=key, peer=reader
            )
            pipeline.set(key, json.dumps(entry), px=round(keep_seconds * 1000))
    await pipeline.execute()


class Places:
    """What a service reads of the places that MES publishes."""

    def __init__(self, redis: Redis, signer: EntrySigner) -> None:
        """Take the service's Redis and its keys."""
        self._redis = redis
        self._signer = signer
        self._refusals = Refusals()

    async def of(self, order: OrderState) -> PricingPlace | None:
        """Return an order's place; None if it waits for no price."""
        return await self.read(order.order_id) if order.status is Status.SUBMITTED else None

    async def read(self, order_id: int) -> PricingPlace | None:
        """Return an order's place; None if it is unknown, or Redis is away."""
        key = _key(self._signer.service, order_id)
        try:
            text = await self._redis.get(key)
            if text is None:
                return None
            entry = {str(name): str(value) for name, value in json.loads(text).items()}
            _, said = self._signer.verify(entry, kind="place", destination=key)
            return PricingPlace.model_validate_json(said["place"])
        except EntryRefused as error:
            self._refusals.note(error)
        except (RedisError, OSError, ValueError, AttributeError, KeyError) as error:
            log.warning("place_not_read", order_id=order_id, error=one_line(error))
        return None


@dataclass
class PlacesPublisher:
    """Publishes places again and again, in one of MES' processes at a time."""

    sessions: ShardedSessions
    redis: Redis
    signer: EntrySigner
    name: str
    every_seconds: float = EVERY_SECONDS
    _rate: Rate = field(default_factory=Rate)
    _observed_at: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop` is set; what fails once is done again a moment later."""
        while not stop.is_set():
            try:
                if await self._leads():
                    await self.publish()
            except (RedisError, SQLAlchemyError, Unavailable, OSError) as error:
                log.warning("places_not_published", error=one_line(error))
            await sleep_unless(stop, self.every_seconds)

    async def _leads(self) -> bool:
        """Whether this process is the one that publishes: the first to say so, until it is silent."""
        lasts = round(self.every_seconds * 2500)
        if await self.redis.set(LEADER_KEY, self.name, nx=True, px=lasts):
            return True
        if await self.redis.get(LEADER_KEY) not in {self.name, self.name.encode()}:
            return False
        await self.redis.pexpire(LEADER_KEY, lasts)
        return True

    async def publish(self) -> Mapping[int, PricingPlace]:
        """Read the queues, and publish once."""
        queues: dict[str, Sequence[QueuedJob]] = {}
        for shard, cluster in self.sessions.clusters.items():
            async with cluster.read() as session:
                queues[shard] = await read_queue(session)
        now = asyncio.get_running_loop().time()
        order_ids = frozenset(job.order_id for queue in queues.values() for job in queue)
        self._rate.observe(order_ids, seconds=now - (self._observed_at or now))
        self._observed_at = now
        places = places_of(queues, per_second=self._rate.per_second)
        await publish_places(self.redis, self.signer, places)
        return places
