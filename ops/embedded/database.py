"""One cluster of the platform with its databases and its replicas, from nothing to running."""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ops.embedded.servers import ensure_database, ensure_role, ensure_roles, grant_read_stats
from ops.embedded.errors import NotPrimary, NotStreaming
from ops.embedded.home import Home
from ops.embedded.topology_file import ComponentPorts, Report
from ops.embedded.postgres import SUPERUSER, PostgresCluster
from ops.embedded.processes import last_lines, size_of
from ops.embedded.postgres import REPLICATOR
from ops.embedded.servers import StandbyCluster
from ops.embedded.postgres import UNSAFE
from ops.embedded.shape import ServerShape
from ops.embedded.programs import PostgresTools
from ops.waiting import wait_until

STREAM_SECONDS = 30.0
"""How long a replica that runs is waited for until it streams."""


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
            host=shape.place.host,
        )
        self.replicas = [
            StandbyCluster(
                replica.name,
                tools=tools,
                data=home.data(replica.name),
                log=home.log(replica.name),
                passfile=passfile,
                host=replica.place.host,
            )
            for replica in shape.replicas
        ]

    @property
    def clusters(self) -> list[PostgresCluster]:
        """The primary and the replicas."""
        return [self.primary, *self.replicas]

    def up(self, book: ComponentPorts, passwords: Mapping[str, str]) -> None:
        """Have the primary and its replicas running, with the databases and their roles.

        Raises:
            StartFailed, CommandFailed: a server did not come up.
            ClusterSilent: one runs and does not answer.
            NotPrimary: the primary follows another server.
        """
        self._remove_leftovers()
        if not self.primary.exists():
            self._create_primary(passwords)
        self._start(self.primary, book, self._configure_primary)
        self._bootstrap(passwords)
        for replica in self.replicas:
            self._raise_replica(replica, book)

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
                grant_read_stats(connection, database.owner)
                ensure_database(connection, database.dbname, owner=database.owner, services=database.services)

    def _raise_replica(self, replica: StandbyCluster, book: ComponentPorts) -> None:
        replica.ensure_slot(self.primary)
        if not replica.exists():
            self._report(f"{replica.name}: copying {self.primary.name}")
            replica.create_from(self.primary, safe=self._safe)
        configure = partial(self._configure_replica, replica, book)
        if self._start(replica, book, configure):
            return
        port = book[self.primary.name]
        if not replica.goes_by(primary_host=self.primary.host, primary_port=port):
            self._report(f"{replica.name}: follows its primary to port {port}")
            configure(book[replica.name])
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

    def _start(self, cluster: PostgresCluster, book: ComponentPorts, configure: Callable[[int], None]) -> bool:
        if cluster.settle() and cluster.is_on(book[cluster.name]):
            self._report(f"{cluster.name}: runs already, port {book[cluster.name]}")
            if cluster.allow(self.shape.access(cluster.host)):
                self._report(f"{cluster.name}: lets the roles in that the topology has by now")
            return False
        # If it runs, then on a port that the topology no longer names.
        cluster.stop()

        def start(port: int) -> bool:
            configure(port)
            self._report(f"{cluster.name}: starting on port {port}")
            return cluster.start(port=port)

        return book.start(cluster.name, start)

    def _configure_primary(self, port: int) -> None:
        self.primary.configure(
            port=port, access=self.shape.access(self.primary.host), settings=self._settings
        )

    def _configure_replica(self, replica: StandbyCluster, book: ComponentPorts, port: int) -> None:
        replica.configure_following(
            primary_host=self.primary.host,
            primary_port=book[self.primary.name],
            port=port,
            access=self.shape.access(replica.host),
            settings=self._settings,
        )
