"""How many come before an order, and when its price may be expected: against the real queue."""

import heapq
from collections.abc import AsyncIterator
from random import Random

import pytest
from redis.asyncio import Redis

from app.flow.places import Places, PlacesPublisher, PricingPlace, QueuedJob, Rate, places_of, publish_places
from app.flow.turns import ShardTurns, enqueue
from app.messaging.routing import ServiceName
from app.messaging.streams import open_redis
from app.models.mes import PricingJob
from app.pricing import jobs
from readreplica.sessions import WriteSession
from sharding.topology import Topology
from tests.integration.pricing_rig import Rig, open_rig
from tests.message_keys import signer_of as signer
from tests.servers import ValkeyServer

SHARDS = ("mes_0", "mes_1")
READERS = (ServiceName.SHOP, ServiceName.CRM, ServiceName.MES)


@pytest.fixture(scope="module")
async def shared_rig(module_topology: Topology) -> AsyncIterator[Rig]:
    async with open_rig(module_topology) as rig:
        yield rig


@pytest.fixture
async def rig(shared_rig: Rig) -> Rig:
    await shared_rig.forget()
    return shared_rig


@pytest.fixture
async def redis(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    async with open_redis(valkey.url) as redis:
        yield redis


async def test_places_are_those_in_which_the_orders_are_taken(rig: Rig, redis: Redis) -> None:
    """Two shards, senders of many orders and of one, and a worker that takes them all."""
    chance = Random(3)
    for number in range(30):
        sender = f"partner {chance.choice(['a', 'a', 'a', 'b', number])}"
        shard = chance.choice(SHARDS)
        order_id = next(number for number in rig.ids if rig.sessions.shard_of(number) == shard)

        async def work(session: WriteSession, order_id: int = order_id, sender: str = sender) -> None:
            await enqueue(session, PricingJob(order_id=order_id, sender=sender))

        await rig.sessions.transact(order_id, work)
    publisher = PlacesPublisher(rig.sessions, redis, signer(ServiceName.MES), "test")
    published = await publisher.publish()
    places = Places(redis, signer(ServiceName.SHOP))
    taken: list[int] = []
    turns = ShardTurns()
    for _ in range(30):
        firsts: dict[str, float] = {}
        for shard in SHARDS:
            async with rig.sessions.clusters[shard].write() as session:
                position = await jobs.first(session)
            if position is not None:
                firsts[shard] = position
        shard = turns.order(firsts)[0]
        turns.took(shard, firsts[shard])
        async with rig.sessions.clusters[shard].write() as session:
            held = await jobs.lease(session, holder="anna", lease_seconds=600)
        assert held is not None
        taken.append(held.order_id)
    assert [published[order_id].place for order_id in taken] == list(range(30))
    read = [await places.read(order_id) for order_id in taken]
    assert [place and place.place for place in read] == list(range(30))


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_the_expected_time_is_right_within_one_order(lanes: int) -> None:
    """Orders of 10 s each, on some lanes; what was said at each moment against what came then."""
    seconds, rate, said, clock = 10.0, Rate(), dict[int, tuple[float, float]](), 0.0
    waiting = list(range(90))
    held: list[tuple[float, int]] = []
    while waiting or held:
        while waiting and len(held) < lanes:
            # They do not start at one moment.
            heapq.heappush(held, (clock + seconds + len(said) % 3, waiting.pop(0)))
        ahead = [QueuedJob(order_id, 0.0, is_held=True) for _, order_id in held]
        queue = ahead + [QueuedJob(order_id, float(order_id), is_held=False) for order_id in waiting]
        rate.observe(frozenset(job.order_id for job in queue), seconds=1.0)
        for order_id, place in places_of({"mes_0": queue}, per_second=rate.per_second).items():
            if place.expected_seconds is not None and clock >= 60:
                said.setdefault(order_id, (clock, clock + place.expected_seconds))
        clock += 1.0
        while held and held[0][0] <= clock:
            ended, order_id = heapq.heappop(held)
            if order_id in said:
                at, expected = said[order_id]
                assert abs(expected - ended) <= max(2 * seconds, 0.35 * (ended - at))
    assert len(said) > 10


def test_without_an_order_that_was_priced_the_time_is_unknown() -> None:
    rate = Rate()
    rate.observe(frozenset({1, 2}), seconds=0)
    rate.observe(frozenset({1, 2}), seconds=60)
    assert rate.per_second is None
    queue = [QueuedJob(1, 0.0, is_held=True), QueuedJob(2, 1.0, is_held=False)]
    found = places_of({"mes_0": queue}, per_second=rate.per_second)
    assert found == {
        1: PricingPlace(place=0, expected_seconds=None),
        2: PricingPlace(place=0, expected_seconds=None),
    }


@pytest.mark.parametrize("reader", READERS)
async def test_each_service_reads_its_own_and_nothing_that_others_wrote(
    redis: Redis, reader: ServiceName
) -> None:
    place = PricingPlace(place=4, expected_seconds=180)
    await publish_places(redis, signer(ServiceName.MES), {77: place})
    places = Places(redis, signer(reader))
    assert await places.read(77) == place
    assert await places.read(78) is None
    copied = await redis.get(f"flow:place:{reader}:77")
    assert copied is not None
    await redis.set(f"flow:place:{reader}:78", copied)
    for number, made_up in enumerate(("", "[]", "{}", '{"place": "{}"}', copied[:-5], "\x00"), start=100):
        await redis.set(f"flow:place:{reader}:{number}", made_up)
        assert await places.read(number) is None
    assert await places.read(78) is None


async def test_a_place_lapses(redis: Redis) -> None:
    await publish_places(redis, signer(ServiceName.MES), {77: PricingPlace(place=4, expected_seconds=180)})
    for reader in READERS:
        assert 0 < await redis.pttl(f"flow:place:{reader}:77") <= 10_000
