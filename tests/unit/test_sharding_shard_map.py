"""Which shard owns which bucket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.errors import ShardMapInvalid
from sharding.shard_map import ShardMap, bucket_of


def test_an_even_map_gives_each_shard_one_run() -> None:
    assert ShardMap.even(["b", "a"], 4).owners == ("b", "b", "a", "a")


@given(st.integers(1, 64))
def test_an_even_map_is_even(count: int) -> None:
    shards = [f"mes_{number}" for number in range(count)]
    owners = ShardMap.even(shards, 64).owners
    sizes = [owners.count(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == 64


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_key_is_on_the_owner_of_its_bucket(key: int) -> None:
    shard_map = ShardMap.even(["mes_0", "mes_1", "mes_2"], 8)
    assert shard_map.shard_of(key) == shard_map.owners[bucket_of(key, 8)]


def test_the_shards_of_a_map_are_named_once() -> None:
    assert ShardMap(1, ("b", "a", "b", "b")).shards == ("a", "b")


@pytest.mark.parametrize(
    ("version", "owners", "fault"),
    [
        (1, (), "power of two"),
        (1, ("a", "a", "a"), "3 buckets"),
        (0, ("a",), "count from 1"),
        (2, ("a", ""), "bucket 1"),
        (2, ("a", "b,c"), "bucket 1"),
    ],
)
def test_what_is_no_map_is_refused(version: int, owners: tuple[str, ...], fault: str) -> None:
    with pytest.raises(ShardMapInvalid, match=fault):
        ShardMap(version, owners)


@pytest.mark.parametrize("shards", [[], ["a", "a"], [f"s{n}" for n in range(5)]])
def test_four_buckets_cannot_be_shared_out_so(shards: list[str]) -> None:
    with pytest.raises(ShardMapInvalid, match="shared out"):
        ShardMap.even(shards, 4)
