"""Patroni loses its leader under load: nothing acknowledged is lost, nothing is done twice, reads go on."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from time import monotonic

import pytest

from ops.embedded.ports import LOOPBACK
from readreplica.cluster import PRIMARY, Cluster
from tests.integration.failover_rig import (
    Load,
    cluster_of,
    deeds_on,
    go_on,
    make_deeds,
)
from tests.integration.replicas_rig import kill, until
from tests.needs import require
from tests.patroni import PatroniCluster, PatroniNode, run_patroni


@pytest.fixture(scope="module")
def patroni(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PatroniCluster]:
    with run_patroni(tmp_path_factory.mktemp("patroni"), etcd=require("etcd")) as cluster:
        yield cluster


async def fail_over(
    patroni: PatroniCluster, break_leader: Callable[[PatroniNode], None], *, traced: bool
) -> tuple[PatroniNode, set[int]]:
    """Break the leader under load, and see that all goes on; give it, and what was written after it."""
    make_deeds(patroni)
    old = patroni.leader
    async with cluster_of(patroni, traced=traced) as cluster:
        await until(lambda: _all_serve(cluster), what="all three nodes serve", timeout_seconds=60)
        timeline = cluster.monitor.primacy.timeline
        async with Load(cluster).running() as account:
            await go_on(account, writes=100)
            broken_at = monotonic()
            await asyncio.to_thread(break_leader, old)
            await until(
                lambda: cluster.monitor.primacy.answers and cluster.monitor.primacy.timeline > timeline,
                what="a new primary",
                timeout_seconds=90,
            )
            found_at = monotonic()
            before = len(account.acknowledged)
            await go_on(account, writes=100)
            if old.server.pid() is None and old.patroni.pid() is None:
                # It comes back as if nothing had happened, and takes writes.
                await asyncio.to_thread(old.server.start, port=old.port)
                rival = f"{LOOPBACK}:{old.port}"
                await until(
                    lambda: {PRIMARY, rival} & set(cluster.monitor.primacy.rivals) != set(), what="the rival"
                )
                await go_on(account, writes=100)
    late = set(account.acknowledged[before + 4 :])  # each of the four may have got its answer just then
    wrong = account.wrong(deeds_on(patroni.leader))
    assert not any(wrong.values()), wrong
    assert [at for at in account.reads_at if broken_at + 0.05 < at < found_at], "nobody could read meanwhile"
    assert patroni.leader is not old
    return old, late


def _all_serve(cluster: Cluster) -> bool:
    nodes = cluster.monitor.nodes.values()
    return len(nodes) == 3 and all(node.health.out is None for node in nodes)


async def test_the_leaders_postmaster_is_killed(patroni: PatroniCluster) -> None:
    old, _ = await fail_over(patroni, lambda node: kill(node.server), traced=True)
    patroni.wait_until_whole()
    assert deeds_on(old) == deeds_on(patroni.leader)  # Patroni has rewound it


async def test_the_leader_is_killed_with_its_patroni_and_comes_back_alone(patroni: PatroniCluster) -> None:
    def cut_power(node: PatroniNode) -> None:
        node.patroni.kill()
        kill(node.server)
        patroni.expire_leader()

    old, late = await fail_over(patroni, cut_power, traced=False)
    assert not late & set(deeds_on(old))
    old.server.stop()
    old.start()
    patroni.wait_until_whole()


async def test_the_leaders_patroni_is_frozen_and_its_server_goes_on(patroni: PatroniCluster) -> None:
    def freeze(node: PatroniNode) -> None:
        send(node, signal.SIGSTOP)
        patroni.expire_leader()

    old, late = await fail_over(patroni, freeze, traced=True)
    assert not late & set(deeds_on(old))
    send(old, signal.SIGCONT)
    patroni.wait_until_whole()


def send(node: PatroniNode, signal_number: int) -> None:
    pid = node.patroni.pid()
    assert pid is not None
    os.kill(pid, signal_number)


@pytest.mark.soak
async def test_leaders_are_killed_again_and_again_and_leases_run_out(patroni: PatroniCluster) -> None:
    """As the tests above, twelve times, and nobody shortens the time that etcd waits for a dead leader."""

    def cut_power(node: PatroniNode) -> None:
        node.patroni.kill()
        kill(node.server)

    def freeze(node: PatroniNode) -> None:
        send(node, signal.SIGSTOP)

    for number in range(12):
        break_leader = (cut_power, freeze, lambda node: kill(node.server))[number % 3]
        old, late = await fail_over(patroni, break_leader, traced=bool(number % 2))
        if break_leader is not cut_power and old.patroni.pid() is not None:
            send(old, signal.SIGCONT)
        if break_leader is cut_power:
            assert not late & set(deeds_on(old))
            old.server.stop()
            old.start()
        patroni.wait_until_whole()
