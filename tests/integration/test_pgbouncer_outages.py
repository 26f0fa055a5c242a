"""A pooler that is paused, reloaded, killed or full: its clients wait, or get a named error."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError

from ops.pgbouncer import admin
from ops.pgbouncer.admin import Console, ConsoleAddress
from ops.pgbouncer.errors import ConsoleSilent, PauseTimedOut
from readreplica.sessions import WriteSession
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.sessions import ShardedSessions, open_sessions
from sharding.shard_map import ShardMap
from tests.pooler import RunningPooler, write_files
from tests.pooler_load import Load, run_load
from tests.servers import PostgresServers

ENTRIES = ["mes_0.mes", "mes_1.mes"]
SELECT = text("SELECT 1")


@pytest.fixture(scope="module")
async def sessions(pooler: RunningPooler) -> AsyncIterator[ShardedSessions]:
    async with open_cluster(pooler.topology, "directory", role="mes", application_name="test") as cluster:
        await Directory(cluster.primary, "mes").save_map(
            ShardMap.even(["mes_0", "mes_1"], 64), expected_version=0
        )
    async with open_sessions(pooler.topology, role="mes", application_name="test") as sessions:
        yield sessions


async def begin_load(sessions: ShardedSessions, *, seed: int) -> asyncio.Task[Load]:
    """Start some transactions, and return when they are under way."""
    begun = asyncio.Event()
    load = asyncio.create_task(run_load(sessions, transactions=480, workers=6, seed=seed, begun=begun))
    async with asyncio.timeout(60):
        await begun.wait()
    return load


def waiting(console: Console) -> int:
    """Count the clients that wait for a server."""
    return sum(int(str(row["cl_waiting"])) for row in console.show("POOLS"))


async def until(condition: Callable[[], bool], *, timeout_seconds: float = 30.0) -> None:
    """Wait for a condition that a console tells; other tasks go on meanwhile."""
    async with asyncio.timeout(timeout_seconds):
        while not await asyncio.to_thread(condition):
            continue


async def test_a_pause_under_load_holds_clients_and_fails_none(
    sessions: ShardedSessions, pooler: RunningPooler
) -> None:
    [console] = pooler.pooler.consoles()
    load = await begin_load(sessions, seed=3)
    await asyncio.to_thread(admin.pause, [console], ENTRIES, timeout_seconds=20)
    await until(lambda: waiting(console) > 0)
    assert not load.done()
    assert admin.resume([console], ENTRIES) == ENTRIES
    done = await load
    assert (done.errors, done.stale) == ({}, 0), str(done)


async def test_a_pause_that_an_open_transaction_holds_up_resumes_by_itself(
    sessions: ShardedSessions, pooler: RunningPooler
) -> None:
    [console] = pooler.pooler.consoles()
    async with sessions.write(1) as session:
        await session.execute(SELECT)
        entry = f"{sessions.shard_of(1)}.mes"
        with pytest.raises(PauseTimedOut, match=r"did not come to rest within 0\.3 s and was resumed"):
            await asyncio.to_thread(admin.pause, [console], ENTRIES, timeout_seconds=0.3)
        assert entry in ENTRIES
    assert not any(admin.is_paused(row) for row in console.show("DATABASES"))
    async with sessions.write(1) as session:
        await session.execute(SELECT)


async def test_a_reload_and_a_reconnect_under_load_fail_nobody(
    sessions: ShardedSessions, pooler: RunningPooler
) -> None:
    [console] = pooler.pooler.consoles()
    load = await begin_load(sessions, seed=4)
    await asyncio.to_thread(admin.reconnect, [console], ENTRIES, timeout_seconds=10)
    while not load.done():
        await asyncio.to_thread(console.run, "RELOAD")
    done = await load
    assert (done.errors, done.stale) == ({}, 0), str(done)


async def test_a_killed_pooler_costs_what_was_under_way_and_nothing_after_its_restart(
    sessions: ShardedSessions, pooler: RunningPooler
) -> None:
    [console] = pooler.pooler.consoles()
    load = await begin_load(sessions, seed=5)
    assert await asyncio.to_thread(pooler.process.kill) is not None
    with pytest.raises(ConsoleSilent, match="Start the pooler"):
        console.show("VERSION")
    await asyncio.to_thread(pooler.start)
    done = await load
    assert done.errors.total() > 0
    # A COMMIT that was under way is in doubt, and is said to be; a scattered read names its shard.
    named = ("OperationalError", "DBAPIError", "CommitInDoubt", "ShardFailed")
    assert all(error.startswith(named) for error in done.errors), str(done.errors)
    after = await run_load(sessions, transactions=120, workers=6, seed=6)
    assert (after.errors, after.stale) == ({}, 0), str(after)


async def test_a_full_pool_is_a_named_error_in_bounded_time(pooler: RunningPooler) -> None:
    extra = "[pgbouncer.services.mes]\npool_size = 2\n"
    wait = "query_wait_seconds = 1\n"
    before = pooler.path.read_text()
    pooler.change("[pgbouncer]\n", f"{extra}[pgbouncer]\n{wait}")
    pooler.restart()
    try:
        async with open_cluster(pooler.topology, "mes_0", role="mes", application_name="test") as cluster:
            async with cluster.write() as first, cluster.write() as second:
                had = {await driver_of(first), await driver_of(second)}
                async with asyncio.timeout(30):
                    with pytest.raises(DBAPIError, match="query_wait_timeout"):
                        async with cluster.write() as third:
                            await third.execute(SELECT)
            # It costs nobody the connection that he has: to make another would take a server's, too.
            async with cluster.write() as first:
                assert await driver_of(first) in had
    finally:
        pooler.change(pooler.path.read_text(), before)
        pooler.restart()


async def driver_of(session: WriteSession) -> object:
    """Give the connection under a session that has begun."""
    await session.execute(SELECT)
    raw = await (await session.connection()).get_raw_connection()
    return raw.driver_connection


def test_a_wrong_password_is_refused_by_the_pooler(pooler: RunningPooler) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"SASL authentication failed|password"):
        psycopg.connect(host="127.0.0.1", port=pooler.port, dbname="mes_0.mes", user="mes", password="no")
    with pytest.raises(ConsoleSilent, match="does not answer"):
        Console(ConsoleAddress("127.0.0.1", pooler.port, "pgbouncer", "no")).show("VERSION")


async def test_an_old_userlist_is_a_named_error_in_bounded_time_and_render_mends_it(
    sessions: ShardedSessions, pooler: RunningPooler, postgres: PostgresServers
) -> None:
    [console] = pooler.pooler.consoles()
    async with sessions.write(1) as session:
        await session.execute(SELECT)
    before = await asyncio.to_thread(change_secret, postgres, postgres.passwords["mes"])
    try:
        # Connections that there are go on; those that come are refused by the server.
        async with sessions.write(1) as session:
            await session.execute(SELECT)
        await asyncio.to_thread(admin.reconnect, [console], ENTRIES, timeout_seconds=5)
        async with asyncio.timeout(30):
            with pytest.raises(DBAPIError, match=r"server login has been failing|authentication"):
                async with sessions.write(1) as session:
                    await session.execute(SELECT)
        await asyncio.to_thread(write_files, pooler.topology, pooler.folder)
        await asyncio.to_thread(console.run, "RELOAD")
        await until(partial(logs_in, pooler))
        async with sessions.write(1) as session:
            await session.execute(SELECT)
    finally:
        await asyncio.to_thread(change_secret, postgres, before)
        await asyncio.to_thread(write_files, pooler.topology, pooler.folder)
        await asyncio.to_thread(pooler.restart)


def change_secret(postgres: PostgresServers, password: str) -> str:
    """Store a password, or a secret, of the role mes; give the secret that it had."""
    with postgres.primary.connect() as connection:
        query = "SELECT rolpassword FROM pg_authid WHERE rolname = 'mes'"
        row = connection.execute(query).fetchone()
        connection.execute(sql.SQL("ALTER ROLE mes PASSWORD {}").format(sql.Literal(password)))
    postgres.wait_for_replica()
    assert row is not None
    return str(row[0])


def logs_in(pooler: RunningPooler) -> bool:
    """Whether the pooler has a connection for a client of mes_0."""
    url = pooler.topology.url("mes_0", role="mes").set(drivername="postgresql")
    try:
        with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


@pytest.mark.parametrize("dbname", ["crm.crm", "mes_0", "pgbouncer"])
def test_a_role_reaches_its_own_pools_only(pooler: RunningPooler, dbname: str) -> None:
    url: URL = pooler.topology.url("mes_0", role="mes")
    with pytest.raises(psycopg.OperationalError, match=r"no such database|rejected|not allowed|login"):
        psycopg.connect(
            host=url.host,
            port=url.port,
            dbname=dbname,
            user="mes",
            passfile=str(url.query["passfile"]),
        )
