"""Which buckets move: even enough, with the least movement, and nothing from nowhere."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.errors import ShardMapInvalid
from sharding.rebalance import Proposal, propose
from sharding.shard_map import ShardMap

NAMES = [f"mes_{number}" for number in range(6)]
BUCKETS = 16

maps = st.lists(st.sampled_from(NAMES), min_size=BUCKETS, max_size=BUCKETS).map(
    lambda owners: ShardMap(3, tuple(owners))
)
fleets = st.lists(st.sampled_from(NAMES), min_size=1, unique=True)
weights_of_all = st.lists(st.integers(0, 1000).map(float), min_size=BUCKETS, max_size=BUCKETS)


def least_moves(shard_map: ShardMap, shards: list[str]) -> int:
    """The least number of moves to counts that differ by one at most: the larger share to who has most."""
    counts = Counter(owner for owner in shard_map.owners if owner in shards)
    share, larger = divmod(shard_map.buckets, len(shards))
    by_count = sorted(shards, key=lambda shard: -counts[shard])
    quotas = {shard: share + (place < larger) for place, shard in enumerate(by_count)}
    orphans = shard_map.buckets - counts.total()
    return orphans + sum(max(0, counts[shard] - quotas[shard]) for shard in shards)


@settings(deadline=None, max_examples=200)
@given(maps, fleets)
def test_equal_buckets_are_evened_out_by_the_least_number_of_moves(
    shard_map: ShardMap, shards: list[str]
) -> None:
    proposal = propose(shard_map, shards=shards, weights=[1.0] * BUCKETS, tolerance=0.0)
    after = Counter(proposal.shard_map.owners)
    assert max(after[shard] for shard in shards) - min(after[shard] for shard in shards) <= 1
    assert len(proposal.moves) <= least_moves(shard_map, shards)
    check_consistent(shard_map, proposal)


@settings(deadline=None, max_examples=200)
@given(maps, fleets, weights_of_all)
def test_weighed_buckets_leave_no_gap_that_one_more_move_would_narrow(
    shard_map: ShardMap, shards: list[str], weights: list[float]
) -> None:
    proposal = propose(shard_map, shards=shards, weights=weights, tolerance=0.0)
    check_consistent(shard_map, proposal)
    assert set(proposal.shard_map.owners) <= set(shards)
    if not any(weights):
        return
    loads = {shard: proposal.after[shard] for shard in shards}
    heaviest, lightest = max(loads, key=lambda shard: (loads[shard], shard)), min(loads.values())
    own = [weights[bucket] for bucket, owner in enumerate(proposal.shard_map.owners) if owner == heaviest]
    mean = sum(loads.values()) / len(shards)
    assert loads[heaviest] <= mean or not any(0 < weight < loads[heaviest] - lightest for weight in own)


def check_consistent(shard_map: ShardMap, proposal: Proposal) -> None:
    owners = list(shard_map.owners)
    for move in proposal.moves:
        assert owners[move.bucket] == move.source != move.target
        owners[move.bucket] = move.target
    assert tuple(owners) == proposal.shard_map.owners
    assert proposal.shard_map.version == shard_map.version + bool(proposal.moves)
    assert sum(proposal.before.values()) == pytest.approx(sum(proposal.after.values()))


def test_a_new_shard_gets_its_share_and_nothing_else_moves() -> None:
    proposal = propose(ShardMap.even(["a", "b"], 64), shards=["a", "b", "c"], weights=[1.0] * 64, tolerance=0)
    assert {move.target for move in proposal.moves} == {"c"}
    assert Counter(proposal.shard_map.owners) == {"a": 22, "b": 21, "c": 21}


def test_an_overfull_shard_gives_its_one_heavy_neighbour_away() -> None:
    weights = [100.0, 900.0, 100.0, 100.0]
    proposal = propose(ShardMap(1, ("a", "a", "b", "b")), shards=["a", "b"], weights=weights)
    assert [(move.bucket, move.target) for move in proposal.moves] == [(0, "b")]


def test_what_is_within_the_tolerance_stays() -> None:
    shard_map = ShardMap(1, ("a", "a", "b", "b"))
    assert propose(shard_map, shards=["a", "b"], weights=[52, 52, 50, 50], tolerance=0.05).moves == ()


@pytest.mark.parametrize(("shards", "count"), [([], 4), (["a", "a"], 4), (["a"], 3)])
def test_what_cannot_be_shared_out_is_refused(shards: list[str], count: int) -> None:
    with pytest.raises(ShardMapInvalid, match="shared out"):
        propose(ShardMap(1, ("a",) * 4), shards=shards, weights=[1.0] * count)
