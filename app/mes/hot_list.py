"""The first page of the operators' lists out of Redis, read from the primaries once for all processes.

A page is stamped with the causal token after which it was read, and is shown to a caller only if the caller's
token is in the stamp: it is never older than what the caller has written or was shown. It is good for less
than a second whatever happens, and an operator's change of status ends it at once: each counts up a
generation, and a page that was read in an older one is refused by the script that keeps it. Whatever Redis or
a reading lacks, the database answers.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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

T = TypeVar("T")
Fill = Callable[[CausalToken], Awaitable[MesOrderPage]]
"""Reads the page from the primaries, after a token."""

GOOD_MS = 500
"""How long a page is shown after its reading was begun."""

_PAUSE_SECONDS = 1.0
_AWAY = (RedisError, OSError, TimeoutError)

# A page of an older generation was read before a change that has been committed since.
_KEEP = """
if (redis.call('HGET', KEYS[1], 'generation') or '0') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
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
        generation, stamp, page = await self._ask(self._read(status)) or ("", CausalToken(), None)
        if page is not None and _covers(stamp, wanted):
            return page
        under_way = self._filling.get(status)
        if under_way is None or not under_way.is_good(wanted, now=self._clock()):
            after = stamp.merge(wanted)
            task = asyncio.create_task(self._fill(status, generation, after, fill))
            under_way = self._filling[status] = _Filling(after, task, self._clock() + GOOD_MS / 1000)
        try:
            # One caller that goes away does not end what others wait for.
            return await asyncio.shield(under_way.task)
        except Unavailable as error:
            self._log.warning("list_not_kept", error=str(error))
            return None

    async def changed(self, *statuses: Status) -> None:
        """End the pages of these statuses: something was committed that they do not show."""
        await self._ask(self._count_up(statuses))

    async def _count_up(self, statuses: tuple[Status, ...]) -> bool:
        pipeline = self._redis.pipeline(transaction=False)
        for status in statuses:
            pipeline.hincrby(_generation_key(status), "generation", 1)
            pipeline.delete(_page_key(status))
        await pipeline.execute()
        return True

    async def _read(self, status: Status) -> tuple[str, CausalToken, MesOrderPage | None]:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hget(_generation_key(status), "generation")
        pipeline.get(_page_key(status))
        generation, kept = await pipeline.execute()
        stamp, page = _parsed(kept or "")
        return generation or "0", stamp, page

    async def _fill(self, status: Status, generation: str, after: CausalToken, fill: Fill) -> MesOrderPage:
        began = self._clock()
        page = await fill(after)
        left_ms = GOOD_MS - round((self._clock() - began) * 1000)
        if left_ms > 0:
            keys = [_generation_key(status), _page_key(status)]
            text = f"{after.encode()}\n{page.model_dump_json()}"
            await self._ask(self._keeping(keys=keys, args=[generation, text, left_ms]))
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
class _Filling:
    """A page that is being read, after a token."""

    after: CausalToken
    task: asyncio.Task[MesOrderPage]
    good_until: float

    def is_good(self, wanted: CausalToken, *, now: float) -> bool:
        """Whether one that comes now may wait for it: whatever happens, it is not an old page."""
        return not self.task.done() and now < self.good_until and _covers(self.after, wanted)


def _covers(stamp: CausalToken, wanted: CausalToken) -> bool:
    """Return whether what was read after `stamp` shows all that `wanted` asks for."""
    return stamp.merge(wanted) == stamp


def _parsed(kept: str) -> tuple[CausalToken, MesOrderPage | None]:
    stamp, _, page = kept.partition("\n")
    try:
        return CausalToken.decode(stamp), MesOrderPage.model_validate_json(page)
    except (TokenMalformed, ValidationError):
        return CausalToken(), None
