"""The first page of the operators' lists out of Redis, read from the primaries once for all processes.

A page is stamped with the causal token after which it was read, and is shown to a caller only if the caller's
token is in the stamp: it is never older than what the caller has written or was shown. It is good for half a
second from before its reading, by Redis' clock, however late it comes to be kept. An operator's change of
status ends it at once: each counts up a generation. A page that was read in an older one is refused by the
script that keeps it, and who has heard of a newer one does not wait for it. Whatever Redis or a reading
lacks, the database answers.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.mes.schemas import MesOrderPage
from app.models.status import Status
from readreplica.context import required_token
from readreplica.errors import TokenMalformed, Unavailable
from readreplica.token import CausalToken
from readreplica.wal import UNKNOWN_SYSTEM

T = TypeVar("T")
Fill = Callable[[CausalToken], Awaitable[MesOrderPage]]
"""Reads the page from the primaries, after a token."""

GOOD_MS = 500
"""How long a page is shown after its reading was begun."""

_PAUSE_SECONDS = 1.0
_AWAY = (RedisError, OSError, TimeoutError)

# A page of an older generation was read before a change that has been committed since. How long it is good
# follows from when it was begun: a frozen Redis does this long after it was sent, and its sender has gone.
_KEEP = f"""
if (redis.call('HGET', KEYS[1], 'generation') or '0') ~= ARGV[1] then return 0 end
local now = redis.call('TIME')
local left = ARGV[3] + {GOOD_MS} - (now[1] * 1000 + math.floor(now[2] / 1000))
if left <= 0 or left > {GOOD_MS} then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', left)
return 1
"""


def _generation_key(status: Status) -> str:
    return f"flow:list:{status.value}:changes"


def _page_key(status: Status) -> str:
    return f"flow:list:{status.value}:page"


class HotLists:
    """Keeps the first page of each status."""

    def __init__(
        self,
        redis: Redis,
        *,
        answer_seconds: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep pages in a Redis.

        Parameters:
            redis: a client that decodes answers.
            answer_seconds: how long a request waits for Redis at most.
            clock: a monotonic clock, in seconds.
        """
        self._redis = redis
        self._answer_seconds = answer_seconds
        self._clock = clock
        self._keeping = redis.register_script(_KEEP)
        self._away_until = 0.0
        self._filling: dict[Status, _Filling] = {}
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("hot_lists")

    async def page(self, status: Status, fill: Fill) -> MesOrderPage | None:
        """Return the first page of a status; None if the database is to answer."""
        wanted = required_token() or CausalToken()
        # Without Redis the callers of this process share a reading all the same.
        kept = await self._ask(self._read(status)) or _Kept()
        if kept.page is not None and _covers(kept.stamp, wanted):
            return kept.page
        under_way = self._filling.get(status)
        if under_way is None or not under_way.is_good(kept.generation, wanted, now=self._clock()):
            after = kept.stamp.merge(wanted)
            task = asyncio.create_task(self._fill(status, kept, after, fill))
            good_until = self._clock() + GOOD_MS / 1000
            under_way = self._filling[status] = _Filling(kept.generation, after, task, good_until)
        try:
            # One caller that goes away does not end what others wait for.
            return await asyncio.shield(under_way.task)
        except Unavailable as error:
            self._log.warning("list_not_kept", error=str(error))
            return None

    async def changed(self, *statuses: Status) -> None:
        """End the pages of these statuses: something was committed that they do not show."""
        for status in statuses:
            # What is being read may have begun before. That the caller's token is in its stamp says too
            # little: a primary shows commits in another order than that of their positions.
            self._filling.pop(status, None)
        await self._ask(self._count_up(statuses))

    async def _count_up(self, statuses: tuple[Status, ...]) -> bool:
        pipeline = self._redis.pipeline(transaction=False)
        for status in statuses:
            pipeline.hincrby(_generation_key(status), "generation", 1)
            pipeline.delete(_page_key(status))
        await pipeline.execute()
        return True

    async def _read(self, status: Status) -> "_Kept":
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.time()
        pipeline.hget(_generation_key(status), "generation")
        pipeline.get(_page_key(status))
        (seconds, microseconds), generation, text = await pipeline.execute()
        stamp, page = _parsed(text or "")
        return _Kept(generation or "0", seconds * 1000 + microseconds // 1000, stamp, page)

    async def _fill(self, status: Status, kept: "_Kept", after: CausalToken, fill: Fill) -> MesOrderPage:
        page = await fill(after)
        if kept.generation:
            keys = [_generation_key(status), _page_key(status)]
            text = f"{after.encode()}\n{page.model_dump_json()}"
            await self._ask(self._keeping(keys=keys, args=[kept.generation, text, kept.at_ms]))
        return page

    async def _ask(self, answer: Awaitable[T]) -> T | None:
        """Wait for Redis a short while; None if it is away, and for a moment after that without asking."""
        if self._clock() < self._away_until:
            if asyncio.iscoroutine(answer):
                answer.close()
            return None
        try:
            async with asyncio.timeout(self._answer_seconds):
                return await answer
        except _AWAY as error:
            if self._clock() >= self._away_until:  # of those that waited side by side, one says so
                self._log.warning("list_not_kept", error=str(error) or type(error).__name__)
            self._away_until = self._clock() + _PAUSE_SECONDS
            return None


@dataclass(frozen=True)
class _Kept:
    """What Redis had when it was asked: `at_ms` by its clock; no generation, if it was away."""

    generation: str = ""
    at_ms: int = 0
    stamp: CausalToken = field(default_factory=CausalToken)
    page: MesOrderPage | None = None


@dataclass(frozen=True)
class _Filling:
    """A page that is being read, in a generation and after a token."""

    generation: str
    after: CausalToken
    task: asyncio.Task[MesOrderPage]
    good_until: float

    def is_good(self, generation: str, wanted: CausalToken, *, now: float) -> bool:
        """Whether one that comes now may wait for it: whatever happens, it is not an old page."""
        is_current = generation == self.generation and now < self.good_until
        return is_current and not self.task.done() and _covers(self.after, wanted)


def _covers(stamp: CausalToken, wanted: CausalToken) -> bool:
    """Return whether what was read after `stamp` shows all that `wanted` asks for."""
    if any(position.system_identifier == UNKNOWN_SYSTEM for position in wanted.positions.values()):
        return False  # two that are not known may be of two commits
    return stamp.merge(wanted) == stamp


def _parsed(kept: str) -> tuple[CausalToken, MesOrderPage | None]:
    stamp, _, page = kept.partition("\n")
    try:
        return CausalToken.decode(stamp), MesOrderPage.model_validate_json(page)
    except (TokenMalformed, ValidationError):
        return CausalToken(), None
