"""The primary dies, is demoted, comes back: no wrong node is ever written. `servers` are the test's own."""

import asyncio
import os
import signal
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from ops.embedded.postgres import SUPERUSER, UNSAFE
from ops.embedded.programs import PostgresTools
from ops.ports import LOOPBACK
from readreplica.cluster import PRIMARY, Cluster
from readreplica.errors import CommitInDoubt, NotThePrimary, SwitchoverFailed, WritesRefused
from readreplica.health import NodeFault
from readreplica.pool import shut
from readreplica.sessions import ReadSession, WriteSession
from readreplica.transaction_status import TransactionStatus
from tests.integration.cable import Cable
from tests.integration.replicas_rig import (
    COUNT,
    HAS,
    INSERT,
    QUICK,
    cluster_at,
    commits_waiting,
    insert,
    kill,
    make_table,
    promote,
    set_parameters,
    standby_missing,
    sync_cluster_at,
    until,
)
from tests.servers import ACCESS, PostgresServers

PATIENT = replace(QUICK, failover_wait_seconds=60)
PORT = text("SELECT inet_server_port()")


async def put(session: WriteSession, *, n: int) -> None:
    await session.execute(INSERT, {"n": n})


async def port_of_write(cluster: Cluster) -> int:
    async with cluster.write() as session:
        return int((await session.execute(PORT)).scalar_one())


async def port_of_read(session: ReadSession) -> int:
    return int((await session.execute(PORT)).scalar_one())


async def write_until(cluster: Cluster, stop: asyncio.Event, acknowledged: list[int]) -> None:
    n = 0
    while not stop.is_set():
        n += 1
        try:
            await cluster.transact(partial(put, n=n))
        except CommitInDoubt as doubt:
            # With the id known, a promotion tells: the row is there or it never will be.
            if await cluster.resolve(doubt) is not TransactionStatus.COMMITTED:
                continue
        acknowledged.append(n)


async def test_the_primary_dies_under_load_and_comes_back_as_a_replica(servers: PostgresServers) -> None:
    acknowledged: list[int] = []
    stop = asyncio.Event()
    set_parameters(servers.primary, synchronous_standby_names="*")
    async with cluster_at(servers, options=PATIENT, record_xid=True) as cluster:
        load = asyncio.create_task(write_until(cluster, stop, acknowledged))
        await until(lambda: len(acknowledged) > 20, what="writes")
        kill(servers.primary)
        promote(servers.replica)
        so_far = len(acknowledged)
        await until(lambda: len(acknowledged) > so_far + 20, what="writes after the promotion")
        stop.set()
        await load
        async with cluster.write() as session:
            found = set((await session.execute(text("SELECT n FROM notes"))).scalars())
            await session.execute(INSERT, {"n": -1})
        assert set(acknowledged) <= found
        assert session.token.positions["main"].timeline == 2

        # The old one comes back as if nothing had happened: it takes writes, and gets none.
        servers.primary.start(port=servers.primary_port)
        await until(lambda: cluster.monitor.primary_state.rivals == (PRIMARY,), what="the rival is seen")
        assert {await port_of_write(cluster) for _ in range(3)} == {servers.replica_port}
        assert {await port_of_read_any(cluster) for _ in range(3)} == {servers.replica_port}

        # Rewound, it is a replica like any other.
        rejoin(servers)
        old = cluster.monitor.nodes[PRIMARY]
        await until(
            lambda: (
                old.health.ejected is None and old.observation is not None and old.observation.in_recovery
            ),
            what="the old primary is taken in as a replica",
        )
        token = await insert(cluster, -2)
        async with cluster.read(after=token) as reader:
            assert (await reader.execute(HAS, {"n": -2})).scalar_one() == 1
            assert (await reader.execute(PORT)).scalar_one() == servers.primary_port
        assert reader.node == "former primary"


async def port_of_read_any(cluster: Cluster) -> int:
    return await cluster.transact_read(port_of_read)


def rejoin(servers: PostgresServers) -> None:
    """Rewind the old primary to the new one's history, and have it follow."""
    old, new = servers.primary, servers.replica
    old.stop()
    set_parameters(new, full_page_writes="on")  # pg_rewind copies pages while they are written
    source = f"host={LOOPBACK} port={servers.replica_port} user={SUPERUSER} dbname=postgres"
    words = ["--target-pgdata", str(old.data), "--source-server", source]
    tools = PostgresTools()
    tools.run("pg_rewind", *words, timeout_seconds=120, passfile=servers.passfile)
    (old.data / "standby.signal").touch()
    following = {
        "primary_conninfo": f"host={LOOPBACK} port={servers.replica_port} user=replicator "
        f"passfile={servers.passfile}",
        "primary_slot_name": "",
        "synchronous_standby_names": "",
    }
    (old.data / "postgresql.auto.conf").write_text("")
    old.configure(port=servers.primary_port, access=ACCESS, settings={**following, **UNSAFE})
    old.start(port=servers.primary_port)
    assert new.pid() is not None


async def test_a_primary_of_an_older_timeline_gets_no_writes_even_alone(servers: PostgresServers) -> None:
    async with cluster_at(servers) as cluster:
        await insert(cluster, 1)
        promote(servers.replica)
        await until(lambda: cluster.monitor.primary_state.timeline == 2, what="the promotion is seen")
        assert await port_of_write(cluster) == servers.replica_port
        servers.replica.stop()
        with pytest.raises(OperationalError):
            await insert(cluster, 2)
    with servers.primary.connect() as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (1,)


async def test_a_unit_that_began_before_the_promotion_is_not_committed_on_the_old_primary(
    servers: PostgresServers,
) -> None:
    async with cluster_at(servers) as cluster:
        session = cluster.write()

        async def unit() -> None:
            async with session:
                await session.execute(INSERT, {"n": 1})
                promote(servers.replica)
                await until(lambda: cluster.monitor.primary_state.timeline == 2, what="the promotion is seen")

        with pytest.raises(OperationalError, match="nothing was written") as caught:
            await unit()
        assert isinstance(caught.value.orig, NotThePrimary)
        assert not session.token
    for server in (servers.primary, servers.replica):
        with server.connect() as connection:
            assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)


async def test_a_process_that_starts_after_a_failover_finds_the_primary_by_its_role(
    servers: PostgresServers,
) -> None:
    servers.wait_for_replica()
    servers.primary.stop()
    promote(servers.replica)
    async with cluster_at(servers, options=PATIENT) as cluster:
        await cluster.transact(partial(put, n=1))
        async with cluster.read() as session:
            assert (await session.execute(COUNT)).scalar_one() == 1
            assert session.node == PRIMARY
    with sync_cluster_at(servers, options=PATIENT) as twin:
        twin.transact(lambda session: session.execute(INSERT, {"n": 2}))
        with twin.read() as reader:
            assert reader.execute(COUNT).scalar_one() == 2


async def test_a_process_that_starts_beside_a_demoted_primary_does_not_write_to_it(
    servers: PostgresServers,
) -> None:
    promote(servers.replica)  # and the old one lives on, and takes writes
    async with cluster_at(servers) as cluster:
        assert await port_of_write(cluster) == servers.replica_port
    with sync_cluster_at(servers) as twin, twin.write() as session:
        assert session.execute(PORT).scalar_one() == servers.replica_port


async def test_a_commit_whose_answer_is_lost_is_in_doubt_until_it_is_resolved(
    nodes: PostgresServers,
) -> None:
    make_table(nodes)
    async with cluster_at(nodes, options=PATIENT, record_xid=True) as cluster:
        await insert(cluster, 0)
        # The standby that it must wait for is not there: COMMIT gets no answer.
        with standby_missing(nodes.primary):
            doubt = await doubt_of_commit(cluster, nodes, n=1)
            assert doubt.xid is not None
            assert await cluster.resolve(doubt, timeout_seconds=0.2) is TransactionStatus.IN_PROGRESS
        assert await cluster.resolve(doubt) is TransactionStatus.COMMITTED
        assert "it may be committed" in str(doubt)

        lost = await doubt_of_commit_that_never_arrives(cluster, n=2)
        assert await cluster.resolve(lost) is TransactionStatus.ABORTED
        async with cluster.write() as session:
            assert set((await session.execute(text("SELECT n FROM notes"))).scalars()) == {0, 1}


async def test_after_a_crash_that_the_postmaster_survives_an_id_is_not_believed(
    servers: PostgresServers,
) -> None:
    async with cluster_at(servers, options=PATIENT, record_xid=True) as cluster:
        await insert(cluster, 0)
        with standby_missing(servers.primary):
            doubt = await doubt_of_commit(cluster, servers, n=1)
            with servers.primary.connect() as connection:
                started = connection.execute("SELECT pg_postmaster_start_time()").fetchone()
                os.kill(connection.info.backend_pid, signal.SIGKILL)
            # It may be another transaction's by now.
            assert await cluster.resolve(doubt) is TransactionStatus.UNKNOWN
        with servers.primary.connect() as connection:
            assert connection.execute("SELECT pg_postmaster_start_time()").fetchone() == started


async def test_without_an_id_the_idempotency_key_tells(nodes: PostgresServers) -> None:
    make_table(nodes)

    async def is_there(session: ReadSession) -> bool:
        return bool((await session.execute(HAS, {"n": 1})).scalar_one())

    async with cluster_at(nodes, options=PATIENT) as cluster:
        await insert(cluster, 0)
        lost = await doubt_of_commit_that_never_arrives(cluster, n=1)
        assert lost.xid is None
        assert await cluster.resolve(lost) is TransactionStatus.UNKNOWN
        # Whatever was in progress must have ended before anybody looks for its effects.
        with standby_missing(nodes.primary):
            waiting = await doubt_of_commit(cluster, nodes, n=5)
            assert waiting.xid is None
            assert (
                await cluster.resolve(waiting, lookup=is_there, timeout_seconds=0.2)
                is TransactionStatus.IN_PROGRESS
            )
        assert await cluster.resolve(lost, lookup=is_there) is TransactionStatus.ABORTED
        await insert(cluster, 1)
        assert await cluster.resolve(lost, lookup=is_there) is TransactionStatus.COMMITTED


async def doubt_of_commit(cluster: Cluster, servers: PostgresServers, *, n: int) -> CommitInDoubt:
    """Cut the connection while the server waits for its standby in COMMIT."""
    connected: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def write() -> None:
        async with cluster.write() as session:
            connected.set_result(await begun(session, n))

    writing = asyncio.create_task(write())
    with servers.primary.connect() as connection:
        await until(lambda: commits_waiting(connection) == 1, what="COMMIT waits")
    shut(await connected)
    with pytest.raises(CommitInDoubt) as caught:
        await writing
    return caught.value


async def doubt_of_commit_that_never_arrives(cluster: Cluster, *, n: int) -> CommitInDoubt:
    """Cut the connection at the very moment at which COMMIT is sent."""

    async def write() -> None:
        async with cluster.write() as session:
            driver = await begun(session, n)
            send_commit = driver._send_commit

            async def cut(answers: list[Any]) -> None:
                shut(driver)
                await send_commit(answers)

            driver._send_commit = cut

    with pytest.raises(CommitInDoubt) as caught:
        await write()
    return caught.value


async def begun(session: WriteSession, n: int) -> Any:
    await session.execute(INSERT, {"n": n})
    connection = await session.connection()
    raw = await connection.get_raw_connection()
    return raw.driver_connection


async def test_a_planned_switch_over_drains_first(servers: PostgresServers) -> None:
    async with cluster_at(servers, options=PATIENT) as cluster:
        await insert(cluster, 1)
        entered, leave = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            async with cluster.write() as session:
                await session.execute(INSERT, {"n": 2})
                entered.set()
                await leave.wait()

        writing = asyncio.create_task(slow())
        await entered.wait()
        with pytest.raises(SwitchoverFailed, match="1 writes were under way still after"):
            async with cluster.drained(timeout_seconds=0.05):
                pass
        asyncio.get_running_loop().call_later(0.1, leave.set)
        async with cluster.drained(timeout_seconds=30):
            await writing
            with pytest.raises(WritesRefused, match="is being switched over"):
                await insert(cluster, 3)
            patient = asyncio.create_task(cluster.transact(partial(put, n=4)))
            servers.wait_for_replica()
            promote(servers.replica)
        await patient
        assert await port_of_write(cluster) == servers.replica_port
        async with cluster.write() as session:
            assert set((await session.execute(text("SELECT n FROM notes"))).scalars()) == {1, 2, 4}


async def test_two_primaries_on_one_timeline_do_not_move_the_writes(servers: PostgresServers) -> None:
    async with cluster_at(servers) as cluster:
        await insert(cluster, 1)
        await until(lambda: cluster.monitor.primary_state.answers, what="the primary is known")
        servers.wait_for_replica()
        servers.replica.stop()
        # As a hand would that takes it for a copy to play with: started without standby.signal.
        (servers.replica.data / "standby.signal").unlink()
        servers.replica.start(port=servers.replica_port)
        await until(lambda: cluster.monitor.primary_state.rivals == ("replica",), what="the rival is seen")
        assert cluster.monitor.nodes["replica"].health.ejected is NodeFault.NOT_A_REPLICA
        assert {await port_of_write(cluster) for _ in range(3)} == {servers.primary_port}
        async with cluster.read() as session:
            assert (await session.execute(PORT)).scalar_one() == servers.primary_port


async def test_a_primary_that_is_cut_off_holds_no_writer_up(servers: PostgresServers) -> None:
    cable = Cable(servers.way_to(servers.primary_port))
    listener = await asyncio.start_server(cable.accept, LOOPBACK, 0)
    behind = replace(servers, primary_port=listener.sockets[0].getsockname()[1])
    attempts = []

    async def work(session: WriteSession) -> None:
        await session.execute(INSERT, {"n": 2})
        attempts.append(int((await session.execute(PORT)).scalar_one()))
        if len(attempts) == 1:
            cable.cut()
            await asyncio.to_thread(promote, servers.replica)
            await session.execute(text("SELECT 1"))  # gets no answer

    async with listener:
        async with cluster_at(behind, options=replace(PATIENT, answer_seconds=0.3)) as cluster:
            await insert(cluster, 1)
            await until(lambda: cluster.monitor.primary_state.answers, what="the primary is known")
            servers.wait_for_replica()
            async with asyncio.timeout(60):
                await cluster.transact(work)
            assert attempts == [servers.primary_port, servers.replica_port]
        await cable.close()
    # The old one is alive behind its cut cable, and has nothing of the unit.
    with servers.primary.connect() as connection:
        assert connection.execute("SELECT n FROM notes ORDER BY n").fetchall() == [(1,)]
    with servers.replica.connect() as connection:
        assert connection.execute("SELECT n FROM notes ORDER BY n").fetchall() == [(1,), (2,)]
