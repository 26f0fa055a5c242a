"""RANGE keys of time as pure values: what is written is read back, months tile, and nothing is infinite."""

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Date, DateTime, Text
from sqlalchemy.types import TypeEngine

from partitions.bounds import KeyRange, Month, months_through, parse_bound, render_bound
from partitions.errors import InfiniteBound, MonthWithoutKeys, UnknownBound
from partitions.policy import MonthlyRange
from partitions.policy_errors import RangeKeyUnsupported
from partitions.range_key import KeyType, key_of_value

TIMES = [kind for kind in KeyType if kind.is_time]
times = st.sampled_from(TIMES)
# As far as PostgreSQL's own calendar goes: 4714 BC to 294276 AD.
days = st.integers(-2_440_588, 106_751_000)


def key_of(kind: KeyType, day: int, microseconds: int) -> int:
    return day if kind is KeyType.DATE else day * 86_400_000_000 + microseconds


@given(kind=times, day=days, microseconds=st.integers(0, 86_399_999_999))
def test_key_is_read_back_from_its_literal(kind: KeyType, day: int, microseconds: int) -> None:
    key = key_of(kind, day, microseconds)
    assert kind.parse(kind.literal(key).strip("'")) == key


@given(
    instant=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
    offset=st.integers(-15 * 60 + 1, 15 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_instant_means_the_same_in_any_offset(instant: datetime, offset: timezone) -> None:
    kind = KeyType.TIMESTAMPTZ
    printed = instant.astimezone(offset).isoformat(sep=" ")
    assert kind.parse(printed) == kind.at(instant)
    assert kind.instant(kind.at(instant)) == instant
    assert key_of_value(instant.astimezone(offset)) == (kind, kind.at(instant))
    assert key_of_value(instant.replace(tzinfo=None)) == (KeyType.TIMESTAMP, kind.at(instant))
    assert key_of_value(instant.date()) == (KeyType.DATE, KeyType.DATE.at(instant))


@given(kind=times, year=st.integers(1, 9990), months=st.integers(0, 40))
def test_months_tile_without_gap_or_overlap(kind: KeyType, year: int, months: int) -> None:
    policy = MonthlyRange("payments", key="made_at", key_type=kind)
    first = Month(year, 1)
    found = [policy.keys_of(month) for month in months_through(first, first.later(months))]
    assert all(one.end == two.start and one.start < one.end for one, two in pairwise(found))
    for month, keys in zip(months_through(first, first.later(months)), found, strict=True):
        assert parse_bound("p", render_bound(keys), kind) == keys
        assert (
            policy.month_at(keys.start, latest=month) == month == policy.month_at(keys.end - 1, latest=month)
        )


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (KeyType.DATE, "FROM ('2026-11-01') TO ('2026-12-01')"),
        (KeyType.TIMESTAMP, "FROM ('2026-11-01 00:00:00') TO ('2026-12-01 00:00:00')"),
        (KeyType.TIMESTAMPTZ, "FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00')"),
    ],
)
def test_month_is_written_in_utc(kind: KeyType, written: str) -> None:
    keys = MonthlyRange("payments", key="made_at", key_type=kind).keys_of(Month(2026, 11))
    assert render_bound(keys) == f"FOR VALUES {written}"


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("end", ["MAXVALUE", "'infinity'"])
@pytest.mark.parametrize("start", ["MINVALUE", "'-infinity'"])
def test_infinite_bound_is_refused_by_name(kind: KeyType, start: str, end: str) -> None:
    for bound in (f"FROM ({start}) TO ('2026-11-01')", f"FROM ('2026-11-01') TO ({end})"):
        with pytest.raises(InfiniteBound, match=r"partition pay\.old has an infinite bound: FOR VALUES FROM"):
            parse_bound("pay.old", f"FOR VALUES {bound}", kind)


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (KeyType.DATE, "'2026-11-01 00:00:00'"),
        (KeyType.TIMESTAMP, "'2026-11-01'"),
        (KeyType.TIMESTAMP, "'01.11.2026 00:00:00'"),
        (KeyType.INTEGER, "'2026-11-01'"),
        (None, "'text'"),
    ],
)
def test_bound_of_another_type_is_unknown_not_misread(kind: KeyType | None, written: str) -> None:
    with pytest.raises(UnknownBound, match="partition p has a bound of an unknown kind"):
        parse_bound("p", f"FOR VALUES FROM ({written}) TO ({written})", kind)


def test_integers_are_written_as_before() -> None:
    assert render_bound(KeyRange(1, 2)) == "FOR VALUES FROM (1) TO (2)"
    assert parse_bound("p", "FOR VALUES FROM ('-1') TO ('2')") == KeyRange(-1, 2)


@pytest.mark.parametrize(
    ("given_type", "options", "reason"),
    [
        (Text, {}, "it is <class 'sqlalchemy.*Text'>"),
        (BigInteger, {}, "an integer has no months without key_at"),
        (Date, {"key_at": lambda instant: 1}, "a date has no key_at"),
        (DateTime(timezone=True), {"key_at": lambda instant: 1}, "a timestamp with time zone has no key_at"),
        (None, {}, "its type is not known here"),
    ],
)
def test_key_of_which_no_months_can_be_made_is_refused(
    given_type: TypeEngine[Any] | type[TypeEngine[Any]] | None, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(
        RangeKeyUnsupported, match=rf"^payments: no months can be made of the RANGE key at: {reason}"
    ):
        MonthlyRange("payments", key="at", key_type=given_type, **options)


def test_month_after_the_last_year_has_no_keys() -> None:
    with pytest.raises(MonthWithoutKeys, match="payments: 9999-12 has no keys"):
        MonthlyRange("payments", key="day", key_type=Date).keys_of(Month(9999, 12))
    assert key_of_value(date(1970, 1, 2)) == (KeyType.DATE, 1)
