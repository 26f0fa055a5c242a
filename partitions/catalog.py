"""What PostgreSQL has: partitioned tables, their partitions, bounds and indexes, as plain values."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from partitions.errors import NotPartitioned, UnknownBound
from partitions.months import KeyRange


@dataclass(frozen=True, slots=True)
class ValueList:
    """The bound of a LIST partition."""

    values: frozenset[str]


@dataclass(frozen=True, slots=True)
class DefaultBound:
    """The bound of a DEFAULT partition."""


Bound = ValueList | KeyRange | DefaultBound


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition as it stands. `rows` is PostgreSQL's estimate, None before the first ANALYZE or VACUUM."""

    name: str
    bound: Bound
    rows: int | None
    size_bytes: int
    indexes: frozenset[str]
    invalid_indexes: frozenset[str]


@dataclass(frozen=True, slots=True)
class PartitionedTable:
    """A partitioned table with its partitions, in the order of their names."""

    name: str
    partitions: tuple[Partition, ...] = ()

    def partition(self, name: str) -> Partition | None:
        """Find a partition by name."""
        return next((partition for partition in self.partitions if partition.name == name), None)

    def ranges(self) -> dict[str, KeyRange]:
        """Give the key ranges of a RANGE table, by partition name."""
        return {found.name: found.bound for found in self.partitions if isinstance(found.bound, KeyRange)}


Catalog = Mapping[str, PartitionedTable]

_TABLES = text("""
    SELECT relname FROM pg_class
    WHERE oid = ANY (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name) AND relkind = 'p'
""")

_PARTITIONS = text("""
    SELECT parent.relname AS table_name,
           child.relname AS name,
           pg_get_expr(child.relpartbound, child.oid) AS bound,
           -- reltuples is -1 until the first ANALYZE or VACUUM
           nullif(child.reltuples, -1)::bigint AS rows,
           pg_total_relation_size(child.oid) AS size_bytes,
           ARRAY(SELECT indexrelid::regclass::text FROM pg_index
                 WHERE indrelid = child.oid ORDER BY 1) AS indexes,
           ARRAY(SELECT indexrelid::regclass::text FROM pg_index
                 WHERE indrelid = child.oid AND NOT indisvalid ORDER BY 1) AS invalid_indexes
    FROM pg_inherits
    JOIN pg_class AS parent ON parent.oid = inhparent
    JOIN pg_class AS child ON child.oid = inhrelid
    WHERE parent.oid = ANY (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name)
    ORDER BY parent.relname, child.relname
""")


def read_catalog(connection: Connection, tables: Iterable[str]) -> Catalog:
    """Read partitioned tables from the system catalogue.

    Raises:
        NotPartitioned: one of `tables` is absent, or is no partitioned table.
        UnknownBound: a partition's bound is of a kind that is not used here.
    """
    wanted = list(tables)
    present = set(connection.scalars(_TABLES, {"tables": wanted}))
    missing = [table for table in wanted if table not in present]
    if missing:
        raise NotPartitioned(missing[0])
    found: dict[str, list[Partition]] = {table: [] for table in wanted}
    for row in connection.execute(_PARTITIONS, {"tables": wanted}):
        found[row.table_name].append(
            Partition(
                name=row.name,
                bound=parse_bound(row.name, row.bound),
                rows=row.rows,
                size_bytes=row.size_bytes,
                indexes=frozenset(row.indexes),
                invalid_indexes=frozenset(row.invalid_indexes),
            )
        )
    return {table: PartitionedTable(table, tuple(partitions)) for table, partitions in found.items()}


_LITERAL = r"(?:'(?:[^']|'')*'|-?\d+)"
_LIST = re.compile(rf"FOR VALUES IN \(({_LITERAL}(?:, {_LITERAL})*)\)")
_RANGE = re.compile(r"FOR VALUES FROM \('?(-?\d+)'?\) TO \('?(-?\d+)'?\)")


def parse_bound(partition: str, bound: str) -> Bound:
    """Read a bound as `pg_get_expr` prints it.

    Raises:
        UnknownBound: it is neither DEFAULT, nor a list, nor a finite range over one integer column.
    """
    if bound == "DEFAULT":
        return DefaultBound()
    if found := _RANGE.fullmatch(bound):
        return KeyRange(int(found[1]), int(found[2]))
    if found := _LIST.fullmatch(bound):
        return ValueList(frozenset(map(_unquote, re.findall(_LITERAL, found[1]))))
    raise UnknownBound(partition, bound)


def _unquote(literal: str) -> str:
    return literal[1:-1].replace("''", "'") if literal.startswith("'") else literal
