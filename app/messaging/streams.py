"""Redis as the services use it: the names of the streams, and a client that fails fast."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.typing import EncodableT, FieldT

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
    """
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 1),
    )


def entries_of(reply: Any) -> list[Entry]:
    """Unpack the reply of XREAD or XREADGROUP on one stream; no reply is no entries."""
    return [(entry_id, fields) for _, entries in reply or () for entry_id, fields in entries]


def fields_of(entry: Mapping[str, str]) -> dict[FieldT, EncodableT]:
    """Give an entry the type that the client wants: a dict is invariant, so its own does not do."""
    return dict(entry.items())


async def stream_lags(redis: Redis, destinations: Sequence[str]) -> dict[str, timedelta]:
    """Tell how long the oldest entry has been waiting in each destination's stream.

    Entries are received in their order and taken out as they are received, so whatever was sent longer
    ago than this has been received (or was lost with Redis). Both times are from Redis's clock.
    """
    pipeline = redis.pipeline(transaction=False)
    pipeline.time()
    for destination in destinations:
        pipeline.xrange(orders_stream(destination), count=1)
    (seconds, microseconds), *oldest = await pipeline.execute()
    now = timedelta(seconds=seconds, microseconds=microseconds)
    return {
        destination: max(timedelta(0), now - timedelta(milliseconds=int(entries[0][0].split("-")[0])))
        for destination, entries in zip(destinations, oldest, strict=True)
        if entries
    }
