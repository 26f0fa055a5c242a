"""Whether a shard map may be routed by. Pure."""

from sharding.errors import ShardMapInvalid, UnknownShard
from sharding.shard_map import ShardMap


def check_map(shard_map: ShardMap, *, shards: list[str], buckets: int) -> None:
    """Refuse a shard map that does not fit the topology.

    Raises:
        ShardMapInvalid: its number of buckets is another.
        UnknownShard: it names a shard that is not among `shards`.
    """
    if shard_map.buckets != buckets:
        fault = f"it has {shard_map.buckets} buckets, but the topology says {buckets}: correct it there"
        raise ShardMapInvalid(shard_map.version, fault)
    for shard in shard_map.shards:
        if shard not in shards:
            raise UnknownShard(shard, map_version=shard_map.version, databases=shards)


def check_successor(shard_map: ShardMap, *, now: ShardMap, shards: list[str]) -> None:
    """Refuse a map that cannot follow the one that is routed by.

    Raises:
        ShardMapInvalid: it is not newer, or its number of buckets is another.
        UnknownShard: it names a shard that is not among `shards`.
    """
    if shard_map.version <= now.version:
        fault = f"it must follow version {now.version}: was the directory restored, or its map edited?"
        raise ShardMapInvalid(shard_map.version, fault)
    check_map(shard_map, shards=shards, buckets=now.buckets)
