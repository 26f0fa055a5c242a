"""What a DBA asks for by name: each function looks at the catalogue and returns actions, or says why not."""

import re
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from partitions.actions import Action, AttachPartition, DetachPartition, DropTable
from partitions.bounds import ValueList, parse_bound
from partitions.catalog import Partition, PartitionedTable, is_contradiction, read_columns, read_own_indexes
from partitions.deparse import definition_sql
from partitions.detached import DetachedMark, DetachedState, DetachedTable
from partitions.errors import (
    IndexExists,
    InvalidPartitionName,
    NoSuchPartition,
    NotDroppable,
    PartitionNameTaken,
    SamePartition,
    TooManyRows,
    ValueHeld,
)
from partitions.indexes import CreateIndex, DropIndex
from partitions.regroup import ChangeValues, MergePartition, SplitPartition
from partitions.sql import bare, beside, cut, identifier, relation, value_list

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def detach(table: PartitionedTable, partition: str, now: datetime) -> list[Action]:
    """Detach a partition concurrently."""
    found = _partition(table, partition)
    return [DetachPartition(table=table.name, partition=found.name, bound=found.bound, at=now)]


def attach(table: PartitionedTable, partition: str, now: datetime) -> list[Action]:
    """Attach a detached partition again, with the bound of its mark."""
    partition = table.named(partition)
    bound = parse_bound(partition, _mark(table, partition).bound, table.key_type)
    return [AttachPartition(table=table.name, partition=partition, bound=bound, at=now)]


def drop(table: PartitionedTable, partition: str, now: datetime, *, delay: timedelta) -> list[Action]:
    """Drop a detached partition.

    Raises:
        NotDroppable: it is attached, or was detached too short a time ago.
    """
    partition = table.named(partition)
    if table.partition(partition) is not None:
        raise NotDroppable(partition, "it is attached; detach it first")
    mark = _mark(table, partition)
    if now - mark.at < delay:
        reason = f"it was detached {mark.at:%Y-%m-%d %H:%M}, less than {delay.days} days ago"
        raise NotDroppable(partition, reason)
    return [DropTable(table=table.name, partition=partition)]


def add(table: PartitionedTable, partition: str, values: Collection[str], *, key: str) -> list[Action]:
    """Add values that no partition takes yet to a partition.

    Raises:
        ValueHeld: one takes such a value already.
    """
    partition = table.named(partition)
    before = _values(_partition(table, partition))
    for found in table.partitions:
        if held := _values(found) & frozenset(values):
            raise ValueHeld(table.name, min(held), found.name)
    return [
        ChangeValues(
            table=table.name, key=key, partition=partition, before=before, after=before | frozenset(values)
        )
    ]


def split(
    connection: Connection,
    table: PartitionedTable,
    source: str,
    values: Collection[str],
    *,
    into: str,
    key: str,
    max_rows: int,
    at: datetime,
    measure: bool = True,
) -> list[Action]:
    """Move some values of a partition to a new one.

    Parameters:
        connection: reads columns and indexes, and counts the rows that would move.
        table: the partitioned table as it stands.
        source: the partition that holds the values.
        values: some of its values, not all.
        into: the name of the new partition.
        key: the partition key.
        max_rows: how many rows may move while every query waits.
        at: the current instant.
        measure: count the rows first, so that nothing is begun that would be refused.

    Raises:
        NoSuchPartition: the source does not exist, or does not hold these values.
        InvalidPartitionName: the new name would have to be quoted.
        PartitionNameTaken: a table has the new name.
        TooManyRows: more rows than `max_rows` would move.
    """
    source, into = table.named(source), table.named(into)
    held, moved = _values(_partition(table, source)), frozenset(values)
    if not moved or not moved < held:
        raise NoSuchPartition(source, f"value {', '.join(sorted(moved - held)) or 'to keep'}", sorted(held))
    leftover = _leftover(table, into)
    exists = connection.scalar(text("SELECT to_regclass(:name) IS NOT NULL"), {"name": relation(into)})
    if not _NAME.fullmatch(bare(into)):
        raise InvalidPartitionName(into)
    if exists and leftover is None:
        raise PartitionNameTaken(table.name, into)
    if measure:
        _measure(connection, source, key, moved, max_rows)
    action = SplitPartition(
        table=table.name,
        key=key,
        big=source,
        small=into,
        kept=held - moved,
        moved=moved,
        columns=read_columns(connection, table.name),
        max_rows=max_rows,
        at=at,
        indexes=_indexes_for(connection, source, into, f"{identifier(key)} IN ({value_list(moved)})"),
    )
    drop_first = [] if leftover is None else [DropTable(table=table.name, partition=into)]
    return [*drop_first, action]


def merge(
    connection: Connection,
    table: PartitionedTable,
    source: str,
    *,
    into: str,
    key: str,
    max_rows: int,
    at: datetime,
) -> list[Action]:
    """Move all rows and values of a partition to another, and drop it.

    Raises:
        NoSuchPartition: one of them does not exist.
        SamePartition: they are one.
        TooManyRows: more rows than `max_rows` would move.
    """
    source, into = table.named(source), table.named(into)
    if source == into:
        raise SamePartition(source)
    moved, kept = _values(_partition(table, source)), _values(_partition(table, into))
    _measure(connection, source, key, moved, max_rows)
    return [
        MergePartition(
            table=table.name,
            key=key,
            big=into,
            small=source,
            kept=kept,
            moved=moved,
            columns=read_columns(connection, table.name),
            max_rows=max_rows,
            at=at,
            indexes=tuple(own.create_on(source) for own in read_own_indexes(connection, source)),
        )
    ]


def index(table: PartitionedTable, name: str, columns: str) -> CreateIndex:
    """Build an index on a table and all its partitions.

    Parameters:
        table: the partitioned table as it stands.
        name: the name of the new index.
        columns: as they stand in the parentheses of CREATE INDEX.

    Raises:
        IndexExists: the table has one of that name, perhaps of other columns.
    """
    for there in table.indexes:
        if there.name == name:
            raise IndexExists(table.name, name, valid=there.valid)
    return CreateIndex(
        table=table.name,
        index=name,
        definition=f"USING btree ({columns})",
        partitions=tuple(found.name for found in table.partitions if not found.detach_pending),
    )


def drop_index(connection: Connection, table: PartitionedTable, name: str) -> DropIndex:
    """Drop an index of a table and of all its partitions.

    Raises:
        NoSuchPartition: the table has no such index.
    """
    there = {found.name: found for found in table.indexes}
    if name not in there:
        raise NoSuchPartition(table.name, f"index {name}", sorted(there))
    definition = connection.scalar(
        text(f"SELECT {definition_sql('to_regclass(:name)')}"), {"name": relation(beside(table.name, name))}
    )
    return DropIndex(
        table=table.name,
        index=name,
        definition=str(definition),
        partitions=tuple(there[name].parts),
        unique=there[name].unique,
    )


def _partition(table: PartitionedTable, name: str) -> Partition:
    found = table.partition(table.named(name))
    if found is None:
        raise NoSuchPartition(table.name, name, [each.name for each in table.partitions])
    return found


def _mark(table: PartitionedTable, name: str) -> DetachedMark:
    for detached in table.detached:
        if (
            detached.name == name
            and detached.mark is not None
            and detached.mark.state is DetachedState.DETACHED
        ):
            return detached.mark
    others = [each.name for each in table.detached if each.mark is not None]
    raise NoSuchPartition(table.name, f"detached {name}", others)


def _leftover(table: PartitionedTable, name: str) -> DetachedTable | None:
    prepared = (
        detached
        for detached in table.detached
        if detached.mark and detached.mark.state is DetachedState.PREPARED
    )
    return next((detached for detached in prepared if detached.name == name), None)


def _values(partition: Partition) -> frozenset[str]:
    return partition.bound.values if isinstance(partition.bound, ValueList) else frozenset()


def _measure(connection: Connection, source: str, key: str, values: frozenset[str], max_rows: int) -> None:
    count = f"SELECT count(*) FROM {relation(source)} WHERE {identifier(key)} IN ({value_list(values)})"
    rows = connection.execute(text(count.replace(":", "\\:"))).scalar_one()
    if rows > max_rows:
        raise TooManyRows(source, rows=rows, max_rows=max_rows)


def _indexes_for(connection: Connection, big: str, small: str, moved: str) -> tuple[str, ...]:
    """Return CREATE INDEX statements for the indexes of a partition that can hold rows of another one.

    Parameters:
        connection: reads the indexes, and has the planner compare their predicates.
        big: the partition that has the indexes.
        small: the partition that gets them; its name takes the place of the other's in theirs.
        moved: the condition of the rows that `small` takes from `big`.
    """
    return tuple(
        replace(own, name=_renamed(own.name, big, small)).create_on(small)
        for own in read_own_indexes(connection, big)
        if not is_contradiction(connection, big, f"{moved} AND ({own.predicate or 'true'})")
    )


def _renamed(index: str, big: str, small: str) -> str:
    one, other = bare(big), bare(small)
    return cut(index.replace(one, other, 1) if one in index else f"{other}_{index}")
