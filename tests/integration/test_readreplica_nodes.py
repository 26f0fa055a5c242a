"""What a process knows of its nodes, on servers that each test breaks: other histories, other servers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, Pool
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from ops.ports import LOOPBACK
from readreplica import engines
from readreplica.addresses import Address
from readreplica.cluster import PRIMARY, Cluster
from readreplica.discovery import Discovery
from readreplica.engines import reader_engine, writer_engine
from readreplica.errors import OtherEventLoop, ReplicasTooStale
from readreplica.freshness import ANY, Freshness, bounded
from readreplica.freshness import PRIMARY as ON_PRIMARY
from readreplica.health import NodeFault
from readreplica.token import CausalToken
from readreplica.wal import Lsn, Position
from tests.integration.replicas_rig import (
    COUNT,
    HAS,
    QUICK,
    cluster_at,
    insert,
    kill,
    make_table,
    parts,
    promote,
    set_parameters,
    until,
    url_of,
)
from tests.servers import PostgresServers, run_postgres

UNASKED = replace(QUICK, poll_seconds=60, replay_wait_seconds=0.05)
"""The monitor asks once, and then only when it is told to."""


async def test_a_standby_that_was_promoted_once_shows_nobody_less_than_he_wrote(tmp_path: Path) -> None:
    with run_postgres(tmp_path) as servers:
        make_table(servers)
        promote(servers.replica)
        with servers.replica.connect() as connection:
            connection.execute("CREATE TABLE junk AS SELECT generate_series(1, 20000)")
        servers.replica.stop()
        # Promoted by mistake, written to, and a standby again without a rewind.
        (servers.replica.data / "standby.signal").touch()
        servers.replica.start(port=servers.replica_port)
        async with cluster_at(servers, options=replace(QUICK, replay_wait_seconds=0.05)) as cluster:
            for n in range(5):
                token = await insert(cluster, n)
                async with cluster.read(after=token) as session:
                    assert (await session.execute(HAS, {"n": n})).scalar_one() == 1, session.node
            node = cluster.monitor.nodes["replica"]
            await until(
                lambda: node.health.ejected is NodeFault.NEWER_TIMELINE, what="the replica is taken out"
            )


@pytest.mark.parametrize("freshness", [ANY, bounded(max_lag_bytes=0)])
async def test_a_replica_that_was_started_anew_has_to_say_anew_what_it_has(
    tmp_path: Path, freshness: Freshness
) -> None:
    with run_postgres(tmp_path) as servers:
        make_table(servers)
        async with cluster_at(servers, options=UNASKED) as cluster:
            with servers.replica.connect() as connection:
                connection.execute("CHECKPOINT")  # from where it replays again
            token = await insert(cluster, 1)
            servers.wait_for_replica()
            if freshness.is_bounded:
                async with cluster.read() as session:  # a connection, which the pool replaces afterwards
                    await session.execute(COUNT)
                    assert session.node == "replica"
            await cluster.monitor.poll_all(timeout_seconds=20)
            # In place of a replay that takes long.
            set_parameters(servers.replica, recovery_min_apply_delay="1h")
            kill(servers.replica)
            servers.replica.start(port=servers.replica_port)
            after = None if freshness.is_bounded else token
            async with cluster.read(after=after, freshness=freshness) as session:
                assert (await session.execute(COUNT)).scalar_one() == 1
                assert session.node == PRIMARY


class Door:
    """An address that leads to one server after another; who is inside stays where he is."""

    def __init__(self, to_port: int) -> None:
        self.to_port = to_port
        self.port = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Let people in, inside of the block."""
        async with await asyncio.start_server(self._accept, LOOPBACK, 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(LOOPBACK, self.to_port)
        await asyncio.gather(_pass_on(reader, to_server), _pass_on(from_server, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_an_address_that_was_moved_to_another_server_is_found_at_the_next_connection(
    postgres: PostgresServers,
) -> None:
    make_table(postgres)
    door = Door(postgres.replica_port)
    async with door.open(), cluster_at(postgres, options=UNASKED, replicas={"replica": door.port}) as cluster:
        token = await insert(cluster, 1)
        postgres.wait_for_replica()
        await cluster.monitor.poll_all(timeout_seconds=20)
        node = cluster.monitor.nodes["replica"]
        assert cluster.monitor.covers(node, token.positions["main"])
        door.to_port = postgres.primary_port  # the old server lives on, and so does the monitor's connection
        async with cluster.read(after=token) as session:
            await session.execute(COUNT)
            assert session.node == PRIMARY
        # It asks the server that is there now, and not the one that it was connected to.
        await until(lambda: node.health.ejected is NodeFault.NOT_A_REPLICA, what="the other server is asked")


@pytest.mark.parametrize("is_awaited", [True, False])
async def test_a_process_that_starts_reads_no_primary_from_before_its_token(
    tmp_path: Path, is_awaited: bool
) -> None:
    with run_postgres(tmp_path) as servers:
        make_table(servers)
        promote(servers.replica)  # and the old primary lives on, where the topology names it
        async with cluster_at(servers) as cluster:
            token = await insert(cluster, 1)
        assert token.positions["main"].timeline == 2
        for freshness in (ANY, ON_PRIMARY, ANY):
            async with cluster_at(servers, options=replace(QUICK, replay_wait_seconds=0.005)) as cluster:
                reader = cluster.read(after=token, freshness=freshness)
                if is_awaited:
                    async with reader as session:
                        assert (await session.execute(HAS, {"n": 1})).scalar_one() == 1
                    continue
                # Nothing waits in here; a refusal is no lie.
                with suppress(ReplicasTooStale):
                    assert (await reader.execute(HAS, {"n": 1})).scalar_one() == 1
                await reader.close()


async def test_a_process_that_starts_writes_to_neither_of_two_primaries_on_one_timeline(
    tmp_path: Path,
) -> None:
    with run_postgres(tmp_path) as servers:
        make_table(servers)
        servers.replica.stop()
        (servers.replica.data / "standby.signal").unlink()
        servers.replica.start(port=servers.replica_port)
        for n in range(6):
            async with cluster_at(servers) as cluster:
                with pytest.raises(OperationalError, match="they all take writes on the same timeline"):
                    await insert(cluster, n)


@pytest.mark.parametrize("poolclass", [None, NullPool])
async def test_the_budget_bounds_what_is_held_with_any_pool(
    postgres: PostgresServers, poolclass: type[Pool] | None
) -> None:
    make_table(postgres)
    pool: dict[str, Any] = {"poolclass": poolclass} if poolclass else {}
    url = url_of(postgres, postgres.primary_port)
    cluster = Cluster(
        "main",
        primary=writer_engine(url, application_name="test"),
        primary_reader=reader_engine(url, application_name="test", **pool),
        replicas={"replica": reader_engine(url.set(port=postgres.replica_port), application_name="test")},
        options=replace(UNASKED, fallback_concurrency=2),
    )
    foreign = CausalToken({"main": Position(1, 1, Lsn(1))})  # whose system nobody knows: for the primary

    async def read() -> bool:
        async with cluster.read(after=foreign) as session:
            try:
                await session.execute(COUNT)
            except ReplicasTooStale:
                return False
            else:
                await everybody.wait()
                return True

    try:
        await insert(cluster, 1)
        await AsyncEngine(cluster.monitor.nodes[PRIMARY].engine).dispose()  # which makes another pool
        for _ in range(2):
            everybody = asyncio.Barrier(2)
            async with asyncio.timeout(60):
                assert sorted(await asyncio.gather(*(read() for _ in range(12)))) == [False] * 10 + [True] * 2
        assert cluster.monitor.nodes[PRIMARY].load() == 0
    finally:
        await cluster.close()


def test_a_cluster_in_a_second_event_loop_says_so_and_is_closed_in_a_third(postgres: PostgresServers) -> None:
    make_table(postgres)
    cluster = Cluster("main", options=QUICK, **parts(postgres, engines, {"replica": postgres.replica_port}))

    async def use() -> None:
        await insert(cluster, 1)

    async def use_again() -> None:
        await cluster.primary.dispose()  # its connections are of the first loop
        with pytest.raises(OtherEventLoop, match="main belongs to the event loop that used it first"):
            await insert(cluster, 2)

    for unit in (use, use_again, cluster.close):
        asyncio.run(unit())


async def test_an_address_that_is_named_twice_is_one_node(postgres: PostgresServers) -> None:
    make_table(postgres)
    at_replica = Address(LOOPBACK, postgres.replica_port)

    async def source() -> Sequence[Address]:
        return [at_replica, at_replica]

    def make_reader(address: Address) -> AsyncEngine:
        return reader_engine(url_of(postgres, address.port), application_name="test")

    async with cluster_at(postgres, replicas={}) as cluster:
        discovery = Discovery(cluster, source, make_reader=make_reader)
        assert await discovery.refresh() == [at_replica]
        assert await discovery.refresh() == []
        spare = make_reader(at_replica)
        with pytest.raises(ValueError, match=r"main has a node .* already"):
            cluster.add_replica(str(at_replica), spare)
        await insert(cluster, 1)
    # Nothing watches on.
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_role_that_may_not_read_the_control_file_reads_all_the_same(
    postgres: PostgresServers,
) -> None:
    make_table(postgres)
    with postgres.primary.connect() as connection:
        connection.execute(
            """
            DO $$ BEGIN
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'modest') THEN
                    CREATE ROLE modest LOGIN PASSWORD 'modest';
                END IF;
            END $$;
            GRANT SELECT ON notes TO modest;
            REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC
            """
        )
    postgres.wait_for_replica()
    url = url_of(postgres, postgres.primary_port)
    modest = url.set(username="modest", password="modest")
    cluster = Cluster(
        "main",
        primary=writer_engine(url, application_name="test"),
        primary_reader=reader_engine(modest, application_name="test"),
        replicas={"replica": reader_engine(modest.set(port=postgres.replica_port), application_name="test")},
        options=UNASKED,
    )
    try:
        token = await insert(cluster, 1)
        for after in (None, token):
            async with cluster.read(after=after) as session:
                assert (await session.execute(COUNT)).scalar_one() == 1
        # The monitor learns nothing, so the primary answers, and tells its timeline itself.
        newer = token.positions["main"]._replace(timeline=99)
        with pytest.raises(ReplicasTooStale, match="the only primary known here, is on timeline 1"):
            async with cluster.read(after=CausalToken({"main": newer})) as session:
                await session.execute(COUNT)
    finally:
        with postgres.primary.connect() as connection:
            connection.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
        await cluster.close()
