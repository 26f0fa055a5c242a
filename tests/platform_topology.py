"""A topology of the project's five databases, all of them in one test server."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from psycopg import sql

from migrations import run
from ops.embedded.bootstrap import ensure_database, grant_connect
from ops.embedded.ports import PortPicker
from sharding.topology import Topology
from tests.servers import PostgresServers, ValkeyServer

TREES: Mapping[str, str] = {
    "shop": "shop",
    "crm": "crm",
    "directory": "directory",
    "mes_0": "mes",
    "mes_1": "mes",
}
"""The tree of each database."""

SERVICES: Mapping[str, tuple[str, ...]] = {
    "shop": ("shop",),
    "crm": ("crm",),
    "mes": ("mes",),
    "directory": ("shop", "crm", "mes"),
}
"""The roles that may connect to the databases of a tree."""


def migrate_templates(servers: PostgresServers, valkey: ValkeyServer, folder: Path) -> Mapping[str, str]:
    """Make and migrate a template of each database, once; give the templates' names."""
    templates = {name: f"template_{name}" for name in TREES}
    with servers.primary.connect() as connection:
        for name, tree in TREES.items():
            ensure_database(connection, templates[name], owner=f"{tree}_owner", services=SERVICES[tree])
    path = write_topology(folder / "templates.toml", templates, servers, valkey)
    topology = Topology.load(path)
    for tree in SERVICES:
        run.upgrade(topology, tree)
    return templates


@contextmanager
def cloned(
    servers: PostgresServers, templates: Mapping[str, str], prefix: str
) -> Iterator[Mapping[str, str]]:
    """Clone every template, visible on the replica as well; drop the clones at the end."""
    names = {name: f"{prefix}_{name}" for name in templates}
    # FILE_COPY: with fsync off its checkpoints cost nothing, and the replica has little to replay.
    clone = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} STRATEGY file_copy")
    with servers.primary.connect() as connection:
        for name, template in templates.items():
            tree = TREES[name]
            words = (names[name], template, f"{tree}_owner")
            connection.execute(clone.format(*map(sql.Identifier, words)))
            # A clone does not get its template's rights on the database itself.
            grant_connect(connection, names[name], SERVICES[tree])
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
    """Write the topology file of these databases; only the MES shards have a replica."""
    ports = PortPicker(random.Random())
    blocks = ['backend = "postgresql"', "buckets = 64", f'passfile = "{servers.passfile}"']
    for name, dbname in dbnames.items():
        blocks += [f"[databases.{name}]", f'tree = "{TREES[name]}"', f'dbname = "{dbname}"']
        blocks += [f'primary = {{ host = "127.0.0.1", port = {servers.primary_port} }}']
        if TREES[name] == "mes":
            replica = f'name = "{name}_replica", host = "127.0.0.1", port = {servers.replica_port}'
            blocks += [f"replicas = [ {{ {replica} }} ]"]
    blocks += ["[pool]", "size = 5", "max_overflow = 5", "timeout_seconds = 5.0"]
    blocks += ["[redis]", f'url = "{valkey.url}"']
    blocks += ["[files]", f'url = "{(path.parent / "files").as_uri()}"']
    for service in ("shop", "crm", "mes"):
        blocks += [f"[services.{service}]", 'host = "127.0.0.1"', f"port = {ports.pick()}"]
    path.write_text("\n".join(blocks) + "\n")
    return path
