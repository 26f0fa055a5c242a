"""Two sharded trees and one directory: maps, guards, ids and decisions of one are nothing to the other."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import text

from ops.fleet import open_engine
from readreplica.cluster import Cluster
from sharding.directory import Directory, open_id_generator
from sharding.engines import open_cluster
from sharding.errors import BucketNotOwned, ShardMapConflict, TreeUnclear
from sharding.map_watch import MAP_CHANNEL, is_about
from sharding.ownership import REFUSED, Ownership, set_ownership
from sharding.sessions import open_sessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from sharding.writes.prepared import CommitDecision, Decisions
from sharding.writes.reference import Content, References
from tests.integration.replicas_rig import until
from tests.integration.shards_rig import new_order
from tests.platform_topology import write_topology
from tests.pool import DatabasePool
from tests.project import GUARDED
from tests.servers import PostgresServers, ValkeyServer

MAPS = {
    "mes": ShardMap.even(["mes_0", "mes_1"], 64),
    "payments": ShardMap.even(["payments_0", "payments_1"], 16),
}
IDS_EACH = 20_000
SECOND_TREE = """
[trees.payments]
kind = "sharded"
buckets = 16
role = "mes"
owner = "mes_owner"
"""


@pytest.fixture(scope="module")
def two_trees(
    postgres: PostgresServers,
    valkey_server: ValkeyServer,
    databases: DatabasePool,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Topology]:
    """Give a topology in which two more shards are a tree of their own; the tables are those of the first."""
    with databases.borrow() as dbnames, databases.borrow() as more:
        path = tmp_path_factory.mktemp("two") / "topology.toml"
        write_topology(path, dbnames, postgres, valkey_server)
        shards = "".join(
            f'[databases.payments_{number}]\ntree = "payments"\ndbname = "{more[f"mes_{number}"]}"\n'
            f'primary = {{ host = "127.0.0.1", port = {postgres.primary_port} }}\n'
            for number in range(2)
        )
        path.write_text(path.read_text() + SECOND_TREE + shards)
        topology = Topology.load(path)
        for tree, shard_map in MAPS.items():
            for shard, database in topology.databases_of(tree).items():
                with open_engine(topology, database, role=database.owner) as engine:
                    with engine.begin() as connection:
                        connection.exec_driver_sql("TRUNCATE shard_identity")
                    set_ownership(engine, Ownership.of(shard_map, shard), tables=GUARDED)
        yield topology


@pytest.fixture
async def directory(two_trees: Topology) -> AsyncIterator[Cluster]:
    async with open_cluster(two_trees, "directory", role="mes", application_name="test") as cluster:
        yield cluster


@pytest.fixture
async def with_maps(two_trees: Topology, directory: Cluster) -> Topology:
    for tree, shard_map in MAPS.items():
        await Directory(directory.primary, tree).ensure_map(shard_map)
    return two_trees


SELECT_SHARD = text("SELECT current_database()")


def keys_of(shard_map: ShardMap, shard: str, *, count: int = 3) -> list[int]:
    return [key for key in range(1, 1000) if shard_map.shard_of(key) == shard][:count]


async def test_each_tree_has_its_own_versions(with_maps: Topology, directory: Cluster) -> None:
    orders, payments = (Directory(directory.primary, tree) for tree in MAPS)
    assert (await orders.load_map(), await payments.load_map()) == tuple(MAPS.values())
    with pytest.raises(ShardMapConflict):
        await payments.save_map(MAPS["payments"], expected_version=0)
    assert await orders.load_map() == MAPS["mes"]


async def test_sessions_are_of_one_tree(with_maps: Topology) -> None:
    with pytest.raises(TreeUnclear, match="mes, payments"):
        async with open_sessions(with_maps, application_name="test"):
            pass
    for tree, shard_map in MAPS.items():
        async with open_sessions(with_maps, tree=tree, application_name="test") as sessions:
            assert sessions.shard_map == shard_map
            assert sorted(sessions.clusters) == list(with_maps.databases_of(tree))
            for shard in shard_map.shards:
                key = keys_of(shard_map, shard)[0]
                async with sessions.write(key) as session:
                    session.add(new_order(key))
                async with sessions.read(key, after=session.token) as reading:
                    assert (await reading.scalar(SELECT_SHARD)) == with_maps.database(shard).dbname


async def test_a_change_of_a_map_is_heard_by_the_sessions_of_its_tree(
    with_maps: Topology, directory: Cluster, postgres: PostgresServers
) -> None:
    listening = psycopg.connect(postgres.conninfo(with_maps.database("directory").dbname), autocommit=True)
    with listening:
        listening.execute(f"LISTEN {MAP_CHANNEL}")
        async with open_sessions(
            with_maps, tree="payments", application_name="test", poll_seconds=3600
        ) as sessions:
            following = ShardMap(2, MAPS["payments"].owners)
            await Directory(directory.primary, "payments").save_map(following, expected_version=1)
            await until(lambda: sessions.shard_map == following, what="the new map")
        [heard] = listening.notifies(timeout=60, stop_after=1)
    assert is_about(heard.payload, "payments")
    assert not is_about(heard.payload, "mes")
    assert is_about("17", "mes"), "what a process of the release before sends"


async def test_each_guard_goes_by_its_own_map(with_maps: Topology, postgres: PostgresServers) -> None:
    for shard_map in MAPS.values():
        own, other = shard_map.shards
        foreign = keys_of(shard_map, other)[-1]
        with (
            psycopg.connect(postgres.conninfo(with_maps.database(own).dbname)) as connection,
            pytest.raises(psycopg.Error, match=f"shard {own} does not own bucket") as refused,
        ):
            connection.execute(
                "INSERT INTO order_items"
                " (order_id, line_no, model_key, model_name, material, finish, quantity)"
                " VALUES (%s, 1, 'k', 'ring', 'gold', 'none', 1)",
                [foreign],
            )
        assert refused.value.sqlstate == REFUSED


async def test_a_refused_unit_goes_where_its_own_map_says(with_maps: Topology, directory: Cluster) -> None:
    shard_map = await Directory(directory.primary, "payments").load_map()
    stale = ShardMap(shard_map.version, tuple(reversed(shard_map.owners)))
    async with open_sessions(with_maps, tree="payments", application_name="test") as sessions:
        key = keys_of(shard_map, "payments_0")[-1]
        wrong = type(sessions)(stale, sessions.clusters)
        with pytest.raises(BucketNotOwned, match="payments_1 refused"):
            async with wrong.write(key) as session:
                session.add(new_order(key))


async def test_ids_of_one_space_are_never_made_twice(two_trees: Topology, directory: Cluster) -> None:
    async def make(tree: str) -> list[int]:
        space = two_trees.trees[tree].id_space
        leases = Directory(directory.primary, tree, id_space=space)
        async with open_id_generator(leases, holder=tree) as ids:
            return [ids.next_id() for _ in range(IDS_EACH)]

    made = await asyncio.gather(*(make(tree) for tree in (*MAPS, "shop")))
    assert len({each for ids in made for each in ids}) == 3 * IDS_EACH


async def test_another_id_space_has_its_own_node_numbers(directory: Cluster) -> None:
    ours, theirs = (Directory(directory.primary, "mes", id_space=space) for space in ("default", "theirs"))
    first = await ours.lease_node(holder="a", window_seconds=60)
    second = await theirs.lease_node(holder="b", window_seconds=60)
    assert second.node == 0
    assert await theirs.renew_node(second, window_seconds=60) is not None
    assert await ours.renew_node(second, window_seconds=60) is None
    await theirs.release_node(second, unused_ms=second.floor_ms)
    assert await ours.renew_node(first, window_seconds=60) is not None


async def test_decisions_are_seen_by_their_own_tree(directory: Cluster) -> None:
    orders, payments = (Decisions(directory.primary, tree) for tree in MAPS)
    await payments.decide("a" * 32, CommitDecision.COMMIT, label="transfer", shards=["payments_0"])
    assert [unit.unit_id for unit in await payments.unfinished()] == ["a" * 32]
    assert await orders.unfinished() == []
    await payments.finish("a" * 32)
    assert await orders.purge(older_than=timedelta(0)) == 0
    assert await payments.purge(older_than=timedelta(0)) == 1


async def test_reference_tables_of_one_name_have_versions_of_their_own(directory: Cluster) -> None:
    orders, payments = (References(directory.primary, tree) for tree in MAPS)
    content = Content("rates", 1, '[{"rate": "x"}]', "sum")
    await orders.publish(content)
    assert await payments.newest("rates") is None
    await payments.publish(content)
    assert await payments.newest("rates") == content
