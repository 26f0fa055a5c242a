"""What `mesctl problems` shows of Redis: whether it answers, has room, and its streams are read."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.retry import Retry

from app.messaging.routing import ORDER_SERVICES, ServiceName
from app.messaging.streams import MAX_ENTRIES, acks_stream, orders_stream
from app.topology import redis_url
from ops.problems.service import NO_ANSWER, Limit, OpenProblem, first_line
from sharding.topology import Topology

USER = "mesctl"
"""Who asks, where Redis has users: `redis_mesctl` in the password file."""

ANSWER_SECONDS = 2.0
"""How long a connection, and then an answer, may take: together well within the deadline of all."""

LIMITS: Mapping[str, Limit] = {
    "memory used, share": Limit(0.8, 0.95),
    "entries of a stream, share of the limit": Limit(0.5, 0.95),
}


@dataclass(frozen=True, slots=True)
class RedisFigures:
    """What a Redis says of itself; `lengths` has an error in place of a number where a key is no stream."""

    used_bytes: int = 0
    most_bytes: int = 0
    """0: none is set."""

    is_replica: bool = False
    lengths: Mapping[str, int | str] | None = None


def find_redis_problems(topology: Topology) -> Iterator[OpenProblem]:
    """Return what is wrong with the Redis of a topology; it has a few seconds to answer.

    Raises:
        TopologyError: the file does not say where it is.
    """
    client = Redis.from_url(
        redis_url(topology, USER),
        decode_responses=True,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    words = client.connection_pool.connection_kwargs
    host, port = words.get("host", "localhost"), words.get("port", 6379)
    where, command = f"Redis {host}:{port}", f"valkey-cli -h {host} -p {port}"
    streams = [*map(orders_stream, ServiceName), *map(acks_stream, _sources(topology))]
    with client:
        try:
            figures = _read(client, streams)
        except (AuthenticationError, NoPermissionError) as error:
            what = f"refuses user {words.get('username') or 'default'}: {first_line(error)}"
            yield OpenProblem("ticket", where, what, None, f"{command} --user {USER} --askpass ACL WHOAMI")
        except (RedisError, OSError) as error:
            yield OpenProblem("page", where, f"{NO_ANSWER}: {first_line(error)}", None, "mesctl status")
        else:
            yield from redis_problems(figures, where=where, command=command)


def _sources(topology: Topology) -> list[str]:
    return [name for name, each in topology.databases.items() if each.tree in set(ORDER_SERVICES)]


def _read(client: Redis, streams: Iterable[str]) -> RedisFigures:
    names = list(streams)
    pipeline = client.pipeline(transaction=False)
    pipeline.info("memory")
    pipeline.info("replication")
    for name in names:
        pipeline.xlen(name)
    memory, replication, *lengths = pipeline.execute(raise_on_error=False)
    for answer in (memory, replication):
        if isinstance(answer, Exception):
            raise answer
    return RedisFigures(
        used_bytes=int(memory["used_memory"]),
        most_bytes=int(memory.get("maxmemory", 0)),
        is_replica=replication.get("role") == "slave",
        lengths=dict(zip(names, map(_length, lengths), strict=True)),
    )


def _length(answer: Any) -> int | str:
    return first_line(answer) if isinstance(answer, ResponseError) else int(answer)


def redis_problems(figures: RedisFigures, *, where: str, command: str) -> Iterator[OpenProblem]:
    """Return what of the figures of a Redis is a problem. Pure.

    Parameters:
        figures: what it says of itself.
        where: what it is called.
        command: how a client connects to it.
    """
    if figures.is_replica:
        what = "is a replica: no message can be sent"
        yield OpenProblem("page", where, what, None, f"{command} INFO replication")
    if figures.most_bytes:
        severity = LIMITS["memory used, share"].severity_of(figures.used_bytes / figures.most_bytes)
        if severity is not None:
            what = f"memory is used up: {figures.used_bytes} of {figures.most_bytes} bytes"
            more = f"{command} CONFIG SET maxmemory {2 * figures.most_bytes}"
            yield OpenProblem(severity, where, what, None, more)
    for stream, length in (figures.lengths or {}).items():
        yield from _stream_problems(stream, length, where=where, command=command)


def _stream_problems(stream: str, length: int | str, *, where: str, command: str) -> Iterator[OpenProblem]:
    name = f"stream {stream} on {where}"
    if isinstance(length, str):
        # What is lost by that is sent again by its outbox.
        yield OpenProblem("page", name, f"cannot be read: {length}", None, f"{command} DEL {stream}")
        return
    severity = LIMITS["entries of a stream, share of the limit"].severity_of(length / MAX_ENTRIES)
    if severity is not None:
        what = f"has {length} of {MAX_ENTRIES} entries: who reads it is too slow, or away"
        yield OpenProblem(severity, name, what, None, "mesctl status")
