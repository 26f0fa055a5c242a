"""A primary with its roles and databases, and its streaming replicas, from nothing to running."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ops.embedded.errors import NotPrimary, NotStreaming
from ops.embedded.home import Home
from ops.embedded.postgres import REPLICATOR, SUPERUSER, UNSAFE, PostgresCluster
from ops.embedded.processes import last_lines, size_of
from ops.embedded.programs import PostgresTools
from ops.embedded.shape import ServerShape
from ops.embedded.topology_file import ComponentPorts, Report
from ops.ports import LOOPBACK
from ops.waiting import wait_until

STREAM_SECONDS = 30.0
"""How long a replica that runs is waited for until it streams."""


def ensure_role(
    connection: psycopg.Connection, role: str, password: str, *, replication: bool = False
) -> None:
    """Create a role that may log in, and replicate if `replication`, unless it exists."""
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).rowcount:
        return
    attribute = sql.SQL("REPLICATION" if replication else "NOREPLICATION")
    create = sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}")
    connection.execute(create.format(sql.Identifier(role), attribute, sql.Literal(password)))


def ensure_database(
    connection: psycopg.Connection, dbname: str, *, owner: str, services: Sequence[str]
) -> None:
    """Create a database, unless it exists; its owner and `services` may connect, and no other role."""
    if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [dbname]).rowcount:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(dbname)))
    # Also of one that was there before: `postgres` is in every cluster.
    change = sql.SQL("ALTER DATABASE {} OWNER TO {}")
    connection.execute(change.format(sql.Identifier(dbname), sql.Identifier(owner)))
    grant_connect(connection, dbname, services)


def grant_connect(connection: psycopg.Connection, dbname: str, services: Sequence[str]) -> None:
    """Grant CONNECT on a database to `services`, and revoke it from PUBLIC."""
    revoke = sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC")
    connection.execute(revoke.format(sql.Identifier(dbname)))
    if not services:
        return
    grant = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}")
    roles = sql.SQL(", ").join(map(sql.Identifier, services))
    connection.execute(grant.format(sql.Identifier(dbname), roles))


def grant_monitor(connection: psycopg.Connection, role: str) -> None:
    """Grant an owner `pg_monitor`: it sees what sessions run, and where the data are, and no data."""
    connection.execute(sql.SQL("GRANT pg_monitor TO {}").format(sql.Identifier(role)))


def ensure_roles(connection: psycopg.Connection, roles: Sequence[str], passwords: Mapping[str, str]) -> None:
    """Create several roles, each with its password, unless they exist."""
    for role in roles:
        ensure_role(connection, role, passwords[role])


class StandbyCluster(PostgresCluster):
    """A cluster that streams from its primary, through a slot that bears the replica's name."""

    def create_from(self, primary: PostgresCluster, *, safe: bool = True) -> None:
        """Copy the running primary. A kill midway leaves only the partial folder.

        Parameters:
            safe: wait until the disk has it.

        Raises:
            CommandFailed: pg_basebackup failed.
        """
        self.ensure_slot(primary)
        self.data.parent.mkdir(parents=True, exist_ok=True)
        source = ["--host", primary.host, "--port", str(primary.port()), "--username", REPLICATOR]
        how = ["--no-password", "--checkpoint=fast", "--wal-method=stream", "--slot", self.name]
        how += [] if safe else ["--no-sync"]
        target = ["--pgdata", str(self.partial)]
        self._tools.run("pg_basebackup", *source, *how, *target, timeout_seconds=600, passfile=self.passfile)
        (self.partial / "standby.signal").touch()
        self.partial.rename(self.data)

    def ensure_slot(self, primary: PostgresCluster) -> None:
        """Create the replica's slot on the primary, which keeps the WAL that the replica still needs."""
        with primary.connect() as connection:
            connection.execute(
                "SELECT pg_create_physical_replication_slot(%(name)s, true) WHERE NOT EXISTS"
                " (SELECT FROM pg_replication_slots WHERE slot_name = %(name)s)",
                {"name": self.name},
            )

    def configure_following(
        self,
        *,
        primary_host: str = LOOPBACK,
        primary_port: int,
        port: int,
        access: Sequence[str],
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Write the settings, among them where the primary is; they hold from the next start or reload."""
        following = self._following(primary_host, primary_port)
        self.configure(port=port, access=access, settings={**following, **(settings or {})})

    def _following(self, host: str, port: int) -> dict[str, str]:
        conninfo = make_conninfo(
            host=host,
            port=port,
            user=REPLICATOR,
            application_name=self.name,
            passfile=str(self.passfile),
        )
        return {"primary_conninfo": conninfo, "primary_slot_name": self.name}

    def is_configured_for(self, *, primary_host: str = LOOPBACK, primary_port: int) -> bool:
        """Whether the running server has these settings for its primary in force.

        Raises:
            ClusterSilent: it does not answer.
        """
        wanted = self._following(primary_host, primary_port)
        with self.connect() as connection:
            rows = connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(wanted)]
            )
            return dict(rows.fetchall()) == wanted

    def is_standby(self) -> bool:
        """Whether the data folder is one of a standby: it is none any more once it was promoted."""
        return (self.data / "standby.signal").exists()

    def is_streaming(self, primary: psycopg.Connection) -> bool:
        """Whether the primary sends to this replica, which has caught up with it."""
        query = "SELECT FROM pg_stat_replication WHERE application_name = %s AND state = 'streaming'"
        return primary.execute(query, [self.name]).rowcount > 0


class DatabaseServers:
    """A primary and its replicas. Every step may be repeated: it does what is left to do."""

    def __init__(
        self,
        shape: ServerShape,
        *,
        home: Home,
        passfile: Path,
        tools: PostgresTools,
        report: Report,
        safe: bool,
    ) -> None:
        self.shape = shape
        self._report = report
        self._safe = safe
        self._settings = {} if safe else UNSAFE
        self.primary = PostgresCluster(
            shape.name,
            tools=tools,
            data=home.data(shape.name),
            log=home.log(shape.name),
            passfile=passfile,
            host=shape.address.host,
        )
        self.replicas = [
            StandbyCluster(
                replica.name,
                tools=tools,
                data=home.data(replica.name),
                log=home.log(replica.name),
                passfile=passfile,
                host=replica.address.host,
            )
            for replica in shape.replicas
        ]

    @property
    def clusters(self) -> list[PostgresCluster]:
        """The primary and the replicas."""
        return [self.primary, *self.replicas]

    def up(self, ports: ComponentPorts, passwords: Mapping[str, str]) -> None:
        """Start the primary and its replicas, and create the databases and their roles.

        Raises:
            StartFailed, CommandFailed: a server did not come up.
            ClusterSilent: one runs and does not answer.
            NotPrimary: the primary follows another server.
        """
        self._remove_leftovers()
        if not self.primary.exists():
            self._create_primary(passwords)
        self._start(self.primary, ports, self._configure_primary)
        self._bootstrap(passwords)
        for replica in self.replicas:
            self._start_replica(replica, ports)

    def _remove_leftovers(self) -> None:
        for cluster in self.clusters:
            if cluster.remove_partial():
                self._report(f"{cluster.name}: removed the half-made data folder {cluster.partial}")

    def _create_primary(self, passwords: Mapping[str, str]) -> None:
        for replica in self.replicas:
            # It follows a primary that is no more.
            replica.stop()
            shutil.rmtree(replica.data, ignore_errors=True)
        self._report(f"{self.primary.name}: creating the cluster")
        self.primary.create(superuser_password=passwords[SUPERUSER], safe=self._safe)

    def _bootstrap(self, passwords: Mapping[str, str]) -> None:
        with self.primary.connect() as connection:
            if connection.execute("SELECT WHERE pg_is_in_recovery()").rowcount:
                raise NotPrimary(self.primary.name, self.primary.data)
            ensure_role(connection, REPLICATOR, passwords[REPLICATOR], replication=True)
            for database in self.shape.databases:
                ensure_roles(connection, database.roles, passwords)
                grant_monitor(connection, database.owner)
                ensure_database(connection, database.dbname, owner=database.owner, services=database.services)

    def _start_replica(self, replica: StandbyCluster, ports: ComponentPorts) -> None:
        replica.ensure_slot(self.primary)
        if not replica.exists():
            self._report(f"{replica.name}: copying {self.primary.name}")
            replica.create_from(self.primary, safe=self._safe)
        configure = partial(self._configure_replica, replica, ports)
        if self._start(replica, ports, configure):
            return
        port = ports[self.primary.name]
        if not replica.is_configured_for(primary_host=self.primary.host, primary_port=port):
            self._report(f"{replica.name}: follows its primary to port {port}")
            configure(ports[replica.name])
            replica.reload()

    def check_streaming(self) -> None:
        """Wait until each replica has caught up with the primary.

        Raises:
            NotStreaming: one does not.
        """
        for replica in self.replicas:
            self._await_streaming(replica)

    def _await_streaming(self, replica: StandbyCluster) -> None:
        log_start = size_of(replica.log)
        with self.primary.connect() as primary:
            if wait_until(
                lambda: replica.is_streaming(primary),
                timeout_seconds=STREAM_SECONDS if replica.is_standby() else 0,
                every_seconds=0.05,
            ):
                return
        said = last_lines(replica.log, from_byte=log_start)
        raise NotStreaming(replica.name, replica.data, said, promoted=not replica.is_standby())

    def _start(
        self, cluster: PostgresCluster, ports: ComponentPorts, configure: Callable[[int], None]
    ) -> bool:
        if cluster.settle() and cluster.is_on(ports[cluster.name]):
            self._report(f"{cluster.name}: runs already, port {ports[cluster.name]}")
            if cluster.allow(self.shape.access(cluster.host)):
                self._report(f"{cluster.name}: lets the roles in that the topology has by now")
            return False
        # If it runs, then on a port that the topology no longer names.
        cluster.stop()

        def start(port: int) -> bool:
            configure(port)
            self._report(f"{cluster.name}: starting on port {port}")
            return cluster.start(port=port)

        return ports.start(cluster.name, start)

    def _configure_primary(self, port: int) -> None:
        self.primary.configure(
            port=port, access=self.shape.access(self.primary.host), settings=self._settings
        )

    def _configure_replica(self, replica: StandbyCluster, ports: ComponentPorts, port: int) -> None:
        replica.configure_following(
            primary_host=self.primary.host,
            primary_port=ports[self.primary.name],
            port=port,
            access=self.shape.access(replica.host),
            settings=self._settings,
        )
