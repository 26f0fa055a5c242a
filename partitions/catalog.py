"""The partitioned tables of a database, as the system catalogue has them: the queries, and plain values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from partitions.bounds import Bound, DefaultBound, KeyRange, parse_bound
from partitions.check_constraints import REGROUP_CHECK_SUFFIX, ParentCheck, leftover_checks, missing_checks
from partitions.deparse import definition_sql, predicate_sql
from partitions.detached import DetachedTable, read_mark
from partitions.errors import NotPartitioned
from partitions.sql import identifier


def _missing(child: str) -> str:
    missing = missing_checks("parent.oid", child)
    return (
        f"ARRAY(SELECT conname FROM ({missing}) AS missing) AS missing_names,\n"
        f"ARRAY(SELECT convalidated FROM ({missing}) AS missing) AS missing_valid"
    )


# Of names as SQL has them.
_WANTED = "ANY (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name)"

_TABLES = text(f"""
    SELECT relname AS name,
           -- reltuples is -1 until the first ANALYZE; the statistics may have been reset since
           CASE WHEN reltuples >= 0 THEN pg_stat_get_last_analyze_time(oid) END AS analyzed_at
    FROM pg_class
    WHERE oid = {_WANTED} AND relkind = 'p'
""")

_PARTITIONS = text(f"""
    SELECT parent.relname AS table_name,
           child.relname AS name,
           pg_get_expr(child.relpartbound, child.oid) AS bound,
           -- reltuples is -1 until the first ANALYZE or VACUUM
           nullif(child.reltuples, -1)::bigint AS rows,
           pg_total_relation_size(child.oid) AS size_bytes,
           inhdetachpending AS detach_pending,
           ARRAY(SELECT conname::text FROM pg_constraint
                 WHERE conrelid = child.oid AND contype = 'c'
                   AND conname = child.relname || '{REGROUP_CHECK_SUFFIX}')
           || ARRAY({leftover_checks("parent.oid", "child.oid")}) AS leftover_checks,
           {_missing("child.oid")},
           ARRAY(SELECT relname::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
                 WHERE indrelid = child.oid ORDER BY 1) AS indexes,
           ARRAY(SELECT relname::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
                 WHERE indrelid = child.oid AND NOT indisvalid ORDER BY 1) AS invalid_indexes
    FROM pg_inherits
    JOIN pg_class AS parent ON parent.oid = inhparent
    JOIN pg_class AS child ON child.oid = inhrelid
    WHERE parent.oid = {_WANTED}
    ORDER BY parent.relname, child.relname
""")

_LOOKS_LIKE_MONTH = r"""(starts_with(detached.relname, parent.relname)
            AND substr(detached.relname, length(parent.relname) + 1) ~ '^_[0-9]{4}_[0-9]{2}$')"""

# A table with a comment in JSON may carry a mark of ours; one that is named like a month is in its way.
_DETACHED = text(f"""
    SELECT parent.relname AS table_name,
           detached.relname AS name,
           obj_description(detached.oid, 'pg_class') AS comment,
           {_missing("detached.oid")},
           {_LOOKS_LIKE_MONTH} AS looks_like_month
    FROM pg_class AS parent
    JOIN pg_class AS detached
        ON detached.relnamespace = parent.relnamespace AND detached.relkind IN ('r', 'p')
        AND NOT detached.relispartition
    WHERE parent.oid = {_WANTED}
      AND ({_LOOKS_LIKE_MONTH}
           OR obj_description(detached.oid, 'pg_class') LIKE '{{%')
    ORDER BY parent.relname, detached.relname
""")

_INDEX_PARTS = """FROM pg_inherits
                 JOIN pg_index AS part ON part.indexrelid = inhrelid
                 JOIN pg_class AS part_name ON part_name.oid = inhrelid
                 JOIN pg_class AS child ON child.oid = part.indrelid
                 WHERE inhparent = whole.indexrelid ORDER BY child.relname"""

_INDEXES = text(f"""
    SELECT parent.relname AS table_name,
           (SELECT relname FROM pg_class WHERE oid = indexrelid) AS name,
           -- it locks the table, so it is asked for only where the index must be built
           CASE WHEN NOT indisvalid THEN {definition_sql("whole.indexrelid")} END AS definition,
           indisunique AS is_unique,
           indisvalid AS is_valid,
           ARRAY(SELECT child.relname::text {_INDEX_PARTS}) AS part_tables,
           ARRAY(SELECT part_name.relname::text {_INDEX_PARTS}) AS part_names
    FROM pg_index AS whole
    JOIN pg_class AS parent ON parent.oid = whole.indrelid
    WHERE parent.oid = {_WANTED}
    ORDER BY 1, 2
""")

_COLUMNS = text("""
    SELECT attname FROM pg_attribute
    WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped
    ORDER BY attnum
""")

_OWN_INDEXES = text(f"""
    SELECT relname AS name, {definition_sql("own.indexrelid")} AS definition, indisunique AS is_unique,
           {predicate_sql("own")} AS predicate
    FROM pg_index AS own JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indrelid = to_regclass(:table) AND NOT relispartition AND indisvalid
    ORDER BY relname
""")

_CONSTRAINTS = text("""
    SELECT relname AS name, pg_get_partition_constraintdef(inhrelid) AS condition
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = to_regclass(:table) AND pg_get_partition_constraintdef(inhrelid) IS NOT NULL
    ORDER BY 1
""")


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition as it stands.

    Parameters:
        name: the table's name.
        bound: which rows it holds.
        rows: PostgreSQL's estimate, None before the first ANALYZE or VACUUM.
        size_bytes: with its indexes.
        indexes: the names of its indexes.
        invalid_indexes: those of them that a cut-off CONCURRENTLY left.
        detach_pending: a DETACH CONCURRENTLY was cut off: its rows are in no query of the parent.
        leftover_checks: CHECKs of a change of values that was cut off, or of a DETACH CONCURRENTLY before the
            table was attached again: they refuse the values of a later change.
        missing_checks: the CHECKs that the table has got while the detach was pending.
    """

    name: str
    bound: Bound
    rows: int | None
    size_bytes: int
    indexes: frozenset[str]
    invalid_indexes: frozenset[str]
    detach_pending: bool = False
    leftover_checks: tuple[str, ...] = ()
    missing_checks: tuple[ParentCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class TableIndex:
    """An index of a partitioned table as it stands.

    Parameters:
        name: its name.
        definition: as CREATE INDEX has it behind the table's name; read only of an index that is not valid.
        unique: whether it is UNIQUE.
        valid: false while a partition lacks it.
        parts: the index of each partition that is attached to it, by partition.
    """

    name: str
    definition: str | None
    unique: bool
    valid: bool
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OwnIndex:
    """An index that a partition has besides the parts of its parent's.

    Parameters:
        name: its name.
        definition: as CREATE INDEX has it behind the table's name.
        unique: whether it is UNIQUE.
        predicate: which rows it holds; an empty text for all.
    """

    name: str
    definition: str
    unique: bool
    predicate: str

    def create_on(self, table: str) -> str:
        """Render the CREATE INDEX of such an index on a table."""
        kind = "UNIQUE INDEX" if self.unique else "INDEX"
        return f"CREATE {kind} {identifier(self.name)} ON {identifier(table)} {self.definition}"


@dataclass(frozen=True, slots=True)
class PartitionedTable:
    """A partitioned table with its partitions, in the order of their names.

    Parameters:
        name: the table's name.
        partitions: those that are attached, also when a detach is pending.
        detached: tables beside it that were its partitions, were to be, or look like it.
        indexes: its own indexes, which every partition has a part of.
        analyzed_at: when it was analyzed as a whole; None is never.
    """

    name: str
    partitions: tuple[Partition, ...] = ()
    detached: tuple[DetachedTable, ...] = ()
    indexes: tuple[TableIndex, ...] = field(default=())
    analyzed_at: datetime | None = None

    def partition(self, name: str) -> Partition | None:
        """Find a partition by name."""
        return next((partition for partition in self.partitions if partition.name == name), None)

    def ranges(self) -> dict[str, KeyRange]:
        """Return the key ranges of a RANGE table, by partition name; not of those that are being detached."""
        return {
            found.name: found.bound
            for found in self.partitions
            if isinstance(found.bound, KeyRange) and not found.detach_pending
        }

    @property
    def default(self) -> Partition | None:
        """The DEFAULT partition."""
        return next((found for found in self.partitions if isinstance(found.bound, DefaultBound)), None)


Catalog = Mapping[str, PartitionedTable]


def read_catalog(connection: Connection, tables: Iterable[str]) -> Catalog:
    """Read partitioned tables from the system catalogue.

    Raises:
        NotPartitioned: one of `tables` is absent, or is no partitioned table.
        UnknownBound: a partition's bound is of a kind that is not used here.
    """
    wanted = list(tables)
    named = {"tables": [identifier(table) for table in wanted]}
    parents = {row.name: row for row in connection.execute(_TABLES, named)}
    missing = [table for table in wanted if table not in parents]
    if missing:
        raise NotPartitioned(missing[0])
    partitions = _grouped(connection.execute(_PARTITIONS, named), wanted)
    detached = _grouped(connection.execute(_DETACHED, named), wanted)
    indexes = _grouped(connection.execute(_INDEXES, named), wanted)
    return {
        table: PartitionedTable(
            table,
            tuple(map(_partition, partitions[table])),
            tuple(_detached_of(table, detached[table])),
            tuple(map(_index, indexes[table])),
            parents[table].analyzed_at,
        )
        for table in wanted
    }


def _grouped(rows: Iterable[Row[Any]], tables: Iterable[str]) -> dict[str, list[Row[Any]]]:
    found: dict[str, list[Row[Any]]] = {table: [] for table in tables}
    for row in rows:
        found[row.table_name].append(row)
    return found


def _partition(row: Row[Any]) -> Partition:
    return Partition(
        name=row.name,
        bound=parse_bound(row.name, row.bound),
        rows=row.rows,
        size_bytes=row.size_bytes,
        indexes=frozenset(row.indexes),
        invalid_indexes=frozenset(row.invalid_indexes),
        detach_pending=row.detach_pending,
        leftover_checks=tuple(row.leftover_checks),
        missing_checks=_checks(row),
    )


def _detached_of(table: str, rows: Iterable[Row[Any]]) -> Iterable[DetachedTable]:
    for row in rows:
        mark = read_mark(row.comment)
        if row.looks_like_month or (mark is not None and mark.table == table):
            yield DetachedTable(row.name, mark, _checks(row))


def _checks(row: Row[Any]) -> tuple[ParentCheck, ...]:
    return tuple(map(ParentCheck, row.missing_names, row.missing_valid))


def _index(row: Row[Any]) -> TableIndex:
    return TableIndex(
        name=row.name,
        definition=row.definition,
        unique=row.is_unique,
        valid=row.is_valid,
        parts=dict(zip(row.part_tables, row.part_names, strict=True)),
    )


def read_columns(connection: Connection, table: str) -> tuple[str, ...]:
    """Return the names of a table's columns, in their order."""
    return tuple(connection.scalars(_COLUMNS, {"table": identifier(table)}))


def read_own_indexes(connection: Connection, partition: str) -> tuple[OwnIndex, ...]:
    """Return the indexes that a partition has besides the parts of its parent's, in name order."""
    rows = connection.execute(_OWN_INDEXES, {"table": identifier(partition)})
    return tuple(OwnIndex(row.name, row.definition, row.is_unique, row.predicate) for row in rows)


def is_contradiction(connection: Connection, table: str, condition: str) -> bool:
    """Return whether the planner proves that no row of a table meets a condition."""
    query = f"EXPLAIN (FORMAT JSON) SELECT FROM ONLY {identifier(table)} WHERE {condition}"
    connection.exec_driver_sql("SET constraint_exclusion = on")
    [found] = connection.exec_driver_sql(query, execution_options={"no_parameters": True}).scalar_one()
    connection.exec_driver_sql("RESET constraint_exclusion")
    return bool(found["Plan"].get("One-Time Filter") == "false")


def read_constraints(connection: Connection, table: str) -> dict[str, str]:
    """Return the bound of each partition of a table, as a condition on a row."""
    return dict(map(tuple, connection.execute(_CONSTRAINTS, {"table": identifier(table)})))
