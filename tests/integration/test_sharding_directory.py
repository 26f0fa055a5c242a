"""The shard map and the node leases in a real directory database."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.errors import (
    NodesExhausted,
    ShardMapConflict,
    ShardMapInvalid,
    ShardMapMissing,
    ShardMapNotConfirmed,
)
from sharding.ids import NODES, system_clock_ms
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.integration.shards_rig import slow_directory
from tests.servers import PostgresServers


@pytest.fixture
async def directory(topology: Topology) -> AsyncIterator[Directory]:
    async with open_cluster(topology, "directory", role="mes", application_name="test") as cluster:
        yield Directory(cluster.primary, "mes")


@pytest.fixture
def tables(topology: Topology, postgres: PostgresServers) -> Iterator[psycopg.Connection]:
    """A connection of the superuser to the directory, for what the library does not do."""
    dbname = topology.database("directory").dbname
    with psycopg.connect(postgres.conninfo(dbname), autocommit=True) as connection:
        yield connection


def even(version: int = 1) -> ShardMap:
    return ShardMap.even(["mes_0", "mes_1"], 64, version=version)


async def test_there_is_no_map_at_first(directory: Directory) -> None:
    with pytest.raises(ShardMapMissing):
        await directory.load_map()


async def test_the_map_of_the_highest_version_is_in_force(directory: Directory) -> None:
    await directory.save_map(even(), expected_version=0)
    moved = ShardMap(2, ("mes_1", *even().owners[1:]))
    await directory.save_map(moved, expected_version=1)
    assert await directory.load_map() == moved


async def test_a_map_is_not_saved_over_a_change_of_somebody_else(directory: Directory) -> None:
    await directory.save_map(even(), expected_version=0)
    with pytest.raises(ShardMapConflict, match="at version 1, not 0") as caught:
        await directory.save_map(even(), expected_version=0)
    assert caught.value.found_version == 1


async def test_a_map_that_a_silent_directory_does_not_confirm_is_told(
    directory: Directory, topology: Topology
) -> None:
    await directory.save_map(even(), expected_version=0)
    with slow_directory(topology, "shard_map_versions"):
        # Far longer than it takes, and without an end if nobody watched the clock.
        async with asyncio.timeout(20):
            with pytest.raises(ShardMapNotConfirmed, match="confirm shard map version 2 within 2 s"):
                await directory.save_map(even(2), expected_version=1)
    await directory.save_map(even(2), expected_version=1)


async def test_a_version_must_follow_the_expected_one(directory: Directory) -> None:
    with pytest.raises(ShardMapInvalid, match="does not follow version 0"):
        await directory.save_map(even(3), expected_version=0)


async def test_of_many_savers_at_once_one_wins(directory: Directory) -> None:
    saves = (directory.save_map(even(), expected_version=0) for _ in range(8))
    results = await asyncio.gather(*saves, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NoneType"] + ["ShardMapConflict"] * 7


async def test_the_first_map_is_made_once(directory: Directory) -> None:
    others = [ShardMap.even([f"mes_{number}"], 64) for number in range(4)]
    found = await asyncio.gather(*(directory.ensure_map(first) for first in others))
    assert len(set(found)) == 1
    assert await directory.ensure_map(even()) == found[0]


async def test_twenty_processes_lease_twenty_nodes(directory: Directory) -> None:
    leases = (directory.lease_node(holder=f"p{number}", window_seconds=60) for number in range(20))
    windows = await asyncio.gather(*leases)
    assert len({window.node for window in windows}) == 20
    assert all(window.ceiling_ms - window.floor_ms == 60_000 for window in windows)
    assert all(abs(window.floor_ms - system_clock_ms()) < 30_000 for window in windows)


@pytest.mark.parametrize("leases", [2, 3, 20])
async def test_one_of_several_expired_leases_is_taken(
    directory: Directory, tables: psycopg.Connection, leases: int
) -> None:
    for number in range(leases):
        await directory.lease_node(holder=f"gone {number}", window_seconds=60)
    tables.execute("UPDATE node_leases SET expires_at = now()")
    tables.execute("REINDEX TABLE node_leases")  # counts the rows; how many there are decides the plan
    window = await directory.lease_node(holder="next", window_seconds=60)
    taken = tables.execute("SELECT node FROM node_leases WHERE holder = 'next'").fetchall()
    assert taken == [(window.node,)]


async def test_the_windows_of_a_node_never_overlap(directory: Directory, tables: psycopg.Connection) -> None:
    earlier = await directory.lease_node(holder="frozen", window_seconds=60)
    tables.execute("UPDATE node_leases SET expires_at = now()")
    later = await directory.lease_node(holder="next", window_seconds=60)
    assert later.node == earlier.node
    assert later.floor_ms == earlier.ceiling_ms


async def test_a_renewed_lease_reaches_further(directory: Directory) -> None:
    window = await directory.lease_node(holder="p", window_seconds=1)
    renewed = await directory.renew_node(window, window_seconds=60)
    assert renewed is not None
    assert (renewed.node, renewed.floor_ms) == (window.node, window.floor_ms)
    assert renewed.ceiling_ms > window.ceiling_ms + 50_000


async def test_a_lost_lease_is_not_renewed(directory: Directory, tables: psycopg.Connection) -> None:
    window = await directory.lease_node(holder="frozen", window_seconds=60)
    tables.execute("UPDATE node_leases SET expires_at = now()")
    await directory.lease_node(holder="next", window_seconds=60)
    assert await directory.renew_node(window, window_seconds=60) is None


async def test_a_released_node_is_free_at_once_with_the_rest_of_its_window(directory: Directory) -> None:
    window = await directory.lease_node(holder="p", window_seconds=3600)
    await directory.release_node(window, unused_ms=window.floor_ms + 5)
    again = await directory.lease_node(holder="next", window_seconds=60)
    assert again.node == window.node
    assert window.floor_ms + 5 <= again.floor_ms < window.ceiling_ms


async def test_a_directory_without_free_nodes_says_so(
    directory: Directory, tables: psycopg.Connection
) -> None:
    tables.execute(
        "INSERT INTO node_leases (node, holder, ceiling_ms, expires_at)"
        " SELECT node, 'p', 0, now() + interval '1 hour' FROM generate_series(0, 1023) AS node"
    )
    with pytest.raises(NodesExhausted, match=f"all {NODES}"):
        await directory.lease_node(holder="late", window_seconds=60)


async def test_a_directory_that_does_not_answer_is_given_up(directory: Directory, topology: Topology) -> None:
    window = await directory.lease_node(holder="p", window_seconds=60)
    with slow_directory(topology, "node_leases"):
        asks = (
            directory.lease_node(holder="q", window_seconds=60),
            directory.renew_node(window, window_seconds=60),
            directory.release_node(window, unused_ms=window.floor_ms),
        )
        async with asyncio.timeout(20):
            found = await asyncio.gather(*asks, return_exceptions=True)
    assert [type(error) for error in found] == [OperationalError] * 3
    # The connections that were given up are not used again.
    assert await directory.renew_node(window, window_seconds=60) is not None


async def test_a_node_whose_lease_is_being_taken_is_passed_over(
    directory: Directory, tables: psycopg.Connection
) -> None:
    window = await directory.lease_node(holder="p", window_seconds=60)
    tables.execute("UPDATE node_leases SET expires_at = now()")
    with tables.transaction():
        tables.execute("SELECT FROM node_leases FOR UPDATE")
        async with asyncio.timeout(10):
            other = await directory.lease_node(holder="q", window_seconds=60)
    assert other.node != window.node
