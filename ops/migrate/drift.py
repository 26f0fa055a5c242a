"""Drift: what stands in a database although no migration made it, and what a migration made and is gone.

The measure is `TREE/schema/REVISION.json`: the catalogue of a database that was migrated from nothing to that
revision, frozen beside it. A scratch database on the server itself would need a right that owners of
production databases do not have, and the models have no grants, triggers and functions.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from ops.migrate import library
from ops.migrate.catalogue.differences import Drift, compare_facts
from ops.migrate.catalogue.facts import Fact, fingerprint
from ops.migrate.connect import open_owner
from ops.migrate.errors import SeveralRevisions, SnapshotMissing
from ops.migrate.mark import find_foreign, read_marks
from ops.migrate.snapshot import BASE, Snapshot, load_snapshot, read_snapshot
from ops.project.project import ProjectTree
from readreplica.errors import one_line
from sharding.topology import Topology


class DatabaseDrift(NamedTuple):
    """What differs in one database, or why it was compared with nothing."""

    database: str
    revision: str | None
    fingerprint: str | None
    differences: Collection[Drift]
    uncompared: str | None = None


def compare(found: Collection[Fact], expected: Collection[Fact], tree: ProjectTree) -> Iterator[Drift]:
    """List the differences between what stands in a database and what its migrations make.

    Which partitions a table of the tree's policies has, and with which values, is the policies' affair.
    """
    return compare_facts(found, expected, governed={policy.table for policy in tree.policies})


def find_drift(
    topology: Topology, tree: ProjectTree, snapshot: Snapshot | None = None
) -> Iterator[DatabaseDrift]:
    """Compare the databases of a tree with what its migrations make up to their revisions.

    Parameters:
        topology: where the databases are.
        tree: whose databases are compared.
        snapshot: what the migrations make up to its revision; without it, what is frozen beside them.
    """
    for name in topology.databases_of(tree.name):
        try:
            with open_owner(topology, name) as engine, engine.connect() as connection:
                foreign = find_foreign(read_marks(connection, tree), tree)
                found = read_snapshot(connection, topology, tree)
        except SQLAlchemyError as fault:
            yield DatabaseDrift(name, None, None, (), f"did not answer: {one_line(fault)}")
        except SeveralRevisions as fault:
            yield DatabaseDrift(name, None, None, (), f"was not compared: {fault}")
        else:
            if foreign:
                yield DatabaseDrift(name, found.revision, None, (), f"was not compared: {foreign}")
            else:
                yield _compared(topology, name, found, snapshot, tree)


def _compared(
    topology: Topology, name: str, found: Snapshot, snapshot: Snapshot | None, tree: ProjectTree
) -> DatabaseDrift:
    word, uncompared = fingerprint((*found.facts, *found.library)), None
    differences = tuple(_library_drift(topology, name, found, tree))
    if not tree.is_named and found.revision != BASE:
        return DatabaseDrift(name, found.revision, word, differences)
    try:
        if snapshot is None or snapshot.revision != found.revision:
            snapshot = load_snapshot(tree, None if found.revision == BASE else found.revision)
        differences += tuple(compare(found.facts, snapshot.facts, tree))
    except SnapshotMissing as fault:
        uncompared = f"was not compared: it is {fault}"
    return DatabaseDrift(name, found.revision, word, differences, uncompared)


def _library_drift(topology: Topology, name: str, found: Snapshot, tree: ProjectTree) -> Iterator[Drift]:
    """List what differs of the library's tables."""
    part = library.part_of(topology, tree.name)
    if part is not None and found.library:
        grantees = library.grantees_of(topology, name)
        expected = library.measure(part, found.library_version, found.library, grantees)
        yield from compare_facts(found.library, expected)
