"""What an unkind world does to a cluster: no slot left, all down, a standby under the primary's address."""

import asyncio
import gc
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from ops.embedded.postgres import PostgresCluster
from ops.ports import LOOPBACK
from readreplica.addresses import Address
from readreplica.cluster import Cluster
from readreplica.discovery import Discovery
from readreplica.engines import reader_engine, writer_engine
from readreplica.errors import ClusterClosed, CommitInDoubt, ReplicasTooStale
from readreplica.freshness import PRIMARY as ON_PRIMARY
from readreplica.freshness import bounded
from readreplica.health import NodeFault
from readreplica.sessions import AnySession, WriteSession
from readreplica.transaction_status import TransactionStatus
from tests.integration.replicas_rig import (
    COUNT,
    INSERT,
    QUICK,
    cluster_at,
    engine_words,
    frozen,
    insert,
    make_table,
    promote,
    sync_cluster_at,
    until,
    url_of,
)
from tests.servers import PostgresServers

BACKEND = text("SELECT pg_backend_pid()")


@contextmanager
def few_slots(server: PostgresCluster, role: str, *, slots: int) -> Iterator[None]:
    """Let a role have so many connections; the next one is refused with 53300, as on a full server."""
    with server.connect() as connection:
        connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT {slots}")
        try:
            yield
        finally:
            connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")


async def test_a_full_server_costs_nobody_the_connection_that_he_has(nodes: PostgresServers) -> None:
    make_table(nodes)
    make_scarce(nodes)
    url = url_of(nodes, nodes.primary_port).set(username="scarce", password="scarce")
    at_replica = url.set(port=nodes.replica_port)
    cluster = Cluster(
        "main",
        primary=writer_engine(url, application_name="test"),
        primary_reader=reader_engine(url, application_name="test"),
        replicas={"replica": reader_engine(at_replica, application_name="test")},
        options=replace(QUICK, readmit_polls=10**6),
    )
    try:
        await insert(cluster, 0)
        replica = cluster.monitor.nodes["replica"]
        await until(
            lambda: replica.observation is not None and cluster.monitor.primary_state.answers,
            what="both are known",
        )
        async with cluster.write() as writer, cluster.read() as reader:
            first = (await writer.execute(BACKEND)).scalar_one()
            await reader.execute(COUNT)
            nodes.wait_for_replica()
            with few_slots(nodes.primary, "scarce", slots=1):
                nodes.wait_for_replica()
                with pytest.raises(OperationalError, match="too many connections"):
                    await insert(cluster, 1)
                # The read goes to the primary, which is full as well; the one under way is not cut off.
                with pytest.raises(OperationalError, match="too many connections"):
                    await cluster.transact_read(lambda session: session.execute(COUNT))
                assert replica.health.ejected is NodeFault.REFUSES
                await reader.execute(COUNT)
        async with cluster.write() as writer:
            assert (await writer.execute(BACKEND)).scalar_one() == first
    finally:
        await cluster.close()


async def test_a_session_that_was_refused_a_node_has_none(postgres: PostgresServers) -> None:
    make_table(postgres)
    make_scarce(postgres)
    url = url_of(postgres, postgres.primary_port).set(username="scarce", password="scarce")
    options = replace(QUICK, fallback_per_second=0.001, fallback_burst=1, readmit_polls=10**6)
    cluster = Cluster(
        "main",
        primary=writer_engine(url, application_name="test"),
        primary_reader=reader_engine(url_of(postgres, postgres.primary_port), application_name="test"),
        replicas={
            "replica": reader_engine(
                url.set(port=postgres.replica_port), application_name="test", pool_size=1
            )
        },
        options=options,
    )
    try:
        replica = cluster.monitor.nodes["replica"]
        async with cluster.read(freshness=bounded(max_lag_bytes=0, max_lag_seconds=0)) as reader:
            await reader.execute(COUNT)
        assert reader.node == "primary"  # and the budget is used up
        await until(lambda: replica.observation is not None, what="the replica is known")
        with few_slots(postgres.primary, "scarce", slots=0):
            postgres.wait_for_replica()
            async with cluster.read() as reader:
                with pytest.raises(ReplicasTooStale):
                    await reader.execute(COUNT)
                assert replica.health.ejected is NodeFault.REFUSES
                with few_slots(postgres.primary, "scarce", slots=10):
                    postgres.wait_for_replica()
                    # The replica would answer now, and has not shown that it is fit.
                    with pytest.raises(ReplicasTooStale):
                        await reader.execute(COUNT)
            assert reader.node is None
    finally:
        await cluster.close()


def make_scarce(servers: PostgresServers) -> None:
    functions = "pg_control_system(), pg_control_init(), pg_walfile_name(pg_lsn)"
    with servers.primary.connect() as connection:
        connection.execute(
            f"""
            DO $$ BEGIN
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'scarce') THEN
                    CREATE ROLE scarce LOGIN PASSWORD 'scarce' IN ROLE pg_monitor;
                END IF;
            END $$;
            GRANT ALL ON notes TO scarce;
            GRANT EXECUTE ON FUNCTION {functions} TO scarce
            """
        )
    servers.wait_for_replica()


async def test_a_wrong_password_is_told_and_ends(nodes: PostgresServers) -> None:
    make_table(nodes)
    url = url_of(nodes, nodes.primary_port).set(username="nobody_here", password="wrong")
    cluster = Cluster(
        "main",
        primary=writer_engine(url, **engine_words(nodes)),
        primary_reader=reader_engine(url, **engine_words(nodes)),
        replicas={},
        options=replace(QUICK, failover_wait_seconds=0.2),
    )
    try:
        async with asyncio.timeout(30):
            with pytest.raises(OperationalError, match=r"no pg_hba\.conf entry|authentication failed"):
                await insert(cluster, 1)
    finally:
        await cluster.close()


@contextmanager
def nobody_listens() -> Iterator[int]:
    """A port that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        yield taken.getsockname()[1]


async def test_with_everything_down_many_who_wait_cost_little(nodes: PostgresServers) -> None:
    with nobody_listens() as one, nobody_listens() as other:
        behind = replace(nodes, primary_port=one, replica_port=other)
        options = replace(QUICK, failover_wait_seconds=3)
        async with cluster_at(behind, options=options) as cluster:
            spent, began = time.process_time(), time.monotonic()
            units = [cluster.transact(partial(put, n=n)) for n in range(50)]
            ended = await asyncio.gather(*units, return_exceptions=True)
            busy = (time.process_time() - spent) / (time.monotonic() - began)
    assert all(isinstance(error, OperationalError) for error in ended), ended
    assert busy < 0.6, f"{busy:.0%} of a processor for 50 who wait"


async def put(session: WriteSession, *, n: int) -> None:
    await session.execute(INSERT, {"n": n})


def _is_missed(cluster: Cluster) -> bool:
    return (
        not cluster.monitor.primary_state.answers
        and cluster.monitor.nodes["replica"].health.ejected is not None
    )


async def test_closing_ends_who_waits_for_a_primary_and_leaves_no_connection(
    nodes: PostgresServers,
) -> None:
    make_table(nodes)
    with nobody_listens() as one, nobody_listens() as other:
        behind = replace(nodes, primary_port=one, replica_port=other)
        async with cluster_at(behind, options=replace(QUICK, failover_wait_seconds=60)) as cluster:
            waiting = asyncio.create_task(cluster.transact(partial(put, n=1)))
            await until(partial(_is_missed, cluster), what="the primary is missed")
        async with asyncio.timeout(30):
            with pytest.raises(ClusterClosed):
                await waiting
    async with cluster_at(nodes) as cluster:
        writing, reading = cluster.write(), cluster.read()
        await writing.__aenter__()
        await writing.execute(INSERT, {"n": 1})
        await reading.execute(COUNT)
    await writing.commit()
    await writing.close()
    await reading.close()
    assert writing.token
    for session in (cluster.write(), cluster.read(), cluster.read(freshness=ON_PRIMARY)):
        with pytest.raises(ClusterClosed, match="main was closed"):
            await count_in(session)
    del cluster, writing, reading, session
    gc.collect()  # psycopg warns of a connection that nobody has closed, and warnings are errors here


async def count_in(session: AnySession) -> None:
    async with session:
        await session.execute(COUNT)


async def test_a_frozen_primary_does_not_hold_up_who_asks_for_a_fate(nodes: PostgresServers) -> None:
    make_table(nodes)
    doubt = CommitInDoubt("main", xid=None, before=None, server=None)
    async with cluster_at(nodes) as cluster:
        await insert(cluster, 1)
        with frozen(nodes.primary):
            began = time.monotonic()
            async with asyncio.timeout(60):
                with pytest.raises(OperationalError):
                    await cluster.resolve(doubt, timeout_seconds=0.5)
            assert time.monotonic() - began < 15
    with sync_cluster_at(nodes) as twin:
        assert twin.resolve(doubt) is TransactionStatus.UNKNOWN
        with frozen(nodes.primary), pytest.raises(OperationalError):
            twin.resolve(doubt, timeout_seconds=0.5)


async def test_a_standby_that_is_taken_for_the_primary_answers_no_read_of_the_primary(
    servers: PostgresServers,
) -> None:
    # The monitor looks once a minute, so it knows nothing yet when the read comes.
    async with cluster_at(servers, options=replace(QUICK, poll_seconds=60)) as cluster:
        await insert(cluster, 1)
        await until(lambda: cluster.monitor.primary_state.answers, what="the primary is known")
        become_standby(servers)
        with pytest.raises(OperationalError, match="it is in recovery") as caught:
            async with cluster.read(freshness=ON_PRIMARY) as session:
                await session.execute(COUNT)
        assert caught.value.orig is not None
        await until(lambda: cluster.monitor.primary_state.timeline == 2, what="the new primary is found")
        async with cluster.read(freshness=ON_PRIMARY) as session:
            assert (await session.execute(COUNT)).scalar_one() == 2


def become_standby(servers: PostgresServers) -> None:
    """Promote the replica, and bring the old primary back as a standby that has not caught up."""
    servers.wait_for_replica()
    servers.primary.stop()
    promote(servers.replica)
    with servers.replica.connect() as connection:
        connection.execute("INSERT INTO notes VALUES (2)")
    (servers.primary.data / "standby.signal").touch()
    servers.primary.start(port=servers.primary_port)


async def test_a_rival_on_the_same_timeline_gets_no_writes_even_alone(servers: PostgresServers) -> None:
    async with cluster_at(servers) as cluster:
        await insert(cluster, 1)
        await until(lambda: cluster.monitor.primary_state.answers, what="the primary is known")
        servers.wait_for_replica()
        servers.replica.stop()
        (servers.replica.data / "standby.signal").unlink()
        await insert(cluster, 2)
        servers.primary.stop()
        servers.replica.start(port=servers.replica_port)
        await until(lambda: cluster.monitor.primary_state.rivals == ("replica",), what="the rival is seen")
        with pytest.raises(OperationalError):
            await insert(cluster, 3)
    with servers.replica.connect() as connection:
        assert connection.execute("SELECT n FROM notes").fetchall() == [(1,)]


async def test_a_source_with_errors_of_its_own_is_asked_again(postgres: PostgresServers) -> None:
    asked = []

    async def source() -> Sequence[Address]:
        asked.append(1)
        raise [ValueError("no JSON"), KeyError("port")][len(asked) % 2]

    async with cluster_at(postgres) as cluster:
        discovery = Discovery(cluster, source, make_reader=lambda _: pytest.fail("none"), every_seconds=0.01)
        discovery.start()
        await until(lambda: len(asked) > 3, what="it is asked again")
        await discovery.stop()
