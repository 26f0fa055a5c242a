"""A team's first project: a directory and two shards, with no SQL but that of its own tables."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from ops.embedded.pgpass import ensure_passwords
from ops.embedded.servers import ensure_database, ensure_role
from ops.ports import LOOPBACK
from sharding.topology import Topology
from tests.servers import PostgresServers

OWNER = "crm_owner"
"""The role that owns the databases; it is one of those that the test servers have."""
SERVICE = "my-app"
SHARDS = ("payments_0", "payments_1")
DATABASES = ("books", *SHARDS)

MODELS = """
from sqlalchemy import BigInteger, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sharding.keys import shard_key


class Base(DeclarativeBase):
    pass


class Payment(Base):
    __tablename__ = "payments"
    __table_args__ = ({"info": shard_key("tenant_id")},)

    payment_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    words: Mapped[str] = mapped_column(Text)


class Currency(Base):
    __tablename__ = "currencies"

    currency: Mapped[str] = mapped_column(Text, primary_key=True)
"""
FIRST = '''"""Payments."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
phase = "pre"


def upgrade() -> None:
    op.create_table(
        "payments",
        sa.Column("payment_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("tenant_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("words", sa.Text, nullable=False),
    )
    op.create_table("currencies", sa.Column("currency", sa.Text, primary_key=True))
    op.create_shard_guard("payments", key="tenant_id", version=1)


def downgrade() -> None:
    op.drop_shard_guard("payments")
    op.drop_table("currencies")
    op.drop_table("payments")
'''


@dataclass(frozen=True)
class LibraryTeam:
    """The project in a folder, and its databases on the test servers."""

    root: Path
    servers: PostgresServers
    programs: Path
    """Where `mesctl` and `alembic` are that start fast."""

    def dbname(self, name: str) -> str:
        """Return the name of a database on its server."""
        return f"{self.root.name}_{name}"

    def conninfo(self, name: str, role: str = OWNER) -> str:
        """Return libpq's words for a database."""
        return self.servers.conninfo(self.dbname(name), role=role)

    @property
    def topology(self) -> Topology:
        """Where the databases are."""
        return Topology.load(self.root / "topology.toml")

    @property
    def versions(self) -> Path:
        """The folder of the revisions."""
        return self.root / "versions"

    def write_first(self) -> None:
        """Write the first revision."""
        (self.versions / "0001_payments.py").write_text(FIRST)

    def query(self, name: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement as the owner and give its rows."""
        with psycopg.connect(self.conninfo(name), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def tables(self, name: str) -> list[str]:
        """List the tables of a database."""
        found = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        return sorted(row[0] for row in self.query(name, found))

    def versions_in(self, name: str) -> list[tuple[Any, ...]]:
        """Return the versions of the library's schema that a database has recorded."""
        if "mes_storage_schema" not in self.tables(name):
            return []
        return self.query(name, "SELECT part, version FROM mes_storage_schema ORDER BY version")

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a program of the project's venv, in the project's folder."""
        return self._start(Path(sys.executable).with_name(words[0]), *words[1:])

    def _start(self, program: Path, *words: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MES_STORAGE_")}
        return subprocess.Popen(
            [program, *words],
            cwd=self.root,
            env=clean,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the project's folder."""
        with self._start(self.programs / words[0], *words[1:]) as started:
            out, err = started.communicate(timeout=120)
        return subprocess.CompletedProcess(words, started.returncode, out, err)


@contextmanager
def run_library_team(servers: PostgresServers, root: Path, *, programs: Path) -> Iterator[LibraryTeam]:
    """Make the project and empty databases; drop them at the end."""
    root.mkdir()
    team = LibraryTeam(root, servers, programs)
    team.versions.mkdir()
    (root / f"{root.name}_models.py").write_text(MODELS)
    (root / "mes-storage.toml").write_text(
        'topology = "topology.toml"\n[trees.payments]\n'
        f'metadata = "{root.name}_models:Base.metadata"\nrevisions = "versions"\n'
    )
    (root / "alembic.ini").write_text(
        "[alembic]\nscript_location = ops.migrate:script\nversion_locations = %(here)s/versions\n"
        "path_separator = os\n"
    )
    (root / "topology.toml").write_text(_topology(team, DATABASES))
    password = ensure_passwords(servers.passfile, (SERVICE,))[SERVICE]
    with servers.primary.connect() as connection:
        ensure_role(connection, SERVICE, password)
        for name in DATABASES:
            ensure_database(connection, team.dbname(name), owner=OWNER, services=(SERVICE,))
        try:
            yield team
        finally:
            for name in DATABASES:
                drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
                connection.execute(drop.format(sql.Identifier(team.dbname(name))))


def _topology(team: LibraryTeam, names: Sequence[str]) -> str:
    roles = f'owner = "{OWNER}"\nrole = "{SERVICE}"\n'
    trees = (
        f'[trees.books]\nkind = "directory"\n{roles}[trees.payments]\nkind = "sharded"\nbuckets = 16\n{roles}'
    )
    databases = "".join(
        f'[databases.{name}]\ntree = "{name.partition("_")[0]}"\ndbname = "{team.dbname(name)}"\n'
        f'primary = {{ host = "{LOOPBACK}", port = {team.servers.primary_port} }}\n'
        for name in names
    )
    return f'passfile = "{team.servers.passfile}"\n{trees}{databases}'
