"""Causal tokens in Redis or Valkey, for callers that keep neither headers nor cookies (extra `redis`)."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from readreplica.errors import MissingExtra
from readreplica.token import CausalToken
from readreplica.wal import UNKNOWN_POSITION, UNKNOWN_SYSTEM, Lsn, Position

try:
    from redis.asyncio import Redis
    from redis.exceptions import RedisError
except ModuleNotFoundError as error:
    raise MissingExtra("redis", package="redis") from error

__all__ = ["TokenStore"]

T = TypeVar("T")

_SYSTEM_DIGITS = 16
_TEXT = re.compile(r"([0-9a-f]{16})\.([0-9a-f]{8})\.([0-9a-f]{16})")
_TEXT_LENGTH = 42
_PAUSE_SECONDS = 1.0

# A hash of cluster -> position. Positions are written in figures of a fixed width, so the later of two is the
# greater text; of two systems (the first 16 figures) the new one is the present one. One of
# no known system stays, unless that very one was read before the write that brings the new one. What is no
# position is replaced.
_MERGE = f"""
local unknown = string.rep('0', {_SYSTEM_DIGITS})
local system = function(position) return string.sub(position, 1, {_SYSTEM_DIGITS}) end
for i = 2, #ARGV, 3 do
  local kept = redis.call('HGET', KEYS[1], ARGV[i])
  local given, after = ARGV[i + 1], ARGV[i + 2]
  local is_readable = kept and #kept == {_TEXT_LENGTH} and string.match(kept, '^%x+%.%x+%.%x+$')
  local is_later = not is_readable or kept == after or system(given) == unknown
  if not is_later and system(kept) ~= unknown then
    is_later = system(kept) ~= system(given) or kept < given
  end
  if is_later then
    redis.call('HSET', KEYS[1], ARGV[i], given)
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""

log = logging.getLogger("readreplica.redis")


class TokenStore:
    """Keeps a token under each name. Without Redis it keeps nothing, and says so once."""

    def __init__(
        self,
        redis: Redis,
        *,
        prefix: str,
        keep_seconds: int,
        answer_seconds: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep tokens in a Redis.

        Parameters:
            redis: a client that decodes answers.
            prefix: what the keys begin with, of no other store.
            keep_seconds: how long a token is kept after it was last added to.
            answer_seconds: how long a request waits for Redis at most.
            clock: a monotonic clock, in seconds.
        """
        self._redis = redis
        self._prefix = prefix
        self._keep_seconds = keep_seconds
        self._answer_seconds = answer_seconds
        self._clock = clock
        self._merging = redis.register_script(_MERGE)
        self._away_until: float | None = None

    async def read(self, name: str) -> CausalToken:
        """Return what is kept under a name; the empty token if that is not known."""

        async def positions() -> CausalToken:
            kept = await self._redis.hgetall(self._prefix + name)
            return CausalToken({str(cluster): _position_of(str(text)) for cluster, text in kept.items()})

        return await self._ask(name, positions) or CausalToken()

    async def merge(self, name: str, token: CausalToken, *, after: CausalToken) -> None:
        """Add to what is kept under a name, in one round trip; without Redis, go on without.

        Parameters: as for `keep`.
        """
        await self._ask(name, partial(self.keep, name, token, after=after))

    async def keep(self, name: str, token: CausalToken, *, after: CausalToken | None = None) -> None:
        """Add to what is kept under a name, in one round trip.

        Parameters:
            name: a caller's, or an order's id.
            token: what is added.
            after: what a position of no known system in it was replaced in; see `CausalToken.followed_by`.

        Raises:
            RedisError, OSError: it may not be kept.
        """
        before = after.positions if after is not None else {}
        words = [
            word
            for cluster, position in token.positions.items()
            for word in (cluster, _new_text_of(position), _unknown_text_of(before.get(cluster)))
        ]
        await self._merging(keys=[self._prefix + name], args=[self._keep_seconds, *words])

    async def _ask(self, name: str, work: Callable[[], Awaitable[T]]) -> T | None:
        """Ask Redis, unless it was away a moment ago; None where it does not answer."""
        if self._away_until is not None and self._clock() < self._away_until:
            return None
        try:
            async with asyncio.timeout(self._answer_seconds):
                answer = await work()
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            if _is_of_one_key(error):
                log.warning(
                    "what is kept is no token", extra={"key": self._prefix + name, "error": str(error)}
                )
                return None
            if self._away_until is None:
                fault = "token store away; who brings no token may read stale"
                log.warning(fault, extra={"keys": self._prefix, "error": str(error)})
            self._away_until = self._clock() + _PAUSE_SECONDS
            return None
        self._away_until = None
        return answer


def _new_text_of(position: Position) -> str:
    if position.system_identifier != UNKNOWN_SYSTEM:
        return _text_of(position)
    # What is not known has no place; instead the LSN distinguishes such commits.
    return _text_of(position._replace(lsn=Lsn(secrets.randbits(64))))


def _unknown_text_of(position: Position | None) -> str:
    is_unknown = position is not None and position.system_identifier == UNKNOWN_SYSTEM
    return _text_of(position) if position is not None and is_unknown else ""


def _text_of(position: Position) -> str:
    return f"{position.system_identifier:016x}.{position.timeline:08x}.{position.lsn:016x}"


def _position_of(text: str) -> Position:
    found = _TEXT.fullmatch(text)
    if found is None:
        fault = "what is kept for a caller is no position; its reads go to the primary"
        log.warning(fault, extra={"text": text[:80]})
        return UNKNOWN_POSITION
    system_identifier, timeline, lsn = found.groups()
    return Position(int(system_identifier, 16), int(timeline, 16), Lsn(lsn, 16))


def _is_of_one_key(error: Exception) -> bool:
    # A text that is not UTF-8, or a key that holds no hash: Redis is well, and the other callers' keys are.
    return isinstance(error, ValueError) or "WRONGTYPE" in str(error)
