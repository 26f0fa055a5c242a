"""Sessions over clusters that a caller has put together: their units stay on their shards as well."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest
from sqlalchemy import URL, delete, insert, select, update

from app.models.mes import MesOrder
from app.models.status import Channel, Status
from readreplica import engines
from readreplica.addresses import Address
from readreplica.cluster import Cluster
from readreplica.discovery import Discovery
from readreplica.options import ReplicaOptions
from readreplica.sync import cluster as sync_cluster
from readreplica.sync import discovery as sync_discovery
from readreplica.sync import engines as sync_engines
from sharding.errors import BucketNotOwned, OtherShard
from sharding.sessions import ShardedSessions
from sharding.sync import ShardedSessions as SyncShardedSessions
from sharding.topology import Topology
from tests.integration.replicas_rig import until
from tests.integration.shards_rig import EVEN, give, key_in, moved, new_order, put_in_force

OWN, FOREIGN = key_in(3), key_in(40)
ROW = {"status": Status.SUBMITTED, "channel": Channel.B2C, "summary": "ring", "version": 1}
FOREIGN_WRITES = {
    "update": update(MesOrder).where(MesOrder.order_id == FOREIGN).values(summary="x"),
    "delete": delete(MesOrder).where(MesOrder.order_id == FOREIGN),
    "insert": insert(MesOrder).values(order_id=FOREIGN, **ROW),
}
POOL: dict[str, Any] = {"application_name": "test"}
SHARDS = ("mes_0", "mes_1")
QUICK = ReplicaOptions(poll_seconds=0.05)


def parts(topology: Topology, shard: str, make: Any) -> dict[str, Any]:
    """Make what a cluster is built of; it knows no replica yet."""
    url = topology.url(shard, role="mes")
    return {
        "primary": make.writer_engine(url, **POOL),
        "primary_reader": make.reader_engine(url, **POOL),
        "replicas": {},
        "options": QUICK,
    }


def replica_of(topology: Topology, shard: str) -> URL:
    replica, *_ = topology.database(shard).replicas
    return topology.url(shard, role="mes", replica=replica.name)


@pytest.fixture
async def clusters(topology: Topology) -> AsyncIterator[Mapping[str, Cluster]]:
    await put_in_force(topology)
    async with AsyncExitStack() as stack:
        made = {}
        for shard in SHARDS:
            made[shard] = Cluster(shard, **parts(topology, shard, engines))
            stack.push_async_callback(made[shard].close)
        yield made


@pytest.fixture
def sync_clusters(topology: Topology) -> Iterator[Mapping[str, sync_cluster.Cluster]]:
    asyncio.run(put_in_force(topology))
    with ExitStack() as stack:
        made = {}
        for shard in SHARDS:
            made[shard] = sync_cluster.Cluster(shard, **parts(topology, shard, sync_engines))
            stack.callback(made[shard].close)
        yield made


@pytest.mark.parametrize("name", FOREIGN_WRITES)
async def test_a_write_to_a_key_of_another_shard_is_refused(
    clusters: Mapping[str, Cluster], name: str
) -> None:
    sessions = ShardedSessions(EVEN, clusters)
    with pytest.raises(OtherShard, match=f"{FOREIGN} is on shard mes_1"):
        async with sessions.write(OWN) as session:
            await session.execute(FOREIGN_WRITES[name])


async def test_getting_and_flushing_an_object_of_another_shard_is_refused(
    clusters: Mapping[str, Cluster],
) -> None:
    sessions = ShardedSessions(EVEN, clusters)
    with pytest.raises(OtherShard):
        async with sessions.read(OWN) as reader:
            await reader.get(MesOrder, FOREIGN)
    with pytest.raises(OtherShard):
        async with sessions.write(OWN) as writer:
            writer.add(new_order(FOREIGN))


async def test_a_refusal_of_the_shard_has_its_name(
    clusters: Mapping[str, Cluster], topology: Topology
) -> None:
    give(topology, moved(EVEN, 3, "mes_1"), "mes_0")
    with pytest.raises(BucketNotOwned):
        async with ShardedSessions(EVEN, clusters).write(OWN) as writer:
            writer.add(new_order(OWN))


async def test_a_replica_that_is_discovered_later_is_watched_too(
    clusters: Mapping[str, Cluster], topology: Topology
) -> None:
    sessions = ShardedSessions(EVEN, clusters)
    url = replica_of(topology, "mes_0")

    async def source() -> list[Address]:
        return [Address(str(url.host), url.port or 5432)]

    discovery = Discovery(clusters["mes_0"], source, make_reader=lambda _: engines.reader_engine(url, **POOL))
    (found,) = await discovery.refresh()
    node = clusters["mes_0"].monitor.nodes[str(found)]
    await until(lambda: node.health.ejected is None, what="the replica is taken in")
    async with sessions.read(OWN) as session:
        with pytest.raises(OtherShard):
            await session.get(MesOrder, FOREIGN)
        assert session.node == str(found)


async def test_two_sessions_objects_over_one_cluster_check_a_statement_once(
    clusters: Mapping[str, Cluster],
) -> None:
    first, second = ShardedSessions(EVEN, clusters), ShardedSessions(EVEN, clusters)
    for sessions in (first, second):
        async with sessions.read(OWN) as session:
            await session.execute(select(MesOrder).where(MesOrder.order_id == OWN))
            assert session.sync_session.hooks is not None
            assert session.sync_session.hooks.statements == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", FOREIGN_WRITES)
def test_a_write_by_a_thread_to_a_key_of_another_shard_is_refused(
    sync_clusters: Mapping[str, sync_cluster.Cluster], name: str
) -> None:
    sessions = SyncShardedSessions(EVEN, sync_clusters)
    with pytest.raises(OtherShard), sessions.write(OWN) as session:
        session.execute(FOREIGN_WRITES[name])
    with pytest.raises(OtherShard), sessions.read(OWN) as reader:
        reader.get(MesOrder, FOREIGN)


async def test_a_replica_that_a_thread_discovers_later_is_watched_too(
    sync_clusters: Mapping[str, sync_cluster.Cluster], topology: Topology
) -> None:
    sessions = SyncShardedSessions(EVEN, sync_clusters)
    url = replica_of(topology, "mes_0")
    address = Address(str(url.host), url.port or 5432)
    discovery = sync_discovery.Discovery(
        sync_clusters["mes_0"],
        lambda: [address],
        make_reader=lambda _: sync_engines.reader_engine(url, **POOL),
    )
    assert discovery.refresh() == [address]

    def refused_by() -> str | None:
        with sessions.read(OWN) as session:
            with pytest.raises(OtherShard):
                session.get(MesOrder, FOREIGN)
            return session.node

    # The thread of the monitor takes a node in, and routes to it a moment later.
    await until(lambda: refused_by() == str(address), what="the replica serves a read")
