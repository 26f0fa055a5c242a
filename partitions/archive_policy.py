"""What leaves a live table for its archive, declared beside the models that use it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from partitions.models import (
    ColumnLike,
    TableLike,
    column_name,
    column_names,
    require_column,
    table_name,
    table_of,
)
from partitions.policy import Columns, Declared, MonthlyRange, Policy, Retention, partition_name
from partitions.policy_errors import ChildrenOutliveParent, LinkDiffers, RangeColumnTaken
from partitions.range_key import KeyAt


@dataclass(frozen=True, init=False)
class Link(Declared):
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

    archive_model: TableLike = field(init=False, compare=False, repr=False)
    """The archive as it was given."""

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
        self._set(archive=table_name(archive), range_key=filled, spare=spare, archive_model=archive)
        for name in self.key:
            require_column(archive, name, use="the key of its parent")


@dataclass(frozen=True, init=False)
class ArchivePolicy(Declared):
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
    archive_model: TableLike = field(init=False, compare=False, repr=False)
    """The archive as it was given; `months` takes the type of its key from it."""

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
            live=found if partition_of is None else partition_name(table_name(partition_of), found),
            archive=table_name(archive),
            row_id=names,
            range_key=None if range_key is None else column_name(range_key),
            finished_at=column_name(finished_at),
            grace=grace,
            children=tuple(children),
            unless_exists=tuple(unless_exists),
            partition_of=None if partition_of is None else table_name(partition_of),
            archive_model=archive,
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

    def months(
        self, *, key_at: KeyAt | None = None, months_ahead: int = 3, retention: Retention | None = None
    ) -> tuple[MonthlyRange, ...]:
        """Return the policies for the months of the archive and of each child's archive.

        They have one range key, one grace period and one retention, so months leave together. A child whose
        archive has no column for the range key has no months.

        Parameters:
            key_at: the smallest key of an instant; for an integer key, and for no other.
            months_ahead: how many months after the current one must stand ready.
            retention: which months leave; None keeps all.

        Raises:
            RangeKeyUnsupported: the key is a text for example, or an integer without `key_at`; or the archive
                was given by its name.
        """
        if self.range_key is None:
            return ()
        keys = [(child, min(columns)) for child in self.children if (columns := self.range_columns(child))]
        found = [(child.archive_model, key, _row_id(child, key)) for child, key in keys]
        return tuple(
            MonthlyRange(
                model,
                key=key,
                key_at=key_at,
                row_id=row_id,
                months_ahead=months_ahead,
                grace=self.grace,
                retention=retention,
            )
            for model, key, row_id in [(self.archive_model, self.range_key, self.row_id), *found]
        )


def _row_id(child: Child, range_column: str) -> tuple[str, ...]:
    """Return what names a row of a child's archive: its primary key, without a range key that is filled."""
    archive = table_of(child.archive_model)
    if archive is None or range_column in child.key:
        return (range_column,)
    return tuple(column.name for column in archive.primary_key if column.name != range_column)


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
