"""The library's schema in the databases of a topology: the part of each, its version, its grants, its drift.

It is brought to the newest version before a team's revisions. A tree whose own revisions make it, from before
it was the library's, says so in the one that records it: `library_schema = 1` in that revision's module.
Until that revision has run, the chain is left alone.
"""

import json
from collections.abc import Collection, Iterable
from typing import NamedTuple

from alembic import op
from sqlalchemy import Connection, text

from ops.migrate.catalogue.differences import compare_facts
from ops.migrate.catalogue.facts import Fact, read_catalogue
from ops.migrate.errors import LibrarySchemaDiffers
from ops.migrate.frozen import split
from ops.migrate.scripts import Scripts
from partitions.sql import identifier
from sharding.schema import (
    VERSION_TABLE,
    Grantees,
    Part,
    create_version_table,
    forget,
    grants,
    metadata,
    newest_version,
    read_version,
    record,
    sql_of,
)
from sharding.schema.chain import TableGrant, folder_of
from sharding.topology import Topology

_ROLES = text("SELECT rolname FROM pg_roles")
_HAS = text(
    "SELECT bool_and(has_table_privilege(:role, 'public.' || :table, each)) "
    "FROM regexp_split_to_table(:rights, ', ') AS each"
)
_SHOWN = 3


class LibraryFacts(NamedTuple):
    """What stands of the library's schema, at which version, and what stands beside it."""

    version: int
    library: Collection[Fact]
    others: Collection[Fact]


def part_of(topology: Topology, tree: str) -> Part | None:
    """Return the part that the databases of a tree have; None where a tree has only its own tables."""
    match topology.trees[tree].kind:
        case "directory":
            return "directory"
        case "sharded":
            return "shard"
    return None


def grantees_of(topology: Topology, database: str) -> Grantees:
    """Return the roles that use a database's part; its owner has every right already."""
    users = [role for role in topology.users_of(database) if role != topology.database(database).owner]
    sharded = {topology.trees[name].role for name in topology.names_of_kind("sharded")}
    return Grantees(tuple(users), tuple(role for role in users if role in sharded))


def name_of(part: Part, version: int) -> str:
    """Name a version where the ledger and messages have a revision."""
    return f"{VERSION_TABLE} {part} {version}"


def lacking(part: Part, scripts: Scripts, *, at: str | None, version: int) -> range:
    """Return the versions that are to be applied, in order.

    Parameters:
        part: of the database.
        scripts: the revisions of its tree.
        at: the database's revision.
        version: what it has of the part.
    """
    recorder = scripts.library_recorder
    if recorder is not None and recorder not in scripts.applied(at):
        return range(0)
    return range(version + 1, newest_version(part) + 1)


def following(part: Part, scripts: Scripts, revisions: Collection[str]) -> range:
    """Return the versions that come behind these revisions, of which one records what was before."""
    if scripts.library_recorder not in revisions:
        return range(0)
    return range(scripts.recorded_version + 1, newest_version(part) + 1)


def apply_version(connection: Connection, part: Part, version: int) -> None:
    """Apply a version, verify what stands then, and record it: in one transaction, or not at all.

    Raises:
        LibrarySchemaDiffers: what stood already is something else.
    """
    with connection.begin():
        # One at a time, as a revision's: Citus sends some to its workers.
        for statement in (create_version_table(), *split(sql_of(part, version))):
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        _verify(connection, part, version)
        connection.exec_driver_sql(record(part, version))


def _verify(connection: Connection, part: Part, version: int) -> None:
    expected = expected_facts(part, version)
    found = [fact for fact in _read(connection) if _is_of(fact, expected) and "grant" not in fact.kind]
    differences = list(compare_facts(found, expected))
    if differences:
        shown = "; ".join(f"{each.object} {each.problem}" for each in differences[:_SHOWN])
        more = len(differences) - _SHOWN
        raise LibrarySchemaDiffers(
            name_of(part, version), f"{shown}{f'; and {more} more' if more > 0 else ''}"
        )


def _read(connection: Connection) -> list[Fact]:
    return read_catalogue(connection, version_table="")


def expected_facts(part: Part, version: int) -> list[Fact]:
    """Return what a version makes, without its grants."""
    content = json.loads((folder_of(part) / f"{version:04}.json").read_text(encoding="utf-8"))
    return [Fact(*fact) for fact in content["facts"]]


def _is_of(fact: Fact, expected: Iterable[Fact]) -> bool:
    """Return whether a fact is about an object of the library's, or about what belongs to one."""
    return fact.table in {each.table for each in expected}


def separate(connection: Connection, part: Part | None, facts: Collection[Fact]) -> LibraryFacts:
    """Take what is the library's apart from the rest, in a database that has recorded a version."""
    version = read_version(connection, part) if part else 0
    if part is None or version not in range(1, newest_version(part) + 1):
        return LibraryFacts(version, (), facts)
    tables = _tables(part, version)
    own = [fact for fact in facts if fact.table in tables]
    return LibraryFacts(version, own, [fact for fact in facts if fact.table not in tables])


def measure(part: Part, version: int, found: Collection[Fact], grantees: Grantees) -> list[Fact]:
    """Return what should stand of the library's schema, beside what is found there.

    A role that has just the rights that services need is no difference: several topologies may share a
    directory, and each knows its own roles only.
    """
    allowed = {_fact(grant) for grant in grants(part, grantees)}
    rights = {(fact.table, fact.definition) for fact in allowed}
    others = {fact for fact in found if fact.kind == "grant" and (fact.table, fact.definition) in rights}
    return [*expected_facts(part, version), *sorted(allowed | others)]


def _fact(grant: TableGrant) -> Fact:
    return Fact("grant", grant.table, identifier(grant.role), ", ".join(sorted(grant.rights.split(", "))))


def missing_grants(connection: Connection, part: Part, grantees: Grantees) -> list[TableGrant]:
    """List the grants that lack; a role that does not exist yet gets its own by the next run."""
    roles = set(connection.scalars(_ROLES))
    return [
        grant
        for grant in grants(part, grantees)
        if grant.role in roles and not connection.scalar(_HAS, grant._asdict())
    ]


def render(part: Part, versions: Iterable[int], grantees: Grantees | None) -> str:
    """Return what applies versions and gives the rights, as psql accepts it; it may run again."""
    lines = [
        _transaction(create_version_table(), sql_of(part, each), record(part, each)) for each in versions
    ]
    if grantees is not None and (given := [grant.statement for grant in grants(part, grantees)]):
        lines.append(_transaction(*given))
    return "".join(lines)


def _transaction(*statements: str) -> str:
    body = "".join(f"{statement.rstrip().removesuffix(';')};\n\n" for statement in statements)
    return f"BEGIN;\n\n{body}COMMIT;\n\n"


def tables_of(part: Part | None) -> frozenset[str]:
    """Return the names of the library's tables; autogenerate has nothing to say about them."""
    return frozenset(metadata(part).tables) if part else frozenset()


def record_version(part: Part, version: int) -> None:
    """Verify that a tree's own revisions have made what a version makes, and record it.

    It is called by the revision whose module says `library_schema`; printed as a script, it only records.

    Raises:
        LibrarySchemaDiffers: they have made something else.
    """
    op.execute(_as_it_is(create_version_table()))
    if not op.get_context().as_sql:
        _verify(op.get_bind(), part, version)
    op.execute(_as_it_is(record(part, version)))


def forget_version(part: Part, version: int) -> None:
    """Take the record of a version away: the inverse of `record_version`.

    What later versions have made goes with it: no revision of the tree makes that.
    """
    later = _tables(part, newest_version(part)) - _tables(part, version)
    if later:
        op.execute("SET LOCAL lock_timeout = '3s'")
    for table in sorted(later):
        op.execute(f"DROP TABLE IF EXISTS public.{table}")
    op.execute(_as_it_is(forget(part, version)))


def _tables(part: Part, version: int) -> set[str]:
    return {fact.table for fact in expected_facts(part, version)}


def _as_it_is(statement: str) -> str:
    return statement.replace(":", r"\:")
