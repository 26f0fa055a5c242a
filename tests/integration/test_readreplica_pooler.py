"""What is different through PgBouncer; what is not, is tested on both ways (tests/integration/ways.py)."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from readreplica.cluster import PRIMARY, Cluster
from readreplica.freshness import PRIMARY as ON_PRIMARY
from tests.integration.failover_rig import MAKE_DEEDS, PATIENT, Load, go_on
from tests.integration.replicas_rig import COUNT, HAS, check_own_writes, cluster_at, insert, make_table, until
from tests.needs import require
from tests.node_poolers import run_node_poolers, ways_through
from tests.servers import PostgresServers

ISOLATION = text("SELECT current_setting('transaction_isolation')")


@pytest.fixture
async def cluster(pooled_postgres: PostgresServers) -> AsyncIterator[Cluster]:
    make_table(pooled_postgres)
    async with cluster_at(pooled_postgres) as cluster:
        yield cluster


async def test_own_writes_are_read_through_the_pooler(cluster: Cluster) -> None:
    checks = (check_own_writes(cluster, units=range(user, 40, 8), reads=5) for user in range(8))
    assert sum(await asyncio.gather(*checks)) == 0
    async with cluster.read(after=await insert(cluster, 1000)) as session:
        assert (await session.execute(HAS, {"n": 1000})).scalar_one() == 1
        assert session.node == "replica"


@pytest.mark.parametrize("autocommit", [False, True])
async def test_readers_cannot_write_and_do_not_spoil_the_pool_for_writers(
    cluster: Cluster, autocommit: bool
) -> None:
    for freshness in (ON_PRIMARY, ON_PRIMARY, ON_PRIMARY):
        async with cluster.read(freshness=freshness, autocommit=autocommit) as session:
            # The pooler drops the option, so nobody vouches for read only but BEGIN itself.
            assert (await session.execute(ISOLATION)).scalar_one() == "repeatable read"
            with pytest.raises(DBAPIError, match="read-only transaction"):
                await session.execute(text("DELETE FROM notes"))
        assert session.node == PRIMARY
    for n in range(5):
        await insert(cluster, n)
    async with cluster.write() as writer:
        assert (await writer.execute(COUNT)).scalar_one() == 5


async def test_poolers_that_are_killed_under_load_lose_nothing_and_leave_nothing_in_doubt(
    postgres: PostgresServers, tmp_path: Path
) -> None:
    with postgres.primary.connect() as connection:
        connection.execute(f"{MAKE_DEEDS}; TRUNCATE deeds")
    postgres.wait_for_replica()
    ports = (postgres.primary_port, postgres.replica_port)
    program, passwords = require("pgbouncer"), postgres.passwords
    with run_node_poolers(tmp_path, ports, program=program, passwords=passwords) as poolers:
        nodes = replace(postgres, ways=ways_through(poolers))
        async with (
            cluster_at(nodes, options=PATIENT, record_xid=True) as cluster,
            Load(cluster).running() as account,
        ):
            await go_on(account, writes=100)
            for port in (*ports, postgres.primary_port):
                await asyncio.to_thread(poolers[port].kill)
                await asyncio.to_thread(poolers[port].start)
                await go_on(account, writes=100)
                # One at a time, so that there is always somebody who can be read.
                replica = cluster.monitor.nodes["replica"]
                await until(lambda at=replica: at.health.ejected is None, what="the replica is in")  # type: ignore[misc]
    with postgres.primary.connect() as connection:
        done: dict[int, int] = dict(connection.execute("SELECT n, count(*) FROM deeds GROUP BY n").fetchall())
        connection.execute("DROP TABLE deeds")
    wrong = account.wrong(Counter(done))
    assert not any(wrong.values()), wrong
