"""Which node answers a read: replicas that are behind, gone, or of another history."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from ops.waiting import wait_until
from readreplica.cluster import PRIMARY, Cluster
from readreplica.engines import reader_engine, writer_engine
from readreplica.errors import ReplicasTooStale
from readreplica.freshness import ANY, Freshness
from readreplica.freshness import PRIMARY as ON_PRIMARY
from readreplica.options import ReplicaOptions
from readreplica.sessions import AnySession
from readreplica.token import CausalToken
from readreplica.wal import Lsn
from sharding.topology import Topology
from tests.integration.replicas_rig import engine_words, paused_replay
from tests.servers import PostgresServers

COUNT = text("SELECT count(*) FROM pricing_jobs")
INSERT = text("INSERT INTO pricing_jobs (order_id) VALUES (:order_id)")


@asynccontextmanager
async def cluster_with(
    topology: Topology,
    nodes: PostgresServers,
    replicas: Mapping[str, int | AsyncEngine],
    *,
    replay_wait_seconds: float = 10,
) -> AsyncIterator[Cluster]:
    """A cluster on the database mes_0, with replicas at these ports, or behind these engines.

    It waits long for replay, so that a slow machine does not send a test to the primary.
    """
    url = topology.url("mes_0", role="mes").set(port=nodes.way_to(nodes.primary_port))
    cluster = Cluster(
        "mes_0",
        primary=writer_engine(url, **engine_words(nodes)),
        primary_reader=reader_engine(url, **engine_words(nodes)),
        replicas={
            name: reader_at(topology, nodes, at) if isinstance(at, int) else at
            for name, at in replicas.items()
        },
        # Nobody but the test takes a replica out or in.
        options=ReplicaOptions(replay_wait_seconds=replay_wait_seconds, poll_seconds=3600),
    )
    try:
        yield cluster
    finally:
        await cluster.close()


def reader_at(topology: Topology, nodes: PostgresServers, port: int) -> AsyncEngine:
    url = topology.url("mes_0", role="mes").set(port=nodes.way_to(port))
    return reader_engine(url, **engine_words(nodes))


@pytest.fixture
async def cluster(topology: Topology, nodes: PostgresServers) -> AsyncIterator[Cluster]:
    async with cluster_with(topology, nodes, {"replica": nodes.replica_port}) as cluster:
        yield cluster


@pytest.fixture
async def hasty(topology: Topology, nodes: PostgresServers) -> AsyncIterator[Cluster]:
    """A cluster that hardly waits for replay, but is connected already, so that it can ask in that time."""
    replicas = {"replica": nodes.replica_port}
    async with cluster_with(topology, nodes, replicas, replay_wait_seconds=0.05) as cluster:
        assert await node_of_read(cluster) == "replica"
        yield cluster


async def insert(cluster: Cluster, order_id: int) -> CausalToken:
    async with cluster.write() as session:
        await session.execute(INSERT, {"order_id": order_id})
    return session.token


async def count(session: AnySession) -> int:
    return int((await session.execute(COUNT)).scalar_one())


async def node_of_read(cluster: Cluster, after: CausalToken | None = None) -> str | None:
    async with cluster.read(after=after) as session:
        await count(session)
        return session.node


async def test_without_a_token_replicas_take_turns(topology: Topology, nodes: PostgresServers) -> None:
    ports = {"one": nodes.replica_port, "other": nodes.replica_port}
    async with cluster_with(topology, nodes, ports) as cluster:
        turns = [await node_of_read(cluster) for _ in range(4)]
    assert set(turns[:2]) == {"one", "other"}
    assert turns[:2] == turns[2:]


async def test_with_a_token_replicas_take_turns_too(topology: Topology, nodes: PostgresServers) -> None:
    ports = {"one": nodes.replica_port, "other": nodes.replica_port}
    async with cluster_with(topology, nodes, ports) as cluster:
        turns = []
        for order_id in range(1, 13):
            token = await insert(cluster, order_id)
            nodes.wait_for_replica()
            turns.append(await node_of_read(cluster, token))
    # Both are asked at once, and the one that answers first serves, so the turns are not strict.
    assert set(turns) == {"one", "other"}


async def test_a_unit_stays_on_its_node(topology: Topology, nodes: PostgresServers) -> None:
    ports = {"one": nodes.replica_port, "other": nodes.replica_port}
    async with cluster_with(topology, nodes, ports) as cluster, cluster.read() as session:
        pid = text("SELECT pg_backend_pid()")
        assert len({(await session.execute(pid)).scalar_one() for _ in range(5)}) == 1


async def test_a_replica_that_is_behind_is_passed_over(
    cluster: Cluster, hasty: Cluster, nodes: PostgresServers
) -> None:
    with paused_replay(nodes):
        token = await insert(cluster, 1)
        async with hasty.read(after=token) as session:
            assert await count(session) == 1
            assert session.node == PRIMARY
        # Whoever brings no token accepts what the replica has.
        assert await node_of_read(hasty) == "replica"
    assert await node_of_read(cluster, token) == "replica"


async def test_a_reader_waits_until_the_replica_has_replayed(
    cluster: Cluster, nodes: PostgresServers
) -> None:
    with paused_replay(nodes):
        token = await insert(cluster, 1)
        read = asyncio.create_task(node_of_read(cluster, token))
        # Something else is asked and answered meanwhile: the reader is waiting.
        assert await node_of_read(cluster) == "replica"
        assert not read.done()
    assert await read == "replica"


async def test_what_was_once_replayed_is_not_asked_again(topology: Topology, nodes: PostgresServers) -> None:
    engine = reader_at(topology, nodes, nodes.replica_port)
    taken: list[object] = []
    event.listen(engine.sync_engine, "checkout", lambda *_: taken.append(_))
    async with cluster_with(topology, nodes, {"replica": engine}) as cluster:
        earlier, later = await insert(cluster, 1), await insert(cluster, 2)
        nodes.wait_for_replica()
        assert await node_of_read(cluster, later) == "replica"
        assert len(taken) == 1
        assert await node_of_read(cluster, earlier) == "replica"
        assert len(taken) == 2


async def test_a_token_of_another_cluster_asks_for_nothing_here(cluster: Cluster) -> None:
    token = await insert(cluster, 1)
    elsewhere = CausalToken({"mes_1": token.positions["mes_0"]._replace(lsn=Lsn(2**60))})
    assert await node_of_read(cluster, elsewhere) == "replica"


async def test_a_token_of_another_history_is_answered_by_the_primary(
    cluster: Cluster, hasty: Cluster
) -> None:
    token = await insert(cluster, 1)
    assert await node_of_read(cluster, token) == "replica"
    position = token.positions["mes_0"]
    foreign = CausalToken({"mes_0": position._replace(system_identifier=position.system_identifier + 1)})
    assert await node_of_read(hasty, foreign) == PRIMARY


@pytest.mark.parametrize("freshness", [ANY, ON_PRIMARY])
async def test_a_token_of_a_newer_timeline_is_not_answered_by_the_primary_before_it(
    cluster: Cluster, hasty: Cluster, freshness: Freshness
) -> None:
    position = (await insert(cluster, 1)).positions["mes_0"]
    promoted = CausalToken({"mes_0": position._replace(timeline=position.timeline + 1)})
    assert await node_of_read(hasty) is not None  # the monitor looks from the first read on
    assert await asyncio.to_thread(
        wait_until, lambda: hasty.monitor.primary_state.timeline == position.timeline, timeout_seconds=20
    )
    with pytest.raises(ReplicasTooStale, match="the primary that is known here is on timeline 1"):
        async with hasty.read(after=promoted, freshness=freshness) as session:
            await count(session)
    # A token that surrounds the unit says so too.
    hasty.set_token_hooks(before_read=lambda: promoted, after_commit=lambda _token: None)
    with pytest.raises(ReplicasTooStale):
        async with hasty.read(freshness=freshness) as session:
            await count(session)


async def test_a_token_at_the_end_of_a_page_is_reached_on_an_idle_primary(
    cluster: Cluster, nodes: PostgresServers
) -> None:
    token = None
    for _ in range(200):
        token = await _commit_at_page_end(cluster)
        if token:
            break
    assert token, "no record ended with its page"
    replayed = f"SELECT pg_last_wal_replay_lsn() >= '{token.positions['mes_0'].lsn}'::pg_lsn"
    with nodes.replica.connect() as replica:
        assert wait_until(lambda: replica.execute(replayed).fetchone() == (True,), timeout_seconds=20)
    assert await node_of_read(cluster, token) == "replica"


async def _commit_at_page_end(cluster: Cluster) -> CausalToken | None:
    """Write a message that fills the page that is being written; tell the token if it did."""
    position = text("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
    async with cluster.write() as session:
        room = 8192 - (await session.execute(position)).scalar_one() % 8192
        # A message of n bytes, with a prefix of one, makes a record of n + 55; records are rounded up to 8.
        size = room - 55 if room > 400 else 100
        message = text("SELECT pg_logical_emit_message(false, 'x', repeat('x', :size))")
        await session.execute(message, {"size": size})
        is_header = (await session.execute(position)).scalar_one() % 8192 == 24
    return session.token if is_header else None


async def test_a_replica_that_cannot_be_reached_is_left_alone_for_a_while(
    topology: Topology, nodes: PostgresServers
) -> None:
    attempts = 0

    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, cluster_with(topology, nodes, {"gone": port}) as cluster:
        assert [await node_of_read(cluster) for _ in range(20)] == [PRIMARY] * 20
        # One read, and the monitor when it begins and when that read has told it.
        assert 1 <= attempts <= 3


async def test_another_replica_takes_over_from_one_that_is_gone(
    topology: Topology, nodes: PostgresServers
) -> None:
    # Nothing listens on port 1.
    async with cluster_with(topology, nodes, {"gone": 1, "replica": nodes.replica_port}) as cluster:
        token = await insert(cluster, 1)
        assert {await node_of_read(cluster) for _ in range(4)} == {"replica"}
        nodes.wait_for_replica()
        assert await node_of_read(cluster, token) == "replica"


async def test_a_read_with_a_token_survives_the_loss_of_every_replica(
    topology: Topology, nodes: PostgresServers
) -> None:
    async with cluster_with(topology, nodes, {"gone": 1}) as cluster:
        token = await insert(cluster, 1)
        assert await node_of_read(cluster, token) == PRIMARY


async def test_a_replica_that_does_not_answer_holds_a_read_up_for_a_bounded_time(
    topology: Topology, nodes: PostgresServers
) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, cluster_with(topology, nodes, {"silent": port}, replay_wait_seconds=0.05) as cluster:
        token = await insert(cluster, 1)
        # The connect timeout is 3 s; the read must not wait for that.
        async with asyncio.timeout(2):
            assert await node_of_read(cluster, token) == PRIMARY
