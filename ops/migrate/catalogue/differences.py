"""Two catalogues compared: each difference with what mends it. Pure."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from ops.migrate.catalogue.facts import DIFFERS, Fact
from ops.migrate.catalogue.fragments import PER_SHARD, UNDER_WAY
from partitions.sql import canonical, literal


class Drift(NamedTuple):
    """A difference: the object, what is wrong with it, and what mends it."""

    object: str
    problem: str
    fix: str


def compare_facts(
    found: Collection[Fact], expected: Collection[Fact], *, governed: Collection[str] = ()
) -> Iterator[Drift]:
    """List the differences; a table that is surplus or missing is listed once, without what belongs to it.

    Parameters:
        found: what stands in a database.
        expected: what should.
        governed: the tables whose partitions come and go.
    """
    standing, wanted = _by_object(found), _by_object(expected)
    on_one_side = _tables(found) ^ _tables(expected)
    by_policy = {
        fact.name
        for fact in (*found, *expected)
        if fact.kind == "partition" and canonical(fact.table) in governed
    }
    for key in sorted(standing.keys() | wanted.keys()):
        kind, table, name = key
        if standing.get(key) == wanted.get(key) or (kind == "partition" and name in by_policy):
            continue
        if table in on_one_side and (table in by_policy or _belongs_to_table(key)):
            continue
        yield _difference(standing.get(key), wanted.get(key))


_Key = tuple[str, str, str]


def _by_object(facts: Collection[Fact]) -> dict[_Key, Fact]:
    return {(fact.kind, fact.table, fact.name): fact for fact in facts}


def _tables(facts: Collection[Fact]) -> set[str]:
    """Return what others may belong to; not the partitions of a range, which differ each for itself."""
    return {fact.table for fact in facts if fact.table == fact.name and DIFFERS not in fact.definition}


def _belongs_to_table(key: _Key) -> bool:
    _, table, name = key
    return table != name


def _difference(found: Fact | None, expected: Fact | None) -> Drift:
    match found, expected:
        case Fact(definition=definition), _ if UNDER_WAY in definition:
            change = definition.partition(UNDER_WAY)[2]
            problem = f"belongs to the online change `{change}`, which is under way"
            return Drift(
                _name(found), problem, "finish that change, or undo it (docs/how-to/online-changes.md)"
            )
        case Fact(definition=definition), _ if DIFFERS in definition:
            return _differs_from_its_table(found)
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


def _differs_from_its_table(found: Fact) -> Drift:
    definition, _, against = found.definition.partition(DIFFERS)
    table, _, wanted = against.partition(": ")
    if wanted or found.table == found.name:
        return Drift(_name(found), f"is {definition}; {table} has {wanted or 'none of it'}", _CHANGE_BACK)
    made = found._replace(definition=definition)
    return Drift(_name(found), f"is {definition or 'there'}; {table} has none", _removal(made))


_CHANGE_BACK = "change it back, or write a migration that changes it everywhere"


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
    return _CHANGE_BACK


_REMOVALS = {
    "column": "ALTER TABLE {table} DROP COLUMN {name}",
    "column options": "ALTER TABLE {table} ALTER COLUMN {name} takes {definition} back",
    "constraint": "ALTER TABLE {table} DROP CONSTRAINT {name}",
    "index": "DROP INDEX CONCURRENTLY {name}",
    "trigger": "DROP TRIGGER {name} ON {table}",
    "rule": "DROP RULE {name} ON {table}",
    "policy": "DROP POLICY {name} ON {table}",
    "disabled constraint trigger": "ALTER TABLE {table} ENABLE TRIGGER ALL",
    "partition": "ALTER TABLE {table} DETACH PARTITION {name} CONCURRENTLY",
    "owner": "ALTER SCHEMA public OWNER TO pg_database_owner",
    "setting": "RESET {name} where it is set, by ALTER DATABASE or by ALTER ROLE ... IN DATABASE",
    "security label": "SECURITY LABEL FOR {name} ... IS NULL",
}
"""What removes an object, where that is not plain DROP."""


def _removal(fact: Fact) -> str:
    if "grant" in fact.kind or fact.kind == "default privileges":
        return _revocation(fact)
    return _REMOVALS.get(fact.kind, f"DROP {fact.kind.upper()} {{name}}").format(**fact._asdict())


def _revocation(fact: Fact) -> str:
    """Return what takes a grant back, or gives again what was revoked from its default."""
    scope, on = "", fact.table
    if fact.kind == "default privileges":
        scope, _, on = f"ALTER DEFAULT PRIVILEGES {fact.table}".rpartition(" ")
        scope += " "
    elif fact.kind.startswith("grant on "):
        on = f"{fact.kind.removeprefix('grant on ').upper()} {fact.table}"
    role = "CURRENT_USER" if fact.name == "OWNER" else fact.name
    privileges = fact.definition.replace(" WITH GRANT OPTION", "").split(", ")
    surplus = ", ".join(each for each in privileges if not each.startswith("no "))
    missing = ", ".join(each.removeprefix("no ") for each in privileges if each.startswith("no "))
    revoke = [f"{scope}REVOKE {surplus} ON {on} FROM {role}"] if surplus else []
    grant = [f"{scope}GRANT {missing} ON {on} TO {role}"] if missing else []
    return "; ".join(revoke + grant)
