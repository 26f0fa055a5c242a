"""Shards that own what a map gives them, with open sessions; and changes of ownership while they are used."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from app.models.mes import MesOrder
from app.models.status import Channel, Status
from ops.fleet import open_engine
from ops.shard_guard import init_shards
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.ids import first_id_at
from sharding.ownership import Ownership, set_ownership
from sharding.sessions import ShardedSessions, open_sessions
from sharding.shard_map import ShardMap, bucket_of
from sharding.topology import Topology
from tests.project import GUARDED, MES

FIRST = first_id_at(datetime(2026, 3, 1, tzinfo=UTC))
EVEN = ShardMap.even(["mes_0", "mes_1"], 64)
NUMBERS = text("SELECT order_id FROM orders")


def new_order(order_id: int) -> MesOrder:
    return MesOrder(
        order_id=order_id, status=Status.SUBMITTED, channel=Channel.B2C, summary="ring", version=1
    )


def key_in(bucket: int, *, number: int = 0) -> int:
    """Give the order id of a number that lies in a bucket of 64."""
    found = (FIRST + step for step in range(1_000_000) if bucket_of(FIRST + step, 64) == bucket)
    for _ in range(number):
        next(found)
    return next(found)


def moved(shard_map: ShardMap, bucket: int, to: str) -> ShardMap:
    """Give the next version of a map, with one bucket on another shard."""
    owners = list(shard_map.owners)
    owners[bucket] = to
    return ShardMap(shard_map.version + 1, tuple(owners))


async def put_in_force(topology: Topology, shard_map: ShardMap = EVEN) -> None:
    """Save a map, and tell the shards of it."""
    await save(topology, shard_map)
    init_shards(topology, MES, shard_map)


async def save(topology: Topology, shard_map: ShardMap) -> None:
    async with open_cluster(topology, "directory", role="mes", application_name="test") as cluster:
        await Directory(cluster.primary, "mes").save_map(shard_map, expected_version=shard_map.version - 1)


def give(
    topology: Topology, shard_map: ShardMap, *shards: str, seconds: float = 1.0, attempts: int = 20
) -> None:
    """Tell shards what a map gives them."""
    for shard in shards:
        database = topology.database(shard)
        with open_engine(topology, database, role=database.owner) as engine:
            set_ownership(
                engine,
                Ownership.of(shard_map, shard),
                tables=GUARDED,
                lock_timeout_seconds=seconds,
                attempts=attempts,
            )


@contextmanager
def as_owner(topology: Topology, shard: str) -> Iterator[Connection]:
    """Connect to a shard as its owner."""
    database = topology.database(shard)
    with open_engine(topology, database, role=database.owner) as engine, engine.connect() as connection:
        yield connection


@contextmanager
def slow_directory(topology: Topology, table: str) -> Iterator[None]:
    """Have whoever asks the directory for a table wait until the block ends."""
    database = topology.database("directory")
    with open_engine(topology, database, role=database.owner) as engine, engine.begin() as connection:
        connection.exec_driver_sql(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


def orders_on(topology: Topology, shard: str) -> set[int]:
    with as_owner(topology, shard) as connection:
        return set(connection.scalars(NUMBERS))


@asynccontextmanager
async def guarded_sessions(
    topology: Topology, shard_map: ShardMap = EVEN, *, poll_seconds: float = 60.0
) -> AsyncIterator[ShardedSessions]:
    """Save a map, tell the shards of it, and open sessions; polling is out of the way."""
    await put_in_force(topology, shard_map)
    async with open_sessions(
        topology, role="mes", application_name="test", poll_seconds=poll_seconds
    ) as sessions:
        yield sessions
