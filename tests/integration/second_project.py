"""A project of another team: payments by tenant, with ids and months of their own, beside the order system.

Its modules stand in a folder of the test, as a team's would. The topology has both trees, and one directory.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from psycopg import sql

from ops.embedded.pgpass import ensure_passwords
from ops.embedded.servers import ensure_database, ensure_role
from ops.migrate.run import upgrade
from ops.ports import LOOPBACK
from ops.project.project import Project
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.project import ROOT
from tests.psql import psql
from tests.servers import PostgresServers

PACKAGE = "second_payments"
SHARDS = ("payments_0", "payments_1")
MAP = ShardMap.even(SHARDS, 16)

PROJECT = f"""\
[trees.payments]
metadata = "{PACKAGE}.models:Base.metadata"
policies = "{PACKAGE}.policies:POLICIES"
archives = "{PACKAGE}.policies:ARCHIVES"
revisions = "migrations/versions"
version_table = "payments_version"

[trees.mes]
metadata = "app.models.reference:MesBase.metadata"
policies = "app.models.policies:POLICIES"
archives = "app.models.policies:ARCHIVES"
revisions = "{ROOT}/migrations/mes/versions"
"""

MODELS = """\
from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Integer, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sharding.keys import reference_table, shard_key


class Base(DeclarativeBase):
    pass


class Columns:
    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    payment_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    state: Mapped[str] = mapped_column(Text, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    __table_args__ = ({"info": shard_key("tenant_id")},)


class Payment(Columns, Base):
    __tablename__ = "payments"


class ArchivedPayment(Columns, Base):
    __tablename__ = "payments_archive"


class Refund(Columns, Base):
    __tablename__ = "refunds"


class ArchivedRefund(Columns, Base):
    __tablename__ = "refunds_archive"


class Currency(Base):
    __tablename__ = "currencies"
    __table_args__ = ({"info": reference_table()},)

    currency: Mapped[str] = mapped_column(Text, primary_key=True)
    digits: Mapped[int] = mapped_column(Integer)
"""

POLICIES = """\
from datetime import datetime, timedelta

from partitions import ListPartitions, MonthlyRange
from partitions.archive_policy import ArchivePolicy


def first_payment_at(instant: datetime) -> int:
    return int(instant.timestamp()) * 1000


PAYMENTS = ListPartitions(
    table="payments",
    groups={"payments_open": frozenset({"open"}), "payments_settled": frozenset({"settled", "refused"})},
    key="state",
    row_id="payment_id",
)
ARCHIVE = ArchivePolicy(
    live="payments_settled",
    partition_of="payments",
    archive="payments_archive",
    row_id="payment_id",
    range_key="payment_id",
    finished_at="created_at",
    grace=timedelta(days=90),
)
REFUNDS = ArchivePolicy(
    live="refunds",
    archive="refunds_archive",
    row_id="payment_id",
    range_key="payment_id",
    finished_at="created_at",
    grace=timedelta(days=10),
)
MONTHS = MonthlyRange(table="payments_archive", key="payment_id", key_at=first_payment_at, months_ahead=1)
POLICIES = (PAYMENTS, MONTHS)
ARCHIVES = (ARCHIVE, REFUNDS)
"""

COLUMNS = """
    tenant_id bigint NOT NULL, payment_id bigint NOT NULL,
    state text NOT NULL, created_at timestamptz NOT NULL
"""
GUARDED = ("payments", "payments_archive", "refunds", "refunds_archive")
REVISION = f'''"""Payments and refunds."""

from alembic import op

revision = "0001"
down_revision = None
phase = "pre"

TABLES = """
CREATE TABLE payments ({COLUMNS}, PRIMARY KEY (payment_id, state)) PARTITION BY LIST (state);
CREATE TABLE payments_open PARTITION OF payments FOR VALUES IN ('open');
CREATE TABLE payments_settled PARTITION OF payments FOR VALUES IN ('settled', 'refused');
CREATE TABLE payments_archive ({COLUMNS}, PRIMARY KEY (payment_id)) PARTITION BY RANGE (payment_id);
CREATE TABLE refunds ({COLUMNS}, PRIMARY KEY (payment_id));
CREATE TABLE refunds_archive ({COLUMNS}, PRIMARY KEY (payment_id));
CREATE TABLE currencies (currency text PRIMARY KEY, digits integer NOT NULL);
GRANT SELECT, INSERT, UPDATE, DELETE
    ON payments, payments_open, payments_settled, payments_archive, refunds, refunds_archive, currencies
    TO payments;
"""


def upgrade() -> None:
    op.execute(TABLES)
    for table in {GUARDED}:
        op.create_shard_guard(table, key="tenant_id")
'''


@dataclass(frozen=True)
class SecondProject:
    """The second team's project file, and a topology with its tree beside the first."""

    path: Path
    topology: Topology
    servers: PostgresServers

    def conninfo(self, name: str) -> str:
        """Return libpq's words for connecting to a database as the superuser."""
        return self.servers.conninfo(self.topology.database(name).dbname)

    def run(self, name: str, statements: str) -> str:
        """Run SQL in a database as the superuser; return what psql prints."""
        return psql(self.conninfo(name), statements)


@contextmanager
def run_second_project(
    folder: Path, topology_path: Path, servers: PostgresServers
) -> Iterator[SecondProject]:
    """Write the project, make its shards, and add them to a topology file; all is taken away at the end."""
    dbnames = {shard: f"second_{shard}" for shard in SHARDS}
    write_modules(folder)
    passwords = ensure_passwords(servers.passfile, ("payments", "payments_owner"))
    with servers.primary.connect() as connection:
        for role, password in passwords.items():
            ensure_role(connection, role, password)
        for dbname in dbnames.values():
            ensure_database(connection, dbname, owner="payments_owner", services=["payments"])
    _add_tree(topology_path, dbnames, servers)
    project = SecondProject(folder / "mes-storage.toml", Topology.load(topology_path), servers)
    directory = project.topology.database("directory").dbname
    project.run("directory", f"GRANT CONNECT ON DATABASE {directory} TO payments")
    team = Project.load(project.path)
    try:
        for tree in ("directory", "payments"):
            upgrade(project.topology, team.tree_in(project.topology, tree))
        yield project
    finally:
        forget_modules(folder)
        drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
        with servers.primary.connect() as connection:
            for dbname in dbnames.values():
                connection.execute(drop.format(sql.Identifier(dbname)))


def write_modules(folder: Path) -> None:
    """Write the project file and its modules."""
    package = folder / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "models.py").write_text(MODELS)
    (package / "policies.py").write_text(POLICIES)
    versions = folder / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / "0001_payments.py").write_text(REVISION)
    (folder / "mes-storage.toml").write_text(PROJECT)


def forget_modules(folder: Path) -> None:
    """Have the next project of that name import its own modules."""
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def _add_tree(topology_path: Path, dbnames: dict[str, str], servers: PostgresServers) -> None:
    tree = '[trees.payments]\nkind = "sharded"\nbuckets = 16\n'
    databases = "".join(
        f'[databases.{shard}]\ntree = "payments"\ndbname = "{dbname}"\n'
        f'primary = {{ host = "{LOOPBACK}", port = {servers.primary_port} }}\n'
        for shard, dbname in dbnames.items()
    )
    topology_path.write_text(topology_path.read_text() + tree + databases)


async def save_map(topology: Topology, tree: str, shard_map: ShardMap) -> None:
    """Put the first map of a tree in force."""
    directory, role = topology.directory_of(tree), topology.trees[tree].role
    async with open_cluster(topology, directory.name, role=role, application_name="test") as cluster:
        await Directory(cluster.primary, tree).ensure_map(shard_map)


def payment(tenant_id: int, number: int, *, state: str, at: datetime, table: str = "payments") -> str:
    """Return the INSERT of a payment that was made at an instant."""
    payment_id = int(at.timestamp()) * 1000 + number
    return f"INSERT INTO {table} VALUES ({tenant_id}, {payment_id}, '{state}', '{at.astimezone(UTC)}');\n"
