"""A cluster that finds out by itself what became of a COMMIT whose answer was lost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from readreplica.cluster import Cluster
from readreplica.errors import CommitInDoubt, CommitLost
from readreplica.options import ReplicaOptions
from readreplica.sessions import WriteSession
from tests.integration.commit_cutter import Cut, Cutter, cutter_to
from tests.integration.replicas_rig import COUNT, INSERT, QUICK, cluster_at, make_table
from tests.servers import PostgresServers

MARK = b"INSERT INTO notes"


async def put(session: WriteSession, *, n: int) -> int:
    await session.execute(INSERT, {"n": n})
    return n


@asynccontextmanager
async def cut_cluster(
    postgres: PostgresServers, *, options: ReplicaOptions = QUICK, settles: bool = True
) -> AsyncIterator[tuple[Cluster, Cutter]]:
    make_table(postgres)
    async with cutter_to(postgres.primary_port) as cutter:
        behind = replace(postgres, primary_port=cutter.port)
        async with cluster_at(behind, options=options) as cluster:
            if settles:
                cluster.resolve_commits(within_seconds=3)
            yield cluster, cutter


async def count(cluster: Cluster) -> int:
    async with cluster.write() as session:
        return int((await session.execute(COUNT)).scalar_one())


async def test_a_unit_that_is_committed_returns_and_has_a_token(postgres: PostgresServers) -> None:
    async with cut_cluster(postgres) as (cluster, cutter):
        used: list[WriteSession] = []

        async def work(session: WriteSession) -> int:
            used.append(session)
            return await put(session, n=1)

        cutter.arm(Cut.AFTER, mark=MARK)
        assert (await cluster.transact(work)).value == 1
        assert (cutter.cuts, len(used)) == (1, 1)
        async with cluster.read(after=used[0].token) as reader:
            assert (await reader.execute(COUNT)).scalar_one() == 1


async def test_a_unit_that_is_lost_is_told_or_done_again(postgres: PostgresServers) -> None:
    async with cut_cluster(postgres) as (cluster, cutter):
        cutter.arm(Cut.BEFORE, mark=MARK)
        with pytest.raises(CommitLost, match="nothing was written"):
            await cluster.transact(partial(put, n=1))
        assert await count(cluster) == 0
    patient = replace(QUICK, failover_wait_seconds=30)
    async with cut_cluster(postgres, options=patient) as (cluster, cutter):
        cutter.arm(Cut.BEFORE, mark=MARK)
        assert (await cluster.transact(partial(put, n=1))).value == 1
        assert (cutter.cuts, await count(cluster)) == (1, 1)


async def test_without_it_the_caller_asks(postgres: PostgresServers) -> None:
    async with cut_cluster(postgres, settles=False) as (cluster, cutter):
        cutter.arm(Cut.AFTER, mark=MARK)
        with pytest.raises(CommitInDoubt):
            await cluster.transact(partial(put, n=1))
        assert await count(cluster) == 1


async def test_a_commit_of_the_work_itself_is_the_callers_to_ask_for(postgres: PostgresServers) -> None:
    async def work(session: WriteSession) -> None:
        await put(session, n=1)
        await session.commit()

    async with cut_cluster(postgres) as (cluster, cutter):
        cutter.arm(Cut.AFTER, mark=MARK)
        with pytest.raises(CommitInDoubt) as caught:
            await cluster.transact(work)
        assert caught.value.xid is not None
