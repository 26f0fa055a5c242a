"""Does the database still equal its policies? Pure: findings are values, and a report decides what to do."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from partitions.bounds import Month, ValueList, months_through
from partitions.catalog import Catalog, PartitionedTable
from partitions.detached import DetachedState, DetachedTable
from partitions.errors import PartitionOverlap, RangeKeyDiffers, default_partition_fix
from partitions.plan import is_month_covered, is_stale, require_same_key
from partitions.policy import ListPartitions, MonthlyRange, Policy, validated


class Remedy(StrEnum):
    """What mends a finding: an operation of this package, or something that only a person can decide."""

    APPLY = "apply"
    MERGE = "merge"
    DETACH = "detach"
    ATTACH_OR_DROP = "attach or drop"
    MIGRATE = "migrate"
    BY_HAND = "by hand"


@dataclass(frozen=True, slots=True)
class PartitionFinding:
    """Something that differs from the policy, and how it is mended."""

    table: str
    partition: str
    fault: str
    fix: str
    remedy: Remedy = Remedy.BY_HAND


APPLY = "apply the policies"


def check(policies: Iterable[Policy], catalog: Catalog, now: datetime) -> list[PartitionFinding]:
    """List what differs between the policies and what stands. It reads no rows; see `row_checks` for those.

    Parameters:
        policies: what is wanted.
        catalog: what stands; it has every table of the policies.
        now: the current instant, with a time zone.
    """
    findings: list[PartitionFinding] = []
    for policy in validated(policies):
        table = catalog[policy.table]
        try:
            require_same_key(policy, table)
        except RangeKeyDiffers as fault:
            findings.append(PartitionFinding(table.name, "", str(fault), "correct the policy"))
            continue
        match policy:
            case ListPartitions():
                findings.extend(_check_groups(policy, table))
            case MonthlyRange():
                findings.extend(_check_months(policy, table, Month.of(now)))
        findings.extend(_check_partitions(table))
        findings.extend(_check_indexes(table))
        findings.extend(
            finding for detached in table.detached for finding in _check_detached(policy, table, detached)
        )
        if is_stale(table, policy.analyze_every, now):
            findings.append(_not_analyzed(table))
    return findings


def _not_analyzed(table: PartitionedTable) -> PartitionFinding:
    when = "was never analyzed" if table.analyzed_at is None else f"was analyzed {table.analyzed_at:%Y-%m-%d}"
    return PartitionFinding(
        table.name, "", f"the table as a whole {when}; autovacuum does not", APPLY, Remedy.APPLY
    )


def _check_groups(policy: ListPartitions, table: PartitionedTable) -> Iterator[PartitionFinding]:
    for name, values in policy.groups.items():
        partition = table.partition(name)
        if partition is None:
            yield PartitionFinding(
                table.name, name, "the partition is missing", "migrate the database", Remedy.MIGRATE
            )
            continue
        if partition.bound != ValueList(values):
            fix = f"{APPLY}, which adds values; split and merge move them"
            yield PartitionFinding(table.name, name, _difference(values, partition.bound), fix, Remedy.APPLY)
        for index in sorted(policy.indexes.get(name, {}).keys() - partition.indexes):
            yield PartitionFinding(table.name, name, f"the index {index} is missing", APPLY, Remedy.APPLY)
    for partition in table.partitions:
        if partition.name not in policy.groups and partition != table.default:
            fix = "declare it, or merge it into another"
            yield PartitionFinding(
                table.name, partition.name, "no policy names this partition", fix, Remedy.MERGE
            )


def _difference(wanted: frozenset[str], found: object) -> str:
    if not isinstance(found, ValueList):
        return "its bound is no list of values"
    lacks = [f"lacks {value}" for value in sorted(wanted - found.values)]
    extra = [f"holds {value}" for value in sorted(found.values - wanted)]
    return "its bound " + ", ".join(lacks + extra)


def _check_months(
    policy: MonthlyRange, table: PartitionedTable, current: Month
) -> Iterator[PartitionFinding]:
    for month in months_through(current, current.later(policy.months_ahead)):
        name = policy.partition_of(month)
        try:
            if not is_month_covered(table.name, table.ranges(), month, policy.keys_of(month)):
                yield PartitionFinding(table.name, name, f"{month} is missing", APPLY, Remedy.APPLY)
        except PartitionOverlap as overlap:
            reach = f" ({overlap.bound}; months are those of UTC)" if overlap.bound else ""
            fault = f"it covers a part of {month} only{reach}"
            yield PartitionFinding(
                table.name, overlap.partition, fault, "detach it, once its rows are elsewhere", Remedy.DETACH
            )


def _check_partitions(table: PartitionedTable) -> Iterator[PartitionFinding]:
    for partition in table.partitions:
        if partition.detach_pending:
            fault = "its detach was cut off: its rows are in no query of the table"
            yield PartitionFinding(table.name, partition.name, fault, APPLY, Remedy.APPLY)
            continue
        for name in partition.leftover_checks:
            fault = f"its CHECK {name} was left by a change or a detach, and refuses values of a later one"
            yield PartitionFinding(table.name, partition.name, fault, APPLY, Remedy.APPLY)
    if table.default is not None:
        fault = f"a DEFAULT partition stops every attach and detach; {table.default.rows or 'no known'} rows"
        fix = default_partition_fix(table.name, table.default.name)
        yield PartitionFinding(table.name, table.default.name, fault, fix)


def _check_detached(
    policy: Policy, table: PartitionedTable, detached: DetachedTable
) -> Iterator[PartitionFinding]:
    if detached.mark is not None and detached.mark.state is DetachedState.DETACHED:
        for missing in detached.missing_checks:
            fault = f"it lacks the CHECK {missing.name}, which its table got after it was detached"
            yield PartitionFinding(table.name, detached.name, fault, APPLY, Remedy.APPLY)
    match detached.mark:
        case None:
            fault = "it looks like a partition, and is none"
            yield PartitionFinding(
                table.name, detached.name, fault, "attach it by hand, rename it, or drop it"
            )
        case mark if mark.state is DetachedState.PREPARED:
            yield PartitionFinding(
                table.name,
                detached.name,
                "it was to become a partition: a run was killed",
                APPLY,
                Remedy.APPLY,
            )
        case mark if isinstance(policy, ListPartitions) or policy.retention is None:
            fault = f"it was detached {mark.at:%Y-%m-%d %H:%M}, and nothing will drop it"
            yield PartitionFinding(
                table.name, detached.name, fault, "attach it again, or drop it", Remedy.ATTACH_OR_DROP
            )


def _check_indexes(table: PartitionedTable) -> Iterator[PartitionFinding]:
    for partition in table.partitions:
        for index in sorted(partition.invalid_indexes):
            yield PartitionFinding(
                table.name, partition.name, f"the index {index} is invalid", APPLY, Remedy.APPLY
            )
    for whole in table.indexes:
        if not whole.valid:
            fault = f"the index {whole.name} is not on every partition"
            yield PartitionFinding(table.name, "", fault, APPLY, Remedy.APPLY)
