"""Buckets; that the hash is PostgreSQL's is tested against PostgreSQL."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sharding.shard_map import bucket_of, hashint8, key_of_text

INT8 = st.integers(-(2**63), 2**63 - 1)


@given(INT8, st.sampled_from([1, 2, 64, 4096, 2**32]))
def test_every_key_has_a_bucket(key: int, buckets: int) -> None:
    assert 0 <= bucket_of(key, buckets) < buckets


@given(INT8)
def test_a_bucket_is_split_into_its_two_halves(key: int) -> None:
    assert bucket_of(key, 128) // 2 == bucket_of(key, 64)


def test_buckets_are_cut_from_the_lowest_hash_up() -> None:
    assert hashint8(1) == -1905060026
    assert bucket_of(1, 64) == (-1905060026 + 2**31) // 2**26


def test_consecutive_keys_are_spread_evenly() -> None:
    counts = Counter(bucket_of(key, 64) for key in range(64_000))
    assert len(counts) == 64
    assert all(850 < count < 1150 for count in counts.values())


def test_the_key_of_a_text_does_not_change_between_versions() -> None:
    assert key_of_text("") == -2039914840885289964
    assert key_of_text("partner-7/order-42") == key_of_text("partner-7/order-42")


@given(st.text())
def test_the_key_of_a_text_fits_int8(text: str) -> None:
    assert -(2**63) <= key_of_text(text) < 2**63
