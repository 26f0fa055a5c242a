"""Months: the calendar in UTC, and the keys of each."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions.bounds import KeyRange, Month, months_through
from sharding.ids import first_id_at, instant_of

months = st.builds(Month, st.integers(2024, 2080), st.integers(1, 12))


def test_month_is_of_utc() -> None:
    late_in_samoa = datetime(2026, 10, 31, 23, 30, tzinfo=timezone(timedelta(hours=-11)))
    assert Month.of(late_in_samoa) == Month(2026, 11)


def test_naive_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        Month.of(datetime(2026, 11, 1))


@pytest.mark.parametrize("text", ["2026-13", "2026-00", "2026-1", "26-01", "2026-011", ""])
def test_text_that_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a month"):
        Month.parse(text)


@given(months)
def test_text_reads_back(month: Month) -> None:
    assert Month.parse(str(month)) == month


@given(months)
def test_next_and_previous_are_inverse(month: Month) -> None:
    assert month.next.previous == month
    assert month.previous < month < month.next


@given(months, st.integers(-30, 30))
def test_later_counts_months(month: Month, count: int) -> None:
    later = month.later(count)
    assert (later.year - month.year) * 12 + later.number - month.number == count


@given(months)
def test_keys_of_neighbours_touch(month: Month) -> None:
    assert month.keys(first_id_at).end == month.next.keys(first_id_at).start


@given(months)
def test_keys_hold_the_ids_of_the_month_and_no_other(month: Month) -> None:
    keys = month.keys(first_id_at)
    assert Month.of(instant_of(keys.start)) == month == Month.of(instant_of(keys.end - 1))
    assert Month.of(instant_of(keys.end)) == month.next


def test_months_through_includes_both_ends() -> None:
    assert [str(month) for month in months_through(Month(2026, 11), Month(2027, 2))] == [
        "2026-11",
        "2026-12",
        "2027-01",
        "2027-02",
    ]
    assert list(months_through(Month(2026, 11), Month(2026, 10))) == []


@given(*[st.integers(0, 20)] * 4)
def test_ranges_overlap_where_they_share_a_key(a: int, b: int, c: int, d: int) -> None:
    one, other = KeyRange(min(a, b), max(a, b) + 1), KeyRange(min(c, d), max(c, d) + 1)
    shared = set(range(one.start, one.end)) & set(range(other.start, other.end))
    assert one.overlaps(other) == bool(shared)
    assert one.covers(other) == (len(shared) == other.end - other.start)


def test_start_is_midnight_utc() -> None:
    assert Month(2026, 11).start == datetime(2026, 11, 1, tzinfo=UTC)
