"""Two systems behind one pooler: one secret for both, and another server behind a client's connection."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

from ops.errors import ExitStatus
from ops.pgbouncer import admin
from ops.pgbouncer.errors import SecretsDiffer
from ops.pgbouncer.pooler import Pooler
from ops.ports import LOOPBACK
from readreplica.cluster import Cluster
from readreplica.wal import Position
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.integration.cable import Cable
from tests.integration.mesctl_rig import Mesctl
from tests.pooler import RunningPooler, run_pooler
from tests.servers import PostgresServers, run_postgres

OTHER = "pgbouncer_servers"
"""The database of mes_1."""


@dataclass(frozen=True)
class TwoSystems:
    """Shard `mes_0` on a system that may be broken, `mes_1` on the one that all tests share."""

    own: PostgresServers
    shared: PostgresServers
    pooler: RunningPooler

    def lead_to(self, port: int) -> None:
        """Have the pooler's entry of mes_0 lead to another server, while clients stay connected."""
        before = self.pooler.topology.database("mes_0").primary.port
        self.pooler.change(f"port = {before} }} # mes_0", f"port = {port} }} # mes_0")
        for console in self.pooler.pooler.consoles():
            console.run("RELOAD")

    def lead_to_own(self, port: int) -> None:
        """Have it lead to a way to the own servers, which has their password."""
        with (self.pooler.path.parent / "passwords").open("a") as passfile:
            passfile.write(f"*:{port}:*:postgres:{self.own.passwords['postgres']}\n")
        self.lead_to(port)


@pytest.fixture(scope="module")
def systems(
    postgres: PostgresServers, pgbouncer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoSystems]:
    folder = tmp_path_factory.mktemp("systems")
    with run_postgres(folder) as own:
        path = write_topology(folder, own, postgres)
        name_shard(own, "postgres", shard="mes_0")
        with postgres.primary.connect() as connection:
            connection.execute(f"CREATE DATABASE {OTHER}")
        name_shard(postgres, OTHER, shard="mes_1")
        # The same password on both; the salts differ, as they do on all servers.
        set_password(postgres, own.passwords["mes"])
        try:
            with (
                pytest.raises(SecretsDiffer) as caught,
                run_pooler(path, folder / "pgbouncer", program=pgbouncer),
            ):
                pytest.fail("the pooler would refuse one of the shards")
            assert caught.value.exit_status == ExitStatus.REFUSED
            Pooler(with_pooler(path, folder)).equalise(dry_run=False)
            with run_pooler(path, folder / "pgbouncer", program=pgbouncer) as pooler:
                yield TwoSystems(own, postgres, pooler)
        finally:
            set_password(postgres, postgres.passwords["mes"])
            with postgres.primary.connect() as connection:
                connection.execute(f"DROP DATABASE {OTHER} WITH (FORCE)")


def name_shard(servers: PostgresServers, dbname: str, *, shard: str) -> None:
    """Have the database say which shard it is, which is all that the library asks of a new connection."""
    with psycopg.connect(servers.conninfo(dbname), autocommit=True) as connection:
        create = sql.SQL("CREATE TABLE public.shard_identity AS SELECT text {} AS shard")
        connection.execute(create.format(sql.Literal(shard)))
        connection.execute("GRANT SELECT ON public.shard_identity TO mes")


def write_topology(folder: Path, own: PostgresServers, shared: PostgresServers) -> Path:
    path = folder / "topology.toml"
    passfile = write_passfile(folder / "passwords", own, shared)
    path.write_text(f"""\
passfile = "{passfile}"
[trees.directory]
kind = "directory"
[trees.mes]
kind = "sharded"
[databases.directory]
tree = "directory"
dbname = "directory"
primary = {{ host = "{LOOPBACK}", port = {shared.primary_port} }}
[databases.mes_0]
tree = "mes"
dbname = "postgres"
primary = {{ host = "{LOOPBACK}", port = {own.primary_port} }} # mes_0
[databases.mes_1]
tree = "mes"
dbname = "{OTHER}"
primary = {{ host = "{LOOPBACK}", port = {shared.primary_port} }} # mes_1
[redis]
url = "redis://{LOOPBACK}:1/0"
[files]
url = "file:///nowhere"
""")
    return path


def with_pooler(path: Path, folder: Path) -> Topology:
    other = folder / "equalise.toml"
    other.write_text(f'{path.read_text()}\n[pgbouncer]\nhost = "{LOOPBACK}"\nport = 1\n')
    return Topology.load(other)


def set_password(servers: PostgresServers, password: str) -> None:
    with servers.primary.connect() as connection:
        connection.execute(sql.SQL("ALTER ROLE mes PASSWORD {}").format(sql.Literal(password)))


def write_passfile(path: Path, own: PostgresServers, shared: PostgresServers) -> Path:
    ports = {own.primary_port: own, own.replica_port: own, shared.primary_port: shared}
    lines = [f"*:{port}:*:postgres:{servers.passwords['postgres']}" for port, servers in ports.items()]
    lines += [f"*:*:*:mes:{own.passwords['mes']}", "*:*:*:pgbouncer:console"]
    path.touch(mode=0o600)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


async def commit(cluster: Cluster) -> Position:
    async with cluster.write() as session:
        await session.execute(text("SELECT pg_current_xact_id()"))
    return session.token.positions["mes_0"]


async def system_of(cluster: Cluster) -> tuple[int, int]:
    """Ask which system answers now, and which server process."""
    async with cluster.write() as session:
        query = "SELECT system_identifier, pg_backend_pid() FROM pg_control_system()"
        system, pid = (await session.execute(text(query))).one()
    return system, pid


def test_both_systems_are_reached_with_one_secret(
    systems: TwoSystems, capsys: pytest.CaptureFixture[str]
) -> None:
    mesctl = Mesctl(systems.pooler.path, capsys)
    assert mesctl("pgbouncer", "secrets").out == "nothing to do: every role has one secret\n"
    assert mesctl("pgbouncer", "check").status == ExitStatus.DONE


async def test_what_libpq_calls_the_backends_pid_is_the_poolers_invention(systems: TwoSystems) -> None:
    """Nobody may look for it in pg_stat_activity: pg_backend_pid() tells the server's."""
    async with (
        open_cluster(systems.pooler.topology, "mes_1", role="mes", application_name="test") as cluster,
        cluster.primary.connect() as connection,
    ):
        told = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        raw = await connection.get_raw_connection()
        assert raw.driver_connection is not None
        assert raw.driver_connection.info.backend_pid != told


async def test_a_token_has_the_timeline_of_the_server_that_committed(systems: TwoSystems) -> None:
    """After a failover behind the pooler the client keeps its connection, and the token must not be old."""
    async with open_cluster(systems.pooler.topology, "mes_0", role="mes", application_name="test") as cluster:
        before = await commit(cluster)
        systems.own.wait_for_replica()
        with systems.own.replica.connect() as connection:
            connection.execute("SELECT pg_promote(true, 30)")
        systems.lead_to(systems.own.replica_port)
        after = await commit(cluster)
        assert cluster.primary.pool.checkedin() == 1, "it was not one connection"  # type: ignore[attr-defined]
    assert (before.timeline, after.timeline) == (1, 2)
    assert after.covers(before)


async def test_a_token_has_the_system_that_committed(systems: TwoSystems) -> None:
    async with open_cluster(systems.pooler.topology, "mes_0", role="mes", application_name="test") as cluster:
        before = await commit(cluster)
        systems.lead_to(systems.shared.primary_port)
        system, _ = await system_of(cluster)
        assert system != before.system_identifier, "the pooler did not change the server"
        after = await commit(cluster)
    assert after.system_identifier == system


async def test_behind_an_address_that_moved_reconnect_leads_to_the_new_primary(systems: TwoSystems) -> None:
    """The pooler keeps its connections to the old primary, and would write there, as long as that lives."""
    old, new = systems.own.primary_port, systems.own.replica_port
    with systems.own.replica.connect() as connection:
        if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
            connection.execute("SELECT pg_promote(true, 30)")
    address = Cable(old)
    listener = await asyncio.start_server(address.accept, LOOPBACK, 0)
    [console] = systems.pooler.pooler.consoles()
    async with (
        listener,
        open_cluster(systems.pooler.topology, "mes_0", role="mes", application_name="test") as cluster,
    ):
        await asyncio.to_thread(systems.lead_to_own, listener.sockets[0].getsockname()[1])
        assert (await commit(cluster)).timeline == 1
        address.lead_to(new)
        assert (await commit(cluster)).timeline == 1
        await asyncio.to_thread(admin.reconnect, [console], ["mes_0.mes"], timeout_seconds=10)
        assert (await commit(cluster)).timeline == 2
        await asyncio.to_thread(systems.lead_to, new)
    await address.close()
