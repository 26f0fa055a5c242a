"""A topology of the project's five databases, all of them in one test server."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from psycopg import sql

from ops.embedded.servers import ensure_database, grant_connect
from ops.embedded.shape import DatabaseShape
from ops.fleet import open_engine
from ops.migrate import run
from ops.ports import LOOPBACK, PortPicker
from sharding.ownership import Ownership, set_ownership
from sharding.topology import Topology, Tree
from tests.project import DATABASES, GUARDED, HTTP_SERVICES, PROJECT, TEMPLATE
from tests.servers import PostgresServers, ValkeyServer


def migrate_templates(servers: PostgresServers, valkey: ValkeyServer, folder: Path) -> Mapping[str, str]:
    """Make and migrate a template of each database, once; give the templates' names."""
    templates = {shape.name: f"template_{shape.name}" for shape in DATABASES}
    with servers.primary.connect() as connection:
        for shape in DATABASES:
            ensure_database(connection, templates[shape.name], owner=shape.owner, services=shape.services)
    topology = Topology.load(write_topology(folder / "templates.toml", templates, servers, valkey))
    for tree in PROJECT.trees.values():
        run.upgrade(topology, tree)
    name_shards(topology)
    return templates


def name_shards(topology: Topology) -> None:
    """Tell each shard its name, and to take every order: tests of the guard tell it less."""
    for shard, database in topology.databases_of("mes").items():
        with open_engine(topology, database, role=database.owner) as engine:
            set_ownership(engine, Ownership(shard, 1, "1" * topology.trees["mes"].buckets), tables=GUARDED)


@contextmanager
def cloned(
    servers: PostgresServers, templates: Mapping[str, str], prefix: str
) -> Iterator[Mapping[str, str]]:
    """Clone every template, visible on the replica as well; drop the clones at the end."""
    names = {name: f"{prefix}_{name}" for name in templates}
    # FILE_COPY: with fsync off its checkpoints cost nothing, and the replica has little to replay.
    clone = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} STRATEGY file_copy")
    with servers.primary.connect() as connection:
        for shape in (shape for shape in DATABASES if shape.name in templates):
            words = (names[shape.name], templates[shape.name], shape.owner)
            connection.execute(clone.format(*map(sql.Identifier, words)))
            # A clone does not get its template's rights on the database itself.
            grant_connect(connection, names[shape.name], shape.services)
    servers.wait_for_replica()
    try:
        yield names
    finally:
        drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
        with servers.primary.connect() as connection:
            for name in names.values():
                connection.execute(drop.format(sql.Identifier(name)))


def write_topology(
    path: Path, dbnames: Mapping[str, str], servers: PostgresServers, valkey: ValkeyServer
) -> Path:
    """Write the topology file of these databases; all replicas are the one replica."""
    ports = PortPicker(random.Random())
    trees = [_tree(name, tree) for name, tree in TEMPLATE.trees.items()]
    head = f"""\
passfile = "{servers.passfile}"
[pool]
size = 5
max_overflow = 5
timeout_seconds = 5.0
[redis]
url = "{valkey.url}"
[files]
url = "{(path.parent / "files").as_uri()}"
"""
    databases = [_database(shape, dbnames[shape.name], servers) for shape in DATABASES]
    # Without the board: where there is one, every order is announced to it, and the outboxes wait for it.
    services = [
        f'[services.{name}]\nhost = "{LOOPBACK}"\nport = {ports.pick()}\n'
        for name in HTTP_SERVICES
        if name != "board"
    ]
    path.write_text("".join([head, *trees, *databases, *services]))
    return path


def _tree(name: str, tree: Tree) -> str:
    buckets = f"buckets = {tree.buckets}\n" if tree.kind == "sharded" else ""
    return f'[trees.{name}]\nkind = "{tree.kind}"\n{buckets}'


def _database(shape: DatabaseShape, dbname: str, servers: PostgresServers) -> str:
    replicas = ", ".join(
        f'{{ name = "{name}", host = "{LOOPBACK}", port = {servers.replica_port} }}'
        for name in shape.replicas
    )
    return f"""\
[databases.{shape.name}]
tree = "{shape.tree}"
dbname = "{dbname}"
primary = {{ host = "{LOOPBACK}", port = {servers.primary_port} }}
replicas = [ {replicas} ]
"""
