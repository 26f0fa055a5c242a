"""How fresh a read is: policies, the monitor, the budget, retries; on a primary and its replica."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ops.embedded.postgres import SUPERUSER, UNSAFE, PostgresCluster
from ops.embedded.programs import PostgresTools
from ops.ports import PortPicker, start_on_free_port
from readreplica.cluster import PRIMARY, Cluster
from readreplica.errors import ReplicasTooStale
from readreplica.freshness import ANY, Freshness, bounded
from readreplica.freshness import PRIMARY as ON_PRIMARY
from readreplica.health import NodeFault
from readreplica.metrics import Reason
from readreplica.options import ReplicaOptions
from readreplica.sessions import ReadSession
from readreplica.token import CausalToken
from readreplica.wal import Lsn
from tests.integration.replicas_rig import (
    COUNT,
    QUICK,
    check_own_writes,
    cluster_at,
    frozen,
    insert,
    make_table,
    parameters,
    paused_replay,
    until,
)
from tests.servers import ACCESS, PostgresServers

HASTY = replace(QUICK, replay_wait_seconds=0.05)
DELETE = text("DELETE FROM notes")
PID = text("SELECT pg_backend_pid()")
UNJUDGED = replace(HASTY, poll_seconds=3600.0)
"""Nothing is taken out: nobody polls."""


@pytest.fixture
async def cluster(nodes: PostgresServers) -> AsyncIterator[Cluster]:
    make_table(nodes)
    async with cluster_at(nodes) as cluster:
        yield cluster


@pytest.fixture
async def hasty(nodes: PostgresServers) -> AsyncIterator[Cluster]:
    """A cluster that hardly waits for replay, and whose nodes have answered already."""
    make_table(nodes)
    async with cluster_at(nodes, options=HASTY) as cluster:
        await read(cluster)
        await until(
            lambda: all(node.observation for node in cluster.monitor.nodes.values()), what="all answer"
        )
        yield cluster


async def read(
    cluster: Cluster, freshness: Freshness = ANY, after: CausalToken | None = None
) -> tuple[str | None, Reason | None]:
    async with cluster.read(freshness=freshness, after=after) as session:
        await session.execute(COUNT)
    return session.node, session.reason


def is_out(cluster: Cluster, fault: NodeFault) -> Callable[[], bool]:
    return lambda: cluster.monitor.nodes["replica"].health.ejected is fault


# Autocommit


async def test_autocommit_has_no_snapshot_and_the_server_refuses_to_write_all_the_same(
    cluster: Cluster,
) -> None:
    await insert(cluster, 1)
    for freshness in (ANY, ON_PRIMARY):
        async with cluster.read(freshness=freshness, autocommit=True) as session:
            async with cluster.read(freshness=freshness) as other:
                # One transaction has one xact_start; without one every statement begins anew.
                begun = text("SELECT transaction_timestamp()")
                assert len({(await other.execute(begun)).scalar_one() for _ in range(3)}) == 1
                assert len({(await session.execute(begun)).scalar_one() for _ in range(3)}) == 3
            with pytest.raises(DBAPIError, match="read-only transaction"):
                await session.execute(DELETE)


async def test_a_connection_that_served_autocommit_gives_snapshots_again(cluster: Cluster) -> None:
    shown = text("SELECT pg_backend_pid(), current_setting('transaction_isolation')")
    seen = []
    for autocommit in (True, False, True, False):
        async with cluster.read(freshness=ON_PRIMARY, autocommit=autocommit) as session:
            seen.append((await session.execute(shown)).one())
    assert len({pid for pid, _ in seen}) == 1
    assert [isolation for _, isolation in seen] == ["read committed", "repeatable read"] * 2


async def test_where_the_server_does_not_say_read_only_autocommit_becomes_a_snapshot(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As behind a pooler that drops the option; the session cannot know why.
    monkeypatch.setattr("readreplica.connections.READ_ONLY_OPTION", "")
    async with cluster.read(freshness=ON_PRIMARY, autocommit=True) as session:
        shown = text("SELECT current_setting('transaction_isolation')")
        assert (await session.execute(shown)).scalar_one() == "repeatable read"
        with pytest.raises(DBAPIError, match="read-only transaction"):
            await session.execute(DELETE)


# Policies and tokens


async def test_bounds_are_held_and_an_idle_primary_makes_nobody_late(
    hasty: Cluster, nodes: PostgresServers
) -> None:
    nodes.wait_for_replica()
    near = bounded(max_lag_seconds=20, max_lag_bytes=0)
    monitor = hasty.monitor
    replica = monitor.nodes["replica"]
    await until(lambda: near.fits(monitor.lag(replica, now=monotonic())), what="the replica is near")
    assert await read(hasty, near) == ("replica", Reason.FRESH)
    assert await read(hasty, ON_PRIMARY) == (PRIMARY, Reason.PRIMARY)


async def test_a_replica_that_is_behind_a_bound_is_passed_over(nodes: PostgresServers) -> None:
    make_table(nodes)
    options = replace(HASTY, eject_polls=10**6)  # behind, and still not out
    async with cluster_at(nodes, options=options) as cluster:
        await read(cluster)
        with paused_replay(nodes):
            token = await insert(cluster, 1)
            lsn = token.positions["main"].lsn

            def primary_has_told() -> bool:
                newest = cluster.monitor.history.newest
                return newest is not None and newest.position.lsn >= lsn

            await until(primary_has_told, what="the primary's position is known")
            assert await read(cluster, bounded(max_lag_bytes=0)) == (PRIMARY, Reason.FALLBACK)
            assert await read(cluster) == ("replica", Reason.FRESH)
            assert await read(cluster, after=token) == (PRIMARY, Reason.FALLBACK)
        async with cluster_at(nodes) as patient:
            assert (await read(patient, after=token))[0] == "replica"


async def test_past_the_budget_reads_are_refused_and_the_primary_is_spared(nodes: PostgresServers) -> None:
    make_table(nodes)
    options = replace(UNJUDGED, fallback_per_second=0.1, fallback_burst=2)
    async with cluster_at(nodes, options=options) as cluster:
        await read(cluster)
        with paused_replay(nodes):
            token = await insert(cluster, 1)
            found = [await read(cluster, after=token) for _ in range(2)]
            assert found == [(PRIMARY, Reason.FALLBACK)] * 2
            with pytest.raises(ReplicasTooStale, match="no replica of main is fit") as caught:
                await read(cluster, after=token)
            assert 0 < caught.value.retry_after_seconds <= 10
            # Whoever asks for the primary, or for nothing special, is served.
            assert await read(cluster, ON_PRIMARY) == (PRIMARY, Reason.PRIMARY)
            assert await read(cluster) == ("replica", Reason.FRESH)


@pytest.mark.parametrize("bytes_ahead", [1 << 20, 1 << 50])
async def test_a_token_from_the_future_is_taken_for_the_present(hasty: Cluster, bytes_ahead: int) -> None:
    position = (await insert(hasty, 1)).positions["main"]
    future = CausalToken({"main": position._replace(lsn=Lsn(position.lsn + bytes_ahead))})
    nodes = set()
    for _ in range(10):
        async with asyncio.timeout(20), hasty.read(after=future) as session:
            assert (await session.execute(COUNT)).scalar_one() >= 0
            nodes.add(session.node)
    # It neither waits for ever nor drives every read to the primary.
    assert "replica" in nodes


async def test_an_unknown_system_is_answered_by_the_primary_without_a_wait(cluster: Cluster) -> None:
    position = (await insert(cluster, 1)).positions["main"]
    await until(lambda: cluster.monitor.history.newest is not None, what="the primary has told its system")
    foreign = CausalToken({"main": position._replace(system_identifier=1)})
    async with asyncio.timeout(5):  # half of what it would wait for replay
        assert await read(cluster, after=foreign) == (PRIMARY, Reason.FALLBACK)


async def test_a_replica_that_lost_a_connection_has_to_say_anew_what_it_has(
    nodes: PostgresServers,
) -> None:
    make_table(nodes)
    async with cluster_at(nodes, options=replace(UNJUDGED, replay_wait_seconds=10)) as cluster:
        token = await insert(cluster, 1)
        async with cluster.read(after=token) as session:
            pid = (await session.execute(PID)).scalar_one()
            assert session.node == "replica"
        # As after its crash: it has said that it has more than it has.
        node, position = cluster.monitor.nodes["replica"], token.positions["main"]
        assert node.observation is not None
        beyond = position._replace(lsn=Lsn(position.lsn + (1 << 20)))
        node.observation = replace(node.observation, position=beyond)
        with nodes.replica.connect() as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        assert await read(cluster, after=CausalToken({"main": beyond})) == (PRIMARY, Reason.FALLBACK)
        assert (await read(cluster, after=token))[0] == "replica"


async def test_many_readers_wait_with_one_connection(nodes: PostgresServers) -> None:
    make_table(nodes)
    options = replace(QUICK, eject_polls=10**6)
    with nodes.replica.connect() as connection:
        [began] = connection.execute("SELECT clock_timestamp()").fetchone() or [None]
    async with cluster_at(nodes, options=options) as cluster:
        await read(cluster)
        # The poolers of other tests may keep older ones of that name.
        asking = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'main monitor' AND backend_start > %s"
        )
        with paused_replay(nodes):
            token = await insert(cluster, 1)
            readers = [asyncio.create_task(read(cluster, after=token)) for _ in range(8)]
            await until(lambda: len(cluster.monitor.waiters("replica")) == 8, what="all wait")
            with nodes.replica.connect() as connection:
                assert connection.execute(asking, [began]).fetchone() == (1,)
        assert {await reader for reader in readers} == {("replica", Reason.WAITED)}
        assert not cluster.monitor.waiters("replica")


# The monitor


async def test_a_paused_replica_is_out_within_two_polls_and_comes_back_slowly(
    nodes: PostgresServers,
) -> None:
    make_table(nodes)
    async with cluster_at(nodes, options=HASTY) as cluster:
        await read(cluster)
        with paused_replay(nodes):
            await until(is_out(cluster, NodeFault.PAUSED), what="out")
            assert cluster.monitor.nodes["replica"].health.bad_polls >= 2
            assert await read(cluster) == (PRIMARY, Reason.FALLBACK)
        await until(lambda: cluster.monitor.nodes["replica"].health.ejected is None, what="in again")
        assert (await read(cluster))[0] == "replica"


async def test_a_dead_walreceiver_is_found(nodes: PostgresServers) -> None:
    make_table(nodes)
    async with cluster_at(nodes, options=HASTY) as cluster:
        await read(cluster)
        with parameters(nodes.replica, primary_conninfo="host=127.0.0.1 port=1"):
            gone = "SELECT count(*) FROM pg_stat_wal_receiver"
            with nodes.replica.connect() as connection:
                await until(lambda: connection.execute(gone).fetchone() == (0,), what="no walreceiver")
            await insert(cluster, 1)
            await until(is_out(cluster, NodeFault.NO_RECEIVER), what="out")
        await until(lambda: cluster.monitor.nodes["replica"].health.ejected is None, what="in again")


async def test_a_frozen_replica_is_out_and_its_readers_are_served_elsewhere(
    nodes: PostgresServers,
) -> None:
    make_table(nodes)
    options = replace(HASTY, answer_seconds=0.3)
    async with cluster_at(nodes, options=options) as cluster:
        await insert(cluster, 1)
        nodes.wait_for_replica()
        begun = asyncio.Event()
        served = []

        async def slow(session: ReadSession) -> int:
            await session.execute(COUNT)
            served.append(session.node)
            begun.set()
            await session.execute(text("SELECT pg_sleep(0.5)"))
            return int((await session.execute(COUNT)).scalar_one())

        await read(cluster)
        unit = asyncio.create_task(cluster.transact_read(slow))
        await begun.wait()
        with frozen(nodes.replica):
            assert await asyncio.wait_for(unit, 60) == 1
            assert served == ["replica", PRIMARY]
            await until(lambda: cluster.monitor.nodes["replica"].health.ejected is not None, what="out")
        await until(lambda: cluster.monitor.nodes["replica"].health.ejected is None, what="in again")


@pytest.fixture
def stranger_port(tmp_path: Path, nodes: PostgresServers) -> Iterator[int]:
    """A server that was made on its own, with the same password."""
    server = PostgresCluster(
        "stranger",
        tools=PostgresTools(),
        data=tmp_path / "stranger",
        log=tmp_path / "stranger.log",
        passfile=nodes.passfile,
    )
    server.create(superuser_password=nodes.passwords[SUPERUSER], safe=False)

    def start(port: int) -> None:
        server.configure(port=port, access=ACCESS, settings=UNSAFE)
        server.start(port=port)

    try:
        yield start_on_free_port(PortPicker(random.Random()), start)
    finally:
        server.stop()


async def test_a_server_of_another_system_serves_nothing(nodes: PostgresServers, stranger_port: int) -> None:
    make_table(nodes)
    async with cluster_at(nodes, options=HASTY, replicas={"stranger": stranger_port}) as cluster:
        await insert(cluster, 1)
        stranger = cluster.monitor.nodes["stranger"]
        await until(lambda: stranger.health.ejected is NodeFault.OTHER_SYSTEM, what="out")
        assert await read(cluster) == (PRIMARY, Reason.FALLBACK)


# Conflicts with recovery


def vacuumed(primary: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Vacuum; a snapshot that a poll of the primary holds at the moment keeps the rows."""
    primary.execute("VACUUM notes")
    return bool(primary.execute("SELECT pg_relation_size('notes') = 0").fetchone() == (True,))


async def test_a_read_that_replay_ends_is_done_again_on_another_node(nodes: PostgresServers) -> None:
    make_table(nodes)
    values = {"hot_standby_feedback": "off", "max_standby_streaming_delay": "0"}
    async with cluster_at(nodes, options=replace(QUICK, eject_lag_seconds=600)) as cluster:
        with parameters(nodes.replica, **values), nodes.primary.connect() as primary:
            # The replica must have told the primary that its readers no longer count.
            free = "SELECT bool_and(backend_xmin IS NULL) FROM pg_stat_replication"
            await until(lambda: primary.execute(free).fetchone() == (True,), what="no feedback")
            primary.execute("INSERT INTO notes SELECT generate_series(1, 1000)")
            nodes.wait_for_replica()
            attempts: list[str | None] = []

            async def slow(session: ReadSession) -> int:
                found = int((await session.execute(COUNT)).scalar_one())
                attempts.append(session.node)
                if len(attempts) == 1:
                    primary.execute("DELETE FROM notes")
                    await until(lambda: vacuumed(primary), what="the deleted rows are taken away")
                    nodes.wait_for_replica()
                    await session.execute(COUNT)
                return found

            assert await cluster.transact_read(slow) == 0
            assert attempts == ["replica", PRIMARY]


# Own writes


async def test_ten_thousand_reads_see_their_own_writes_under_lag(nodes: PostgresServers) -> None:
    make_table(nodes)
    options = ReplicaOptions(replay_wait_seconds=0.02, fallback_per_second=10**6, fallback_burst=10**6)
    with parameters(nodes.replica, recovery_min_apply_delay="4ms"):
        async with cluster_at(nodes, options=options) as cluster:
            check = partial(check_own_writes, cluster, reads=20)
            stale = await asyncio.gather(*(check(units=range(k, 500, 4)) for k in range(4)))
    assert sum(stale) == 0
