"""Callers' tokens in Redis: what is kept of two, and whom a fault concerns."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from readreplica.redis import TokenStore
from readreplica.token import CausalToken
from readreplica.wal import UNKNOWN_SYSTEM, Lsn, Position
from tests.servers import ValkeyServer


def at(lsn: int, *, timeline: int = 1, system: int = 7) -> CausalToken:
    return CausalToken({"main": Position(system, timeline, Lsn(lsn))})


UNKNOWN = at(50, system=UNKNOWN_SYSTEM)
NOTHING = CausalToken()


@pytest.fixture
async def redis(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        yield redis


@pytest.fixture
def store(redis: Redis) -> TokenStore:
    return TokenStore(redis, prefix="causal:", keep_seconds=60, answer_seconds=10)


async def test_of_two_positions_the_later_one_is_kept(store: TokenStore) -> None:
    for told, kept in [
        (at(9), at(9)),
        (at(5), at(9)),
        (at(5, timeline=2), at(5, timeline=2)),
        (at(11), at(5, timeline=2)),
        (at(1, system=8), at(1, system=8)),
    ]:
        await store.merge("nord", told, after=NOTHING)
        assert await store.read("nord") == kept


def is_unknown(token: CausalToken) -> bool:
    return token.positions["main"].system_identifier == UNKNOWN_SYSTEM


async def test_a_position_of_no_known_system_is_kept_until_a_request_that_knew_it_has_committed(
    store: TokenStore,
) -> None:
    await store.merge("nord", at(9), after=NOTHING)
    await store.merge("nord", UNKNOWN, after=at(9))
    first = await store.read("nord")
    assert is_unknown(first)
    await store.merge("nord", at(500), after=at(9))  # begun before that was known
    assert await store.read("nord") == first

    # A second one came meanwhile: what knew of the first stands for that one alone.
    await store.merge("nord", UNKNOWN, after=first)
    await store.merge("nord", at(600), after=first)
    second = await store.read("nord")
    assert is_unknown(second)
    assert second != first
    await store.merge("nord", at(700), after=second)
    assert await store.read("nord") == at(700)


async def test_what_is_no_token_concerns_its_caller_alone(store: TokenStore, redis: Redis) -> None:
    await store.merge("alice", at(9), after=NOTHING)
    await redis.hset("causal:bob", "main", "0000000000000007.00000001.0000000000000009.extra")
    await redis.hset("causal:carol", "main", b"\xff")
    await redis.set("causal:dave", "no hash")
    assert is_unknown(await store.read("bob"))  # who cannot be told what he has seen is sent to the primary
    for caller in ("carol", "dave"):
        assert await store.read(caller) == NOTHING
        await store.merge(caller, at(5), after=NOTHING)
    assert await store.read("alice") == at(9)
    await store.merge("alice", at(99), after=NOTHING)
    assert await store.read("alice") == at(99)

    # The next write puts it right.
    await store.merge("bob", at(5), after=NOTHING)
    assert await store.read("bob") == await store.read("carol") == at(5)
