"""A project of another team: its own file, models, revisions and databases; the order system is not in it."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from ops.embedded.servers import ensure_database
from ops.ports import LOOPBACK
from ops.project.project import Project, ProjectTree
from sharding.topology import Topology
from tests.integration.migrations_rig import REVISION
from tests.servers import PostgresServers

OWNER = "crm_owner"
"""The role that owns the databases; it is one of those that the test servers have."""

MODELS = """
from sqlalchemy import BigInteger, Column, MetaData, Table

{names} = {made}
for metadata in ({names},):
    Table("things", metadata, Column("id", BigInteger, primary_key=True, autoincrement=False))
"""
THINGS = "SET LOCAL lock_timeout = '3s'; CREATE TABLE things (id bigint PRIMARY KEY)"


@dataclass(frozen=True)
class Team:
    """A project in a folder, whose trees have a database each, of the tree's name."""

    root: Path
    servers: PostgresServers
    trees: Sequence[str]

    @property
    def prefix(self) -> str:
        """What the names of its databases on the server begin with."""
        return re.sub(r"\W", "_", self.root.name)

    @property
    def project(self) -> Project:
        """The project."""
        return Project.load(self.root / "mes-storage.toml")

    def tree(self, name: str) -> ProjectTree:
        """A tree of the project."""
        return self.project.tree(name)

    @property
    def topology(self) -> Topology:
        """Where the databases are."""
        return Topology.load(self.root / "topology.toml")

    def write_topology(self, **dbnames: str) -> None:
        """Write the topology; a tree's database is another one where `dbnames` says so."""
        sections = [
            f'[trees.{tree}]\nkind = "single"\nowner = "{OWNER}"\nrole = "crm"\n'
            f'[databases.{tree}]\ntree = "{tree}"\ndbname = "{self.prefix}_{dbnames.get(tree, tree)}"\n'
            f'primary = {{ host = "{LOOPBACK}", port = {self.servers.primary_port} }}\n'
            for tree in self.trees
        ]
        head = f'passfile = "{self.servers.passfile}"\n'
        (self.root / "topology.toml").write_text(head + "".join(sections))

    def write_project(self) -> None:
        """Write the project file, the models, alembic.ini and a first revision of each tree."""
        root = self.root
        module = f"{self.prefix}_models"
        names, made = ", ".join(self.trees), ", ".join("MetaData()" for _ in self.trees)
        (root / f"{module}.py").write_text(MODELS.format(names=names, made=made))
        for tree in self.trees:
            versions = root / "migrations" / tree / "versions"
            versions.mkdir(parents=True)
            text = REVISION.format(
                what="Things.",
                revision="0001",
                down=None,
                phase="pre",
                up_sql=THINGS,
                down_sql="DROP TABLE things",
            )
            (versions / "0001_things.py").write_text(text)
        (root / "mes-storage.toml").write_text(
            "".join(
                f'[trees.{tree}]\nmetadata = "{module}:{tree}"\nrevisions = "migrations/{tree}/versions"\n'
                f'version_table = "{tree}_version"\n'
                for tree in self.trees
            )
        )
        (root / "alembic.ini").write_text(self._ini())

    def _ini(self) -> str:
        head = "[DEFAULT]\nscript_location = ops.migrate:script\npath_separator = os\n"
        sections = self.trees if len(self.trees) > 1 else ["alembic"]
        return head + "".join(
            f"[{section}]\nversion_locations = %(here)s/migrations/{tree}/versions\n"
            for section, tree in zip(sections, self.trees, strict=True)
        )

    def query(self, tree: str, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement in a tree's database as its owner, and give its rows."""
        conninfo = self.servers.conninfo(f"{self.prefix}_{tree}", role=OWNER)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@contextmanager
def run_team(servers: PostgresServers, root: Path, *trees: str) -> Iterator[Team]:
    """Make a project and its databases; drop them at the end."""
    team = Team(root, servers, trees)
    team.write_project()
    team.write_topology()
    with servers.primary.connect() as connection:
        for tree in trees:
            ensure_database(connection, f"{team.prefix}_{tree}", owner=OWNER, services=("crm",))
        try:
            yield team
        finally:
            for tree in trees:
                drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
                connection.execute(drop.format(sql.Identifier(f"{team.prefix}_{tree}")))
