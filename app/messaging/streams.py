"""Redis as the services use it: the names of the streams, and a client that fails fast."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.typing import EncodableT, FieldT

from app.messaging.errors import RedisUrlInvalid

MAX_ENTRIES = 100_000
"""About how long a stream may grow. What is trimmed is not lost: the outbox has it and sends it again."""

Entry = tuple[str, dict[str, str]]
"""An entry's id in its stream, and its fields."""


def orders_stream(destination: str) -> str:
    """Name the stream that a service reads its messages from."""
    return f"orders:{destination}"


def acks_stream(database: str) -> str:
    """Name the stream that the relay of a database reads acknowledgements from."""
    return f"acks:{database}"


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
        return Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError as error:
        raise RedisUrlInvalid(str(error)) from error


def entries_of(reply: Any) -> list[Entry]:
    """Unpack the reply of XREAD or XREADGROUP on one stream; no reply is no entries."""
    return [(entry_id, fields) for _, entries in reply or () for entry_id, fields in entries]


def fields_of(entry: Mapping[str, str]) -> dict[FieldT, EncodableT]:
    """Give an entry the type that the client wants: a dict is invariant, so its own does not do."""
    return dict(entry.items())


async def stream_lags(redis: Redis, services: Sequence[str]) -> dict[str, timedelta]:
    """Tell how long the oldest entry that was not received has been waiting in each service's stream.

    Entries are received in their order, so whatever was sent longer ago than this has been received, or
    was lost with Redis. All times are from Redis's clock. An empty stream has no lag.
    """
    received = await _last_received(redis, services)
    pipeline = redis.pipeline(transaction=False)
    pipeline.time()
    for service in services:
        pipeline.xrange(orders_stream(service), min=f"({received.get(service, '0-0')}", count=1)
    (seconds, microseconds), *waiting = await pipeline.execute()
    now = timedelta(seconds=seconds, microseconds=microseconds)
    return {
        service: max(timedelta(0), now - timedelta(milliseconds=int(entries[0][0].split("-")[0])))
        for service, entries in zip(services, waiting, strict=True)
        if entries
    }


async def _last_received(redis: Redis, services: Sequence[str]) -> dict[str, str]:
    """Read how far each service has got: a killed consumer may leave entries that it had received."""
    pipeline = redis.pipeline(transaction=False)
    for service in services:
        pipeline.xinfo_groups(orders_stream(service))
    # A stream that is not there yet is an error to Redis, and nothing received to us.
    replies = await pipeline.execute(raise_on_error=False)
    return {
        service: group["last-delivered-id"]
        for service, groups in zip(services, replies, strict=True)
        if not isinstance(groups, ResponseError)
        for group in groups
        if group["name"] == service
    }


def id_after(entry_id: str) -> str:
    """Give the smallest id that an entry behind this one can have."""
    milliseconds, number = entry_id.split("-")
    return f"{milliseconds}-{int(number) + 1}"
