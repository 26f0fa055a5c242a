"""Everything that routing needs of one version of the shard map, in the form in which it is looked up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from sharding.errors import InvalidShardKey
from sharding.shard_map import ShardMap, hashint8
from sharding.telemetry import ShardMeter

C = TypeVar("C")
"""A cluster, of one twin or the other."""

_INT8_MIN = -(1 << 63)
_INT8_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Route(Generic[C]):
    """A shard by one version of the map; a session keeps the route that it began with."""

    cluster: C
    shard: str
    meter: ShardMeter | None


@dataclass(frozen=True, slots=True)
class Routing(Generic[C]):
    """A map with its routes. Replaced as a whole, so that nobody sees half of a change.

    `refused` is called when a shard has refused a row: this map may be old.
    """

    shard_map: ShardMap
    by_bucket: tuple[Route[C], ...]
    shift: int
    refused: Callable[[], None]

    @classmethod
    def of(
        cls,
        shard_map: ShardMap,
        clusters: Mapping[str, C],
        *,
        meter_of: Callable[[str], ShardMeter | None],
        refused: Callable[[], None],
    ) -> Self:
        """Put a map together with the clusters, which must have every shard of the map."""
        routes = {shard: Route(clusters[shard], shard, meter_of(shard)) for shard in shard_map.shards}
        by_bucket = tuple(routes[owner] for owner in shard_map.owners)
        # How far a 32-bit hash is shifted so that the bucket is left; see `sharding.shard_map.bucket_of`.
        return cls(shard_map, by_bucket, 33 - shard_map.buckets.bit_length(), refused)

    def route_of(self, key: int) -> Route[C]:
        """Find the route of a key.

        Raises:
            InvalidShardKey: the key is no int, or does not fit int8.
        """
        # Exactly int: True is an int to Python, and an order id that arrives as a bool is a mistake.
        if type(key) is not int or not _INT8_MIN <= key <= _INT8_MAX:
            raise InvalidShardKey(key)
        return self.by_bucket[(hashint8(key) + 0x80000000) >> self.shift]
