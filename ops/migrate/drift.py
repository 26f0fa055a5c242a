"""Drift: what stands in a database although no migration made it, and what a migration made and is gone.

The measure is `TREE/schema/REVISION.json`: the catalogue of a database that was migrated from nothing to that
revision, frozen beside it. A scratch database on the server itself would need a right that owners of
production databases do not have, and the models do not tell of grants, triggers and functions.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from ops.migrate.catalogue import PER_SHARD, UNDER_WAY, Fact, fingerprint
from ops.migrate.connect import open_owner, words_of
from ops.migrate.errors import SeveralRevisions, SnapshotMissing
from ops.migrate.mark import find_foreign, read_marks
from ops.migrate.snapshot import BASE, Snapshot, load_snapshot, read_snapshot
from ops.project import ProjectTree
from partitions.sql import literal
from sharding.topology import Topology


class Drift(NamedTuple):
    """A difference: the object, what is wrong with it, and what mends it."""

    object: str
    problem: str
    fix: str


class DatabaseDrift(NamedTuple):
    """What differs in one database, or why it was compared with nothing."""

    database: str
    revision: str | None
    fingerprint: str | None
    differences: Collection[Drift]
    uncompared: str | None = None


def compare(found: Collection[Fact], expected: Collection[Fact]) -> Iterator[Drift]:
    """List the differences; a table that is surplus or gone is told once, without what belongs to it.

    Parameters:
        found: what stands in a database.
        expected: what its migrations make.
    """
    standing, wanted = _by_object(found), _by_object(expected)
    tables_found, tables_wanted = ({fact.table for fact in facts} for facts in (found, expected))
    for key in sorted(standing.keys() | wanted.keys()):
        ours, theirs = standing.get(key), wanted.get(key)
        if ours == theirs or _told_by_table(key, tables_found, tables_wanted):
            continue
        yield _difference(ours, theirs)


_Key = tuple[str, str, str]


def _by_object(facts: Collection[Fact]) -> dict[_Key, Fact]:
    return {(fact.kind, fact.table, fact.name): fact for fact in facts}


def _told_by_table(key: _Key, tables_found: Collection[str], tables_wanted: Collection[str]) -> bool:
    _, table, name = key
    # A trigger may stand on a partition, which no snapshot has: it is told for itself.
    return table != name and key[0] != "trigger" and not (table in tables_found and table in tables_wanted)


def _difference(found: Fact | None, expected: Fact | None) -> Drift:
    match found, expected:
        case Fact(definition=definition), _ if UNDER_WAY in definition:
            change = definition.partition(UNDER_WAY)[2]
            problem = f"belongs to the online change `{change}`, which is under way"
            return Drift(_name(found), problem, "finish that change, or undo it (docs/online-changes.md)")
        case Fact(), Fact():
            problem = f"is {found.definition or 'plain'}; migrations make {expected.definition or 'plain'}"
            return Drift(_name(found), problem, _redo(found, expected))
        case Fact(kind="index", definition=definition), _ if definition.endswith(" INVALID"):
            problem = "is being built concurrently, or a build of it was cut short; no migration made it"
            return Drift(_name(found), problem, f"wait for its end, or {_removal(found)}")
        case Fact(), _:
            return Drift(
                _name(found), "no migration made it", f"{_removal(found)}, or write a migration for it"
            )
        case _, Fact():
            made = f"make it again: {expected.definition}" if expected.definition else "make it again"
            return Drift(_name(expected), "a migration made it, and it is gone", made)
    raise AssertionError("one of the two is there")


def _name(fact: Fact) -> str:
    return (
        f"{fact.kind} {fact.name}" if fact.table == fact.name else f"{fact.kind} {fact.name} of {fact.table}"
    )


def _redo(found: Fact, expected: Fact) -> str:
    if found.definition == f"{expected.definition} INVALID":
        return f"a concurrent build was cut short: REINDEX INDEX CONCURRENTLY {found.name}"
    if found.kind == "function" and expected.definition.startswith("per shard"):
        comment = f"COMMENT ON FUNCTION {found.name} IS {literal(PER_SHARD)}"
        return f"{comment}; a restore without comments has lost it"
    return "change it back, or write a migration that changes it everywhere"


def _removal(fact: Fact) -> str:
    match fact.kind:
        case "column" | "constraint":
            return f"ALTER TABLE {fact.table} DROP {fact.kind.upper()} {fact.name}"
        case "index":
            return f"DROP INDEX CONCURRENTLY {fact.name}"
        case "trigger":
            return f"DROP TRIGGER {fact.name} ON {fact.table}"
        case "grant":
            return f"REVOKE {fact.definition} ON {fact.table} FROM {fact.name}"
    return f"DROP {fact.kind.upper()} {fact.name}"


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
            yield DatabaseDrift(name, None, None, (), f"did not answer: {words_of(fault)}")
        except SeveralRevisions as fault:
            yield DatabaseDrift(name, None, None, (), f"was not compared: {fault}")
        else:
            if foreign:
                yield DatabaseDrift(name, found.revision, None, (), f"was not compared: {foreign}")
            else:
                yield _compared(name, found, snapshot, tree)


def _compared(name: str, found: Snapshot, snapshot: Snapshot | None, tree: ProjectTree) -> DatabaseDrift:
    word, differences, uncompared = fingerprint(found.facts), tuple[Drift, ...](), None
    try:
        if snapshot is None or snapshot.revision != found.revision:
            snapshot = load_snapshot(tree, None if found.revision == BASE else found.revision)
        differences = tuple(compare(found.facts, snapshot.facts))
    except SnapshotMissing as fault:
        uncompared = f"was not compared: it is {fault}"
    return DatabaseDrift(name, found.revision, word, differences, uncompared)
