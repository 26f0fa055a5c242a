"""Patroni loses its leader under load: nothing acknowledged is lost, nothing is done twice, reads go on."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from time import monotonic

import pytest

from ops.embedded.pgpass import read_passwords
from ops.ports import LOOPBACK
from readreplica.cluster import PRIMARY
from readreplica.options import CONNECT_TIMEOUT_SECONDS
from tests.integration.failover_rig import (
    Load,
    all_serve,
    cluster_of,
    deeds_on,
    first_write_on,
    go_on,
    longest_gap,
    make_deeds,
)
from tests.integration.replicas_rig import kill, until
from tests.integration.ways import PGBOUNCER
from tests.needs import require
from tests.node_poolers import run_node_poolers, ways_through
from tests.patroni import PatroniCluster, PatroniNode, run_patroni

# A pooler lets a client wait where a dead server refuses it.
LATE_SECONDS = CONNECT_TIMEOUT_SECONDS + 2


@pytest.fixture(scope="module")
def patroni(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PatroniCluster]:
    with run_patroni(tmp_path_factory.mktemp("patroni"), etcd=require("etcd")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def poolers(patroni: PatroniCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[int, int]]:
    """Run a pooler in front of each node; it stays when its node dies, as on a machine of its own."""
    with run_node_poolers(
        tmp_path_factory.mktemp("poolers"),
        [node.port for node in patroni.nodes],
        program=require("pgbouncer"),
        passwords=read_passwords(patroni.passfile),
    ) as made:
        yield ways_through(made)


@pytest.fixture
def ways(way: str, request: pytest.FixtureRequest) -> Mapping[int, int]:
    """Give the ports of the poolers by those of the nodes, where this test's way leads through them."""
    found: Mapping[int, int] = request.getfixturevalue("poolers") if way == PGBOUNCER else {}
    return found


async def fail_over(
    patroni: PatroniCluster,
    break_leader: Callable[[PatroniNode], None],
    *,
    record_xid: bool,
    ways: Mapping[int, int],
) -> tuple[PatroniNode, set[int]]:
    """Break the leader under load, and see that all goes on; give it, and what was written after it."""
    make_deeds(patroni)
    old = patroni.leader
    async with cluster_of(patroni, record_xid=record_xid, ways=ways) as cluster:
        await until(lambda: all_serve(cluster), what="all three nodes serve", timeout_seconds=60)
        timeline = cluster.monitor.primary_state.timeline
        async with Load(cluster).running() as account:
            await go_on(account, writes=100)
            broken_at = monotonic()
            await asyncio.to_thread(break_leader, old)
            others = [node for node in patroni.nodes if node is not old]
            accepted_at = await asyncio.to_thread(first_write_on, others)
            await until(
                lambda: (
                    cluster.monitor.primary_state.answers
                    and cluster.monitor.primary_state.timeline > timeline
                ),
                what="a new primary",
                timeout_seconds=90,
            )
            found_at = monotonic()
            before = len(account.acknowledged)
            await go_on(account, writes=100)
            if old.server.pid() is None and old.patroni.pid() is None:
                # It comes back as if nothing had happened, and takes writes.
                await asyncio.to_thread(old.server.start, port=old.port)
                rival = f"{LOOPBACK}:{ways.get(old.port, old.port)}"
                await until(
                    lambda: {PRIMARY, rival} & set(cluster.monitor.primary_state.rivals) != set(),
                    what="the rival",
                )
                await go_on(account, writes=100)
    late = set(account.acknowledged[before + 4 :])  # each of the four may have got its answer just then
    wrong = account.wrong(deeds_on(patroni.leader))
    assert not any(wrong.values()), wrong
    stall = longest_gap(account.acknowledged_at)
    assert stall < accepted_at - broken_at + LATE_SECONDS, f"no write for {stall:.1f} s"
    assert [at for at in account.reads_at if broken_at + 0.05 < at < found_at], "nobody could read meanwhile"
    assert patroni.leader is not old
    return old, late


async def test_the_leaders_postmaster_is_killed(patroni: PatroniCluster, ways: Mapping[int, int]) -> None:
    old, _ = await fail_over(patroni, lambda node: kill(node.server), record_xid=True, ways=ways)
    patroni.wait_until_whole()
    assert deeds_on(old) == deeds_on(patroni.leader)  # Patroni has rewound it


async def test_the_leader_is_killed_with_its_patroni_and_comes_back_alone(
    patroni: PatroniCluster, ways: Mapping[int, int]
) -> None:
    def cut_power(node: PatroniNode) -> None:
        node.patroni.kill()
        kill(node.server)
        patroni.expire_leader()

    old, late = await fail_over(patroni, cut_power, record_xid=False, ways=ways)
    assert not late & set(deeds_on(old))
    old.server.stop()
    old.start()
    patroni.wait_until_whole()


async def test_the_leaders_patroni_is_frozen_and_its_server_goes_on(
    patroni: PatroniCluster, ways: Mapping[int, int]
) -> None:
    def freeze(node: PatroniNode) -> None:
        send(node, signal.SIGSTOP)
        patroni.expire_leader()

    old, late = await fail_over(patroni, freeze, record_xid=True, ways=ways)
    assert not late & set(deeds_on(old))
    send(old, signal.SIGCONT)
    patroni.wait_until_whole()


def send(node: PatroniNode, signal_number: int) -> None:
    pid = node.patroni.pid()
    assert pid is not None
    os.kill(pid, signal_number)


@pytest.mark.soak
async def test_leaders_are_killed_again_and_again_and_leases_run_out(
    patroni: PatroniCluster, ways: Mapping[int, int]
) -> None:
    """As the tests above, twelve times, and nobody shortens the time that etcd waits for a dead leader."""

    def cut_power(node: PatroniNode) -> None:
        node.patroni.kill()
        kill(node.server)

    def freeze(node: PatroniNode) -> None:
        send(node, signal.SIGSTOP)

    for number in range(12):
        break_leader = (cut_power, freeze, lambda node: kill(node.server))[number % 3]
        old, late = await fail_over(patroni, break_leader, record_xid=bool(number % 2), ways=ways)
        if break_leader is not cut_power and old.patroni.pid() is not None:
            send(old, signal.SIGCONT)
        if break_leader is cut_power:
            assert not late & set(deeds_on(old))
            old.server.stop()
            old.start()
        patroni.wait_until_whole()
