"""From a key to its shard, and one page out of all shards."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import literal, select, text

from app.models.mes import MesOrder
from app.models.status import Channel, Status
from readreplica.freshness import PRIMARY
from readreplica.sessions import WriteSession
from readreplica.token import CausalToken
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.errors import (
    InvalidShardKey,
    ShardFailed,
    ShardMapInvalid,
    ShardMapMissing,
    UnknownShard,
)
from sharding.ids import first_id_at
from sharding.sessions import ShardedSessions, open_sessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.servers import PostgresServers

FIRST = first_id_at(datetime(2026, 3, 1, tzinfo=UTC))
IDS = [FIRST + (number << 12) for number in range(30)]
DATABASE = text("SELECT current_database()")
newest = select(MesOrder).order_by(MesOrder.order_id.desc())


async def save_map(topology: Topology, shard_map: ShardMap) -> None:
    async with open_cluster(topology, "directory", role="mes", application_name="test") as cluster:
        await Directory(cluster.primary, "mes").save_map(shard_map, expected_version=shard_map.version - 1)


@pytest.fixture
async def sessions(topology: Topology) -> AsyncIterator[ShardedSessions]:
    await save_map(topology, ShardMap.even(["mes_0", "mes_1"], 64))
    async with open_sessions(topology, role="mes", application_name="test") as sessions:
        yield sessions


@pytest.fixture
async def token(sessions: ShardedSessions) -> CausalToken:
    """Thirty orders over both shards, and the token to see them all."""
    token = CausalToken()
    for order_id in IDS:
        status = Status.SUBMITTED if order_id % 3 else Status.PACKAGING
        async with sessions.write(order_id) as session:
            session.add(MesOrder(order_id=order_id, status=status, channel=Channel.B2C, summary="ring"))
        token = token.merge(session.token)
    return token


async def test_a_key_is_written_and_read_on_its_shard(sessions: ShardedSessions, topology: Topology) -> None:
    shards = set()
    for key in IDS:
        dbname = topology.database(sessions.shard_of(key)).dbname
        async with sessions.write(key) as writer:
            assert (await writer.execute(DATABASE)).scalar_one() == dbname
        async with sessions.read(key) as reader:
            assert (await reader.execute(DATABASE)).scalar_one() == dbname
        shards.add(dbname)
    assert len(shards) == 2


async def test_a_unit_of_work_runs_on_the_shard_of_its_key(
    sessions: ShardedSessions, topology: Topology
) -> None:
    async def work(session: WriteSession) -> str:
        return str((await session.execute(DATABASE)).scalar_one())

    found = await sessions.transact(IDS[0], work)
    assert found.value == topology.database(sessions.shard_of(IDS[0])).dbname


@pytest.mark.parametrize("key", [True, "1", None, 1.0, 2**63, -(2**63) - 1])
async def test_what_is_no_key_is_refused(sessions: ShardedSessions, key: Any) -> None:
    for ask in (sessions.read, sessions.write, sessions.shard_of):
        with pytest.raises(InvalidShardKey) as caught:
            ask(key)
        assert repr(key) in str(caught.value)


async def test_an_owner_that_the_topology_lacks_is_named(topology: Topology) -> None:
    await save_map(topology, ShardMap.even(["mes_0", "mes_7"], 64))
    with pytest.raises(UnknownShard, match=r"'mes_7', but .* are mes_0, mes_1: add \[databases.mes_7\]"):
        async with open_sessions(topology, role="mes", application_name="test"):
            pass


async def test_a_map_of_other_buckets_than_the_topologys_is_refused(topology: Topology) -> None:
    await save_map(topology, ShardMap.even(["mes_0", "mes_1"], 128))
    with pytest.raises(ShardMapInvalid, match="128 buckets, but the topology says 64"):
        async with open_sessions(topology, role="mes", application_name="test"):
            pass


async def test_without_a_map_nothing_is_opened(topology: Topology) -> None:
    with pytest.raises(ShardMapMissing):
        async with open_sessions(topology, role="mes", application_name="test"):
            pass


@pytest.fixture
def without_mes_1(topology: Topology, topology_path: Path) -> Topology:
    """The topology, with a second shard that nobody can connect to."""
    text = topology_path.read_text()
    topology_path.write_text(text.replace(f'"{topology.database("mes_1").dbname}"', '"not_there"'))
    return Topology.load(topology_path)


async def test_a_shard_that_is_down_does_not_stop_the_others(without_mes_1: Topology) -> None:
    await save_map(without_mes_1, ShardMap.even(["mes_0", "mes_1"], 64))
    async with open_sessions(without_mes_1, role="mes", application_name="test") as sessions:
        key = next(key for key in IDS if sessions.shard_of(key) == "mes_0")
        async with sessions.read(key) as session:
            assert (await session.execute(DATABASE)).scalar_one()


async def test_pages_over_all_shards_give_every_order_once_newest_first(
    sessions: ShardedSessions, token: CausalToken
) -> None:
    found, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        page = await sessions.scatter(newest, limit=7, cursor=cursor, after=token)
        found += [order.order_id for order in page.rows]
        cursor, pages = page.next_cursor, pages + 1
    assert found == sorted(IDS, reverse=True)
    assert pages == 5


async def test_a_last_page_that_is_full_has_no_next_one(
    sessions: ShardedSessions, token: CausalToken
) -> None:
    page = await sessions.scatter(newest, limit=30, after=token)
    assert len(page.rows) == 30
    assert page.next_cursor is None


async def test_orders_that_came_meanwhile_do_not_disturb_the_pages(
    sessions: ShardedSessions, token: CausalToken
) -> None:
    first = await sessions.scatter(newest, limit=10, after=token)
    later = IDS[-1] + 1
    async with sessions.write(later) as session:
        session.add(MesOrder(order_id=later, status=Status.SUBMITTED, channel=Channel.B2C, summary="ring"))
    second = await sessions.scatter(newest, limit=10, cursor=first.next_cursor, after=session.token)
    assert [order.order_id for order in second.rows] == sorted(IDS, reverse=True)[10:20]


async def test_a_page_is_read_where_its_freshness_says(sessions: ShardedSessions) -> None:
    async with sessions.write(IDS[0]) as session:
        session.add(MesOrder(order_id=IDS[0], status=Status.SUBMITTED, channel=Channel.B2C, summary="ring"))
    page = await sessions.scatter(newest, limit=10, freshness=PRIMARY)
    assert [order.order_id for order in page.rows] == [IDS[0]]


async def test_a_condition_and_several_columns(sessions: ShardedSessions, token: CausalToken) -> None:
    statement = (
        select(MesOrder.order_id, MesOrder.status)
        .where(MesOrder.status == literal(Status.PACKAGING))
        .order_by(MesOrder.order_id.desc())
    )
    page = await sessions.scatter(statement, limit=3, after=token)
    packaging = sorted((order_id for order_id in IDS if order_id % 3 == 0), reverse=True)
    assert page.rows == [(order_id, Status.PACKAGING) for order_id in packaging[:3]]


async def test_no_rows_make_an_empty_page(sessions: ShardedSessions) -> None:
    page = await sessions.scatter(newest, limit=10)
    assert (page.rows, page.next_cursor) == ([], None)


async def test_the_shard_that_fails_is_named(
    sessions: ShardedSessions, topology: Topology, postgres: PostgresServers
) -> None:
    with psycopg.connect(postgres.conninfo(topology.database("mes_1").dbname)) as connection:
        connection.execute("DROP TABLE orders")
    postgres.wait_for_replica()
    with pytest.raises(ShardFailed, match=r'shard mes_1 .*"orders" does not exist') as caught:
        await sessions.scatter(newest, limit=10)
    assert caught.value.shard == "mes_1"
    assert caught.value.__cause__ is not None
