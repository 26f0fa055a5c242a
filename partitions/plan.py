"""From what is wanted and what stands to what must be done. Pure: no database, no clock."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from partitions import plan_months
from partitions.actions import (
    Action,
    AdoptChecks,
    Analyze,
    AttachPartition,
    CreateMonth,
    DetachPartition,
    DropTable,
    FinishDetach,
)
from partitions.bounds import ValueList
from partitions.catalog import Catalog, PartitionedTable
from partitions.indexes import CreateIndex, CreatePartitionIndex, DropLeftoverIndex, RepairIndex
from partitions.marks import State
from partitions.months import Month
from partitions.policy import ListPartitions, MonthlyRange, Policy, validated
from partitions.regroup import ChangeValues, DropCheck

_LEFTOVER = re.compile(r"_cc(new|old)\d*$")
"""How REINDEX CONCURRENTLY names the index that it builds, and the one that it replaces."""


def plan(
    policies: Iterable[Policy], catalog: Catalog, now: datetime, *, since: Month | None = None
) -> list[Action]:
    """List what makes the tables equal to their policies, and mends what killed runs left.

    Parameters:
        policies: what is wanted.
        catalog: what stands; it has every table of the policies.
        now: the current instant, with a time zone.
        since: the earliest month that must stand; the archive job knows it from its rows.

    Raises:
        PolicyError: the policies contradict each other.
        PartitionOverlap: a partition covers a part of a month that is needed.
        NameTaken: a table that is no partition has the name of a month that is needed.
        DefaultInTheWay: a month cannot come or go because of a DEFAULT partition.
    """
    return [
        action
        for policy in validated(policies)
        for action in _plan_table(policy, catalog[policy.table], now, since)
    ]


def _plan_table(
    policy: Policy, table: PartitionedTable, now: datetime, since: Month | None
) -> Iterator[Action]:
    # A pending detach comes first: until it is finished, PostgreSQL refuses the next one.
    yield from _after_a_kill(table, now)
    changes: list[Action] = []
    match policy:
        case ListPartitions():
            changes.extend(_missing_values(policy, table))
            changes.extend(_missing_indexes(policy, table))
        case MonthlyRange():
            changes.extend(plan_months.plan(policy, table, now, since))
    yield from changes
    yield from _indexes(table, changes)
    if is_stale(table, policy.analyze_every, now):
        why = "never analyzed" if table.analyzed_at is None else f"analyzed {table.analyzed_at:%Y-%m-%d}"
        yield Analyze(table=table.name, why=why)


def is_stale(table: PartitionedTable, age: timedelta, now: datetime) -> bool:
    """Tell whether the statistics of a table as a whole are missing or too old."""
    return table.analyzed_at is None or now - table.analyzed_at > age


def _after_a_kill(table: PartitionedTable, now: datetime) -> Iterator[Action]:
    why = "left by a killed run"
    for found in table.partitions:
        if found.detach_pending:
            yield FinishDetach(
                table=table.name,
                partition=found.name,
                bound=found.bound,
                at=now,
                lacked=found.lacked_checks,
                why=why,
            )
        else:
            for name in found.leftover_checks:
                yield DropCheck(table=table.name, partition=found.name, name=name, why="refuses later values")
    for lone in table.lone:
        if lone.mark is not None and lone.mark.state is State.PREPARED:
            yield DropTable(table=table.name, partition=lone.name, why=why)
        elif lone.mark is not None and lone.lacked_checks:
            # Now, not when it is to come back: until then it would take rows that its table refuses.
            yield AdoptChecks(
                table=table.name,
                partition=lone.name,
                lacked=lone.lacked_checks,
                why="its table has them by now",
            )


def _missing_values(policy: ListPartitions, table: PartitionedTable) -> Iterator[Action]:
    """Add values that no partition holds; which partition holds a value is changed by hand, for rows move."""
    held = {value for found in table.partitions for value in values_of(table, found.name)}
    for name, wanted in policy.groups.items():
        before, missing = values_of(table, name), wanted - held
        if before and missing and table.default is None:
            yield ChangeValues(
                table=table.name,
                key=policy.key,
                partition=name,
                before=before,
                after=before | missing,
                why="no partition takes it",
            )


def _missing_indexes(policy: ListPartitions, table: PartitionedTable) -> Iterator[Action]:
    for found in table.partitions:
        declared = {} if found.detach_pending else policy.indexes.get(found.name, {})
        for name, index in declared.items():
            if name not in found.indexes:
                yield CreatePartitionIndex(
                    table=table.name,
                    partition=found.name,
                    index=name,
                    definition=index.definition,
                    unique=index.unique,
                    why="declared, and missing",
                )


def values_of(table: PartitionedTable, partition: str) -> frozenset[str]:
    """Give the values of a LIST partition; none when it is absent, being detached, or of another kind."""
    found = table.partition(partition)
    usable = found is not None and not found.detach_pending
    return found.bound.values if found and usable and isinstance(found.bound, ValueList) else frozenset()


def _indexes(table: PartitionedTable, changes: list[Action]) -> Iterator[Action]:
    """Build what is missing, on partitions that stay; those that come get their parts with ATTACH."""
    leaving = {change.partition for change in changes if isinstance(change, DetachPartition)}
    is_coming = any(isinstance(change, CreateMonth | AttachPartition) for change in changes)
    attached = [found for found in table.partitions if not found.detach_pending and found.name not in leaving]
    for whole in table.indexes:
        lacking = tuple(found.name for found in attached if found.name not in whole.parts)
        if whole.definition is not None and (attached or is_coming):
            yield CreateIndex(
                table=table.name,
                index=whole.name,
                definition=whole.definition,
                unique=whole.unique,
                partitions=lacking,
                why="left by a killed run",
            )
    for found in attached:
        for index in sorted(found.invalid_indexes):
            kind = DropLeftoverIndex if _LEFTOVER.search(index) else RepairIndex
            yield kind(table=table.name, partition=found.name, index=index, why="invalid, so never used")
