"""A month's whole life by plan alone: for any policy, history and clock, a second plan is empty."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions.actions import (
    Action,
    Analyze,
    AttachPartition,
    CreateMonth,
    DetachPartition,
    DropTable,
    FinalizeDetach,
)
from partitions.bounds import Bound, DefaultBound, Month, ValueList, render_bound
from partitions.catalog import Partition, PartitionedTable, TableIndex
from partitions.check import check
from partitions.detached import DetachedMark, DetachedState, DetachedTable
from partitions.errors import DefaultPartitionBlocks, PartitionNameTaken
from partitions.indexes import CreateIndex, DropLeftoverIndex, RepairIndex
from partitions.plan import plan
from partitions.policy import ListPartitions, MonthlyRange, Retention
from partitions.policy_errors import (
    DuplicatePolicy,
    EmptyGroup,
    NegativeMonths,
    RetentionShorterThanGrace,
    ValueInTwoGroups,
)
from partitions.regroup import ChangeValues, DropCheck
from sharding.ids import first_id_at

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
CURRENT = Month(2026, 11)


def policy_of(*, ahead: int = 1, retention: Retention | None = None) -> MonthlyRange:
    return MonthlyRange(
        table="archive", key="order_id", key_at=first_id_at, months_ahead=ahead, retention=retention
    )


def list_of(**groups: str) -> ListPartitions:
    return ListPartitions("orders", key="status", groups=groups, row_id="order_id")


def partition_of(name: str, bound: Bound, *, pending: bool = False, check: bool = False) -> Partition:
    return Partition(
        name,
        bound,
        rows=None,
        size_bytes=0,
        indexes=frozenset(),
        invalid_indexes=frozenset(),
        detach_pending=pending,
        leftover_checks=(f"{name}_regroup_check",) if check else (),
    )


def month_of(month: Month, *, pending: bool = False) -> Partition:
    return partition_of(policy_of().partition_of(month), month.keys(first_id_at), pending=pending)


def lone_of(month: Month, at: datetime, state: DetachedState = DetachedState.DETACHED) -> DetachedTable:
    mark = DetachedMark(state, "archive", render_bound(month.keys(first_id_at)), at)
    return DetachedTable(policy_of().partition_of(month), mark)


def done(table: PartitionedTable, actions: Iterable[Action], now: datetime) -> PartitionedTable:
    """Do to the values what the executor does to the tables."""
    there = {found.name: found for found in table.partitions}
    lone = {found.name: found for found in table.detached}
    analyzed = table.analyzed_at
    for action in actions:
        match action:
            case CreateMonth(partition=name, keys=bound):
                assert name not in there | lone
                there[name] = partition_of(name, bound)
            case AttachPartition(partition=name, bound=bound):
                del lone[name]
                there[name] = partition_of(name, bound)
            case DetachPartition(partition=name, bound=bound) | FinalizeDetach(partition=name, bound=bound):
                assert there.pop(name).detach_pending == isinstance(action, FinalizeDetach)
                lone[name] = DetachedTable(
                    name, DetachedMark(DetachedState.DETACHED, "archive", render_bound(bound), action.at)
                )
            case DropTable(partition=name):
                del lone[name]
            case Analyze():
                analyzed = now
            case _:
                pytest.fail(f"unexpected {action}")
    return replace(
        table,
        partitions=tuple(sorted(there.values(), key=lambda found: found.name)),
        detached=tuple(lone.values()),
        analyzed_at=analyzed,
    )


instants = st.datetimes(datetime(2027, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))
kinds = st.sampled_from(["attached", "pending", "detached", "prepared"])
retentions = st.none() | st.builds(
    Retention, months=st.integers(0, 30), drop_delay=st.integers(0, 90).map(lambda days: timedelta(days=days))
)


@given(
    now=instants,
    history=st.dictionaries(st.integers(-30, 3), st.tuples(kinds, st.integers(0, 100))),
    retention=retentions,
    ahead=st.integers(0, 6),
    since=st.none() | st.integers(-30, 0),
)
def test_second_plan_is_empty_and_what_is_needed_stands(
    now: datetime,
    history: dict[int, tuple[str, int]],
    retention: Retention | None,
    ahead: int,
    since: int | None,
) -> None:
    policy, current = policy_of(ahead=ahead, retention=retention), Month.of(now)
    partitions, lone = [], []
    for offset, (kind, days) in history.items():
        month, at = current.later(offset), now - timedelta(days=days)
        if kind in {"attached", "pending"}:
            partitions.append(month_of(month, pending=kind == "pending"))
        else:
            lone.append(
                lone_of(month, at, DetachedState.DETACHED if kind == "detached" else DetachedState.PREPARED)
            )
    table = PartitionedTable("archive", tuple(partitions), tuple(lone))
    earliest = None if since is None else current.later(since)

    table = done(table, plan([policy], {"archive": table}, now, since=earliest), now)
    table = done(table, again := plan([policy], {"archive": table}, now, since=earliest), now)
    # A delay of nothing lets the second run drop what the first has detached.
    assert all(isinstance(action, DropTable) for action in again)
    assert not again or (retention is not None and not retention.drop_delay)
    assert plan([policy], {"archive": table}, now, since=earliest) == []

    ranges = sorted(table.ranges().values())
    assert all(one.end <= two.start for one, two in pairwise(ranges))
    needed = [current.later(offset) for offset in range(since or 0, ahead + 1)]
    assert all(any(found.covers(month.keys(first_id_at)) for found in ranges) for month in needed)
    faults = {finding.fault for finding in check([policy], {"archive": table}, now)}
    assert all("nothing will drop it" in fault for fault in faults)


def test_month_goes_in_two_stages() -> None:
    policy = policy_of(retention=Retention(months=2, drop_delay=timedelta(days=7)))
    table = PartitionedTable(
        "archive", tuple(month_of(CURRENT.later(offset)) for offset in range(-3, 2)), analyzed_at=NOW
    )
    actions = plan([policy], {"archive": table}, NOW)
    assert [action.summary for action in actions] == ["detach archive_2026_08"]
    table = done(table, actions, NOW)
    assert plan([policy], {"archive": table}, NOW + timedelta(days=6, hours=23)) == []
    [drop] = plan([policy], {"archive": table}, NOW + timedelta(days=7))
    assert (drop.summary, drop.why) == ("drop archive_2026_08", "detached 2026-11-23 12:00")


def test_without_a_retention_everything_stays() -> None:
    old = lone_of(CURRENT.later(-20), NOW - timedelta(days=400))
    months = tuple(month_of(CURRENT.later(offset)) for offset in range(-12, 2))
    table = PartitionedTable("archive", months, (old,), analyzed_at=NOW)
    assert plan([policy_of()], {"archive": table}, NOW) == []


def test_table_with_a_months_name_is_not_touched() -> None:
    table = PartitionedTable("archive", detached=(DetachedTable("archive_2026_12", None),))
    with pytest.raises(PartitionNameTaken, match="archive_2026_12 exists and is no partition of it"):
        plan([policy_of()], {"archive": table}, NOW)


def test_default_partition_is_named_before_anything_waits_for_it() -> None:
    table = PartitionedTable("archive", (partition_of("archive_rest", DefaultBound()),))
    with pytest.raises(
        DefaultPartitionBlocks, match="the DEFAULT partition archive_rest holds an unknown number"
    ):
        plan([policy_of()], {"archive": table}, NOW)


def test_new_status_is_added_and_a_moved_one_is_left_to_a_person() -> None:
    policy = list_of(hot="ABN", done="C")
    table = PartitionedTable(
        "orders",
        (
            partition_of("hot", ValueList(frozenset("A"))),
            partition_of("done", ValueList(frozenset("BC")), check=True),
        ),
        analyzed_at=NOW,
    )
    leftover, change = plan([policy], {"orders": table}, NOW)
    assert isinstance(leftover, DropCheck)
    assert isinstance(change, ChangeValues)
    assert (change.partition, change.after) == ("hot", frozenset("AN"))


def test_indexes_that_a_kill_left_are_completed_and_rebuilt() -> None:
    month = replace(month_of(CURRENT), indexes=frozenset({"bad"}), invalid_indexes=frozenset({"bad"}))
    index = TableIndex("archive_partner_idx", "USING btree (partner)", unique=False, valid=False)
    table = PartitionedTable("archive", (month,), indexes=(index,), analyzed_at=NOW)
    create, repair = plan([policy_of(ahead=0)], {"archive": table}, NOW)
    assert isinstance(create, CreateIndex)
    assert create.partitions == (month.name,)
    assert isinstance(repair, RepairIndex)


@pytest.mark.parametrize("name", ["bad", "b" * 63, "ä" * 31])
def test_repair_clears_away_what_reindex_left_and_never_the_index(name: str) -> None:
    [step] = RepairIndex(table="archive", partition="archive_1", index=name).steps()
    [drop] = step.cleanup
    left = drop.removeprefix("DROP INDEX CONCURRENTLY IF EXISTS ").strip('"')
    assert left.endswith("_ccnew")
    assert len(left.encode()) <= 63
    assert left.removesuffix("_ccnew") == name[: len(left) - len("_ccnew")]


@pytest.mark.parametrize("suffix", ["_ccnew", "_ccold", "_ccnew1", "_ccold12"])
def test_leftover_of_a_reindex_is_dropped_whatever_its_number(suffix: str) -> None:
    names = frozenset({f"archive_idx{suffix}"})
    month = replace(month_of(CURRENT), indexes=names, invalid_indexes=names)
    table = PartitionedTable("archive", (month,), analyzed_at=NOW)
    [drop] = plan([policy_of(ahead=0)], {"archive": table}, NOW)
    assert isinstance(drop, DropLeftoverIndex)


def test_policies_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(ValueInTwoGroups, match="orders: B is in hot and in done"):
        list_of(hot="AB", done="BC")
    with pytest.raises(EmptyGroup, match="orders: hot has no values"):
        list_of(hot="")
    with pytest.raises(RetentionShorterThanGrace, match=r"archive: a retention of 1 months .* keep 2 months"):
        MonthlyRange(
            table="archive",
            key="order_id",
            key_at=first_id_at,
            grace=timedelta(days=30),
            retention=Retention(months=1),
        )
    with pytest.raises(NegativeMonths, match="archive: -1 months"):
        policy_of(ahead=-1)
    with pytest.raises(DuplicatePolicy, match="archive has two policies"):
        plan([policy_of(), policy_of()], {"archive": PartitionedTable("archive")}, NOW)
