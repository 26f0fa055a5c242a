"""From what is wanted and what stands to what must be done. Pure: no database, no clock."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from partitions.actions import Action, CreateMonth
from partitions.catalog import Catalog, PartitionedTable
from partitions.errors import PartitionOverlap
from partitions.months import KeyRange, Month, months_through
from partitions.policy import MonthlyRange, Policy


def plan(
    policies: Iterable[Policy], catalog: Catalog, now: datetime, *, since: Month | None = None
) -> list[Action]:
    """List what makes the tables equal to their policies.

    Parameters:
        policies: what is wanted. Lists of values are changed by migrations, so they never need an action.
        catalog: what stands; it has every table of the policies.
        now: the current instant, with a time zone.
        since: the earliest month that must stand; the archive job knows it from its rows.

    Raises:
        PartitionOverlap: a partition covers a part of a month that is needed.
    """
    actions: list[Action] = []
    for policy in policies:
        if isinstance(policy, MonthlyRange):
            actions.extend(_missing_months(policy, catalog[policy.table], Month.of(now), since))
    return actions


def _missing_months(
    policy: MonthlyRange, table: PartitionedTable, current: Month, since: Month | None
) -> Iterator[CreateMonth]:
    existing = table.ranges()
    first = _first_month(policy, existing, min(current, since or current))
    last = current.later(policy.months_ahead)
    for month in months_through(first, last):
        keys = month.keys(policy.key_at)
        if not _stands(policy.table, existing, month, keys):
            yield CreateMonth(
                table=policy.table,
                partition=policy.partition_of(month),
                key=policy.key,
                month=month,
                keys=keys,
                why=_why(month, current, since),
            )


def _first_month(policy: MonthlyRange, existing: dict[str, KeyRange], needed: Month) -> Month:
    """Go back to the earliest month that stands, so that a gap left by an idle year is closed."""
    first = needed
    if existing:
        oldest = min(existing.values()).start
        while policy.key_at(first.start) > oldest and policy.key_at(first.previous.start) >= oldest:
            first = first.previous
    return first


def _stands(table: str, existing: dict[str, KeyRange], month: Month, keys: KeyRange) -> bool:
    for name, found in existing.items():
        if found.covers(keys):
            return True
        if found.overlaps(keys):
            raise PartitionOverlap(table, name, str(month))
    return False


def _why(month: Month, current: Month, since: Month | None) -> str:
    if month > current:
        return "to stand ready"
    if month == current:
        return "current month"
    return "finished orders wait for it" if since and month >= since else "gap between months"
