"""Redis as the services use it: the names of the streams, and a client that fails fast."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import structlog
from hiredis import pack_command
from redis.asyncio import Connection, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.typing import EncodableT, FieldT

from app.messaging.errors import RedisRefuses, RedisUrlInvalid, StreamUnusable, shortened

log: structlog.stdlib.BoundLogger = structlog.get_logger("redis")

MAX_ENTRIES = 100_000
"""About how long a stream may grow. What is trimmed is not lost: the outbox has it and sends it again."""

Entry = tuple[str, dict[str, str]]
"""An entry's id in its stream, and its fields."""

_LAST = 2**64 - 1
"""The greatest number in either half of an entry's id."""


def orders_stream(destination: str) -> str:
    """Name the stream that a service reads its messages from."""
    return f"orders:{destination}"


def acks_stream(database: str) -> str:
    """Name the stream that the relay of a database reads acknowledgements from."""
    return f"acks:{database}"


class _Pipeline(Pipeline):
    """A pipeline with one deadline for all replies: one for each takes longer than to read the reply."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send what was staged, and return the replies."""
        seconds = self.connection_pool.connection_kwargs.get("socket_timeout")
        try:
            async with asyncio.timeout(seconds):
                return await super().execute(raise_on_error)
        except TimeoutError:  # redis-py has raised its own for what has a deadline of its own
            raise RedisTimeout(f"no answer in {seconds:g} s") from None

    async def parse_response(self, connection: Connection, command_name: str | bytes, **options: Any) -> Any:
        """Read one reply; what is sent by itself, while keys are watched, has its own deadline."""
        if options or self.watching or command_name in self.response_callbacks:
            return await super().parse_response(connection, command_name, **options)
        return await connection.read_response(timeout=math.inf)


class _Client(Redis):
    """A client whose pipelines are quick."""

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Make a pipeline."""
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def open_redis(url: str, *, timeout_seconds: float = 5.0) -> Redis:
    """Make a client for `app.messaging`; used with `async with`, or closed with `aclose`.

    One immediate retry covers a pooled connection that a restarted Redis has closed. There is no more
    patience in it, because relay and consumer have their own and must notice that Redis is away.

    Parameters:
        url: such as redis://127.0.0.1:6379/0.
        timeout_seconds: how long any command may take; longer than a relay or a consumer blocks.

    Raises:
        RedisUrlInvalid: the URL is none of Redis.
    """
    try:
        client: Redis = _Client.from_url(
            url,
            decode_responses=True,
            # Anyone may write to a stream. What is no UTF-8 becomes text that is no id and no JSON, and is
            # refused as such; an error here would come of every later reading of the entry.
            encoding_errors="backslashreplace",
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError as error:
        raise RedisUrlInvalid(str(error)) from error
    pool = client.connection_pool
    if pool.connection_class is Connection:
        pool.connection_class = PackingConnection
    return client


def _words(command: tuple[EncodableT, ...]) -> tuple[EncodableT, ...]:
    """Return a command with each word of its name by itself: redis-py says `XINFO GROUPS` in one text."""
    name, *arguments = command
    return (*name.split(), *arguments) if isinstance(name, str) and " " in name else command


_pack = cast("Callable[[tuple[EncodableT, ...]], bytes]", pack_command)


class PackingConnection(Connection):
    """A connection for which hiredis writes many commands: redis-py's asyncio client has it only read."""

    def pack_commands(self, commands: Iterable[Iterable[EncodableT]]) -> list[bytes]:
        """Write commands as Redis reads them."""
        listed = [tuple(command) for command in commands]
        try:
            return [b"".join([_pack(_words(command)) for command in listed])]
        except (TypeError, UnicodeEncodeError):  # what redis-py writes all the same, or refuses by name
            return super().pack_commands(listed)


@asynccontextmanager
async def connect_redis(url: str, *, answer_seconds: float = 2.0) -> AsyncIterator[Redis]:
    """Open a client as `open_redis` does, and be sure that Redis, where it answers, lets it in.

    That it is away is no matter here: relay and consumer wait for it.

    Parameters:
        url: as for `open_redis`.
        answer_seconds: how long to wait for the answer.

    Raises:
        RedisUrlInvalid: the URL is none of Redis.
        RedisRefuses: the password is missing, or wrong.
    """
    async with open_redis(url) as redis:
        try:
            async with asyncio.timeout(answer_seconds):
                await redis.ping()
        except AuthenticationError as error:
            words = redis.connection_pool.connection_kwargs
            address = f"{words.get('host')}:{words.get('port', 6379)}"
            raise RedisRefuses(address, words.get("username"), str(error)) from error
        except (RedisError, OSError, TimeoutError) as error:
            log.error("redis_away", error=str(error))
        yield redis


async def check_streams(redis: Redis, service: str, databases: Iterable[str]) -> None:
    """Check that Redis takes writes, and that the streams a service reads are streams, or are not there yet.

    Parameters:
        redis: a client made by `open_redis`.
        service: the service.
        databases: its databases, each with a stream of acknowledgements.

    Raises:
        StreamUnusable: a key holds something else.
        RedisError, OSError: Redis is away, or refuses.
    """
    streams = [orders_stream(service), *map(acks_stream, databases)]
    pipeline = redis.pipeline(transaction=False)
    pipeline.set(f"ready:{service}", "1", ex=60)
    for stream in streams:
        pipeline.type(stream)
    _, *kinds = await pipeline.execute()
    for stream, kind in zip(streams, kinds, strict=True):
        if kind not in ("stream", "none"):
            raise StreamUnusable(stream, f"it is a {kind}, and no stream")


def entries_of(reply: Any) -> list[Entry]:
    """Unpack the reply of XREAD or XREADGROUP on one stream; no reply is no entries."""
    return [(entry_id, fields) for _, entries in reply or () for entry_id, fields in entries]


def stage_entry(pipeline: Pipeline, stream: str, entry: Mapping[str, str]) -> None:
    """Have a pipeline append an entry to a stream; redis-py's `xadd` looks at each field of it often."""
    fields = [part for field in entry.items() for part in field]
    pipeline.execute_command("XADD", stream, "MAXLEN", "~", MAX_ENTRIES, "*", *fields)


def fields_of(entry: Mapping[str, str]) -> dict[FieldT, EncodableT]:
    """Return an entry as the type that the client wants: a dict is invariant, so its own does not do."""
    return dict(entry.items())


@dataclass(frozen=True)
class Destinations:
    """How the services' streams stand.

    `lags`: how long ago the last entry was sent that was received, where others wait behind it.
    `unusable`: what Redis says of those that it cannot read; what is owed to these services waits.
    """

    lags: Mapping[str, timedelta]
    unusable: Mapping[str, ResponseError]


async def read_destinations(redis: Redis, services: Sequence[str]) -> Destinations:
    """Read how far each service lags behind in its stream, and none of what is in there.

    Entries are received in their order, so whatever was sent longer ago than a lag has been received, or
    was lost with Redis. All times are from Redis's clock.
    """
    pipeline = redis.pipeline(transaction=False)
    pipeline.time()
    for service in services:
        pipeline.xlen(orders_stream(service))
        # A stream that is not there yet is an error to Redis, and nothing received to us.
        pipeline.xinfo_groups(orders_stream(service))
    now, *replies = await pipeline.execute(raise_on_error=False)
    if isinstance(now, ResponseError):
        raise now
    lags: dict[str, timedelta] = {}
    unusable: dict[str, ResponseError] = {}
    for service, length, groups in zip(services, replies[::2], replies[1::2], strict=True):
        if isinstance(length, ResponseError):
            unusable[service] = length
        elif length:
            received = _last_received(service, () if isinstance(groups, ResponseError) else groups)
            if received is not None:
                lags[service] = _age(received, *now)
    return Destinations(lags, unusable)


def _age(entry_id: str, seconds: int, microseconds: int) -> timedelta:
    """Compute how old an entry is. Its id may lie far in the future, beyond what a timedelta holds."""
    now_ms = seconds * 1000 + microseconds // 1000
    return timedelta(milliseconds=max(0, now_ms - id_of(entry_id)[0]))


def _last_received(service: str, groups: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the entry behind which a service has received nothing yet; None if it has received everything.

    A killed consumer may leave entries that it had received, and then the stream is not empty.
    """
    for group in groups:
        if group["name"] == service:
            return None if group.get("lag") == 0 else str(group["last-delivered-id"])
    return "0-0"


def id_of(entry_id: str) -> tuple[int, int]:
    """Split an entry's id into milliseconds and number, by which ids are ordered."""
    milliseconds, number = entry_id.split("-")
    return int(milliseconds), int(number)


def id_after(entry_id: str) -> str:
    """Return the smallest id that an entry behind this one can have; of the greatest id, that id."""
    milliseconds, number = id_of(entry_id)
    if number < _LAST:
        return f"{milliseconds}-{number + 1}"
    return f"{milliseconds + 1}-0" if milliseconds < _LAST else entry_id


@dataclass
class FaultLog:
    """Logs what is wrong with a stream when that begins or changes, and when it is over."""

    log: structlog.stdlib.BoundLogger
    _known: dict[tuple[str, str], str] = field(default_factory=dict)

    def note(self, stream: str, doing: str, fault: ResponseError | None) -> None:
        """Note how a command went.

        Parameters:
            stream: the key.
            doing: what was tried, "read" or "write": one may go when the other does not.
            fault: what Redis said; None if it did it.
        """
        said = None if fault is None else shortened(str(fault))
        if said == self._known.get((stream, doing)):
            return
        if said is None:
            del self._known[stream, doing]
            self.log.info("stream_usable", stream=stream, doing=doing)
        else:
            self._known[stream, doing] = said
            self.log.error("stream_unusable", stream=stream, doing=doing, error=said)
