"""A streaming replica: a cluster that copies its primary and follows it."""

from collections.abc import Mapping, Sequence

from psycopg.conninfo import make_conninfo

from ops.embedded.ports import LOOPBACK
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
        """Write the settings, among them where the primary is; they hold from the next start."""
        conninfo = make_conninfo(
            host=primary_host,
            port=primary_port,
            user=REPLICATOR,
            application_name=self.name,
            passfile=str(self.passfile),
        )
        following = {"primary_conninfo": conninfo, "primary_slot_name": self.name}
        self.configure(port=port, access=access, settings={**following, **(settings or {})})
