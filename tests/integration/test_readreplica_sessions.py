"""Sessions on a real primary and its streaming replica."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from sqlalchemy import AsyncAdaptedQueuePool, text
from sqlalchemy.exc import DBAPIError

from app.models.mes import PricingJob
from readreplica import connections
from readreplica.cluster import PRIMARY, Cluster
from readreplica.sessions import AnySession
from readreplica.token import CausalToken
from readreplica.wal import UNKNOWN_SYSTEM
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.servers import PostgresServers

COUNT = text("SELECT count(*) FROM pricing_jobs")
INSERT = text("INSERT INTO pricing_jobs (order_id) VALUES (:order_id)")
PID = text("SELECT pg_backend_pid()")


@pytest.fixture
async def cluster(routed: Topology) -> AsyncIterator[Cluster]:
    async with open_cluster(routed, "mes_0", role="mes", application_name="test") as cluster:
        yield cluster


@pytest.fixture
async def lonely(routed: Topology) -> AsyncIterator[Cluster]:
    """A cluster without replicas: its reads go to the primary."""
    async with open_cluster(routed, "crm", role="crm", application_name="test") as cluster:
        yield cluster


async def insert(cluster: Cluster, order_id: int) -> CausalToken:
    async with cluster.write() as session:
        await session.execute(INSERT, {"order_id": order_id})
    return session.token


async def count(session: AnySession) -> int:
    return int((await session.execute(COUNT)).scalar_one())


async def test_a_write_session_commits_at_its_end(cluster: Cluster) -> None:
    async with cluster.write() as session:
        session.add(PricingJob(order_id=1))
    async with cluster.read(after=session.token) as reader:
        assert await count(reader) == 1


async def test_a_write_session_rolls_back_on_an_error(cluster: Cluster) -> None:
    session = cluster.write()

    async def unit() -> None:
        async with session:
            await session.execute(INSERT, {"order_id": 1})
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await unit()
    assert not session.token
    async with cluster.write() as session:
        assert await count(session) == 0


async def test_a_unit_that_did_nothing_has_an_empty_token(cluster: Cluster) -> None:
    async with cluster.write() as session:
        pass
    assert session.token == CausalToken()


async def test_the_token_tells_cluster_system_timeline_and_a_position_after_the_commit(
    cluster: Cluster, postgres: PostgresServers
) -> None:
    async with cluster.write() as session:
        await session.execute(INSERT, {"order_id": 1})
        before = (await session.execute(text("SELECT pg_current_wal_insert_lsn() - '0/0'"))).scalar_one()
    position = session.token.positions["mes_0"]
    with psycopg.connect(postgres.conninfo()) as connection:
        row = connection.execute(
            "SELECT system_identifier, timeline_id FROM pg_control_system(), pg_control_checkpoint()"
        ).fetchone()
    assert (position.system_identifier, position.timeline) == row
    assert position.lsn > before


async def test_the_commit_and_its_position_are_one_round_trip(
    cluster: Cluster, postgres: PostgresServers
) -> None:
    async with cluster.write() as session:
        await session.execute(INSERT, {"order_id": 1})
        pid = (await session.execute(PID)).scalar_one()
    with psycopg.connect(postgres.conninfo()) as connection:
        row = connection.execute("SELECT state, query FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone()
    assert row is not None
    assert row[0] == "idle"
    assert row[1].split()[0] == "COMMIT;"


async def test_a_commit_that_the_server_answers_by_rollback_is_an_error(cluster: Cluster) -> None:
    session = cluster.write()

    async def unit() -> None:
        async with session:
            await session.execute(INSERT, {"order_id": 1})
            with pytest.raises(DBAPIError, match="division by zero"):
                await session.execute(text("SELECT 1/0"))

    with pytest.raises(DBAPIError, match="answered by ROLLBACK"):
        await unit()
    assert not session.token


@pytest.mark.parametrize("ending", ["SELECT 1/0", "SELECT pg_terminate_backend(pg_backend_pid())"])
async def test_what_ends_the_question_after_commit_does_not_make_the_unit_fail(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    await insert(cluster, 1)
    with monkeypatch.context() as patch:
        patch.setattr(connections, "COMMIT_WITH_POSITION", f"COMMIT; {ending}".encode())
        token = await insert(cluster, 2)
    assert token.positions["mes_0"].system_identifier == UNKNOWN_SYSTEM
    async with cluster.read(after=token) as session:
        assert await count(session) == 2
        assert session.node == PRIMARY
    # Whoever gets the connection next has one that is in order, and a position again.
    newer = token.followed_by(await insert(cluster, 3))
    assert newer.positions["mes_0"].system_identifier != UNKNOWN_SYSTEM
    async with cluster.read(after=newer) as session:
        assert await count(session) == 3


async def test_objects_stay_readable_after_their_session(cluster: Cluster) -> None:
    async with cluster.write() as session:
        job = PricingJob(order_id=1, leased_by="worker")
        session.add(job)
    assert job.leased_by == "worker"
    async with cluster.read(after=session.token) as reader:
        found = await reader.get_one(PricingJob, 1)
    assert found.leased_by == "worker"


async def test_two_hundred_reads_see_what_was_written_just_before(cluster: Cluster) -> None:
    nodes = set()
    for number in range(1, 201):
        token = await insert(cluster, number)
        async with cluster.read(after=token) as session:
            assert await count(session) == number
            nodes.add(session.node)
    assert "mes_0_replica" in nodes


async def test_the_replica_refuses_to_write(cluster: Cluster) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"):
        async with cluster.read() as session:
            await session.execute(text("DELETE FROM pricing_jobs"))
    assert session.node == "mes_0_replica"


async def test_the_primary_refuses_to_write_in_a_read_session(lonely: Cluster) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"):
        async with lonely.read() as session:
            await session.execute(text("DELETE FROM orders"))
    assert session.node == PRIMARY


async def test_a_read_session_has_one_snapshot_on_the_primary_too(lonely: Cluster) -> None:
    counting = text("SELECT count(*) FROM inbox")
    async with lonely.read() as session:
        assert (await session.execute(counting)).scalar_one() == 0
        async with lonely.write() as writer:
            await writer.execute(
                text("INSERT INTO inbox (order_id, message_id, source, type) VALUES (1, uuidv7(), 's', 't')")
            )
        assert (await session.execute(counting)).scalar_one() == 0
    async with lonely.read(after=writer.token) as session:
        assert (await session.execute(counting)).scalar_one() == 1


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_connection_that_the_server_ended_is_replaced(
    cluster: Cluster, postgres: PostgresServers, kind: str
) -> None:
    make = cluster.read if kind == "read" else cluster.write
    async with make() as session:
        pid = (await session.execute(PID)).scalar_one()
    server = postgres.replica if kind == "read" else postgres.primary
    with server.connect() as connection:
        # With a time limit it returns when the backend is gone.
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    async with make() as session:
        assert (await session.execute(PID)).scalar_one() != pid


async def test_a_cancelled_unit_is_rolled_back_and_gives_its_connection_back(
    cluster: Cluster,
) -> None:
    started = asyncio.Event()

    async def unit() -> None:
        async with cluster.write() as session:
            await session.execute(INSERT, {"order_id": 1})
            started.set()
            await session.execute(text("SELECT pg_sleep(60)"))

    task = asyncio.create_task(unit())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(cluster.primary.pool, AsyncAdaptedQueuePool)
    assert cluster.primary.pool.checkedout() == 0
    async with cluster.write() as session:
        assert await count(session) == 0


async def test_asking_a_replica_leaves_its_connections_as_they_were(cluster: Cluster) -> None:
    settings = text(
        "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
    )
    for order_id in range(1, 6):
        async with cluster.read(after=await insert(cluster, order_id)) as session:
            assert (await session.execute(settings)).one() == ("repeatable read", "on")


async def test_a_server_that_does_not_tell_its_position_refuses_before_any_work(
    cluster: Cluster, postgres: PostgresServers, routed: Topology
) -> None:
    dbname = routed.databases["mes_0"].dbname
    with psycopg.connect(postgres.conninfo(dbname), autocommit=True) as superuser:
        superuser.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public")
        with pytest.raises(DBAPIError, match="pg_control_system"):
            await insert(cluster, 1)
        left = superuser.execute("SELECT count(*) FROM pricing_jobs").fetchone()
    assert left == (0,)
