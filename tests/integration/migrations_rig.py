"""A fleet of empty MES shards with a directory, and revisions that a test writes itself."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

import partitions
from ops.embedded.servers import ensure_database
from ops.migrate import run
from ops.migrate.connect import open_owner
from ops.migrate.mark import write_mark
from ops.migrate.outcome import Direction, MigrationOutcome
from ops.ports import LOOPBACK
from sharding.topology import Topology
from tests.project import MES, PROJECT
from tests.servers import PostgresServers

NOWHERE = 1
"""A port on which no PostgreSQL listens."""

REVISION = '''"""{what}"""

from alembic import op

revision = {revision!r}
down_revision = {down!r}
phase = {phase!r}


def upgrade() -> None:
    op.execute({up_sql!r})


def downgrade() -> None:
    op.execute({down_sql!r})
'''


@dataclass
class Fleet:
    """The shards `mes_0`, `mes_1`, ...; the directory has its own, real revisions."""

    servers: PostgresServers
    folder: Path
    prefix: str
    shards: Sequence[str]
    down: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)

    @property
    def versions(self) -> Path:
        """The folder of the shards' revisions."""
        return self.folder / "versions"

    @property
    def topology(self) -> Topology:
        """The topology; the shards in `down` cannot be reached."""
        path = self.folder / "topology.toml"
        path.write_text(
            f'passfile = "{self.servers.passfile}"\n[trees.directory]\nkind = "directory"\n'
            f'[trees.mes]\nkind = "sharded"\n{"".join(map(self._section, ["directory", *self.shards]))}'
        )
        return Topology.load(path)

    def _section(self, name: str) -> str:
        port = NOWHERE if name in self.down else self.servers.primary_port
        return (
            f'[databases.{name}]\ntree = "{name.partition("_")[0]}"\ndbname = "{self.prefix}_{name}"\n'
            f'primary = {{ host = "{LOOPBACK}", port = {port} }}\n'
        )

    def write(self, revision: str, up: str, *, down: str = "SELECT 1", phase: str | None = "pre") -> None:
        """Add a revision behind the others."""
        self.versions.mkdir(exist_ok=True)
        before = max((path.stem[:4] for path in self.versions.glob("*.py")), default=None)
        what = f"revision {revision}"
        text = REVISION.format(
            what=what, revision=revision, down=before, phase=phase, up_sql=up, down_sql=down
        )
        (self.versions / f"{revision}.py").write_text(text)

    def migrate(
        self, direction: Direction = "up", target: str = "head", **options: Any
    ) -> list[MigrationOutcome]:
        """Bring the shards to a revision."""
        return run.migrate(
            self.topology,
            MES,
            direction,
            target,
            versions=self.versions,
            report=self.said.append,
            **options,
        )

    def connect(self, name: str, *, role: str | None = None) -> psycopg.Connection[Any]:
        """Connect to a database as its owner."""
        owner = role or f"{name.partition('_')[0]}_owner"
        conninfo = self.servers.conninfo(f"{self.prefix}_{name}", role=owner)
        return psycopg.connect(conninfo, autocommit=True)

    def query(self, name: str, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and give its rows."""
        with self.connect(name) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def mark(self, name: str) -> None:
        """Mark a shard as one of MES, which is not migrated yet."""
        with open_owner(self.topology, name) as engine, engine.connect() as connection:
            write_mark(connection, MES)

    def ledger(self, database: str) -> list[tuple[Any, ...]]:
        """Give a database's revisions and how they ended, oldest first; not those of the library's schema."""
        columns = "revision, direction, state, error"
        where = f"database = '{database}' AND revision !~ '^mes_storage_schema' ORDER BY entry_id"
        return self.query("directory", f"SELECT {columns} FROM migration_ledger WHERE {where}")


@contextmanager
def run_fleet(servers: PostgresServers, folder: Path, *, prefix: str, shards: int = 4) -> Iterator[Fleet]:
    """Make the databases; drop them at the end."""
    fleet = Fleet(servers, folder, prefix, [f"mes_{number}" for number in range(shards)])
    names = ["directory", *fleet.shards]
    with servers.primary.connect() as connection:
        for name in names:
            tree = name.partition("_")[0]
            ensure_database(connection, f"{prefix}_{name}", owner=f"{tree}_owner", services=("mes",))
        try:
            run.upgrade(fleet.topology, PROJECT.tree("directory"))
            yield fleet
        finally:
            for name in names:
                drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
                connection.execute(drop.format(sql.Identifier(f"{prefix}_{name}")))


def make_partitions(topology: Topology, *, now: datetime) -> None:
    """Make the partitions that the policies want in every database."""
    for tree in PROJECT.trees.values():
        for name in topology.databases_of(tree.name):
            with open_owner(topology, name) as engine:
                partitions.apply(engine, tree.policies, now)
