"""`mesctl init`: the files that a project begins with, from nothing or drafted from a database."""

import json
import random
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import URL, Connection, make_url, text
from sqlalchemy.exc import ArgumentError

from ops.errors import ExitStatus, OpsError
from ops.fleet import open_watched
from ops.options import options_of
from ops.output import note, print_json
from ops.ports import PortPicker
from ops.project.file import FILE, ProjectMissing, find_section
from partitions.bounds import ValueList
from partitions.catalog import PartitionedTable, read_catalog
from partitions.sql import identifier

_PARTITIONED = text("""
    SELECT c.relname AS name, k.attname AS key, ARRAY(
        SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey) AND a.attnum <> k.attnum
    ) AS others
    FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = p.partattrs[0]
    WHERE n.nspname = 'public' AND p.partnatts = 1 AND p.partstrat IN ('l', 'r') ORDER BY c.relname
""")

_FACTS = text("""
    SELECT current_database() AS dbname, pg_get_userbyid(datdba) AS owner, current_user AS role
    FROM pg_database WHERE datname = current_database()
""")

_REPLICAS = text("""
    SELECT application_name AS name, host(client_addr) AS host FROM pg_stat_replication
    WHERE state = 'streaming' ORDER BY application_name
""")


TREE = r"[a-z][a-z0-9_]{0,56}"
"""A tree's name: `NAME_owner` is a role, of at most 63 characters."""


class ProjectExists(OpsError):
    """There is a project here already."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path} is a project already: nothing was written; `mesctl doctor` checks it")


def refuse_second(folder: Path) -> None:
    """Refuse a folder that has a project file, or lies in a project.

    Raises:
        ProjectExists: it does.
    """
    try:
        raise ProjectExists(find_section(folder).path)
    except ProjectMissing:
        return


def start_files(tree: str, *, port: int, revision: str) -> Mapping[str, str]:
    """Return the files of a project with one tree in one database, by path: it works as it is.

    Parameters:
        tree: the name of the tree, and of its database.
        port: where the database listens on this machine.
        revision: the id of the first revision; no other project may have it, or databases of the two, whose
            trees may have one name, could be taken for each other's.
    """
    return {
        FILE: f"""\
# What mesctl knows of this project. `mesctl doctor` checks every reference.
topology = "topology.toml"

[trees.{tree}]
metadata = "{tree}_models:Base.metadata"
revisions = "migrations/{tree}/versions"
# policies = "{tree}_policies:POLICIES"   # how tables are partitioned
# archives = "{tree}_policies:ARCHIVES"   # what leaves the live tables
""",
        "topology.toml": f"""\
# Where the databases are. `mesctl up` starts what is on this machine.
passfile = ".platform/pgpass"   # written by `mesctl up`

[trees.{tree}]
kind = "single"   # "sharded" spreads it over databases; add [trees.directory], kind = "directory", too

[databases.{tree}]
tree = "{tree}"
dbname = "{tree}"
primary = {{ host = "127.0.0.1", port = {port} }}
""",
        "alembic.ini": f"""\
# `alembic upgrade head` does what `mesctl migrate upgrade` does.
[{tree}]
script_location = ops.migrate:script
version_locations = %(here)s/migrations/{tree}/versions
path_separator = os

[alembic]
script_location = ops.migrate:script
version_locations = %(here)s/migrations/{tree}/versions
path_separator = os
""",
        f"{tree}_models.py": f'''\
"""The tables of the tree {tree}."""

from sqlalchemy import BigInteger, Identity, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Everything in the database {tree}."""


class Note(Base):
    """A first table, to be replaced by yours."""

    __tablename__ = "notes"

    note_id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    words: Mapped[str] = mapped_column(Text)
''',
        f"migrations/{tree}/versions/{revision}_start.py": f'''\
"""The first table."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = None
phase = "pre"  # or "post": before or after the deployment of the code


def upgrade() -> None:
    """Make it."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_table(
        "notes",
        sa.Column("note_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("words", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.drop_table("notes")
''',
    }


def draft_files(tree: str, url: URL) -> Mapping[str, str]:
    """Return a project file, a topology and policies for a database that is there; nothing is changed in it.

    What a draft cannot know is marked with `TO DECIDE`.

    Parameters:
        tree: the name of the tree to be.
        url: the database's primary.

    Raises:
        sqlalchemy.exc.OperationalError: it cannot be reached.
    """
    place, words = url.set(drivername="postgresql+psycopg"), {"application_name": "mesctl init"}
    with open_watched(place, words) as engine, engine.connect() as connection:
        files = {"topology.toml": _draft_topology(connection, tree, url)}
        policies = _draft_policies(connection)
    if policies:
        files[f"{tree}_policies.py"] = policies
    return {FILE: _draft_project(tree, has_policies=bool(policies)), **files}


def _draft_project(tree: str, *, has_policies: bool) -> str:
    policies = f'policies = "{tree}_policies:POLICIES"\n' if has_policies else ""
    return f"""\
# Drafted by `mesctl init --from-database`; `mesctl doctor` says what is still wrong.
topology = "topology.toml"

[trees.{tree}]
metadata = "MODULE:Base.metadata"   # TO DECIDE: where your models are
revisions = "migrations/{tree}/versions"
{policies}"""


def _draft_topology(connection: Connection, tree: str, url: URL) -> str:
    facts = connection.execute(_FACTS).one()
    host, port = url.host or "127.0.0.1", url.port or 5432
    replicas = "".join(
        f'    {{ name = "{_name(each.name)}", host = "{each.host or host}", port = 5432 }},'
        "   # TO DECIDE: its port\n"
        for each in connection.execute(_REPLICAS)
    )
    return f"""\
# Drafted from {_quoted(facts.dbname)} at {host}:{port}.
[trees.{tree}]
kind = "single"   # TO DECIDE: "sharded", if it is to be spread over several databases
owner = {_quoted(facts.owner)}
role = {_quoted(facts.role)}   # TO DECIDE: the role that your services connect as

[databases.{tree}]
tree = "{tree}"
dbname = {_quoted(facts.dbname)}
primary = {{ host = "{host}", port = {port} }}
""" + (f"replicas = [\n{replicas}]\n" if replicas else "")


def _quoted(words: str) -> str:
    """Write a name of PostgreSQL's as a string of TOML: it may have quotes and line ends."""
    return json.dumps(words, ensure_ascii=False)


def _name(words: str) -> str:
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in words.lower())
    return kept if kept[:1].isalpha() else f"replica_{kept}"


def _draft_policies(connection: Connection) -> str:
    found = connection.execute(_PARTITIONED).all()
    if not found:
        return ""
    catalog = read_catalog(connection, [each.name for each in found])
    drafts = [
        _draft_list(catalog[name], key, others) or _draft_range(catalog[name], key)
        for name, key, others in found
    ]
    by_time = any("KeyType." in draft for draft in drafts)
    imported = ", MonthlyRange\nfrom partitions.range_key import KeyType" if by_time else ""
    return f'''\
"""How the tables are partitioned, as they stand; drafted by `mesctl init --from-database`."""

from partitions.policy import ListPartitions{imported}

POLICIES = (
{"".join(drafts)})
'''


def _draft_list(table: PartitionedTable, key: str, others: Sequence[str]) -> str:
    groups = {
        partition.name: sorted(partition.bound.values)
        for partition in table.partitions
        if isinstance(partition.bound, ValueList)
    }
    if not groups:
        return ""
    row_id = f"{tuple(others)!r},{'' if len(others) == 1 else '  # TO DECIDE: the columns that name a row'}"
    lines = "".join(f"            {name!r}: frozenset({values!r}),\n" for name, values in groups.items())
    return (
        f"    ListPartitions(\n        table={table.name!r},\n        groups={{\n{lines}        }},\n"
        f"        key={key!r},\n        row_id={row_id}\n    ),\n"
    )


def _draft_range(table: PartitionedTable, key: str) -> str:
    if table.key_type is not None and table.key_type.is_time:
        kind = f"KeyType.{table.key_type.name}"
        return f"    MonthlyRange(table={table.name!r}, key={key!r}, key_type={kind}),\n"
    what = f"{identifier(table.name)} is PARTITION BY RANGE ({identifier(key)})"
    return f"    # TO DECIDE: {what}: a MonthlyRange, if the key is an integer that rises with time.\n"


def init(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where the project is to be.")] = Path(),
    tree: Annotated[str, typer.Option(help="The name of its first tree.")] = "main",
    from_database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Draft them from this database; it is only read."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the files; write nothing.")] = False,
) -> None:
    """Write the files that a project begins with.

    A file that is there already is left alone. What was written works at once: `mesctl up` starts the
    database and `mesctl migrate upgrade` makes its tables.
    """
    refuse_second(folder)
    if not re.fullmatch(TREE, tree):
        raise typer.BadParameter(
            f"{tree!r} is no name; use a-z, 0-9 and _, beginning with a letter, 57 of them at most"
        )
    if tree == "alembic":
        raise typer.BadParameter(
            "'alembic' is the section that alembic.ini has already; name the tree otherwise"
        )
    if from_database is None:
        files = start_files(tree, port=PortPicker(random.Random()).pick(), revision=secrets.token_hex(6))
    else:
        try:
            url = make_url(from_database)
        except (ArgumentError, ValueError) as fault:  # the latter for a port that is no number
            raise typer.BadParameter("--from-database takes postgresql://ROLE@HOST:PORT/DATABASE") from fault
        files = draft_files(tree, url)
    if dry_run:
        for name, content in files.items():
            print(f"# {folder / name}\n{content}")
        return
    # The project file last: with it the project is begun, and `init` would not write what is missing.
    names = sorted(files, key=lambda name: name == FILE)
    written = [name for name in names if _write(folder / name, files[name])]
    if options_of(context).json:
        print_json({"written": written, "left alone": sorted(files.keys() - set(written))})
    else:
        print("\n".join(str(folder / name) for name in written))
    note("next: mesctl doctor" if from_database else "next: mesctl up, mesctl migrate upgrade, mesctl doctor")


def _write(path: Path, content: str) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        note(f"{path}: is there, and was left alone")
        return False
    return True
