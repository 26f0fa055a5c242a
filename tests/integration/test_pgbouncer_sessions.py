"""The sessions through PgBouncer's transaction pooling, with more clients than server connections."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.sessions import ShardedSessions, open_sessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.pooler import RunningPooler
from tests.pooler_load import run_load

SMALL = "[pgbouncer.services.mes]\npool_size = 3\n"


@pytest.fixture(scope="module")
async def many(pooler: RunningPooler) -> AsyncIterator[ShardedSessions]:
    """Sessions that share three server connections to each database."""
    pooler.change("[pgbouncer]", f"{SMALL}[pgbouncer]")
    pooler.restart()
    async with open_cluster(pooler.topology, "directory", role="mes", application_name="test") as cluster:
        await Directory(cluster.primary, "mes").save_map(
            ShardMap.even(["mes_0", "mes_1"], 64), expected_version=0
        )
    async with open_sessions(pooler.topology, role="mes", application_name="test") as sessions:
        yield sessions


def backends(pooler: RunningPooler, entry: str) -> int:
    """Count the server connections of a pool."""
    [console] = pooler.pooler.consoles()
    rows = [row for row in console.show("POOLS") if row["database"] == entry]
    return sum(int(str(row["sv_active"])) + int(str(row["sv_idle"])) for row in rows)


async def test_three_thousand_transactions_over_three_connections_have_no_error(
    many: ShardedSessions, pooler: RunningPooler
) -> None:
    load = await run_load(many, transactions=3000, workers=12, seed=1)
    assert (load.errors, load.stale) == ({}, 0), str(load)
    assert load.transactions == 3000
    assert set(load.nodes) - {"primary"}, "no read was served by a replica"
    # More clients than servers, or the pooler had nothing to share.
    assert 0 < backends(pooler, "mes_0.mes") <= 3


async def test_prepared_statements_would_be_found_as_errors(
    many: ShardedSessions, pooler: RunningPooler
) -> None:
    """The check above can fail: this is what it finds when the library takes the pooler for a newer one."""
    section = pooler.pooler.section
    version = section.version
    if section.keeps_prepared_statements:
        pytest.skip(f"PgBouncer {version} keeps prepared statements")
    pooler.path.write_text(pooler.path.read_text().replace(f'version = "{version}"', 'version = "1.22"'))
    async with open_sessions(Topology.load(pooler.path), role="mes", application_name="test") as sessions:
        load = await run_load(sessions, transactions=600, workers=12, seed=2)
    assert any("prepared statement" in error for error in load.errors), str(load)


async def test_a_commit_and_its_position_come_from_one_server(
    many: ShardedSessions, pooler: RunningPooler
) -> None:
    """COMMIT and the query behind it are one message: the pooler lets go of the server after both."""
    before = text("SELECT pg_backend_pid(), pg_current_wal_insert_lsn()")

    async def one(key: int) -> None:
        async with many.write(key) as session:
            await session.execute(text("SELECT pg_current_xact_id()"))
            pid, lsn = (await session.execute(before)).one()
        [position] = session.token.positions.values()
        assert str(position.lsn) != lsn, pid
        assert position.lsn > type(position.lsn).parse(lsn)

    for _ in range(20):
        await asyncio.gather(*(one(key) for key in range(12)))


async def test_what_a_transaction_sets_does_not_reach_the_next(many: ShardedSessions) -> None:
    seen = set()
    for key in range(40):
        async with many.write(key) as session:
            seen.add((await session.execute(text("SHOW lock_timeout"))).scalar_one())
            await session.execute(text("SET LOCAL lock_timeout = '77ms'"))
    assert seen == {"0"}


async def test_a_reader_is_refused_by_the_server(many: ShardedSessions) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"):
        async with many.read(1) as session:
            await session.execute(text("CREATE TEMPORARY TABLE t (n int)"))


async def test_locks_of_a_session_go_past_the_pooler(pooler: RunningPooler) -> None:
    async with (
        open_cluster(pooler.topology, "mes_0", role="mes", application_name="test", direct=True) as cluster,
        cluster.primary.connect() as connection,
    ):
        port = (await connection.execute(text("SELECT inet_server_port()"))).scalar_one()
        raw = await connection.get_raw_connection()
        assert raw.driver_connection is not None
        assert raw.driver_connection.info.port == port
