"""Where Citus puts a key: by the ranges of hashes in `pg_dist_shard`. Pure.

The hash is PostgreSQL's `hashint8`, as for our own buckets. Source of the rule for fresh tables: the loop in
CreateHashDistributedTableShards, src/backend/distributed/operations/create_shards.c of Citus.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sharding.shard_map import hashint8

_HASHES = 1 << 32
_LOWEST = -(1 << 31)
_HIGHEST = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class ShardRange:
    """A shard of a distributed table, the hashes that it holds, and where it is."""

    shard_id: int
    lowest: int
    highest: int
    node: str

    def holds(self, key: int) -> bool:
        """Tell whether the rows of a key are here."""
        return self.lowest <= hashint8(key) <= self.highest


def fresh_index(key: int, shards: int) -> int:
    """Find the place of a key's shard among the shards of a table that was never split.

    Parameters:
        key: a signed 64-bit number.
        shards: how many shards the table was made with; any number, not only a power of two.

    Returns:
        From 0 to `shards - 1`, in the order of their hashes. The last one takes what a division leaves over.
    """
    return min((hashint8(key) - _LOWEST) // (_HASHES // shards), shards - 1)


def fresh_ranges(shards: int) -> list[tuple[int, int]]:
    """Give the lowest and the highest hash of each shard of a fresh table."""
    width = _HASHES // shards
    lows = [_LOWEST + number * width for number in range(shards)]
    return [(low, low + width - 1) for low in lows[:-1]] + [(lows[-1], _HIGHEST)]


def find_range(ranges: Iterable[ShardRange], key: int) -> ShardRange | None:
    """Find the shard of a key; after a split or an isolation only the catalogue knows the ranges."""
    return next((found for found in ranges if found.holds(key)), None)


def is_fresh(ranges: Iterable[ShardRange]) -> bool:
    """Tell whether nothing was split or isolated, so that `fresh_index` may be believed."""
    found = sorted((each.lowest, each.highest) for each in ranges)
    return bool(found) and found == fresh_ranges(len(found))
