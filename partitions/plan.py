"""The actions that make the tables of a database equal to their policies. Pure: no database, no clock."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from partitions.actions import (
    Action,
    AddMissingChecks,
    Analyze,
    AttachPartition,
    CreateMonth,
    DetachPartition,
    DropTable,
    FinalizeDetach,
)
from partitions.bounds import KeyRange, Month, ValueList, months_through, parse_bound
from partitions.catalog import Catalog, PartitionedTable
from partitions.detached import DetachedState
from partitions.errors import (
    DefaultPartitionBlocks,
    MonthWithoutKeys,
    PartitionNameTaken,
    PartitionOverlap,
    RangeKeyDiffers,
)
from partitions.indexes import CreateIndex, CreatePartitionIndex, DropLeftoverIndex, RepairIndex
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
        RangeKeyDiffers: a table is partitioned otherwise than its policy says.
        PartitionOverlap: a partition covers a part of a month that is needed.
        PartitionNameTaken: a table that is no partition has the name of a month that is needed.
        DefaultPartitionBlocks: a month cannot come or go because of a DEFAULT partition.
    """
    return [
        action
        for policy in validated(policies)
        for action in _plan_table(policy, catalog[policy.table], now, since)
    ]


def _plan_table(
    policy: Policy, table: PartitionedTable, now: datetime, since: Month | None
) -> Iterator[Action]:
    require_same_key(policy, table)
    # A pending detach comes first: until it is finished, PostgreSQL refuses the next one.
    yield from _after_a_kill(table, now)
    changes: list[Action] = []
    match policy:
        case ListPartitions():
            changes.extend(_missing_values(policy, table))
            changes.extend(_missing_indexes(policy, table))
        case MonthlyRange():
            changes.extend(_plan_months(policy, table, now, since))
    yield from changes
    yield from _indexes(table, changes)
    if is_stale(table, policy.analyze_every, now):
        why = "never analyzed" if table.analyzed_at is None else f"analyzed {table.analyzed_at:%Y-%m-%d}"
        yield Analyze(table=table.name, why=why)


def require_same_key(policy: Policy, table: PartitionedTable) -> None:
    """Compare what a table is partitioned by with its policy.

    Raises:
        RangeKeyDiffers: it is partitioned otherwise, or its key is of another type.
    """
    key = table.key
    if key is None:
        return
    if isinstance(policy, ListPartitions):
        if (key.strategy, key.column) != ("l", policy.key):
            raise RangeKeyDiffers(table.name, declared=policy.partition_by, found=key.definition)
    elif (key.strategy, key.column, key.type) != ("r", policy.key, policy.key_type):
        declared = f"{policy.partition_by} of {policy.key_type}"
        raise RangeKeyDiffers(table.name, declared=declared, found=f"{key.definition} of {key.type_name}")


def is_stale(table: PartitionedTable, age: timedelta, now: datetime) -> bool:
    """Return whether the statistics of a table as a whole are missing or too old."""
    return table.analyzed_at is None or now - table.analyzed_at > age


def _after_a_kill(table: PartitionedTable, now: datetime) -> Iterator[Action]:
    why = "left by a killed run"
    for found in table.partitions:
        if found.detach_pending:
            yield FinalizeDetach(
                table=table.name,
                partition=found.name,
                bound=found.bound,
                at=now,
                missing=found.missing_checks,
                why=why,
            )
        else:
            for name in found.leftover_checks:
                yield DropCheck(table=table.name, partition=found.name, name=name, why="refuses later values")
    for detached in table.detached:
        if detached.mark is not None and detached.mark.state is DetachedState.PREPARED:
            yield DropTable(table=table.name, partition=detached.name, why=why)
        elif detached.mark is not None and detached.missing_checks:
            # Now, not when it is to come back: until then it would take rows that its table refuses.
            yield AddMissingChecks(
                table=table.name,
                partition=detached.name,
                missing=detached.missing_checks,
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
    """Return the values of a LIST partition; none when it is absent, being detached, or of another kind."""
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


def _plan_months(
    policy: MonthlyRange, table: PartitionedTable, now: datetime, since: Month | None
) -> Iterator[Action]:
    """List what makes the months stand that are needed, and takes away those past their retention."""
    actions = [
        *_coming(policy, table, now, since),
        *_going(policy, table, now, since),
    ]
    if actions and table.default is not None:
        raise DefaultPartitionBlocks(table.name, table.default.name, table.default.rows)
    yield from actions
    yield from _dropped(policy, table, now, since)


def _coming(
    policy: MonthlyRange, table: PartitionedTable, now: datetime, since: Month | None
) -> Iterator[Action]:
    current, existing = Month.of(now), table.ranges()
    needed = min(current, since or current)
    detached = _detached_by_then(table)
    for month in months_through(
        _first_month(policy, existing, needed, current), current.later(policy.months_ahead)
    ):
        keys, name = policy.keys_of(month), policy.partition_of(month)
        if is_month_covered(policy.table, existing, month, keys):
            continue
        why = _why(month, current, since)
        if name not in detached:
            yield CreateMonth(
                table=policy.table,
                partition=name,
                key=policy.key,
                month=month,
                keys=keys,
                at=now,
                tablespace=policy.tablespace,
                why=why,
            )
        elif not detached[name]:
            raise PartitionNameTaken(policy.table, name)
        elif month >= needed:  # an older one that was detached stays so
            yield AttachPartition(table=policy.table, partition=name, bound=keys, at=now, why=why)


def _detached_by_then(table: PartitionedTable) -> dict[str, bool]:
    """Return the tables that are detached once pending detaches end, and whether they were partitions."""
    detached = {
        found.name: found.mark is not None
        for found in table.detached
        if found.mark is None or found.mark.state is DetachedState.DETACHED
    }
    return detached | {found.name: True for found in table.partitions if found.detach_pending}


def _first_month(policy: MonthlyRange, existing: dict[str, KeyRange], needed: Month, current: Month) -> Month:
    """Go back to the earliest month that stands, so that a gap left by an idle year is closed."""
    first, limit = needed, policy.oldest_kept(current)
    if existing:
        oldest = min(existing.values()).start
        while policy.keys_of(first).start > oldest and _begins_after(policy, first.previous, oldest):
            if limit is not None and first <= limit:
                break
            first = first.previous
    return first


def _begins_after(policy: MonthlyRange, month: Month, key: int) -> bool:
    """Return whether a month has keys, none of them before `key`."""
    try:
        return policy.keys_of(month).start >= key
    except MonthWithoutKeys:  # there is a partition for keys that no instant has
        return False


def is_month_covered(table: str, existing: dict[str, KeyRange], month: Month, keys: KeyRange) -> bool:
    """Return whether a partition takes the whole month.

    Raises:
        PartitionOverlap: one takes a part of it.
    """
    for name, found in existing.items():
        if found.covers(keys):
            return True
        if found.overlaps(keys):
            raise PartitionOverlap(table, name, str(month), str(found) if found.type.is_time else "")
    return False


def _going(
    policy: MonthlyRange, table: PartitionedTable, now: datetime, since: Month | None
) -> Iterator[Action]:
    for name, keys in table.ranges().items():
        if _is_past(policy, keys, now, since):
            why = f"past the retention of {policy.retention and policy.retention.months} months"
            yield DetachPartition(table=table.name, partition=name, bound=keys, at=now, why=why)


def _dropped(
    policy: MonthlyRange, table: PartitionedTable, now: datetime, since: Month | None
) -> Iterator[Action]:
    """Drop months past the retention when the delay is over; not those that a person detached early."""
    for detached in table.detached:
        mark = detached.mark
        if policy.retention is None or mark is None or mark.state is not DetachedState.DETACHED:
            continue
        keys = parse_bound(detached.name, mark.bound, policy.key_type)
        is_past = isinstance(keys, KeyRange) and _is_past(policy, keys, now, since)
        if is_past and now - mark.at >= policy.retention.drop_delay:
            yield DropTable(
                table=table.name, partition=detached.name, why=f"detached {mark.at:%Y-%m-%d %H:%M}"
            )


def _is_past(policy: MonthlyRange, keys: KeyRange, now: datetime, since: Month | None) -> bool:
    oldest = policy.oldest_kept(Month.of(now))
    if oldest is None:
        return False
    try:
        return keys.end <= policy.keys_of(min(oldest, since or oldest)).start
    except MonthWithoutKeys:  # that month is before the first key, and so before every partition
        return False


def _why(month: Month, current: Month, since: Month | None) -> str:
    if month > current:
        return "to stand ready"
    if month == current:
        return "current month"
    return "finished orders wait for it" if since and month >= since else "gap between months"
