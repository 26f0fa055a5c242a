"""Which buckets to move when a shard is new, leaves, or is overfull. Pure, and changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sharding.errors import ShardMapInvalid
from sharding.shard_map import ShardMap


@dataclass(frozen=True, slots=True)
class BucketMove:
    """A bucket that changes its shard, and how much goes with it."""

    bucket: int
    source: str
    target: str
    weight: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """Moves, the map after them, and the weight of each shard before and after."""

    moves: tuple[BucketMove, ...]
    shard_map: ShardMap
    before: Mapping[str, float]
    after: Mapping[str, float]


def propose(
    shard_map: ShardMap, *, shards: Sequence[str], weights: Sequence[float], tolerance: float = 0.05
) -> Proposal:
    """Propose moves that even the shards out, with as little movement as does it.

    What a leaving shard owns must move anyway: its buckets go, the heaviest first, to the lightest shard.
    Then the heaviest shard gives to the lightest the largest bucket that closes at most half of the gap
    between them, else the smallest that narrows it. For equal weights this is the least number of moves; for
    others the problem is NP-hard, and no move is made that does not narrow a gap.

    Parameters:
        shard_map: the map in force.
        shards: the shards that there shall be; those of the map that are missing here leave.
        weights: the weight of each bucket: rows, bytes, or load; all alike if all are zero.
        tolerance: how far above the mean the heaviest shard may stay, as a share of the mean.

    Raises:
        ShardMapInvalid: there is no shard, one twice, or not a weight for each bucket.
    """
    if not shards or len(set(shards)) != len(shards) or len(weights) != shard_map.buckets:
        raise ShardMapInvalid(
            shard_map.version, f"cannot be shared out to {list(shards)} by {len(weights)} weights"
        )
    weighed = list(weights) if any(weights) else [1.0] * len(weights)
    owners = _without_leaving(shard_map.owners, shards, weighed)
    _even_out(owners, shards, weighed, tolerance)
    moves = tuple(
        BucketMove(bucket, source, target, weighed[bucket])
        for bucket, (source, target) in enumerate(zip(shard_map.owners, owners, strict=True))
        if source != target
    )
    everyone = sorted({*shards, *shard_map.shards})
    version = shard_map.version + (1 if moves else 0)
    return Proposal(
        moves,
        ShardMap(version, tuple(owners)),
        _loads(shard_map.owners, everyone, weighed),
        _loads(owners, everyone, weighed),
    )


def _loads(owners: Sequence[str], shards: Sequence[str], weights: Sequence[float]) -> dict[str, float]:
    loads = dict.fromkeys(shards, 0.0)
    for owner, weight in zip(owners, weights, strict=True):
        if owner in loads:
            loads[owner] += weight
    return loads


def _without_leaving(owners: Sequence[str], shards: Sequence[str], weights: Sequence[float]) -> list[str]:
    after, loads = list(owners), _loads(owners, shards, weights)
    leaving = [bucket for bucket, owner in enumerate(owners) if owner not in loads]
    for bucket in sorted(leaving, key=lambda bucket: -weights[bucket]):
        after[bucket] = min(shards, key=lambda shard: (loads[shard], shard))
        loads[after[bucket]] += weights[bucket]
    return after


def _even_out(owners: list[str], shards: Sequence[str], weights: Sequence[float], tolerance: float) -> None:
    loads = _loads(owners, shards, weights)
    allowed = sum(loads.values()) / len(shards) * (1 + tolerance)
    while True:
        heaviest = max(shards, key=lambda shard: (loads[shard], shard))
        lightest = min(shards, key=lambda shard: (loads[shard], shard))
        gap = loads[heaviest] - loads[lightest]
        own = [bucket for bucket, owner in enumerate(owners) if owner == heaviest]
        bucket = _to_give(own, weights, gap)
        if loads[heaviest] <= allowed or bucket is None:
            return
        owners[bucket] = lightest
        loads[heaviest] -= weights[bucket]
        loads[lightest] += weights[bucket]


def _to_give(own: Sequence[int], weights: Sequence[float], gap: float) -> int | None:
    fitting = [bucket for bucket in own if 0 < weights[bucket] <= gap / 2]
    if fitting:
        return max(fitting, key=lambda bucket: (weights[bucket], -bucket))
    narrowing = [bucket for bucket in own if 0 < weights[bucket] < gap]
    return min(narrowing, key=lambda bucket: (weights[bucket], bucket), default=None)
