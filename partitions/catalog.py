"""The partitioned tables of a database, as the system catalogue has them: the queries, and plain values."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from partitions.bounds import Bound, DefaultBound, KeyRange, parse_bound
from partitions.check_constraints import REGROUP_CHECK_SUFFIX, ParentCheck, leftover_checks, missing_checks
from partitions.deparse import definition_sql, predicate_sql
from partitions.detached import DetachedTable, read_mark
from partitions.errors import NotPartitioned
from partitions.range_key import KeyType
from partitions.sql import RelationName, canonical, identifier, relation, schema_of


def _missing(child: str) -> str:
    missing = missing_checks("parent.oid", child)
    return (
        f"ARRAY(SELECT conname FROM ({missing}) AS missing) AS missing_names,\n"
        f"ARRAY(SELECT convalidated FROM ({missing}) AS missing) AS missing_valid"
    )


# Of names as SQL has them; the catalogue is asked for each by its place in the list.
_WANTED = (
    "(SELECT to_regclass(name) AS oid, place FROM unnest(CAST(:tables AS text[]))\n"
    "         WITH ORDINALITY AS given (name, place)) AS wanted"
)

# Not pg_get_partkeydef(), which would wait for a lock of the table.
_TABLES = text(f"""
    SELECT place,
           -- reltuples is -1 until the first ANALYZE; the statistics may have been reset since
           CASE WHEN reltuples >= 0 THEN pg_stat_get_last_analyze_time(wanted.oid) END AS analyzed_at,
           partstrat::text AS strategy, partnatts AS key_columns, attname AS key, typname AS key_type
    FROM {_WANTED} JOIN pg_class ON pg_class.oid = wanted.oid
    JOIN pg_partitioned_table ON partrelid = wanted.oid
    -- an expression has no column
    LEFT JOIN pg_attribute ON attrelid = wanted.oid AND attnum = partattrs[0] AND attnum > 0
    LEFT JOIN pg_type ON pg_type.oid = atttypid
""")

_PARTITIONS = text(f"""
    SELECT place,
           child.relname AS name,
           nullif(child.relnamespace, parent.relnamespace)::regnamespace::text AS elsewhere,
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
    FROM {_WANTED} JOIN pg_inherits ON inhparent = wanted.oid
    JOIN pg_class AS parent ON parent.oid = inhparent
    JOIN pg_class AS child ON child.oid = inhrelid
    ORDER BY place, child.relname
""")

_LOOKS_LIKE_MONTH = r"""(starts_with(detached.relname, parent.relname)
            AND substr(detached.relname, length(parent.relname) + 1) ~ '^_[0-9]{4}_[0-9]{2}$')"""

# A table with a comment in JSON may carry a mark of ours; one that is named like a month is in its way.
_DETACHED = text(f"""
    SELECT place,
           detached.relname AS name,
           NULL AS elsewhere,
           obj_description(detached.oid, 'pg_class') AS comment,
           {_missing("detached.oid")},
           {_LOOKS_LIKE_MONTH} AS looks_like_month
    FROM {_WANTED} JOIN pg_class AS parent ON parent.oid = wanted.oid
    JOIN pg_class AS detached
        ON detached.relnamespace = parent.relnamespace AND detached.relkind IN ('r', 'p')
        AND NOT detached.relispartition
    WHERE ({_LOOKS_LIKE_MONTH}
           OR obj_description(detached.oid, 'pg_class') LIKE '{{%')
    ORDER BY place, detached.relname
""")

_INDEX_PARTS = """FROM pg_inherits
                 JOIN pg_index AS part ON part.indexrelid = inhrelid
                 JOIN pg_class AS part_name ON part_name.oid = inhrelid
                 JOIN pg_class AS child ON child.oid = part.indrelid
                 WHERE inhparent = whole.indexrelid ORDER BY child.relname"""

_INDEXES = text(f"""
    SELECT place,
           (SELECT relname FROM pg_class WHERE oid = indexrelid) AS name,
           -- it locks the table, so it is asked for only where the index must be built
           CASE WHEN NOT indisvalid THEN {definition_sql("whole.indexrelid")} END AS definition,
           indisunique AS is_unique,
           indisvalid AS is_valid,
           ARRAY(SELECT child.relname::text {_INDEX_PARTS}) AS part_tables,
           ARRAY(SELECT CASE WHEN child.relnamespace <> parent.relnamespace
                        THEN child.relnamespace::regnamespace::text END {_INDEX_PARTS}) AS part_schemas,
           ARRAY(SELECT part_name.relname::text {_INDEX_PARTS}) AS part_names
    FROM {_WANTED} JOIN pg_index AS whole ON whole.indrelid = wanted.oid
    JOIN pg_class AS parent ON parent.oid = whole.indrelid
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
    SELECT child.relname AS name, pg_get_partition_constraintdef(inhrelid) AS condition,
           nullif(child.relnamespace, parent.relnamespace)::regnamespace::text AS elsewhere
    FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    JOIN pg_class AS parent ON parent.oid = inhparent
    WHERE inhparent = to_regclass(:table) AND pg_get_partition_constraintdef(inhrelid) IS NOT NULL
    ORDER BY 1
""")

_PRINT_IN_UTC = ("SET LOCAL TimeZone = 'UTC'", "SET LOCAL DateStyle = 'ISO'")
"""The catalogue prints bounds by the settings of the session, which a server or a role may have changed."""


@contextmanager
def printing_in_utc(connection: Connection) -> Iterator[None]:
    """Have PostgreSQL print instants in UTC and dates in ISO, and afterwards as before."""
    # psycopg's own; a detached connection knows it by this name only.
    driver: Any = connection.connection.dbapi_connection
    # In autocommit a transaction, in a transaction a savepoint: SET LOCAL ends with either, when rolled back.
    with driver.transaction(force_rollback=True):
        for setting in _PRINT_IN_UTC:
            connection.exec_driver_sql(setting)
        yield


@dataclass(frozen=True, slots=True)
class PartitionKey:
    """What a table is partitioned by.

    Parameters:
        definition: as CREATE TABLE has it behind PARTITION BY.
        strategy: `l` for LIST, `r` for RANGE, `h` for HASH.
        column: the only column; None of several, or of an expression.
        type: what months can be made of; None of another type.
        type_name: PostgreSQL's name of the column's type.
    """

    definition: str
    strategy: str
    column: str | None
    type: KeyType | None
    type_name: str


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
        return f"CREATE {kind} {identifier(self.name)} ON {relation(table)} {self.definition}"


@dataclass(frozen=True, slots=True)
class PartitionedTable:
    """A partitioned table with its partitions, in the order of their names.

    Parameters:
        name: the table's name, with its schema where it was asked for so; its partitions' names are alike.
        partitions: those that are attached, also when a detach is pending.
        detached: tables beside it that were its partitions, were to be, or look like it.
        indexes: its own indexes, which every partition has a part of.
        analyzed_at: when it was analyzed as a whole; None is never.
        key: what it is partitioned by; None where that was not read.
    """

    name: str
    partitions: tuple[Partition, ...] = ()
    detached: tuple[DetachedTable, ...] = ()
    indexes: tuple[TableIndex, ...] = field(default=())
    analyzed_at: datetime | None = None
    key: PartitionKey | None = None

    @property
    def key_type(self) -> KeyType | None:
        """The type of a RANGE key."""
        return KeyType.INTEGER if self.key is None else self.key.type

    def named(self, name: str) -> str:
        """Return the full name of a partition that a person has named, maybe without its schema."""
        found = RelationName.of(name)
        return RelationName(found.name, found.schema or schema_of(self.name)).text

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
    named = {"tables": [relation(table) for table in wanted]}
    with printing_in_utc(connection):
        parents = {row.place: row for row in connection.execute(_TABLES, named)}
        found = [_grouped(connection.execute(query, named)) for query in (_PARTITIONS, _DETACHED, _INDEXES)]
    missing = [table for place, table in enumerate(wanted, start=1) if place not in parents]
    if missing:
        raise NotPartitioned(missing[0])
    return {
        table: _table(canonical(table), parents[place], *(rows.get(place, []) for rows in found))
        for place, table in enumerate(wanted, start=1)
    }


Rows = list[Row[Any]]


def _grouped(rows: Iterable[Row[Any]]) -> dict[int, Rows]:
    found: dict[int, Rows] = {}
    for row in rows:
        found.setdefault(row.place, []).append(row)
    return found


def _table(name: str, parent: Row[Any], partitions: Rows, detached: Rows, indexes: Rows) -> PartitionedTable:
    key = _key(parent)
    return PartitionedTable(
        name,
        tuple(_partition(name, key.type, row) for row in partitions),
        tuple(_detached_of(name, detached)),
        tuple(_index(name, row) for row in indexes),
        parent.analyzed_at,
        key,
    )


_KEY_TYPES = {
    "int2": KeyType.INTEGER,
    "int4": KeyType.INTEGER,
    "int8": KeyType.INTEGER,
    "date": KeyType.DATE,
    "timestamp": KeyType.TIMESTAMP,
    "timestamptz": KeyType.TIMESTAMPTZ,
}


_STRATEGIES = {"l": "LIST", "r": "RANGE", "h": "HASH"}


def _key(row: Row[Any]) -> PartitionKey:
    single = row.key if row.key_columns == 1 else None
    known = _KEY_TYPES.get(row.key_type) if single is not None else None
    columns = row.key if row.key_columns == 1 and row.key else "several columns, or an expression"
    definition = f"{_STRATEGIES.get(row.strategy, row.strategy)} ({columns})"
    return PartitionKey(definition, row.strategy, single, known, row.key_type or "an unknown type")


def _named(table: str, name: str, elsewhere: str | None) -> str:
    """Return the name of a partition as people write it: with a schema if its table's name has one."""
    schema = schema_of(table) if elsewhere is None else RelationName.of(elsewhere).name
    return RelationName(name, schema).text


def _partition(table: str, key_type: KeyType | None, row: Row[Any]) -> Partition:
    name = _named(table, row.name, row.elsewhere)
    return Partition(
        name=name,
        bound=parse_bound(name, row.bound, key_type),
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
        if row.looks_like_month or (mark is not None and canonical(mark.table) == table):
            yield DetachedTable(_named(table, row.name, row.elsewhere), mark, _checks(row))


def _checks(row: Row[Any]) -> tuple[ParentCheck, ...]:
    return tuple(map(ParentCheck, row.missing_names, row.missing_valid))


def _index(table: str, row: Row[Any]) -> TableIndex:
    parts = zip(row.part_tables, row.part_schemas, row.part_names, strict=True)
    return TableIndex(
        name=row.name,
        definition=row.definition,
        unique=row.is_unique,
        valid=row.is_valid,
        parts={_named(table, partition, schema): part for partition, schema, part in parts},
    )


def read_columns(connection: Connection, table: str) -> tuple[str, ...]:
    """Return the names of a table's columns, in their order."""
    return tuple(connection.scalars(_COLUMNS, {"table": relation(table)}))


def read_own_indexes(connection: Connection, partition: str) -> tuple[OwnIndex, ...]:
    """Return the indexes that a partition has besides the parts of its parent's, in name order."""
    rows = connection.execute(_OWN_INDEXES, {"table": relation(partition)})
    return tuple(OwnIndex(row.name, row.definition, row.is_unique, row.predicate) for row in rows)


def is_contradiction(connection: Connection, table: str, condition: str) -> bool:
    """Return whether the planner proves that no row of a table meets a condition."""
    query = f"EXPLAIN (FORMAT JSON) SELECT FROM ONLY {relation(table)} WHERE {condition}"
    connection.exec_driver_sql("SET constraint_exclusion = on")
    [found] = connection.exec_driver_sql(query, execution_options={"no_parameters": True}).scalar_one()
    connection.exec_driver_sql("RESET constraint_exclusion")
    return bool(found["Plan"].get("One-Time Filter") == "false")


def read_constraints(connection: Connection, table: str) -> dict[str, str]:
    """Return the bound of each partition of a table, as a condition on a row."""
    with printing_in_utc(connection):
        rows = connection.execute(_CONSTRAINTS, {"table": relation(table)}).all()
    return {_named(canonical(table), row.name, row.elsewhere): row.condition for row in rows}
