"""Whether a database is one of a tree: it bears its mark, is empty, or is what the tree's revisions make.

A revision alone proves nothing: another project has a "0001" of its own. Nothing is changed in a database
that is not one of the tree.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError

from ops.migrate.catalogue.differences import Drift
from ops.migrate.connect import open_owner, take_lock
from ops.migrate.drift import compare
from ops.migrate.errors import (
    DatabaseRefused,
    DatabasesRefused,
    SeveralRevisions,
    SnapshotMissing,
)
from ops.migrate.library import expected_facts, part_of
from ops.migrate.mark import find_foreign, read_marks, read_objects, removal, statement, write_mark
from ops.migrate.scripts import read_revision
from ops.migrate.snapshot import load_snapshot, read_snapshot
from ops.project.project import ProjectTree
from partitions.sql import identifier
from readreplica.errors import one_line
from sharding.schema import VERSION_TABLE, newest_version, read_version
from sharding.topology import Topology

Belonging = Literal[
    "marked", "empty", "as frozen", "unmarked", "unknown revision", "other tree", "newer library"
]

OURS: Collection[Belonging] = ("marked", "empty", "as frozen")
ADOPTABLE: Collection[Belonging] = (*OURS, "unmarked")
_SHOWN = 3


@dataclass(frozen=True)
class Examination:
    """What a database is to a tree.

    `marked` bears the tree's name; `empty` has nothing but, at most, a version table without a revision;
    `as frozen` bears no name and is what the tree's revisions make; `unmarked` bears none and differs by
    `differences`; `unknown revision` and `other tree` cannot be the tree's, for the `reason`. `newer library`
    has a version of the library's schema that this program does not know. `library_version` is the version.
    """

    database: str
    tree: str
    revision: str | None
    belonging: Belonging
    differences: tuple[Drift, ...] = ()
    reason: str = ""
    library_version: int = 0

    @property
    def is_ours(self) -> bool:
        """Whether the tree's revisions may run in it."""
        return self.belonging in OURS

    @property
    def refusal(self) -> DatabaseRefused:
        """Why they may not."""
        return DatabaseRefused(self.database, self.tree, self.reason or self._what_differs())

    def _what_differs(self) -> str:
        shown = "; ".join(f"{each.object}: {each.problem}" for each in self.differences[:_SHOWN])
        more = len(self.differences) - _SHOWN
        return (
            f"it bears no tree's name, and differs from what {self.revision or 'base'} makes: "
            f"{shown}{f'; and {more} more' if more > 0 else ''}. `mesctl migrate adopt --tree {self.tree} "
            f"--database {self.database}` lists what differs and gives it the name; if it is another "
            "project's, correct the topology"
        )


def examine(connection: Connection, topology: Topology, tree: ProjectTree, database: str) -> Examination:
    """Return what a database is to a tree; nothing is changed."""
    part = part_of(topology, tree.name)
    version = read_version(connection, part) if part else 0
    found = _examine(connection, topology, tree, database)
    if part is not None and version > (newest := newest_version(part)):
        reason = (
            f"its library schema is of version {version}, and this mesctl knows {newest}: use the release "
            f"that made it, {_maker(connection)}"
        )
        return replace(found, belonging="newer library", reason=reason, library_version=version)
    return replace(found, library_version=version)


def _maker(connection: Connection) -> str:
    """Name the newest release that has changed the library's schema of a database."""
    found = connection.scalar(
        text(f"SELECT library FROM public.{VERSION_TABLE} ORDER BY version DESC LIMIT 1")
    )
    return f"mes-storage {found}"


def _examine(connection: Connection, topology: Topology, tree: ProjectTree, database: str) -> Examination:
    try:
        revision = read_revision(connection, tree)
    except SeveralRevisions as fault:
        return Examination(database, tree.name, None, "unknown revision", reason=str(fault))
    marks = read_marks(connection, tree)
    if marks:
        foreign = find_foreign(marks, tree)
        return Examination(
            database, tree.name, revision, "other tree" if foreign else "marked", reason=foreign or ""
        )
    if revision is None and not _objects(connection, topology, tree):
        return Examination(database, tree.name, None, "empty")
    try:
        expected = load_snapshot(tree, revision)
    except SnapshotMissing as fault:
        reason = f"it bears no tree's name, and is {fault}"
        # Of a revision that is ours, without a frozen schema, a person may know that it is right.
        belonging: Belonging = "unmarked" if fault.known else "unknown revision"
        return Examination(database, tree.name, revision, belonging, reason=reason)
    found = read_snapshot(connection, topology, tree)
    differences = list(compare(found.facts, expected.facts, tree))
    if revision is None and not differences:
        # Such as sequences of another schema: nothing that a revision makes.
        differences = [_stray(name) for name in _objects(connection, topology, tree)]
    belonging = "unmarked" if differences else "as frozen"
    return Examination(database, tree.name, revision, belonging, tuple(differences))


def _objects(connection: Connection, topology: Topology, tree: ProjectTree) -> list[str]:
    """List what stands in a database beside the version table and the library's schema."""
    part = part_of(topology, tree.name)
    version = read_version(connection, part) if part else 0
    known = min(version, newest_version(part)) if part else 0
    own = {fact.name for fact in expected_facts(part, known)} if part and known else frozenset()
    return [name for name in read_objects(connection, tree) if name not in own]


def refuse_others(topology: Topology, trees: Iterable[ProjectTree]) -> None:
    """Refuse to go on if a database is not one of its tree; one that does not answer is no reason.

    Raises:
        DatabasesRefused: with a line for each.
    """
    refused = [
        refusal
        for tree in trees
        for name in topology.databases_of(tree.name)
        if (refusal := _refusal(topology, tree, name))
    ]
    if refused:
        raise DatabasesRefused(refused)


def _refusal(topology: Topology, tree: ProjectTree, database: str) -> DatabaseRefused | None:
    try:
        with open_owner(topology, database) as engine, engine.connect() as connection:
            found = examine(connection, topology, tree, database)
    except OperationalError:
        return None  # it does not answer; the run itself meets the same fault, and reports it
    except DBAPIError as fault:
        return DatabaseRefused(database, tree.name, f"it cannot be examined: {one_line(fault)}")
    return None if found.is_ours else found.refusal


def claim(connection: Connection, topology: Topology, tree: ProjectTree, database: str) -> str | None:
    """Mark a database that is one of a tree, if it is not marked yet, and return its revision.

    Parameters:
        connection: as the owner, who holds the database's lock.
        topology: where the database is.
        tree: the tree that it should be one of.
        database: its name.

    Raises:
        DatabaseRefused: it is not one of the tree; nothing was changed.
    """
    found = examine(connection, topology, tree, database)
    connection.rollback()
    if not found.is_ours:
        raise found.refusal
    if found.belonging != "marked":
        write_mark(connection, tree)
    return found.revision


def adopt(topology: Topology, tree: ProjectTree, database: str) -> None:
    """Mark a database as one of a tree, although it may differ from what the tree's revisions make.

    Raises:
        DatabaseRefused: it cannot be the tree's; nothing was changed.
        MigrationsBusy: another run holds its lock.
    """
    with open_owner(topology, database) as engine, engine.connect() as connection:
        take_lock(connection, database)
        found = examine(connection, topology, tree, database)
        connection.rollback()
        if found.belonging not in ADOPTABLE:
            raise found.refusal
        write_mark(connection, tree)


def disown(topology: Topology, tree: ProjectTree, database: str) -> None:
    """Take the mark of a tree from a database, the inverse of `adopt`.

    Raises:
        MigrationsBusy: another run holds its lock.
    """
    with open_owner(topology, database) as engine, engine.connect() as connection:
        take_lock(connection, database)
        connection.exec_driver_sql(removal(tree))
        connection.commit()


def script(found: Examination, tree: ProjectTree) -> str:
    """Return what marks an examined database, as psql accepts it; nothing where it is marked."""
    if found.belonging == "marked":
        return ""
    # psql makes alembic's own table, which alembic leaves alone when it is there.
    table, key = identifier(tree.version_table), identifier(f"{tree.version_table}_pkc")
    create = (
        f"CREATE TABLE IF NOT EXISTS {table} "
        f"(version_num VARCHAR(32) NOT NULL, CONSTRAINT {key} PRIMARY KEY (version_num))"
    )
    return f"{create};\n\n{statement(tree)};\n\n"


def _stray(name: str) -> Drift:
    return Drift(name, "no migration made it", "remove it, or accept it")
