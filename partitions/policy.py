"""How a table is to be partitioned and archived, declared beside the models that use it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from itertools import combinations
from typing import Any

from sqlalchemy import Index
from sqlalchemy.types import TypeEngine

from partitions.bounds import KeyRange, Month
from partitions.errors import (
    ChildrenOutliveParent,
    DuplicatePolicy,
    EmptyGroup,
    LinkDiffers,
    MonthWithoutKeys,
    NameTooLong,
    NegativeMonths,
    RangeColumnTaken,
    RangeKeyUnsupported,
    RetentionShorterThanGrace,
    ValueInTwoGroups,
)
from partitions.models import (
    ColumnLike,
    TableLike,
    column_name,
    column_names,
    column_of,
    definition_of,
    index_of_partition,
    key_type_of,
    require_column,
    table_name,
    table_of,
)
from partitions.range_key import KeyAt, KeyType
from partitions.sql import RelationName, bare, beside, cut, schema_of

SHORTEST_MONTH_DAYS = 28
MONTH_SUFFIX = "_2024_01"

Columns = ColumnLike | Iterable[ColumnLike]
"""One column, or several in an order that matters."""


@dataclass(frozen=True, slots=True)
class DeclaredIndex:
    """An index that one partition has of its own.

    Parameters:
        definition: what stands in CREATE INDEX behind the partition's name.
        unique: whether it is UNIQUE.
    """

    definition: str
    unique: bool = False


class _Declared:
    """Base of what is declared: its constructor takes models, its fields are names."""

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, init=False)
class ListPartitions(_Declared):
    """A table PARTITION BY LIST: named groups of values. A migration makes the partitions.

    Parameters:
        table: the partitioned table: its model, a `Table`, or its name.
        key: the partition key.
        groups: the values that each partition holds, by partition name.
        row_id: the columns that are to be unique over all partitions, though no index can promise it.
        indexes: the indexes that a partition must have besides those of its parent, by its name: indexes of
            SQLAlchemy on the model's columns, or definitions by their names.
        analyze_every: how old the statistics of the whole table may be.

    Raises:
        ColumnNotDeclared: the table is a model, and has no such column.
        ValueInTwoGroups: a value cannot be in two partitions.
        NameTooLong: PostgreSQL would cut a partition's name off.
        EmptyGroup: a partition without values cannot be made.
    """

    table: str
    key: str
    groups: Mapping[str, frozenset[str]]
    row_id: tuple[str, ...]
    indexes: Mapping[str, Mapping[str, DeclaredIndex]]
    analyze_every: timedelta
    bound_indexes: Mapping[str, tuple[Index, ...]] = field(init=False, compare=False, repr=False)
    """The indexes that were given as SQLAlchemy has them, by partition; `declare_partitions` takes them."""

    def __init__(
        self,
        table: TableLike,
        *,
        key: ColumnLike,
        groups: Mapping[str, Iterable[object]],
        row_id: Columns,
        indexes: Mapping[str, Iterable[Index] | Mapping[str, DeclaredIndex]] | None = None,
        analyze_every: timedelta = timedelta(days=7),
    ) -> None:
        name, column = table_name(table), column_name(key)
        require_column(table, column, use="partition key")
        found = {_partition(name, each): frozenset(map(_value, values)) for each, values in groups.items()}
        declared, bound = _indexes(table, name, indexes or {})
        self._set(
            table=name,
            key=column,
            groups=found,
            row_id=column_names(row_id, table, use="row_id"),
            indexes=declared,
            analyze_every=analyze_every,
            bound_indexes=bound,
        )
        for (one, held), (other, others) in combinations(found.items(), 2):
            if held & others:
                raise ValueInTwoGroups(name, min(held & others), one, other)
        for each, held in found.items():
            if not held:
                raise EmptyGroup(name, each)
        for each in groups:
            _refuse_long(name, each)

    @property
    def partition_by(self) -> str:
        """What CREATE TABLE has behind PARTITION BY."""
        return f"LIST ({self.key})"


def _partition(table: str, name: str) -> str:
    """Return the name of a partition; it is in the schema of its table, unless it says another."""
    found = RelationName.of(name)
    return found.text if found.schema is not None else beside(table, found.name)


def _value(value: object) -> str:
    return str(value.value if isinstance(value, Enum) else value)


def _indexes(
    table: TableLike, name: str, given: Mapping[str, Iterable[Index] | Mapping[str, DeclaredIndex]]
) -> tuple[dict[str, dict[str, DeclaredIndex]], dict[str, tuple[Index, ...]]]:
    """Return the declared indexes by partition, as definitions and as SQLAlchemy has them."""
    declared: dict[str, dict[str, DeclaredIndex]] = {}
    bound: dict[str, tuple[Index, ...]] = {}
    for each, indexes in given.items():
        partition = _partition(name, each)
        if isinstance(indexes, Mapping):
            declared[partition] = dict(indexes)
            continue
        bound[partition] = tuple(index_of_partition(index, table_of(table), partition) for index in indexes)
        declared[partition] = {
            str(index.name): DeclaredIndex(definition_of(index), unique=bool(index.unique))
            for index in bound[partition]
        }
    return declared, bound


@dataclass(frozen=True)
class Retention:
    """How long a month stays. Declaring it says that its rows are needed nowhere else: nothing is exported.

    Parameters:
        months: how many whole months before the current one stay attached.
        drop_delay: how long a detached month can still be attached again, before it is dropped.
    """

    months: int
    drop_delay: timedelta = timedelta(days=7)


@dataclass(frozen=True, init=False)
class MonthlyRange(_Declared):
    """A table PARTITION BY RANGE over a key that rises with time: a partition for each calendar month in UTC.

    Parameters:
        table: the partitioned table: its model, a `Table`, or its name.
        key: its key column: an integer, a date, a timestamp (read as UTC) or a timestamp with time zone.
        key_at: the smallest key of an instant; for an integer key, and for no other.
        key_type: the type of the key in SQLAlchemy, where `key` is a name that no model explains.
        row_id: the columns that name a row; None where the key does.
        months_ahead: how many months after the current one must stand ready.
        grace: how old a row may be when it comes here.
        retention: which months leave; None keeps all.
        tablespace: where new months are stored; None is the database's own.
        analyze_every: how old the statistics of the whole table may be.

    Raises:
        ColumnNotDeclared: the table is a model, and has no such column.
        RangeKeyUnsupported: the key is a text for example, or an integer without `key_at`.
        NegativeMonths: `months_ahead`, or the months of `retention`, are less than none.
        RetentionShorterThanGrace: a month would leave before its last rows have come.
        NameTooLong: PostgreSQL would cut the months' names off.
    """

    table: str
    key: str
    key_at: KeyAt
    key_type: KeyType
    row_id: tuple[str, ...]
    months_ahead: int
    grace: timedelta
    retention: Retention | None
    tablespace: str | None
    analyze_every: timedelta

    def __init__(
        self,
        table: TableLike,
        *,
        key: ColumnLike,
        key_at: KeyAt | None = None,
        key_type: TypeEngine[Any] | type[TypeEngine[Any]] | KeyType | None = None,
        row_id: Columns | None = None,
        months_ahead: int = 3,
        grace: timedelta = timedelta(0),
        retention: Retention | None = None,
        tablespace: str | None = None,
        analyze_every: timedelta = timedelta(days=7),
    ) -> None:
        name, column = table_name(table), column_name(key)
        require_column(table, column, use="partition key")
        kind = _key_type(name, table, key, key_type, key_at)
        self._set(
            table=name,
            key=column,
            key_at=kind.at if kind.is_time or key_at is None else key_at,
            key_type=kind,
            row_id=(column,) if row_id is None else column_names(row_id, table, use="row_id"),
            months_ahead=months_ahead,
            grace=grace,
            retention=retention,
            tablespace=tablespace,
            analyze_every=analyze_every,
        )
        kept = 0 if retention is None else retention.months
        if months_ahead < 0 or kept < 0:
            raise NegativeMonths(name, min(months_ahead, kept))
        if retention is not None and timedelta(days=SHORTEST_MONTH_DAYS * kept) < grace:
            raise RetentionShorterThanGrace(name, months=kept, grace=grace)
        _refuse_long(name, f"{bare(name)}{MONTH_SUFFIX}")

    @property
    def partition_by(self) -> str:
        """What CREATE TABLE has behind PARTITION BY."""
        return f"RANGE ({self.key})"

    def keys_of(self, month: Month) -> KeyRange:
        """Return the keys of a month.

        Raises:
            MonthWithoutKeys: there are none so early, or so late.
        """
        try:
            return month.keys(self.key_at, self.key_type)
        except (ValueError, OverflowError) as fault:
            raise MonthWithoutKeys(self.table, str(month), str(fault)) from fault

    def month_at(self, key: int, *, latest: Month) -> Month | None:
        """Return the month that holds a key; None if it is none up to `latest`."""
        if self.key_type.is_time:
            found = Month.of(self.key_type.instant(key))
            return found if found <= latest else None
        month = latest
        while True:
            try:
                keys = self.keys_of(month)
            except MonthWithoutKeys:
                return None
            if keys.start <= key:
                return month if key < keys.end else None
            month = month.previous

    def partition_of(self, month: Month) -> str:
        """Return the name of a month's partition, as in `orders_archive_2026_11`."""
        return beside(self.table, f"{bare(self.table)}_{month.year:04}_{month.number:02}")

    def oldest_kept(self, current: Month) -> Month | None:
        """Return the oldest month that stays; None when all do."""
        return None if self.retention is None else current.later(-self.retention.months)


def _key_type(
    name: str,
    table: TableLike,
    key: ColumnLike,
    given: TypeEngine[Any] | type[TypeEngine[Any]] | KeyType | None,
    key_at: KeyAt | None,
) -> KeyType:
    """Return the type of a RANGE key: as it was given, as the model has it, or an integer by its `key_at`."""
    column, known = column_of(key, table_of(table)), given
    if known is None and column is not None:
        known = column.type
    elif known is None and key_at is not None:
        known = KeyType.INTEGER
    if known is None:
        reason = "its type is not known here: name it by the model, or give key_type="
        raise RangeKeyUnsupported(name, column_name(key), reason)
    kind = known if isinstance(known, KeyType) else key_type_of(known)
    if kind is None:
        raise RangeKeyUnsupported(name, column_name(key), f"it is {known!r}")
    # Of a copy by `dataclasses.replace` it is the type's own.
    if kind.is_time == (key_at is not None) and key_at != kind.at:
        reason = f"a {kind} has no key_at" if kind.is_time else "an integer has no months without key_at"
        raise RangeKeyUnsupported(name, column_name(key), reason)
    return kind


Policy = ListPartitions | MonthlyRange


def _refuse_long(table: str, partition: str) -> None:
    # Of a name that was given, for one that was read is cut by then.
    name = partition if schema_of(partition) is None else partition.rpartition(".")[2]
    if cut(name) != name:
        raise NameTooLong(table, partition)


def validated(policies: Iterable[Policy]) -> tuple[Policy, ...]:
    """Return policies that do not contradict each other.

    Raises:
        DuplicatePolicy: two are about the same table.
    """
    found = tuple(policies)
    for table, count in Counter(policy.table for policy in found).items():
        if count > 1:
            raise DuplicatePolicy(table)
    return found


@dataclass(frozen=True, init=False)
class Link(_Declared):
    """A table whose rows belong to rows of another one.

    Parameters:
        table: the table: its model, a `Table`, or its name.
        key: its columns that hold what names the other row, in the order of that row's id.

    Raises:
        ColumnNotDeclared: the table is a model, and has no such column.
    """

    table: str
    key: tuple[str, ...]

    def __init__(self, table: TableLike, *, key: Columns) -> None:
        self._set(table=table_name(table), key=column_names(key, table, use="the key of its parent"))


@dataclass(frozen=True, init=False)
class Child(Link):
    """A table whose rows travel to an archive of their own with the row that they belong to.

    Parameters:
        table: the live table.
        archive: the table that takes its rows; it has the same columns, and may have one more.
        key: its columns that hold the id of the parent's row.
        range_key: the column of the archive that the mover fills with the parent's range key. None is one of
            the parent's name for it, if the models say that the archive has it and the live table has not.

    Raises:
        ColumnNotDeclared: a table is a model, and has no such column.
        RangeColumnTaken: the live table has a column of the name of `range_key`, whose values would be lost.
    """

    archive: str
    range_key: str | None
    spare: frozenset[str] = field(init=False, compare=False, repr=False)
    """The columns that the archive has beyond those of the live table, as far as the models say."""

    def __init__(
        self, table: TableLike, *, archive: TableLike, key: Columns, range_key: ColumnLike | None = None
    ) -> None:
        super().__init__(table, key=key)
        filled, live, kept = None, table_of(table), table_of(archive)
        if range_key is not None:
            filled = column_name(range_key)
            require_column(archive, filled, use="the parent's range key")
            if live is not None and filled in live.columns:
                raise RangeColumnTaken(self.table, table_name(archive), filled)
        spare = frozenset[str]()
        if live is not None and kept is not None:
            spare = frozenset(column.name for column in kept.columns if column.name not in live.columns)
        self._set(archive=table_name(archive), range_key=filled, spare=spare)
        for name in self.key:
            require_column(archive, name, use="the key of its parent")


@dataclass(frozen=True, init=False)
class ArchivePolicy(_Declared):
    """Which rows leave which live table for which archive, and what travels with them.

    Four things may be four different columns: the shard key, which places a row (the table's own affair, see
    `sharding.keys`); the id of a row; the range key, by which the archive has its months; and the columns by
    which a child is linked to its parent.

    Parameters:
        live: the table, or the partition, that holds finished rows.
        archive: the table that takes them; it has the same columns.
        row_id: the columns that name a row of these two.
        range_key: the key of the archive's months; None when it has no months.
        finished_at: the column of the time when a row was finished.
        grace: how long a finished row stays live.
        children: the tables whose rows travel along.
        unless_exists: tables that must hold no row of it: work on it is still owed.
        partition_of: the table that `live` is a partition of; None when it is none. A row of a child belongs
            to a row of this table.

    Raises:
        ColumnNotDeclared: a table is a model, and has no such column.
        LinkDiffers: a link has not as many columns as `row_id`.
    """

    live: str
    archive: str
    row_id: tuple[str, ...]
    range_key: str | None
    finished_at: str
    grace: timedelta
    children: tuple[Child, ...]
    unless_exists: tuple[Link, ...]
    partition_of: str | None

    def __init__(
        self,
        *,
        live: TableLike,
        archive: TableLike,
        row_id: Columns,
        range_key: ColumnLike | None,
        finished_at: ColumnLike,
        grace: timedelta,
        children: Iterable[Child] = (),
        unless_exists: Iterable[Link] = (),
        partition_of: TableLike | None = None,
    ) -> None:
        home = live if partition_of is None else partition_of
        found = table_name(live)
        names = column_names(row_id, home, use="row_id")
        for each in (home, archive):
            for name in (
                *names,
                column_name(finished_at),
                *([] if range_key is None else [column_name(range_key)]),
            ):
                require_column(each, name, use="row_id, range_key or finished_at")
        self._set(
            live=found if partition_of is None else _partition(table_name(partition_of), found),
            archive=table_name(archive),
            row_id=names,
            range_key=None if range_key is None else column_name(range_key),
            finished_at=column_name(finished_at),
            grace=grace,
            children=tuple(children),
            unless_exists=tuple(unless_exists),
            partition_of=None if partition_of is None else table_name(partition_of),
        )
        for link in (*self.children, *self.unless_exists):
            if len(link.key) != len(names):
                raise LinkDiffers(link.table, link.key, parent=self.tree, row_id=names)

    @property
    def tree(self) -> str:
        """The table of all live rows, finished or not."""
        return self.partition_of or self.live

    @property
    def moves(self) -> Mapping[str, str]:
        """The archive of every table, the live table first."""
        return {self.live: self.archive, **{child.table: child.archive for child in self.children}}

    def filled(self, child: Child) -> str | None:
        """Return the column of a child's archive that the mover fills with the parent's range key."""
        by_name = self.range_key if self.range_key in child.spare else None
        return child.range_key or by_name

    def range_columns(self, child: Child) -> frozenset[str]:
        """Return which columns of a child's archive hold the parent's range key: filled, or by the link."""
        linked = (mine for mine, its in zip(child.key, self.row_id, strict=True) if its == self.range_key)
        return frozenset((*linked, *filter(None, [self.filled(child)])))


def check_retention(policies: Iterable[Policy], archives: Iterable[ArchivePolicy]) -> None:
    """Look whether the rows of children leave with those of their parents.

    Raises:
        ChildrenOutliveParent: months of an archive go, and rows of a child would stay without a parent.
    """
    months = {policy.table: policy for policy in policies if isinstance(policy, MonthlyRange)}
    for archive in archives:
        parent = months.get(archive.archive)
        if parent is None or parent.retention is None:
            continue
        for child in archive.children:
            if reason := _why_it_outlives(archive, child, months.get(child.archive), parent.retention):
                raise ChildrenOutliveParent(archive.archive, child.archive, reason)


def _why_it_outlives(
    archive: ArchivePolicy, child: Child, months: MonthlyRange | None, retention: Retention
) -> str | None:
    columns = archive.range_columns(child)
    if not columns:
        return (
            "it has no column for the range key of its parent: add one, and name it as range_key of the Child"
        )
    if months is None or months.key not in columns:
        return (
            f"declare its MonthlyRange by {' or '.join(sorted(columns))}, which holds the parent's range key"
        )
    if months.retention != retention:
        return "its retention is another: give both the same"
    return None
