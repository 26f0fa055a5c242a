"""The stream of changes: who was away goes on where he was, and who cannot is sent to the page again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from app.board.endpoints import as_sse
from app.board.live import MOST_MISSED, MOST_WAITING, PAUSE, STREAM, LiveChanges, LiveEvent
from app.board.pages.stream import Feed, Streams
from app.board.projection import BoardChange
from app.messaging.streams import open_redis
from app.models.status import Status
from readreplica.token import CausalToken
from tests.integration.messaging_rig import until
from tests.servers import ValkeyServer

NEW = BoardChange(7, Status.PRICE_CALCULATED, Status.MANUFACTURING_APPROVED)


@pytest_asyncio.fixture
async def redis(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    async with open_redis(valkey.url) as client:
        yield client


@pytest_asyncio.fixture
async def live(redis: Redis) -> AsyncIterator[LiveChanges]:
    live, stop = LiveChanges(redis), asyncio.Event()
    running = asyncio.create_task(live.run(stop))
    await until(lambda: _has_begun(live))
    yield live
    stop.set()
    await running


async def _has_begun(live: LiveChanges) -> bool:
    return live.position != ""


async def publish(live: LiveChanges, *orders: int) -> None:
    for order_id in orders:
        await live.publish(order_id, BoardChange(order_id, NEW.before, NEW.after), CausalToken())


async def take(live: LiveChanges, after: str, count: int) -> list[LiveEvent]:
    async with asyncio.timeout(20), live.subscribe(after) as events:
        return [await anext(events) for _ in range(count)]


async def test_a_reader_goes_on_behind_what_he_has_seen(live: LiveChanges) -> None:
    begin = live.position
    await publish(live, 7, 8, 9)
    first, second, third = await take(live, begin, 3)
    assert [each.order_id for each in (first, second, third)] == [7, 8, 9]
    assert (first.before, first.after) == (NEW.before, NEW.after)
    assert await take(live, first.event_id, 2) == [second, third]
    async with asyncio.timeout(20), live.subscribe(third.event_id) as events:
        await publish(live, 10)
        assert (await anext(events)).order_id == 10


async def test_who_has_missed_what_is_gone_reads_the_page_again(live: LiveChanges, redis: Redis) -> None:
    await publish(live, 7)
    await until(lambda: _has_seen(live, redis))
    seen = live.position
    await publish(live, *range(MOST_MISSED + 1))
    [reload] = await take(live, seen, 1)
    assert reload.is_reload
    assert as_sse(reload) == f"id: {reload.event_id}\nevent: reload\ndata:\n\n"
    await publish(live, 1, 2)
    await redis.xtrim(STREAM, maxlen=1, approximate=False)
    assert [each.order_id for each in await take(live, seen, 1)] == [None]
    for nonsense in ("", "x", "1-x", "-1", f"{2**63}-0", "9" * 60 + "-1"):
        assert (await take(live, nonsense, 1))[0].is_reload


async def _has_seen(live: LiveChanges, redis: Redis) -> bool:
    newest: Any = await redis.xrevrange(STREAM, count=1)
    return bool(newest) and newest[0][0] == live.position


async def test_a_wiped_redis_sends_everyone_to_the_page_again(live: LiveChanges, redis: Redis) -> None:
    await publish(live, 7)
    await until(lambda: _has_seen(live, redis))
    async with asyncio.timeout(20), live.subscribe(live.position) as events:
        await redis.flushall()
        assert (await anext(events)).is_reload
        await publish(live, 8)
        assert (await anext(events)).order_id == 8


async def test_who_is_too_slow_is_let_go_and_no_one_else_waits(live: LiveChanges) -> None:
    async with asyncio.timeout(30), live.subscribe(live.position) as slow, live.subscribe("") as quick:
        assert (await anext(quick)).is_reload
        await publish(live, 0)
        assert (await anext(slow)).order_id == 0  # it has all that it had missed, and waits for more
        everything = asyncio.ensure_future(_take_all(quick, MOST_WAITING + 2))
        await publish(live, *range(1, MOST_WAITING + 2))
        assert await everything == list(range(MOST_WAITING + 2))
        await until(lambda: _has_one_reader(live))
        assert [event async for event in slow] == []


async def test_500_open_boards_hear_the_same(live: LiveChanges) -> None:
    """Also when all come at once, as after a restart; the benchmark board_open measures what it costs."""
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        boards = [await stack.enter_async_context(live.subscribe(live.position)) for _ in range(500)]
        listening = asyncio.gather(*(_take_all(each, 20) for each in boards))
        await publish(live, *range(20))
        assert await listening == [list(range(20))] * 500
    assert live.subscribers == 0


async def _take_all(events: AsyncIterator[LiveEvent], count: int) -> list[int | None]:
    return [(await anext(events)).order_id for _ in range(count)]


async def _has_one_reader(live: LiveChanges) -> bool:
    return live.subscribers <= 1


async def test_a_pause_is_named(live: LiveChanges) -> None:
    async with asyncio.timeout(20), live.subscribe(live.position, pause_seconds=0.05) as events:
        assert await anext(events) is PAUSE
        await publish(live, 7)
        found = await anext(events)
        while found is PAUSE:
            found = await anext(events)
        assert found.order_id == 7


async def test_a_page_that_is_left_in_a_pause_leaves_no_task_behind(live: LiveChanges) -> None:
    streams = Streams(live, Feed(_read_nothing), beat_seconds=0.01)
    stream = streams.order(7, after=live.position)
    before = len(asyncio.all_tasks())
    async with asyncio.timeout(20):
        for _ in range(3):
            assert b"beat" in await anext(stream)
        assert len(asyncio.all_tasks()) == before
        await stream.aclose()
    assert live.subscribers == 0


async def _read_nothing(_event: LiveEvent) -> None:
    return None


async def test_a_read_that_failed_is_made_again_by_who_comes_again() -> None:
    async def read(event: LiveEvent) -> None:
        tries.append(event.event_id)
        if len(tries) == 1:
            raise OSError("the database is away")

    tries: list[str] = []
    feed, event = Feed(read), LiveEvent("1-1", 7)
    with pytest.raises(OSError, match="away"):
        await feed.order(event)
    assert await feed.order(event) is None
    assert await feed.order(event) is None
    assert tries == ["1-1", "1-1"]


async def test_ids_that_begin_anew_silence_no_reader(live: LiveChanges, redis: Redis) -> None:
    """As of another Redis, by a clock that is behind: its ids are smaller than those that were seen."""
    begin = live.position
    await redis.xadd(STREAM, {"order_id": "7"}, id=f"{2**45}-0")
    async with asyncio.timeout(20), live.subscribe(begin) as events:
        assert (await anext(events)).order_id == 7
        await until(lambda: _has_seen(live, redis))
        await redis.flushall()
        assert (await anext(events)).is_reload
        await publish(live, 8)
        assert (await anext(events)).order_id == 8
