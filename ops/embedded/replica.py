"""A streaming replica: a cluster that copies its primary and follows it."""

from collections.abc import Mapping, Sequence

import psycopg
from psycopg.conninfo import make_conninfo

from ops.ports import LOOPBACK
from ops.embedded.postgres import PostgresCluster

REPLICATOR = "replicator"


class Replica(PostgresCluster):
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
        """Have the primary keep the WAL that this replica has not got yet."""
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

    def goes_by(self, *, primary_host: str = LOOPBACK, primary_port: int) -> bool:
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
