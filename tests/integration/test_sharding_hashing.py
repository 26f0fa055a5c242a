"""The Python hash is PostgreSQL's."""

import random

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharding.shard_map import hashint8
from tests.servers import PostgresServers

EDGES = [sign * (2**power + step) for power in range(63) for step in (-1, 0, 1) for sign in (-1, 1)] + [
    -(2**63),
    2**63 - 1,
    0,
]
QUERY = "SELECT key, hashint8(key) FROM unnest(%s::int8[]) AS key"


def check(postgres: PostgresServers, keys: list[int]) -> None:
    with psycopg.connect(postgres.conninfo()) as connection:
        for key, expected in connection.execute(QUERY, [keys]).fetchall():
            assert hashint8(key) == expected, key


def test_edges_and_ten_thousand_random_keys(postgres: PostgresServers) -> None:
    chance = random.Random(20240101)
    check(postgres, EDGES + [chance.randrange(-(2**63), 2**63) for _ in range(10_000)])


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=200))
def test_whatever_hypothesis_finds(postgres: PostgresServers, keys: list[int]) -> None:
    check(postgres, keys)
