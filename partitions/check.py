"""Does the database still equal its policies? Pure: findings are values, and a report decides what to do."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from partitions.catalog import Catalog, PartitionedTable, ValueList
from partitions.months import Month, months_through
from partitions.policy import ListPartitions, MonthlyRange, Policy


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that differs from the policy."""

    table: str
    partition: str
    fault: str
    fix: str


MIGRATE = "migrate the database"
APPLY = "mesctl partitions apply"


def check(policies: Iterable[Policy], catalog: Catalog, now: datetime) -> list[Finding]:
    """List what differs between the policies and what stands.

    Parameters:
        policies: what is wanted.
        catalog: what stands; it has every table of the policies.
        now: the current instant, with a time zone.
    """
    findings: list[Finding] = []
    for policy in policies:
        table = catalog[policy.table]
        match policy:
            case ListPartitions():
                findings.extend(_check_groups(policy, table))
            case MonthlyRange():
                findings.extend(_check_months(policy, table, Month.of(now)))
        findings.extend(_check_indexes(table))
    return findings


def _check_groups(policy: ListPartitions, table: PartitionedTable) -> Iterator[Finding]:
    for name, values in policy.groups.items():
        partition = table.partition(name)
        if partition is None:
            yield Finding(table.name, name, "the partition is missing", MIGRATE)
            continue
        if partition.bound != ValueList(values):
            yield Finding(table.name, name, _difference(values, partition.bound), MIGRATE)
        for index in sorted(policy.indexes.get(name, frozenset()) - partition.indexes):
            yield Finding(table.name, name, f"the index {index} is missing", MIGRATE)
    for partition in table.partitions:
        if partition.name not in policy.groups:
            yield Finding(table.name, partition.name, "no policy names this partition", MIGRATE)


def _difference(wanted: frozenset[str], found: object) -> str:
    if not isinstance(found, ValueList):
        return "its bound is no list of values"
    lacks = [f"lacks {value}" for value in sorted(wanted - found.values)]
    extra = [f"holds {value}" for value in sorted(found.values - wanted)]
    return "its bound " + ", ".join(lacks + extra)


def _check_months(policy: MonthlyRange, table: PartitionedTable, current: Month) -> Iterator[Finding]:
    ranges = table.ranges().values()
    for month in months_through(current, current.later(policy.months_ahead)):
        keys = month.keys(policy.key_at)
        if not any(found.covers(keys) for found in ranges):
            yield Finding(table.name, policy.partition_of(month), f"{month} is missing", APPLY)


def _check_indexes(table: PartitionedTable) -> Iterator[Finding]:
    for partition in table.partitions:
        for index in sorted(partition.invalid_indexes):
            yield Finding(
                table.name, partition.name, f"the index {index} is invalid", f"REINDEX INDEX {index}"
            )
