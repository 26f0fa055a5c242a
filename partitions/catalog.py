"""What PostgreSQL has: partitioned tables, their partitions and what stands beside them, as plain values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row

from partitions import catalog_sql as sql
from partitions.bounds import Bound, DefaultBound, ValueList, parse_bound
from partitions.errors import NotPartitioned
from partitions.indexes import TableIndex
from partitions.marks import Mark, read_mark
from partitions.months import KeyRange
from partitions.parent_checks import ParentCheck
from partitions.sql import identifier

__all__ = [
    "Bound",
    "Catalog",
    "DefaultBound",
    "LoneTable",
    "Partition",
    "PartitionedTable",
    "ValueList",
    "parse_bound",
    "read_catalog",
]


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
        lacked_checks: the CHECKs that the table has got while the detach was pending.
    """

    name: str
    bound: Bound
    rows: int | None
    size_bytes: int
    indexes: frozenset[str]
    invalid_indexes: frozenset[str]
    detach_pending: bool = False
    leftover_checks: tuple[str, ...] = ()
    lacked_checks: tuple[ParentCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class LoneTable:
    """A table that is no partition, but belongs to a partitioned one by its mark, or by its name.

    Parameters:
        name: the table's name.
        mark: what its comment tells.
        lacked_checks: the CHECKs that the partitioned table has got since.
    """

    name: str
    mark: Mark | None
    lacked_checks: tuple[ParentCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class PartitionedTable:
    """A partitioned table with its partitions, in the order of their names.

    Parameters:
        name: the table's name.
        partitions: those that are attached, also when a detach is pending.
        lone: tables beside it that were its partitions, were to be, or look like it.
        indexes: its own indexes, which every partition has a part of.
        analyzed_at: when it was analyzed as a whole; None is never.
    """

    name: str
    partitions: tuple[Partition, ...] = ()
    lone: tuple[LoneTable, ...] = ()
    indexes: tuple[TableIndex, ...] = field(default=())
    analyzed_at: datetime | None = None

    def partition(self, name: str) -> Partition | None:
        """Find a partition by name."""
        return next((partition for partition in self.partitions if partition.name == name), None)

    def ranges(self) -> dict[str, KeyRange]:
        """Give the key ranges of a RANGE table, by partition name; not of those that are being detached."""
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
    parents = {row.name: row for row in connection.execute(sql.TABLES, named)}
    missing = [table for table in wanted if table not in parents]
    if missing:
        raise NotPartitioned(missing[0])
    partitions = _grouped(connection.execute(sql.PARTITIONS, named), wanted)
    lone = _grouped(connection.execute(sql.LONE_TABLES, named), wanted)
    indexes = _grouped(connection.execute(sql.INDEXES, named), wanted)
    return {
        table: PartitionedTable(
            table,
            tuple(map(_partition, partitions[table])),
            tuple(_lone(table, lone[table])),
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
        lacked_checks=_checks(row),
    )


def _lone(table: str, rows: Iterable[Row[Any]]) -> Iterable[LoneTable]:
    for row in rows:
        mark = read_mark(row.comment)
        if row.looks_like_month or (mark is not None and mark.table == table):
            yield LoneTable(row.name, mark, _checks(row))


def _checks(row: Row[Any]) -> tuple[ParentCheck, ...]:
    return tuple(map(ParentCheck, row.lacked_names, row.lacked_valid))


def _index(row: Row[Any]) -> TableIndex:
    return TableIndex(
        name=row.name,
        definition=row.definition,
        unique=row.is_unique,
        valid=row.is_valid,
        parts=dict(zip(row.part_tables, row.part_names, strict=True)),
    )
