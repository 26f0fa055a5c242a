"""What must be in the databases before a service may start: schemas, partitions, the first shard map,
each shard's name."""

import asyncio
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ops import reference_tables
from ops.embedded.shape import TREES
from ops.migrate import run
from ops.partitioning import apply_partitions, raise_failures
from ops.shard_guard import init_shards
from sharding.directory import Directory
from sharding.shard_map import ShardMap
from sharding.topology import Topology


def fill(topology: Topology) -> None:
    """Bring every database to the newest schema, with its partitions and the shard map; repeatable."""
    for tree in TREES:
        run.upgrade(topology, tree)
    raise_failures(apply_partitions(topology, now=datetime.now(UTC)))
    init_shards(topology, asyncio.run(_ensure_shard_map(topology)))
    asyncio.run(_ensure_reference_tables(topology))


async def _ensure_reference_tables(topology: Topology) -> None:
    if await reference_tables.is_unpublished(topology):
        outcomes = await reference_tables.load(
            topology, reference_tables.read_file(reference_tables.PRICE_LIST)
        )
        reference_tables.raise_failures(outcomes)


async def _ensure_shard_map(topology: Topology) -> ShardMap:
    [(name, directory)] = topology.databases_of("directory").items()
    engine = create_async_engine(topology.url(name, role=f"{directory.tree}_owner"), poolclass=NullPool)
    try:
        return await Directory(engine).ensure_map(
            ShardMap.even(list(topology.databases_of("mes")), topology.buckets)
        )
    finally:
        await engine.dispose()
