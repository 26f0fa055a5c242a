"""The servers that the tests of one worker share: a primary with a streaming replica, and Valkey."""

import random
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ops.embedded.pgpass import ensure_passwords
from ops.embedded.postgres import REPLICATOR, SUPERUSER, UNSAFE, PostgresCluster, access_line
from ops.embedded.programs import PostgresTools, valkey_server
from ops.embedded.servers import StandbyCluster, ensure_role, ensure_roles
from ops.embedded.valkey import Valkey
from ops.ports import LOOPBACK, PortPicker, start_on_free_port
from ops.waiting import wait_until
from tests.project import ROLES

# The WAL of a long session would grow to a GB in each of the two, and may lie in memory.
SETTINGS = {**UNSAFE, "max_wal_size": "256MB"}

ACCESS = (access_line("all", ("all",)), access_line("replication", (REPLICATOR,)))


@dataclass(frozen=True)
class PostgresServers:
    """A primary and its streaming replica; every role of the project exists in them."""

    primary: PostgresCluster
    replica: StandbyCluster
    primary_port: int
    replica_port: int
    passfile: Path
    passwords: Mapping[str, str]
    ways: Mapping[int, int] = field(default_factory=dict)
    """The port of the pooler in front of a server, by the server's own; empty where clients come directly."""

    def way_to(self, port: int) -> int:
        """Give the port by which clients reach the server at `port`."""
        return self.ways.get(port, port)

    def conninfo(self, dbname: str = "postgres", *, role: str = SUPERUSER, replica: bool = False) -> str:
        """Give libpq's words for connecting to the primary or to the replica."""
        port = self.replica_port if replica else self.primary_port
        return make_conninfo(host=LOOPBACK, port=port, dbname=dbname, user=role, passfile=str(self.passfile))

    def wait_for_replica(self, *, timeout_seconds: float = 60.0) -> None:
        """Return when the replica shows everything that the primary has committed."""
        with self.primary.connect() as primary, self.replica.connect() as replica:
            self.wait_for_replay(primary, replica, timeout_seconds=timeout_seconds)

    @staticmethod
    def wait_for_replay(
        primary: psycopg.Connection, replica: psycopg.Connection, *, timeout_seconds: float = 60.0
    ) -> None:
        """Return when the replica shows everything that the primary has committed."""
        [now] = primary.execute("SELECT pg_current_wal_insert_lsn()").fetchone() or [None]

        def has_replayed() -> bool:
            row = replica.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [now]).fetchone()
            return bool(row and row[0])

        if not wait_until(has_replayed, timeout_seconds=timeout_seconds, every_seconds=0.005):
            raise TimeoutError(f"the replica has not replayed {now} in {timeout_seconds:g} s")


@dataclass(frozen=True)
class ValkeyServer:
    """A Valkey server of this worker's own."""

    port: int

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def flush(self) -> None:
        """Forget everything."""
        with socket.create_connection((LOOPBACK, self.port), timeout=30) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            answer = connection.recv(16)
        if not answer.startswith(b"+OK"):
            raise ConnectionError(f"FLUSHALL: {answer!r}")


@contextmanager
def run_postgres(folder: Path) -> Iterator[PostgresServers]:
    """Run a primary and its replica in `folder`; both are stopped and removed at the end."""
    tools, ports = PostgresTools(), PortPicker(random.Random())
    tools.check()
    passfile = folder / "pgpass"
    passwords = ensure_passwords(passfile, ROLES)
    primary = PostgresCluster(
        "primary", tools=tools, data=folder / "primary", log=folder / "primary.log", passfile=passfile
    )
    replica = StandbyCluster(
        "replica", tools=tools, data=folder / "replica", log=folder / "replica.log", passfile=passfile
    )
    try:
        primary.create(superuser_password=passwords[SUPERUSER], safe=False)
        primary_port = start_on_free_port(ports, partial(_start_primary, primary))
        with primary.connect() as connection:
            _ease_passwords(connection, passwords[SUPERUSER])
            ensure_role(connection, REPLICATOR, passwords[REPLICATOR], replication=True)
            # Those two are there by now, and stay as they are.
            ensure_roles(connection, ROLES, passwords)
        replica.create_from(primary, safe=False)
        replica_port = start_on_free_port(ports, partial(_start_replica, replica, primary_port))
        yield PostgresServers(primary, replica, primary_port, replica_port, passfile, passwords)
    finally:
        replica.stop()
        primary.stop()
        shutil.rmtree(replica.data, ignore_errors=True)
        shutil.rmtree(primary.data, ignore_errors=True)


def _ease_passwords(connection: psycopg.Connection, superuser_password: str) -> None:
    """Let the superuser, and roles that get a password later, connect in a third of the client's CPU."""
    if connection.info.server_version >= 160_000:
        connection.execute("SET scram_iterations = 1")
    change = sql.SQL("ALTER ROLE {} PASSWORD {}")
    connection.execute(change.format(sql.Identifier(SUPERUSER), sql.Literal(superuser_password)))


def _start_primary(primary: PostgresCluster, port: int) -> None:
    primary.configure(port=port, access=ACCESS, settings=SETTINGS)
    primary.start(port=port)


def _start_replica(replica: StandbyCluster, primary_port: int, port: int) -> None:
    replica.configure_following(primary_port=primary_port, port=port, access=ACCESS, settings=SETTINGS)
    replica.start(port=port)


@contextmanager
def run_valkey(folder: Path) -> Iterator[ValkeyServer]:
    """Run Valkey in `folder`; it is stopped at the end."""
    program, ports = valkey_server(), PortPicker(random.Random())
    valkey = Valkey(
        folder=folder / "valkey",
        pidfile=folder / "valkey.pid",
        log=folder / "valkey.log",
    )
    port = start_on_free_port(ports, lambda free: valkey.start(program=program, port=free))
    try:
        yield ValkeyServer(port)
    finally:
        valkey.stop()
