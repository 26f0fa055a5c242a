"""A small Citus for the tests of one module: a coordinator and two workers, with every role of the project.

The coordinator's cluster holds the other databases of a topology too, without the extension.
"""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from ops.embedded.pgpass import ensure_passwords
from ops.embedded.postgres import REPLICATOR, SUPERUSER, UNSAFE, PostgresCluster
from ops.embedded.programs import PostgresTools
from ops.embedded.servers import ensure_database, ensure_role, ensure_roles
from ops.ports import LOOPBACK, PortPicker, start_on_free_port
from sharding.topology import Topology
from tests.needs import require
from tests.project import DATABASES, HTTP_SERVICES, ROLES, TEMPLATE

DBNAME = "mes"
SHARD_COUNT = 8

# The nodes connect to each other as whoever asked; between machines of one's own this is a matter of
# certificates or of a password file, and no test of ours.
ACCESS = tuple(f"host {database} all {LOOPBACK}/32 trust" for database in ("all", "replication"))
SETTINGS = {
    **UNSAFE,
    "shared_preload_libraries": "citus",
    "citus.node_conninfo": "sslmode=disable",
    "citus.shard_count": str(SHARD_COUNT),
    # How often the daemon looks for background tasks and for deadlocks: nobody wants to wait for a test.
    "citus.background_task_queue_interval": "200ms",
    "citus.max_background_task_executors_per_node": "2",
    "citus.defer_shard_delete_interval": "200ms",
    "citus.enable_statistics_collection": "off",
    "max_worker_processes": "32",
    "max_replication_slots": "32",
    "max_wal_senders": "32",
    "max_logical_replication_workers": "16",
    "max_sync_workers_per_subscription": "4",
}


@dataclass(frozen=True)
class CitusServers:
    """The nodes of a Citus; `topology_path` is a topology whose MES tree is on the coordinator."""

    coordinator: PostgresCluster
    workers: tuple[PostgresCluster, ...]
    ports: dict[str, int]
    passfile: Path
    topology_path: Path

    @property
    def topology(self) -> Topology:
        """Read the topology."""
        return Topology.load(self.topology_path)

    def connect(
        self, node: str = "coordinator", *, role: str = SUPERUSER, dbname: str = DBNAME
    ) -> psycopg.Connection:
        """Connect to a node; each statement is a transaction of its own."""
        words = make_conninfo(host=LOOPBACK, port=self.ports[node], dbname=dbname, user=role)
        return psycopg.connect(words, autocommit=True)


@contextmanager
def run_citus(folder: Path, *, redis_url: str = f"redis://{LOOPBACK}:1/0") -> Iterator[CitusServers]:
    """Run a coordinator and two workers in `folder`; all are stopped and removed at the end.

    Parameters:
        folder: where their data are.
        redis_url: the broker of the topology, which only a test that runs the services needs.
    """
    tools, passfile = _tools(require("citus")), folder / "pgpass"
    passwords = ensure_passwords(passfile, ROLES)
    names = ("coordinator", "worker_0", "worker_1")
    nodes = {
        name: PostgresCluster(
            name, tools=tools, data=folder / name, log=folder / f"{name}.log", passfile=passfile
        )
        for name in names
    }
    with ExitStack() as stack:
        ports: dict[str, int] = {}
        first = nodes["coordinator"]
        for node in nodes.values():
            stack.callback(shutil.rmtree, node.data, ignore_errors=True)
            stack.callback(node.stop)
        first.create(superuser_password=passwords[SUPERUSER], safe=False)
        for node in (each for each in nodes.values() if each is not first):
            # initdb takes ten times as long as a copy of what it has made.
            shutil.copytree(first.data, node.data)
        for name, node in nodes.items():
            ports[name] = start_on_free_port(PortPicker(random.Random()), partial(_start, node))
            _fill(node, passwords, alone=name != "coordinator")
        path = _write_topology(folder / "topology.toml", ports, passfile, redis_url)
        coordinator, *workers = nodes.values()
        servers = CitusServers(coordinator, tuple(workers), ports, passfile, path)
        _join(servers)
        yield servers


def _tools(bin_folder: Path) -> PostgresTools:
    before = os.environ.get("PG_BIN")
    os.environ["PG_BIN"] = str(bin_folder)
    try:
        tools = PostgresTools()
        tools.check()  # finds the programs, and remembers them
    finally:
        if before is None:
            del os.environ["PG_BIN"]
        else:
            os.environ["PG_BIN"] = before
    return tools


def _start(node: PostgresCluster, port: int) -> None:
    node.configure(port=port, access=ACCESS, settings=SETTINGS)
    node.start(port=port)


def _fill(node: PostgresCluster, passwords: dict[str, str], *, alone: bool) -> None:
    with node.connect() as connection:
        ensure_role(connection, REPLICATOR, passwords[REPLICATOR], replication=True)
        ensure_roles(connection, ROLES, passwords)
        ensure_database(connection, DBNAME, owner="mes_owner", services=("mes",))
        for shape in DATABASES if not alone else ():
            if shape.tree != "mes":
                ensure_database(connection, shape.name, owner=shape.owner, services=shape.services)


def _join(servers: CitusServers) -> None:
    """Make three servers one Citus, as its administrator does it once; then the owner works alone."""
    for node in servers.ports:
        with servers.connect(node) as connection:
            connection.execute("CREATE EXTENSION citus")
    with servers.connect() as connection:
        connection.execute(
            "SELECT citus_set_coordinator_host(%s, %s)", [LOOPBACK, servers.ports["coordinator"]]
        )
        for worker in servers.workers:
            connection.execute("SELECT citus_add_node(%s, %s)", [LOOPBACK, servers.ports[worker.name]])


def _write_topology(path: Path, ports: dict[str, int], passfile: Path, redis_url: str) -> Path:
    here = f'primary = {{ host = "{LOOPBACK}", port = {ports["coordinator"]} }}'
    databases = [
        f'[databases.{shape.name}]\ntree = "{shape.tree}"\ndbname = "{shape.name}"\n{here}\n'
        for shape in DATABASES
        if shape.tree != "mes"
    ]
    databases.append(f'[databases.mes]\ntree = "mes"\ndbname = "{DBNAME}"\n{here}\n')
    picker = PortPicker(random.Random())
    services = [f'[services.{name}]\nhost = "{LOOPBACK}"\nport = {picker.pick()}\n' for name in HTTP_SERVICES]
    head = f'passfile = "{passfile}"\n'
    trees = [
        f'[trees.{name}]\nkind = "{tree.kind}"\n'
        + ('backend = "citus"\nbuckets = 64\n' if tree.kind == "sharded" else "")
        for name, tree in TEMPLATE.trees.items()
    ]
    rest = f'[redis]\nurl = "{redis_url}"\n[files]\nurl = "{(path.parent / "files").as_uri()}"\n'
    path.write_text("\n".join([head, *trees, *databases, rest, *services]))
    return path
