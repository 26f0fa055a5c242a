"""Whichever way a unit commits, its token is known, and an answer that is lost is told as such."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from readreplica.errors import CommitInDoubt, NoTransaction, SessionNotEntered
from readreplica.pool import shut
from readreplica.sessions import WriteSession
from readreplica.token import CausalToken
from readreplica.transaction_status import TransactionStatus
from readreplica.wal import UNKNOWN_POSITION
from tests.integration.replicas_rig import (
    COUNT,
    HAS,
    INSERT,
    QUICK,
    cluster_at,
    commits_waiting,
    insert,
    make_table,
    standby_missing,
    sync_cluster_at,
    until,
)
from tests.servers import PostgresServers

CONFLICT = text("DO $$ BEGIN RAISE serialization_failure; END $$")
PATIENT = QUICK.__class__(poll_seconds=0.05, replay_wait_seconds=10, failover_wait_seconds=20)


def rows(servers: PostgresServers) -> int:
    with servers.primary.connect() as connection:
        [found] = connection.execute("SELECT count(*) FROM notes").fetchone() or [0]
    return int(found)


def lose_answer(session: Any) -> None:
    """Have the server commit, and its answer be lost."""
    session = getattr(session, "sync_session", session)
    lose_next(session.connection().connection.driver_connection)


def lose_next(driver: Any) -> None:
    """Have the server do the next COMMIT of a connection, and its answer be lost."""
    send = driver._send_commit

    async def lose(answers: list[Any]) -> None:
        await send(answers)
        answers.clear()
        shut(driver)
        await driver.execute("SELECT 1")

    def lose_in_thread(answers: list[Any]) -> None:
        send(answers)
        answers.clear()
        shut(driver)
        driver.execute("SELECT 1")

    driver._send_commit = lose if asyncio.iscoroutinefunction(send) else lose_in_thread


async def in_a_block(session: WriteSession) -> None:
    async with session.begin():
        await session.execute(INSERT, {"n": 1})


async def by_itself(session: WriteSession) -> None:
    await session.execute(INSERT, {"n": 1})
    await session.commit()


async def inside(session: WriteSession) -> None:
    await session.execute(INSERT, {"n": 1})
    await session.run_sync(lambda session: session.commit())


async def at_its_end(session: WriteSession) -> None:
    await session.execute(INSERT, {"n": 1})


WAYS_TO_COMMIT = [in_a_block, by_itself, inside, at_its_end]


@pytest.mark.parametrize("commits", WAYS_TO_COMMIT)
async def test_whichever_way_it_commits_the_token_is_known(
    nodes: PostgresServers, commits: Callable[[WriteSession], Awaitable[None]]
) -> None:
    make_table(nodes)
    told: list[CausalToken] = []
    async with cluster_at(nodes) as cluster:
        cluster.set_token_hooks(before_read=lambda: None, after_commit=told.append)
        async with cluster.write() as session:
            await commits(session)
            is_over = commits is not at_its_end
            assert bool(session.token) is is_over
            assert bool(told) is is_over
        assert told == [session.token]
        async with cluster.read(after=session.token) as reader:
            assert (await reader.execute(HAS, {"n": 1})).scalar_one() == 1


@pytest.mark.parametrize("commits", WAYS_TO_COMMIT)
async def test_an_answer_that_is_lost_is_never_done_again(
    nodes: PostgresServers, commits: Callable[[WriteSession], Awaitable[None]]
) -> None:
    make_table(nodes)
    calls = 0

    async def work(session: WriteSession) -> None:
        nonlocal calls
        calls += 1
        async with session.begin() if commits is in_a_block else nullcontext():
            await session.execute(INSERT, {"n": calls})
            await session.run_sync(lose_answer)
            if commits in (by_itself, inside):
                await session.commit()

    async with cluster_at(nodes, options=PATIENT, record_xid=True) as cluster:
        told: list[CausalToken] = []
        cluster.set_token_hooks(before_read=lambda: None, after_commit=told.append)
        with pytest.raises(CommitInDoubt) as caught:
            await cluster.transact(work)
        assert (calls, rows(nodes)) == (1, 1)
        assert await cluster.resolve(caught.value) is TransactionStatus.COMMITTED
        # Who reads before that is known is sent to the primary, and after it sees it anywhere.
        assert told == [CausalToken({"main": UNKNOWN_POSITION}), cluster.token_of(caught.value)]
        async with cluster.read(after=told[1]) as reader:
            assert (await reader.execute(COUNT)).scalar_one() == 1


def test_in_threads_too(nodes: PostgresServers) -> None:
    make_table(nodes)
    calls = 0

    def work(session: Any) -> None:
        nonlocal calls
        calls += 1
        with session.begin():
            session.execute(INSERT, {"n": calls})
            lose_answer(session)

    with sync_cluster_at(nodes, options=PATIENT) as cluster:
        with pytest.raises(CommitInDoubt):
            cluster.transact(work)
        assert (calls, rows(nodes)) == (1, 1)
        with cluster.write() as session, session.begin():
            session.execute(INSERT, {"n": 7})
        assert session.token


async def test_a_unit_that_has_committed_by_itself_is_not_done_again(nodes: PostgresServers) -> None:
    make_table(nodes)
    calls = 0

    async def work(session: WriteSession) -> None:
        nonlocal calls
        calls += 1
        await session.execute(INSERT, {"n": calls})
        await session.commit()
        await session.execute(CONFLICT)

    async with cluster_at(nodes) as cluster:
        with pytest.raises(OperationalError, match="serialization_failure"):
            await cluster.transact(work)
    assert (calls, rows(nodes)) == (1, 1)


async def test_a_commit_that_is_called_off_goes_on_its_way_and_can_be_asked_for(
    nodes: PostgresServers,
) -> None:
    make_table(nodes)
    async with cluster_at(nodes, record_xid=True) as cluster:
        await insert(cluster, 1)
        session = cluster.write()
        with standby_missing(nodes.primary):
            with pytest.raises(TimeoutError):
                await write_called_off(session, nodes)
            # Nobody sees yet what no standby has: the server was not told to give the wait up.
            assert rows(nodes) == 1
        assert session.token == CausalToken({"main": UNKNOWN_POSITION})
        doubt = session.in_doubt
        assert doubt is not None
        assert await cluster.resolve(doubt) is TransactionStatus.COMMITTED
        assert cluster.token_of(session.in_doubt) == cluster.token_of(doubt) != CausalToken()  # type: ignore[arg-type]
        assert rows(nodes) == 2


async def write_called_off(session: WriteSession, nodes: PostgresServers) -> None:
    """Write, and call the commit off when it waits for its standby."""

    async def call_off() -> None:
        with nodes.primary.connect() as connection:
            await until(lambda: commits_waiting(connection) == 1, what="COMMIT waits")
        deadline.reschedule(asyncio.get_running_loop().time())

    async with asyncio.timeout(None) as deadline, asyncio.TaskGroup() as tasks, session:
        tasks.create_task(call_off())
        await session.execute(INSERT, {"n": 2})


async def test_a_write_session_writes_inside_its_block_only(nodes: PostgresServers) -> None:
    make_table(nodes)
    async with cluster_at(nodes) as cluster:
        session = cluster.write()
        with pytest.raises(SessionNotEntered, match="main"):
            await session.execute(INSERT, {"n": 1})
        async with session:
            await session.execute(INSERT, {"n": 1})
        with pytest.raises(SessionNotEntered):
            await session.execute(INSERT, {"n": 2})
        # Whoever drains may rely on it.
        async with cluster.drained(timeout_seconds=5):
            with pytest.raises(SessionNotEntered):
                await session.execute(INSERT, {"n": 2})
    assert rows(nodes) == 1


async def test_a_write_session_refuses_autocommit(nodes: PostgresServers) -> None:
    make_table(nodes)
    async with cluster_at(nodes) as cluster:
        async with cluster.write() as session:
            with pytest.raises(NoTransaction):
                await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        assert not session.token
        await insert(cluster, 1)
    assert rows(nodes) == 1


async def test_each_transaction_of_a_snapshot_session_has_a_snapshot(nodes: PostgresServers) -> None:
    make_table(nodes)
    async with cluster_at(nodes, replicas={}) as cluster, cluster.read() as reader:
        await reader.execute(COUNT)
        await reader.rollback()
        async with cluster.read(autocommit=True) as other:
            await other.execute(COUNT)
        assert (await reader.execute(COUNT)).scalar_one() == 0
        await insert(cluster, 1)
        assert (await reader.execute(COUNT)).scalar_one() == 0


async def test_resolve_keeps_to_its_time_where_no_connection_is_to_be_had(nodes: PostgresServers) -> None:
    make_table(nodes)
    doubt = CommitInDoubt("main", xid=1, before=None, server=None)
    async with cluster_at(nodes, pool_size=1, max_overflow=0) as cluster, cluster.write() as session:
        await session.execute(COUNT)
        async with asyncio.timeout(10):
            assert await cluster.resolve(doubt, timeout_seconds=0.1) is TransactionStatus.IN_PROGRESS


async def test_who_commits_without_a_session_hears_that_the_connection_was_lost(
    nodes: PostgresServers,
) -> None:
    # A directory, a decision: they know what to do then, and nobody there asks for a fate.
    make_table(nodes)
    async with cluster_at(nodes) as cluster, cluster.primary.connect() as connection:
        await connection.execute(INSERT, {"n": 1})
        lose_next((await connection.get_raw_connection()).driver_connection)
        with pytest.raises(OperationalError):
            await connection.commit()
    assert rows(nodes) == 1


async def test_what_is_committed_on_a_connection_later_is_not_told_as_a_units_that_was_rolled_back(
    nodes: PostgresServers,
) -> None:
    make_table(nodes)
    async with cluster_at(nodes, pool_size=1, max_overflow=0) as cluster, cluster.write() as session:
        await session.execute(INSERT, {"n": 1})
        await session.rollback()
        async with cluster.primary.begin() as connection:
            await connection.execute(INSERT, {"n": 2})
        assert (session.token, session.has_committed) == (CausalToken(), False)


async def test_what_is_called_off_says_nothing_of_the_server(nodes: PostgresServers) -> None:
    make_table(nodes)
    backend, slow = text("SELECT pg_backend_pid()"), text("SELECT pg_sleep(30)")
    async with cluster_at(nodes) as cluster:
        token = await insert(cluster, 1)
        async with cluster.read(after=token) as reader, cluster.write() as writer:
            await reader.execute(COUNT)
            first = (await writer.execute(backend)).scalar_one()
            for session in (cluster.read(), cluster.write()):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2), session:
                        await session.execute(slow)
        assert cluster.monitor.nodes["replica"].generation == 0
        async with cluster.write() as one, cluster.write() as other:
            backends = [(await each.execute(backend)).scalar_one() for each in (one, other)]
        assert first in backends


async def test_a_unit_whose_own_commit_is_in_doubt_is_not_done_again(nodes: PostgresServers) -> None:
    make_table(nodes)
    calls = 0

    async def work(session: WriteSession) -> None:
        nonlocal calls
        calls += 1
        await session.execute(INSERT, {"n": calls})
        await session.run_sync(lose_answer)
        with suppress(CommitInDoubt):
            await session.commit()
        await session.rollback()
        await session.execute(CONFLICT)

    async with cluster_at(nodes, options=PATIENT) as cluster:
        with pytest.raises(OperationalError, match="serialization_failure"):
            await cluster.transact(work)
    assert (calls, rows(nodes)) == (1, 1)
