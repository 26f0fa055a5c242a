"""Databases for tests of partitions that can share one: a migrated shard, and a bare server."""

import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from psycopg import connect
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from ops.embedded.pgpass import ensure_passwords
from ops.embedded.postgres import SUPERUSER, UNSAFE, PostgresCluster
from ops.embedded.processes import run_command
from ops.embedded.programs import PostgresTools, launch_prefix, postgres_bin
from ops.ports import PortPicker, start_on_free_port
from tests.platform_topology import cloned
from tests.project import ROLES
from tests.servers import ACCESS, PostgresServers


@contextmanager
def own_shard(servers: PostgresServers, templates: Mapping[str, str], prefix: str) -> Iterator[str]:
    """Clone a shard; give its name."""
    with cloned(servers, {"mes_0": templates["mes_0"]}, prefix=prefix) as names:
        yield names["mes_0"]


def engine_of(conninfo: str) -> Engine:
    """Connect by libpq's words."""
    return create_engine("postgresql+psycopg://", creator=partial(connect, conninfo), poolclass=NullPool)


@contextmanager
def bare_server(folder: Path) -> Iterator[tuple[PostgresCluster, Engine]]:
    """Run a server without replica or migrations; give it, with its superuser's engine."""
    tools, ports, passfile = PostgresTools(), PortPicker(random.Random()), folder / "pgpass"
    passwords = ensure_passwords(passfile, ROLES)
    server = PostgresCluster("bare", tools=tools, data=folder / "bare", log=folder / "log", passfile=passfile)

    def start(port: int) -> None:
        server.configure(port=port, access=ACCESS, settings=UNSAFE)
        server.start(port=port)

    try:
        server.create(superuser_password=passwords[SUPERUSER], safe=False)
        port = start_on_free_port(ports, start)
        words = f"host=127.0.0.1 port={port} dbname=postgres user={SUPERUSER} passfile={passfile}"
        yield server, engine_of(words)
    finally:
        server.stop()
        shutil.rmtree(server.data, ignore_errors=True)


def servers_folder(path: Path) -> Path:
    """Make a folder that belongs to the user as whom PostgreSQL runs here."""
    run_command([*launch_prefix(postgres_bin() / "postgres"), "mkdir", str(path)], timeout_seconds=10)
    return path
