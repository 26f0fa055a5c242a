"""The chain of versions of the library's schema, and the table in which a database keeps its own.

The SQL of a version leaves alone what stands already, so it may run on a database of which a part was made
by other means. A version is never changed once it was released: what comes later is a version of its own.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from sqlalchemy import Connection, text

from partitions.sql import identifier, literal

Part = Literal["directory", "shard"]
"""What a database has of it: a directory has other tables than a shard."""

VERSION_TABLE = "mes_storage_schema"
"""It has a row for each version that was applied."""

_FOLDER = Path(__file__).parent
_READ_VERSION = text(f"SELECT coalesce(max(version), 0) FROM public.{VERSION_TABLE} WHERE part = :part")
_EXISTS = text(f"SELECT to_regclass('public.{VERSION_TABLE}') IS NOT NULL")

_ALL = "SELECT, INSERT, UPDATE, DELETE"
_RIGHTS: Mapping[Part, Mapping[str, tuple[str, bool]]] = {
    "directory": {
        "shard_map_versions": (_ALL, False),
        "node_leases": (_ALL, False),
        "two_phase_decisions": (_ALL, True),
        "reference_contents": ("SELECT, INSERT", True),
    },
    "shard": {"shard_identity": ("SELECT", True), "reference_versions": (_ALL, True)},
}
"""The rights on each table, and whether only services of sharded trees have them."""


class Grantees(NamedTuple):
    """The roles that use a part: all that connect to it, and those of them that are services of shards."""

    users: tuple[str, ...]
    of_shards: tuple[str, ...]


class TableGrant(NamedTuple):
    """Rights of a role on a table."""

    table: str
    role: str
    rights: str

    @property
    def statement(self) -> str:
        """The statement that gives them."""
        return f"GRANT {self.rights} ON public.{self.table} TO {identifier(self.role)}"


def newest_version(part: Part) -> int:
    """Return the newest version of a part that this library knows."""
    return max(int(path.stem) for path in folder_of(part).glob("*.sql"))


def folder_of(part: Part) -> Path:
    """Return the folder of a part's versions."""
    return _FOLDER / part


def sql_of(part: Part, version: int) -> str:
    """Return the SQL of a version; it is for one transaction."""
    return (folder_of(part) / f"{version:04}.sql").read_text(encoding="utf-8")


def grants(part: Part, grantees: Grantees) -> Iterator[TableGrant]:
    """List the rights that services need on a part's tables."""
    for table, (rights, only_of_shards) in _RIGHTS[part].items():
        for role in grantees.of_shards if only_of_shards else grantees.users:
            yield TableGrant(table, role, rights)


def read_version(connection: Connection, part: Part) -> int:
    """Read the version of a part that a database has; 0 is none."""
    if not connection.scalar(_EXISTS):
        return 0
    found: int = connection.execute(_READ_VERSION, {"part": part}).scalar_one()
    return found


def create_version_table() -> str:
    """Return the statement that makes the version table, if it is not there."""
    return f"""\
CREATE TABLE IF NOT EXISTS public.{VERSION_TABLE} (
    part       text NOT NULL,
    version    integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    library    text NOT NULL,
    PRIMARY KEY (part, version)
)"""


def record(part: Part, version: int) -> str:
    """Return the statement that records a version as applied."""
    values = f"{literal(part)}, {version}, {literal(library_version())}"
    return (
        f"INSERT INTO public.{VERSION_TABLE} (part, version, library) VALUES ({values}) "
        "ON CONFLICT (part, version) DO NOTHING"
    )


def forget(part: Part, version: int) -> str:
    """Return the statement that takes the record of a version away, and the table with the last one."""
    return f"""\
DO $forget$
BEGIN
    DELETE FROM public.{VERSION_TABLE} WHERE part = {literal(part)} AND version >= {version};
    IF NOT EXISTS (SELECT FROM public.{VERSION_TABLE}) THEN
        DROP TABLE public.{VERSION_TABLE};
    END IF;
END
$forget$"""


def library_version() -> str:
    """Return the version of the installed library."""
    try:
        return version("mes-storage")
    except PackageNotFoundError:  # run from a folder of source files
        return "unknown"
