"""Everything that stands in a database, as PostgreSQL describes it, in a form that can be compared.

It walks the system catalogues as pg_dump does; docs/how-to/migrations.md says what is left out. Partitions of
a range come and go by policy, so they are no facts themselves: it is one where they differ from their table.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from sqlalchemy import Connection, text

from ops.migrate.catalogue.fragments import WITH
from ops.migrate.catalogue.objects import OBJECT_QUERIES
from ops.migrate.catalogue.tables import TABLE_QUERIES

DIFFERS = " -- differs from "
"""Stands in a definition of a range's partition, before the table that it differs from and what that has."""

# One statement: everything is of one moment.
_FACTS = text(f"WITH {WITH} " + " UNION ALL ".join((*TABLE_QUERIES, *OBJECT_QUERIES)))
# What constants are printed with; a setting of the database or of the role would be a difference everywhere.
_PRINT = text(
    "SELECT set_config('DateStyle', 'ISO', true), set_config('IntervalStyle', 'postgres', true), "
    "set_config('TimeZone', 'UTC', true), set_config('quote_all_identifiers', 'off', true), "
    "set_config('extra_float_digits', '3', true)"
)


class Fact(NamedTuple):
    """One object: what it is, its table (its own name if it has none), its name, and how it is defined."""

    kind: str
    table: str
    name: str
    definition: str


class _Row(NamedTuple):
    """A fact; of a range's partition, also the table to compare with, and the object's name there."""

    fact: Fact
    measured_by: str | None
    counterpart: str | None


def read_catalogue(connection: Connection, *, version_table: str) -> list[Fact]:
    """Read what stands in a database beside alembic's version table, sorted.

    Until its transaction ends, the connection prints dates and numbers as the facts need them.
    """
    connection.execute(_PRINT)
    rows = [
        _Row(Fact(kind, table, name, definition), measured_by, counterpart)
        for kind, table, name, definition, measured_by, counterpart in connection.execute(
            _FACTS, {"version_table": version_table}
        )
    ]
    return sorted(_measured(rows))


def _measured(rows: Collection[_Row]) -> Iterator[Fact]:
    """Yield the facts, those of a range's partitions only where they differ from its table's."""
    facts = [row.fact for row in rows if row.measured_by is None]
    yield from facts
    of_tables = {(fact.kind, fact.table, fact.name): fact.definition for fact in facts}
    statistics = {fact[:2] + fact[3:] for fact in facts if fact.kind == "statistics"}
    for fact, table, counterpart in rows:
        if table is None:
            continue
        name = table if fact.name == fact.table else (counterpart or fact.name)
        wanted = of_tables.get((fact.kind, table, name))
        if _is_like(fact, wanted) or (fact.kind, table, fact.definition) in statistics:
            continue
        yield fact._replace(definition=f"{fact.definition}{DIFFERS}{table}: {wanted or ''}")


def _is_like(fact: Fact, wanted: str | None) -> bool:
    if fact.name == fact.table:  # the table has its partition key in front, and a copy has none of the rest
        return (wanted or "").endswith(fact.definition)
    return fact.definition == wanted


def fingerprint(facts: Iterable[Fact]) -> str:
    """Return a fingerprint that is the same for the same schema."""
    lines = "\n".join("\t".join(fact) for fact in sorted(facts))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]
