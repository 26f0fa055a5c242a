"""Three shards: two in the worker's server, and one in a server of its own, to be stopped and frozen."""

import asyncio
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ops.embedded.binaries import postgres_bin
from ops.embedded.bootstrap import ensure_database, ensure_roles
from ops.embedded.ports import LOOPBACK, PortPicker, start_on_free_port
from ops.embedded.postgres import SUPERUSER, PostgresCluster
from ops.embedded.processes import send_signal
from ops.embedded.settings import UNSAFE, access_line
from ops.embedded.tools import PostgresTools
from ops.fleet import open_engine
from ops.shard_guard import init_shards
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.ownership import Ownership, set_ownership
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.platform_topology import write_topology
from tests.pool import DatabasePool
from tests.project import GUARDED, MES, ROLES
from tests.psql import psql
from tests.servers import PostgresServers, ValkeyServer

SHARDS = ("mes_0", "mes_1", "mes_2")
MIGRATED = "mes_2"
OWN = "mes_2"
MAP = ShardMap.even(SHARDS, 64)
"""The map that is in force when a test begins; every shard was told of it."""

WRITTEN = ("order_items", "orders", "order_events", "materials", "finishes", "tariffs", "reference_versions")


@dataclass(frozen=True)
class OwnServer:
    """The server of `mes_2` alone."""

    cluster: PostgresCluster
    port: int
    passfile: Path

    def start(self, **settings: str) -> None:
        """Start it, with these settings beside the usual ones of tests."""
        self.cluster.configure(
            port=self.port, access=[access_line("all", ("all",))], settings={**UNSAFE, **settings}
        )
        self.cluster.start(port=self.port)

    def conninfo(self, dbname: str) -> str:
        """Give libpq's words for connecting as the superuser."""
        return make_conninfo(
            host=LOOPBACK, port=self.port, dbname=dbname, user=SUPERUSER, passfile=str(self.passfile)
        )

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop every process of the server where it stands: connections stay open, and nobody answers."""
        with self.freezing() as freeze:
            freeze()
            yield

    @contextmanager
    def freezing(self) -> Iterator[Callable[[], None]]:
        """Give what freezes the server; at the end it goes on."""
        data, held = str(self.cluster.data.resolve()), set[int]()

        def freeze() -> None:
            held.update(each.pid for each in psutil.process_iter(["cwd"]) if each.info["cwd"] == data)
            assert held
            for pid in held:
                send_signal(pid, signal.SIGSTOP)

        try:
            yield freeze
        finally:
            for pid in held:
                send_signal(pid, signal.SIGCONT)


@contextmanager
def run_own_server(folder: Path, servers: PostgresServers, template: str) -> Iterator[OwnServer]:
    """Run a server with a MES shard that has no name yet; the passwords are the other server's.

    Parameters:
        template: a migrated MES database of the other server. Dumping it is ten times as fast as migrating.
    """
    cluster = PostgresCluster(
        "own", tools=PostgresTools(), data=folder / "own", log=folder / "own.log", passfile=servers.passfile
    )
    cluster.create(superuser_password=servers.passwords[SUPERUSER], safe=False)
    port = start_on_free_port(PortPicker(random.Random()), partial(_start, cluster))
    own = OwnServer(cluster, port, servers.passfile)
    try:
        with cluster.connect() as connection:
            ensure_roles(connection, ROLES, servers.passwords)
            ensure_database(connection, MIGRATED, owner="mes_owner", services=["mes"])
        _copy_schema(servers.conninfo(template), own.conninfo(MIGRATED))
        yield own
    finally:
        cluster.stop()
        shutil.rmtree(cluster.data, ignore_errors=True)


def _start(cluster: PostgresCluster, port: int) -> None:
    OwnServer(cluster, port, cluster.passfile).start()


def _copy_schema(source: str, target: str) -> None:
    """Copy everything but the name that the template was told."""
    dump = [str(postgres_bin() / "pg_dump"), "--exclude-table-data=shard_identity", source]
    psql(target, subprocess.run(dump, text=True, capture_output=True, check=True, timeout=60).stdout)


def section(name: str, dbname: str, port: int) -> str:
    """Give a database's lines of a topology file."""
    return (
        f'[databases.{name}]\ntree = "mes"\ndbname = "{dbname}"\n'
        f'primary = {{ host = "{LOOPBACK}", port = {port} }}\n'
    )


@dataclass(frozen=True)
class Wide:
    """A topology of three shards, seen from outside: nothing here goes through the library."""

    topology: Topology
    own: OwnServer
    servers: PostgresServers

    def conninfo(self, name: str) -> str:
        """Give libpq's words for connecting to a database as the superuser."""
        dbname = self.topology.database(name).dbname
        return self.own.conninfo(dbname) if name == OWN else self.servers.conninfo(dbname)

    def query(self, statement: str) -> dict[str, list[tuple[Any, ...]]]:
        """Ask every shard."""
        return {name: self.run(name, statement) for name in SHARDS}

    def run(self, name: str, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement in a database; give its rows, if it has any."""
        with psycopg.connect(self.conninfo(name), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def keys(self, table: str = "order_items") -> dict[str, list[int]]:
        """The keys on each shard, in order."""
        found = self.query(f"SELECT order_id FROM {table} ORDER BY order_id")
        return {shard: [key for (key,) in rows] for shard, rows in found.items()}

    @contextmanager
    def own_everything(self) -> Iterator[None]:
        """Have every shard take every order: for rows that a test puts by hand where no map would."""
        for shard in SHARDS:
            self._tell(Ownership(shard, MAP.version, "1" * MAP.buckets))
        try:
            yield
        finally:
            init_shards(self.topology, MES, MAP)

    def _tell(self, told: Ownership) -> None:
        database = self.topology.database(told.shard)
        with open_engine(self.topology, database, role=database.owner) as engine:
            set_ownership(engine, told, tables=GUARDED)

    def prepared(self) -> dict[str, list[str]]:
        """The prepared transactions of each shard."""
        mine = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid"
        return {shard: [gid for (gid,) in rows] for shard, rows in self.query(mine).items()}

    def end_prepared(self) -> None:
        """Take back what is prepared on any shard."""
        for shard, gids in self.prepared().items():
            for gid in gids:
                self.run(shard, sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)).as_string())

    def clear(self) -> None:
        """Empty what tests write."""
        self.end_prepared()
        for shard in SHARDS:
            self.run(shard, f"TRUNCATE {', '.join(WRITTEN)}")
        self.run("directory", "TRUNCATE two_phase_decisions, reference_contents")


@contextmanager
def run_wide(
    folder: Path, servers: PostgresServers, valkey: ValkeyServer, databases: DatabasePool
) -> Iterator[Wide]:
    """Run the third shard's server, and give a topology of three empty shards with a map over them."""
    with (
        run_own_server(folder, servers, databases.templates["mes_0"]) as own,
        databases.borrow() as dbnames,
    ):
        path = write_topology(folder / "wide.toml", dbnames, servers, valkey)
        path.write_text(path.read_text() + section(OWN, MIGRATED, own.port))
        topology = Topology.load(path)
        asyncio.run(_save_map(topology))
        init_shards(topology, MES, MAP)
        wide = Wide(topology, own, servers)
        try:
            yield wide
        finally:
            wide.clear()  # a database with prepared transactions cannot be dropped


async def _save_map(topology: Topology) -> None:
    async with open_cluster(topology, "directory", role="mes", application_name="test") as cluster:
        await Directory(cluster.primary, "mes").save_map(MAP, expected_version=0)
