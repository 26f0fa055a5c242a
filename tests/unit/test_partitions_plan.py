"""The plan: which months are missing, for any history of the table."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions.actions import Action, CreateMonth
from partitions.bounds import KeyRange, Month, months_through
from partitions.catalog import Partition, PartitionedTable
from partitions.check import check
from partitions.errors import PartitionOverlap
from partitions.plan import plan
from partitions.policy import MonthlyRange
from sharding.ids import first_id_at

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ANALYZED = datetime(2100, 1, 1, tzinfo=UTC)
POLICY = MonthlyRange(table="archive", key="order_id", key_at=first_id_at, months_ahead=3)

offsets = st.integers(-30, 3)
instants = st.datetimes(datetime(2027, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))


def table_of(ranges: Iterable[tuple[str, KeyRange]]) -> PartitionedTable:
    return PartitionedTable(
        "archive",
        tuple(
            Partition(name, keys, rows=None, size_bytes=0, indexes=frozenset(), invalid_indexes=frozenset())
            for name, keys in ranges
        ),
        analyzed_at=ANALYZED,
    )


def table_with(standing: Iterable[Month]) -> PartitionedTable:
    return table_of((POLICY.partition_of(month), month.keys(first_id_at)) for month in standing)


def after(table: PartitionedTable, actions: Iterable[Action]) -> PartitionedTable:
    made = [(action.partition, action.keys) for action in actions if isinstance(action, CreateMonth)]
    return table_of([*table.ranges().items(), *made])


def planned(actions: Iterable[Action]) -> list[str]:
    return [str(action.month) for action in actions if isinstance(action, CreateMonth)]


def test_empty_table_gets_this_month_and_those_ahead() -> None:
    actions = plan([POLICY], {"archive": table_with([])}, NOW)
    assert planned(actions) == ["2026-11", "2026-12", "2027-01", "2027-02"]


def test_months_that_stand_are_left_alone() -> None:
    table = table_with(months_through(Month(2026, 11), Month(2027, 1)))
    assert planned(plan([POLICY], {"archive": table}, NOW)) == ["2027-02"]


def test_rows_of_an_old_month_make_every_month_since() -> None:
    actions = plan([POLICY], {"archive": table_with([])}, NOW, since=Month(2026, 9))
    assert planned(actions)[:3] == ["2026-09", "2026-10", "2026-11"]


def test_gap_of_an_idle_time_is_closed() -> None:
    actions = plan([POLICY], {"archive": table_with([Month(2026, 8)])}, NOW)
    assert planned(actions)[:2] == ["2026-09", "2026-10"]


def test_the_first_month_of_ids_is_no_edge() -> None:
    # Before it there are no ids, and asking for one would fail.
    table = table_with([Month(2024, 1)])
    assert planned(plan([POLICY], {"archive": table}, NOW))[0] == "2024-02"


def test_partition_wider_than_a_month_will_do() -> None:
    year = KeyRange(first_id_at(Month(2026, 1).start), first_id_at(Month(2027, 1).start))
    assert planned(plan([POLICY], {"archive": table_of([("archive_2026", year)])}, NOW)) == [
        "2027-01",
        "2027-02",
    ]


def test_partition_of_half_a_month_is_refused_by_name() -> None:
    half = KeyRange(first_id_at(Month(2026, 12).start), first_id_at(datetime(2026, 12, 15, tzinfo=UTC)))
    with pytest.raises(PartitionOverlap, match=r"archive: partition archive_half covers a part of 2026-12"):
        plan([POLICY], {"archive": table_of([("archive_half", half)])}, NOW)


@given(now=instants, standing=st.sets(offsets), since=st.none() | offsets)
def test_after_the_plan_nothing_is_left_and_time_is_covered(
    now: datetime, standing: set[int], since: int | None
) -> None:
    current = Month.of(now)
    earliest = None if since is None else current.later(since)
    table = table_with(map(current.later, standing))
    table = after(table, plan([POLICY], {"archive": table}, now, since=earliest))

    assert plan([POLICY], {"archive": table}, now, since=earliest) == []
    assert check([POLICY], {"archive": table}, now) == []
    ranges = sorted(table.ranges().values())
    assert all(one.end == two.start for one, two in pairwise(ranges))
    assert ranges[0].start == first_id_at(current.later(min({0, since or 0} | standing)).start)
    assert ranges[-1].end == first_id_at(current.later(4).start)


@given(now=instants, standing=st.sets(offsets))
def test_check_finds_exactly_the_months_from_now_on_that_are_planned(
    now: datetime, standing: set[int]
) -> None:
    current = Month.of(now)
    catalog = {"archive": table_with(map(current.later, standing))}
    actions = plan([POLICY], catalog, now)
    wanted = [
        action.partition for action in actions if isinstance(action, CreateMonth) and action.month >= current
    ]
    assert [finding.partition for finding in check([POLICY], catalog, now)] == wanted
