"""The primary is cut off from its clients and its replica, and lives on: hosts are network namespaces."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL

from ops.embedded.postgres import REPLICATOR, SUPERUSER, UNSAFE, PostgresCluster
from ops.embedded.processes import run_command
from readreplica.cluster import PRIMARY, Cluster
from readreplica.engines import reader_engine, writer_engine
from tests.integration.failover_rig import MAKE_DEEDS, PATIENT, Load, go_on
from tests.integration.replicas_rig import until
from tests.needs import require
from tests.netns import Host, ToolsOn, refusal, two_hosts
from tests.servers import run_postgres

ASK = "import psycopg, sys; psycopg.connect(sys.argv[1], autocommit=True).execute(sys.argv[2])"


@dataclass(frozen=True)
class Placed:
    """A server on a host of its own."""

    server: PostgresCluster
    host: Host
    port: int

    def conninfo(self) -> str:
        return make_conninfo(
            host=self.host.address,
            port=self.port,
            dbname="postgres",
            user=SUPERUSER,
            passfile=str(self.server.passfile),
        )

    def url(self) -> URL:
        return URL.create(
            "postgresql+psycopg",
            username=SUPERUSER,
            host=self.host.address,
            port=self.port,
            database="postgres",
            query={"passfile": str(self.server.passfile)},
        )

    def ask(self, statement: str) -> str:
        """Ask it from its own host: there it answers while the host is cut off."""
        words = (sys.executable, "-c", ASK, self.conninfo(), statement)
        return run_command(self.host.within(*words), timeout_seconds=30).strip()


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    ip = require("iproute2")
    fault = "only root may make them" if os.geteuid() else refusal(ip)
    if fault:
        pytest.skip(f"NOT RUN WITHOUT NETWORK NAMESPACES: {fault}")
    with two_hosts(ip, tag=f"m{os.getpid() % 10**6}") as made:
        yield made


@contextmanager
def placed(folder: Path, hosts: tuple[Host, Host]) -> Iterator[tuple[Placed, Placed]]:
    """A primary and its synchronous replica, each on its host."""
    with run_postgres(folder) as servers:
        servers.wait_for_replica()
        servers.replica.stop()
        servers.primary.stop()
        following = make_conninfo(
            host=hosts[0].address, port=servers.primary_port, user=REPLICATOR, passfile=str(servers.passfile)
        )
        ours = {**UNSAFE, "listen_addresses": "*", "synchronous_standby_names": "*"}
        theirs = {"primary_conninfo": following, "primary_slot_name": "replica", "wal_receiver_timeout": "3s"}
        access = [f"host {of} all 10.0.0.0/8 scram-sha-256" for of in ("all", "replication")]
        found = []
        for before, port, host, settings in (
            (servers.primary, servers.primary_port, hosts[0], ours),
            (servers.replica, servers.replica_port, hosts[1], {**ours, **theirs}),
        ):
            server = PostgresCluster(
                before.name, tools=ToolsOn(host), data=before.data, log=before.log, passfile=before.passfile
            )
            server.configure(port=port, access=access, settings=settings)
            server.start(port=port)
            found.append(Placed(server, host, port))
        yield found[0], found[1]  # run_postgres stops them: it knows them by their data folders


def cluster_on(primary: Placed, replica: Placed) -> Cluster:
    url, at_replica = primary.url(), replica.url()
    return Cluster(
        "main",
        primary=writer_engine(url, application_name="test", record_xid=True),
        primary_reader=reader_engine(url, application_name="test"),
        replicas={"replica": reader_engine(at_replica, application_name="test")},
        options=replace(PATIENT, answer_seconds=0.5),
    )


async def test_a_primary_that_is_cut_off_and_lives_on_is_not_written_to(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    with placed(tmp_path, hosts) as (old, new), psycopg.connect(new.conninfo(), autocommit=True) as dba:
        with psycopg.connect(old.conninfo(), autocommit=True) as there:
            there.execute(MAKE_DEEDS)
        cluster = cluster_on(old, new)
        try:
            async with Load(cluster).running() as account:
                await go_on(account, writes=100)
                await asyncio.to_thread(old.host.cut)
                await asyncio.to_thread(dba.execute, "SELECT pg_promote(true, 60)")
                dba.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
                dba.execute("SELECT pg_reload_conf()")
                await until(lambda: cluster.monitor.primary_state.timeline == 2, what="the promotion is seen")
                late = len(account.acknowledged) + 4  # each of the four may have got its answer just then
                await go_on(account, writes=100)
                # A client on the other side of the cut writes to the old primary, which takes it.
                mine = "SET synchronous_commit = local; INSERT INTO deeds VALUES (-1)"
                await asyncio.to_thread(old.ask, mine)
                await asyncio.to_thread(old.host.heal)
                await until(
                    lambda: cluster.monitor.primary_state.rivals == (PRIMARY,), what="the rival is seen"
                )
                await go_on(account, writes=100)
        finally:
            await cluster.close()
        done: dict[int, int] = dict(dba.execute("SELECT n, count(*) FROM deeds GROUP BY n").fetchall())
        assert not any(account.wrong(Counter(done)).values())
        with psycopg.connect(old.conninfo(), autocommit=True) as there:
            on_old = {n for (n,) in there.execute("SELECT n FROM deeds").fetchall()}
        assert -1 in on_old
        assert -1 not in done
        assert not on_old & set(account.acknowledged[late:])
