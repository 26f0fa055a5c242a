"""Three shards: two in the worker's server, and one in a server of its own, to be stopped and frozen."""

import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from migrations import run
from ops.embedded.bootstrap import ensure_database, ensure_roles, grant_connect
from ops.embedded.ports import LOOPBACK, PortPicker, start_on_free_port
from ops.embedded.postgres import SUPERUSER, PostgresCluster
from ops.embedded.settings import UNSAFE, access_line
from ops.embedded.shape import ROLES
from ops.embedded.tools import PostgresTools
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.sessions import ShardedSessions, open_sessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.servers import PostgresServers

SHARDS = ("mes_0", "mes_1", "mes_2")
TEMPLATE = "template_mes"
OWN = "mes_2"


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
        data = str(self.cluster.data.resolve())
        held = [each for each in psutil.process_iter(["cwd"]) if each.info["cwd"] == data]
        assert held
        for process in held:
            os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in held:
                os.kill(process.pid, signal.SIGCONT)


@contextmanager
def run_own_server(folder: Path, servers: PostgresServers) -> Iterator[OwnServer]:
    """Run a server with a migrated template of a MES shard; the passwords are the other server's."""
    cluster = PostgresCluster(
        "own", tools=PostgresTools(), data=folder / "own", log=folder / "own.log", passfile=servers.passfile
    )
    cluster.create(superuser_password=servers.passwords[SUPERUSER], safe=False)
    port = start_on_free_port(PortPicker(random.Random()), partial(_start, cluster))
    own = OwnServer(cluster, port, servers.passfile)
    try:
        with cluster.connect() as connection:
            ensure_roles(connection, ROLES, servers.passwords)
            ensure_database(connection, TEMPLATE, owner="mes_owner", services=["mes"])
        run.upgrade(Topology.load(_alone(folder, own)), "mes")
        yield own
    finally:
        cluster.stop()
        shutil.rmtree(cluster.data, ignore_errors=True)


def _start(cluster: PostgresCluster, port: int) -> None:
    OwnServer(cluster, port, cluster.passfile).start()


def _alone(folder: Path, own: OwnServer) -> Path:
    path = folder / "own.toml"
    head = f'passfile = "{own.passfile}"\n[redis]\nurl = "redis://h/0"\n[files]\nurl = "file:///f"\n'
    # No directory: the ledger of migrations is not looked for where there is none.
    path.write_text(head + section(OWN, TEMPLATE, own.port))
    return path


def section(name: str, dbname: str, port: int) -> str:
    """Give a database's lines of a topology file."""
    return (
        f'[databases.{name}]\ntree = "mes"\ndbname = "{dbname}"\n'
        f'primary = {{ host = "{LOOPBACK}", port = {port} }}\n'
    )


@contextmanager
def with_own_shard(topology_path: Path, own: OwnServer, dbname: str) -> Iterator[Topology]:
    """Give the topology with the third shard, empty, added; the database is dropped at the end."""
    clone = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER mes_owner STRATEGY file_copy")
    with own.cluster.connect() as connection:
        connection.execute(clone.format(sql.Identifier(dbname), sql.Identifier(TEMPLATE)))
        grant_connect(connection, dbname, ["mes"])
    topology_path.write_text(topology_path.read_text() + section(OWN, dbname, own.port))
    try:
        yield Topology.load(topology_path)
    finally:
        if own.cluster.pid() is None:
            own.start()
        with own.cluster.connect() as connection:
            for [gid] in connection.execute(
                "SELECT gid FROM pg_prepared_xacts WHERE database = %s", [dbname]
            ).fetchall():
                end_prepared(own.conninfo(dbname), gid)
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(dbname)))


def end_prepared(conninfo: str, gid: str) -> None:
    """Roll back what a test has left prepared: the database could not be dropped."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))


@asynccontextmanager
async def opened(
    topology: Topology, *, owners: Sequence[str] | None = None
) -> AsyncIterator[ShardedSessions]:
    """Open sessions over the shards; the first map shares the buckets out evenly."""
    first = ShardMap.even(list(topology.tree("mes")), 64)
    async with open_cluster(topology, "directory", role="mes", application_name="test") as cluster:
        await Directory(cluster.primary).ensure_map(first)
    async with open_sessions(topology, role="mes", application_name="test") as sessions:
        yield sessions


def rows_of(
    topology: Topology, own: OwnServer, servers: PostgresServers, query: str
) -> Mapping[str, list[tuple[object, ...]]]:
    """Ask every shard as the superuser, with a session that knows nothing of the library."""
    found = {}
    for name, database in topology.tree("mes").items():
        conninfo = own.conninfo(database.dbname) if name == OWN else servers.conninfo(database.dbname)
        with psycopg.connect(conninfo) as connection:
            found[name] = connection.execute(query.encode()).fetchall()
    return found
