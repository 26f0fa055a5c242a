"""A generator whose lease is renewed in the background, through what can happen to the directory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from psycopg import sql

from sharding.directory import Directory, open_id_generator
from sharding.engines import open_cluster
from sharding.errors import NodeLeaseExpired
from sharding.ids import TIME_SHIFT, IdGenerator
from sharding.topology import Topology
from tests.servers import PostgresServers


@pytest.fixture
async def directory(topology: Topology) -> AsyncIterator[Directory]:
    async with open_cluster(topology, "directory", role="shop", application_name="test") as cluster:
        yield Directory(cluster.primary, "mes")


@pytest.fixture
def tables(topology: Topology, postgres: PostgresServers) -> Iterator[psycopg.Connection]:
    dbname = topology.database("directory").dbname
    with psycopg.connect(postgres.conninfo(dbname), autocommit=True) as connection:
        yield connection


@contextmanager
def unreachable(topology: Topology, postgres: PostgresServers) -> Iterator[None]:
    """Nobody can connect to the directory, and who was connected is not any more."""
    dbname = topology.database("directory").dbname
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
    with postgres.primary.connect() as connection:
        connection.execute(allow.format(sql.Identifier(dbname), sql.SQL("false")))
        connection.execute(end, [dbname])
        try:
            yield
        finally:
            connection.execute(allow.format(sql.Identifier(dbname), sql.SQL("true")))


async def make_until(ids: IdGenerator, done: Callable[[int], bool]) -> list[int]:
    """Make ids, some each 5 ms, until one is as wanted; an id may be refused on the way."""
    made: list[int] = []
    async with asyncio.timeout(20):
        while not made or not done(made[-1]):
            try:
                made.append(ids.next_id())
            except NodeLeaseExpired:
                made.append(-1)
            await asyncio.sleep(0.005)
    return made


def node_of(order_id: int) -> int:
    return order_id >> 12 & 1023


async def test_ids_are_made_long_after_the_first_window(
    directory: Directory, tables: psycopg.Connection
) -> None:
    async with open_id_generator(directory, holder="shop", window_seconds=4) as ids:
        [(first_ceiling,)] = tables.execute("SELECT ceiling_ms FROM node_leases").fetchall()
        made = await make_until(ids, lambda order_id: order_id >> TIME_SHIFT > first_ceiling)
    assert -1 not in made
    assert made == sorted(set(made))


async def test_ids_are_made_while_the_directory_is_away_until_the_window_is_used_up(
    directory: Directory, topology: Topology, postgres: PostgresServers
) -> None:
    async with open_id_generator(directory, holder="shop", window_seconds=2) as ids:
        with unreachable(topology, postgres):
            made = await make_until(ids, lambda order_id: order_id == -1)
        assert len(made) > 1
        back = await make_until(ids, lambda order_id: order_id != -1)
    assert back[-1] > made[-2]


async def test_a_process_that_lost_its_node_goes_on_with_another(
    directory: Directory, tables: psycopg.Connection
) -> None:
    async with open_id_generator(directory, holder="frozen", window_seconds=2) as ids:
        first = ids.next_id()
        tables.execute("UPDATE node_leases SET expires_at = now()")
        thief = await directory.lease_node(holder="thief", window_seconds=60)
        assert thief.node == node_of(first)
        made = await make_until(ids, lambda order_id: order_id != -1 and node_of(order_id) != thief.node)
    stolen = thief.floor_ms << TIME_SHIFT
    assert all(order_id < stolen for order_id in made[:-1])
    assert made[-1] > first


async def test_at_its_end_the_node_is_given_back_and_no_more_ids_are_made(
    directory: Directory, tables: psycopg.Connection
) -> None:
    async with open_id_generator(directory, holder="shop", window_seconds=3600) as ids:
        last = ids.next_id()
    with pytest.raises(NodeLeaseExpired):
        ids.next_id()
    query = "SELECT holder, ceiling_ms, expires_at <= clock_timestamp() FROM node_leases"
    assert tables.execute(query).fetchall() == [("shop", (last >> TIME_SHIFT) + 1, True)]


async def test_the_end_is_quiet_when_the_directory_is_away(
    directory: Directory, topology: Topology, postgres: PostgresServers
) -> None:
    with ExitStack() as stack:
        async with open_id_generator(directory, holder="shop", window_seconds=3600) as ids:
            last = ids.next_id()
            stack.enter_context(unreachable(topology, postgres))
    again = await directory.lease_node(holder="next", window_seconds=60)
    assert again.node != node_of(last)
