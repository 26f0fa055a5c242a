"""What changes on the board, as it changes: one stream in Redis, which every process of the board reads once.

An entry says which order has changed, and no more: what a page shows of it, it reads. An entry's id is the
id of the event for browsers, so that one that was away goes on behind the last that it has seen. Where
entries were lost meanwhile, it is sent `reload`: then it reads the whole page again.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app import instruments
from app.board.projection import BoardChange
from app.messaging.backoff import repeat_with_backoff
from app.messaging.streams import Entry, entries_of, id_of
from app.models.status import Status
from readreplica.errors import TokenMalformed
from readreplica.token import CausalToken

STREAM = "board:changes"
MOST_ENTRIES = 10_000
MOST_MISSED = 500
"""So many events are caught up with; who has missed more reads the page again."""
MOST_WAITING = 256
"""So many events wait for a browser; one that is slower is let go, and comes again."""
_AT_ONCE = MOST_WAITING // 4
"""So few are read at once that a reader who keeps up has room for them, however many came together."""
_CATCH_UP_AT_ONCE = 8
"""After a restart all boards come again at once, and each would take a connection to Redis."""
_BLOCK_SECONDS = 0.5
_OUT_OF_ORDER_MS = 10_000
"""So long at most lies between a commit and its entry, where another's are the other way round."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("live")


NOTHING = CausalToken()


@dataclass(frozen=True)
class LiveEvent:
    """An order has changed, or, without one, so much that a page is to be read again.

    `before` and `after` are the statuses, where they are known. A read with `token` sees the change.
    """

    event_id: str
    order_id: int | None = None
    before: Status | None = None
    after: Status | None = None
    token: CausalToken = NOTHING

    @property
    def is_reload(self) -> bool:
        """Whether events were lost."""
        return self.order_id is None and self is not PAUSE


PAUSE = LiveEvent("")
"""No event has come for a while."""


class LiveChanges:
    """Writes to the stream, and gives what is in there to as many as want it."""

    def __init__(self, redis: Redis) -> None:
        """Take the board's Redis; `run` reads it."""
        self._redis = redis
        self._subscribers: set[asyncio.Queue[LiveEvent | None]] = set()
        self._last: str | None = None
        self._token = NOTHING
        self._catching_up = asyncio.Semaphore(_CATCH_UP_AT_ONCE)

    @property
    def position(self) -> str:
        """The last event that was seen, "" before any: what a page that is made now begins behind.

        It is to be read before the page's orders are.
        """
        return self._last or ""

    @property
    def token(self) -> CausalToken:
        """What a page is read with that begins behind `position`.

        A replica may be behind it: what the page lacked then would never be sent.
        """
        return self._token

    @property
    def subscribers(self) -> int:
        """How many want to hear of changes."""
        return len(self._subscribers)

    async def publish(self, order_id: int, change: BoardChange | None, token: CausalToken) -> None:
        """Write that an order has changed.

        Raises:
            RedisError, OSError: Redis is away, or refuses.
        """
        known = {} if change is None else {"before": change.before or "", "after": change.after}
        if change is not None and change.at is not None:
            known["at"] = str(change.at.timestamp())
        entry = {"order_id": str(order_id), "token": token.encode(), **known}
        await self._redis.xadd(STREAM, dict(entry.items()), maxlen=MOST_ENTRIES, approximate=True)

    async def run(self, stop: asyncio.Event) -> None:
        """Read the stream until `stop` is set. Outages of Redis are waited out."""
        await repeat_with_backoff(self._turn, stop=stop, log=log)
        for queue in list(self._subscribers):
            _let_go(queue)

    async def _turn(self) -> None:
        if self._last is None:
            self._last = await self._begin()
        found = await self._redis.xread(
            {STREAM: self._last}, count=_AT_ONCE, block=round(_BLOCK_SECONDS * 1000)
        )
        entries = entries_of(found)
        for entry in entries:
            event = _event_of(entry)
            _note_age(entry)
            self._last, self._token = event.event_id, self._token.merge(event.token)
            self._give(event)
        if not entries and id_of(await self._newest()) < id_of(self._last):
            # Redis was wiped, or another one is there: what it had, it had for no one.
            self._last = await self._newest()
            self._give(LiveEvent(self._last))

    async def _begin(self) -> str:
        """Return the newest entry, to begin behind it; and know what those before it need.

        They may be in another order than their commits, by a little.
        """
        newest = await self._newest()
        since = max(0, id_of(newest)[0] - _OUT_OF_ORDER_MS)
        for entry in await self._range(f"{since}-0", count=MOST_ENTRIES):
            self._token = self._token.merge(_event_of(entry).token)
        return newest

    async def _newest(self) -> str:
        try:
            return str((await self._redis.xinfo_stream(STREAM))["last-generated-id"])
        except ResponseError:  # nothing was ever written
            return "0-0"

    def _give(self, event: LiveEvent) -> None:
        for queue in list(self._subscribers):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._subscribers.discard(queue)
                _let_go(queue)

    @asynccontextmanager
    async def subscribe(
        self, after: str, *, pause_seconds: float | None = None
    ) -> AsyncIterator[AsyncIterator[LiveEvent]]:
        """Yield the events behind one, and then those that come; they end when the reader is too slow.

        Parameters:
            after: the id of the last event that the reader has seen, or the `position` of its page.
            pause_seconds: yield `PAUSE` whenever no event has come for so long.

        Raises:
            RedisError, OSError: Redis is away.
        """
        queue: asyncio.Queue[LiveEvent | None] = asyncio.Queue(MOST_WAITING)
        self._subscribers.add(queue)
        try:
            with instruments.board_stream():
                async with aclosing(self._events(queue, after, pause_seconds)) as events:
                    yield events
        finally:
            self._subscribers.discard(queue)

    async def _events(
        self, queue: asyncio.Queue[LiveEvent | None], after: str, pause_seconds: float | None
    ) -> AsyncGenerator[LiveEvent, None]:
        seen = (0, 0)
        async with self._catching_up:
            missed = await self._missed(after)
        for event in missed:
            seen = id_of(event.event_id)
            yield event
        while True:
            try:
                # No task of its own: a reader that is let go in the middle would leave it behind.
                async with asyncio.timeout(pause_seconds):
                    event_or_end = await queue.get()
            except TimeoutError:
                yield PAUSE
                continue
            if event_or_end is None:
                return
            if event_or_end.is_reload:
                # Of another Redis, it may be, whose ids are smaller.
                seen = id_of(event_or_end.event_id)
                yield event_or_end
            elif id_of(event_or_end.event_id) > seen:
                yield event_or_end

    async def _missed(self, after: str) -> list[LiveEvent]:
        """Read what came behind an event; one `reload` if that is no longer known, or is too much."""
        newest = await self._newest()
        if not _is_id(after) or id_of(after) > id_of(newest):
            return [LiveEvent(newest)]
        first = await self._range("-", count=1)
        if first and id_of(first[0][0]) > id_of(after) and await self._is_trimmed():
            return [LiveEvent(newest)]
        entries = await self._range(f"({after}", count=MOST_MISSED + 1)
        if len(entries) > MOST_MISSED:
            return [LiveEvent(newest)]
        return [_event_of(entry) for entry in entries]

    async def _range(self, begin: str, *, count: int) -> list[Entry]:
        found: Any = await self._redis.xrange(STREAM, min=begin, count=count)
        return [(entry_id, fields) for entry_id, fields in found]

    async def _is_trimmed(self) -> bool:
        facts = await self._redis.xinfo_stream(STREAM)
        return int(facts["entries-added"]) > int(facts["length"])


def _let_go(queue: asyncio.Queue[LiveEvent | None]) -> None:
    """End a reader, whatever waits for it."""
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait(None)


def _is_id(text: str) -> bool:
    first, _, second = text.partition("-")
    return len(text) <= 41 and all(part.isascii() and part.isdecimal() for part in (first, second))


def _event_of(entry: Entry) -> LiveEvent:
    event_id, fields = entry
    order_id = fields.get("order_id", "")
    if not (order_id.isascii() and order_id.isdecimal()):
        return LiveEvent(event_id)
    return LiveEvent(
        event_id,
        int(order_id),
        _status(fields, "before"),
        _status(fields, "after"),
        _token(fields.get("token", "")),
    )


def _note_age(entry: Entry) -> None:
    """Record how old a change is that is given to the boards."""
    with suppress(ValueError):  # an older process has not written it
        instruments.board_shown(seconds=time.time() - float(entry[1].get("at", "")))


def _status(fields: Mapping[str, str], name: str) -> Status | None:
    value = fields.get(name, "")
    return Status(value) if value in set(Status) else None


def _token(text: str) -> CausalToken:
    try:
        return CausalToken.decode(text)
    except TokenMalformed:
        return CausalToken()
