"""Which shard owns which bucket. Pure: where maps are kept is `sharding.directory`'s matter."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from sharding.errors import ShardMapInvalid

_HASHES = 1 << 32


@dataclass(frozen=True)
class ShardMap:
    """A version of the shard map: `owners[i]` is the name of the shard that owns bucket `i`.

    Raises:
        ShardMapInvalid: the number of buckets is no power of two, or an owner has no name.
    """

    version: int
    owners: tuple[str, ...]
    shards: tuple[str, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Check the map."""
        fault = _fault_of(self.version, self.owners)
        if fault:
            raise ShardMapInvalid(self.version, fault)
        object.__setattr__(self, "shards", tuple(sorted(set(self.owners))))

    @classmethod
    def even(cls, shards: Sequence[str], buckets: int, *, version: int = 1) -> Self:
        """Give each shard a run of buckets, all runs as equal as can be.

        Parameters:
            shards: the shards' names, in the order of their runs.
            buckets: how many buckets there are; a power of two, at least one for each shard.
            version: the version of the new map.
        """
        if not shards or len(set(shards)) != len(shards) or len(shards) > buckets:
            raise ShardMapInvalid(version, f"{buckets} buckets cannot be shared out to {list(shards)}")
        return cls(version, tuple(shards[bucket * len(shards) // buckets] for bucket in range(buckets)))

    @property
    def buckets(self) -> int:
        """How many buckets there are."""
        return len(self.owners)

    def shard_of(self, key: int) -> str:
        """Name the shard of a key."""
        return self.owners[bucket_of(key, len(self.owners))]


def _fault_of(version: int, owners: tuple[str, ...]) -> str | None:
    count = len(owners)
    if version < 1:
        return "versions count from 1"
    if count == 0 or count & (count - 1) or count > _HASHES:
        return f"it has {count} buckets, and the number of buckets must be a power of two"
    for bucket, owner in enumerate(owners):
        if not owner or "," in owner or owner != owner.strip():
            return f"bucket {bucket} has the owner {owner!r}, which is no shard name"
    return None
