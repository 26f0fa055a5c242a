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
from partitions.errors import MonthWithoutKeys
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
from partitions.policy_errors import (
    DuplicatePolicy,
    EmptyGroup,
    NameTooLong,
    NegativeMonths,
    RangeKeyUnsupported,
    RetentionShorterThanGrace,
    ValueInTwoGroups,
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


class Declared:
    """Base of what is declared: its constructor takes models, its fields are names."""

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, init=False)
class ListPartitions(Declared):
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
        found = {
            partition_name(name, each): frozenset(map(_value, values)) for each, values in groups.items()
        }
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


def partition_name(table: str, name: str) -> str:
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
        partition = partition_name(name, each)
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
class MonthlyRange(Declared):
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
