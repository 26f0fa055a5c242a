"""From a key to its shard: the hash of the key, the map from buckets to shards, and the routes by one map.

A key is hashed as PostgreSQL hashes it, so that routing costs no round trip. Source of the rules: `hashint8`
in src/backend/access/hash/hashfunc.c and `hash_bytes_uint32` in src/common/hashfn.c (Bob Jenkins' lookup3,
final mix). Citus places rows by the same function. A test compares this one with the server's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Generic, Self, TypeVar

from sharding.errors import InvalidShardKey, ShardMapInvalid, UnknownShard
from sharding.telemetry import ShardMeter

C = TypeVar("C")
"""A cluster, for asyncio or for threads."""

_INT8_MIN = -(1 << 63)
_INT8_MAX = (1 << 63) - 1
_HASHES = 1 << 32
_MASK = 0xFFFFFFFF
# hash_bytes_uint32 starts from 0x9e3779b9 + sizeof(uint32) + 3923095 in all three words.
_SEED = (0x9E3779B9 + 4 + 3923095) & _MASK
# The mix begins with c ^= b, c -= rotate(b, 14); b and c are both still the seed, so this is a constant.
_FIRST_C = -(_SEED << 14 | _SEED >> 18) & _MASK


def hashint8(key: int) -> int:
    """Hash as PostgreSQL's `hashint8(key)` does.

    Parameters:
        key: a signed 64-bit number; the caller has checked the range.

    Returns:
        A signed 32-bit number.
    """
    # Folding the halves like this makes the hash of an int8 equal that of the same int4.
    k = (key ^ (key >> 32) if key >= 0 else key ^ ~(key >> 32)) & _MASK
    # Rotations are written out: a call each would cost more than the arithmetic.
    a = (_SEED + k) & _MASK
    c = _FIRST_C
    a = ((a ^ c) - (c << 11 | c >> 21)) & _MASK
    b = ((_SEED ^ a) - (a << 25 | a >> 7)) & _MASK
    c = ((c ^ b) - (b << 16 | b >> 16)) & _MASK
    a = ((a ^ c) - (c << 4 | c >> 28)) & _MASK
    b = ((b ^ a) - (a << 14 | a >> 18)) & _MASK
    c = ((c ^ b) - (b << 24 | b >> 8)) & _MASK
    return c - 0x100000000 if c & 0x80000000 else c


def bucket_of(key: int, buckets: int) -> int:
    """Find the bucket of a key: the hash range is cut into `buckets` equal pieces, as Citus cuts it.

    Parameters:
        key: a signed 64-bit number.
        buckets: how many buckets there are; a power of two.

    Returns:
        The bucket, from 0 to `buckets - 1`.
    """
    return min((hashint8(key) + 0x80000000) // (0x100000000 // buckets), buckets - 1)


def key_of_text(text: str) -> int:
    """Make a shard key from a text (an idempotency key, a content digest).

    Returns:
        A signed 64-bit number: the first eight bytes of the text's SHA-256, big-endian.
    """
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big", signed=True)


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
        """Return a map by which each shard owns a run of buckets, all runs as equal as can be.

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
        """Return the name of the shard of a key."""
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


@dataclass(frozen=True, slots=True)
class Route(Generic[C]):
    """A shard by one version of the map; a session keeps the route that it began with."""

    cluster: C
    shard: str
    meter: ShardMeter | None


@dataclass(frozen=True, slots=True)
class Routing(Generic[C]):
    """A map with its routes; it is replaced as a whole.

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
        """Return the routes of a map over clusters, which must have every shard of the map."""
        routes = {shard: Route(clusters[shard], shard, meter_of(shard)) for shard in shard_map.shards}
        by_bucket = tuple(routes[owner] for owner in shard_map.owners)
        # How far a 32-bit hash is shifted so that the bucket is left; see `bucket_of`.
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
