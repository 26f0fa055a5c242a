"""Which months must come, and which may go. Pure."""

from collections.abc import Iterator
from datetime import datetime

from partitions.actions import Action, AttachPartition, CreateMonth, DetachPartition, DropTable
from partitions.bounds import parse_bound
from partitions.catalog import PartitionedTable
from partitions.errors import DefaultInTheWay, MonthWithoutKeys, NameTaken, PartitionOverlap
from partitions.marks import State
from partitions.months import KeyRange, Month, months_through
from partitions.policy import MonthlyRange


def plan(
    policy: MonthlyRange, table: PartitionedTable, now: datetime, since: Month | None
) -> Iterator[Action]:
    """List what makes the months stand that are needed, and takes away those past their retention."""
    actions = [
        *_coming(policy, table, now, since),
        *_going(policy, table, now, since),
    ]
    if actions and table.default is not None:
        raise DefaultInTheWay(table.name, table.default.name, table.default.rows)
    yield from actions
    yield from _dropped(policy, table, now, since)


def _coming(
    policy: MonthlyRange, table: PartitionedTable, now: datetime, since: Month | None
) -> Iterator[Action]:
    current, existing = Month.of(now), table.ranges()
    needed = min(current, since or current)
    lone = _alone_by_then(table)
    for month in months_through(
        _first_month(policy, existing, needed, current), current.later(policy.months_ahead)
    ):
        keys, name = policy.keys_of(month), policy.partition_of(month)
        if stands(policy.table, existing, month, keys):
            continue
        why = _why(month, current, since)
        if name not in lone:
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
        elif not lone[name]:
            raise NameTaken(policy.table, name)
        elif month >= needed:  # an older one that somebody detached stays so
            yield AttachPartition(table=policy.table, partition=name, bound=keys, at=now, why=why)


def _alone_by_then(table: PartitionedTable) -> dict[str, bool]:
    """Tell of the tables that stand alone once what a kill left is mended, whether they were partitions."""
    lone = {
        found.name: found.mark is not None
        for found in table.lone
        if found.mark is None or found.mark.state is State.DETACHED
    }
    return lone | {found.name: True for found in table.partitions if found.detach_pending}


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
    """Tell whether a month has keys, none of them before `key`."""
    try:
        return policy.keys_of(month).start >= key
    except MonthWithoutKeys:  # somebody made a partition for keys that no instant has
        return False


def stands(table: str, existing: dict[str, KeyRange], month: Month, keys: KeyRange) -> bool:
    """Tell whether a partition takes the whole month.

    Raises:
        PartitionOverlap: one takes a part of it.
    """
    for name, found in existing.items():
        if found.covers(keys):
            return True
        if found.overlaps(keys):
            raise PartitionOverlap(table, name, str(month))
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
    for lone in table.lone:
        mark = lone.mark
        if policy.retention is None or mark is None or mark.state is not State.DETACHED:
            continue
        keys = parse_bound(lone.name, mark.bound)
        is_past = isinstance(keys, KeyRange) and _is_past(policy, keys, now, since)
        if is_past and now - mark.at >= policy.retention.drop_delay:
            yield DropTable(table=table.name, partition=lone.name, why=f"detached {mark.at:%Y-%m-%d %H:%M}")


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
