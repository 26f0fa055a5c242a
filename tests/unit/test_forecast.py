"""The forecast without a database: trends of made-up series, and the lines that follow from them."""

import math
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.forecast.model import Forecast, LimitLine, forecast
from ops.forecast.trend import DAY, MIN_POINTS, Moment, Trend, find_trend, without_resets
from ops.monitoring.samples import Point, Series

NOW = datetime(2026, 12, 2, 12, tzinfo=UTC)
HOUR = 3600.0
MINUTE = 60.0

slopes = st.floats(-1e3, 1e3)
levels = st.floats(-1e6, 1e6)


def moments(value: Callable[[float], float], *, hours: float = 6.0, every: float = MINUTE) -> list[Moment]:
    """Return samples of a function of the time since the first one, the last of them at NOW."""
    count, end = int(hours * HOUR / every), NOW.timestamp()
    return [(end - (count - n) * every, value(n * every)) for n in range(count + 1)]


def trend_of(points: Sequence[Moment]) -> Trend:
    found = find_trend(points)
    assert found is not None
    return found


@given(slope=slopes, level=levels)
def test_line_is_found_and_its_range_is_itself(slope: float, level: float) -> None:
    points = moments(lambda second: level + slope * second)
    trend = trend_of(points)
    for found in (trend.slope, trend.slope_low, trend.slope_high):
        assert found == pytest.approx(slope, rel=1e-6, abs=1e-6)
    assert trend.level == pytest.approx(points[-1][1], rel=1e-6, abs=1e-2)


@given(slope=st.floats(1e-3, 1e3), hours=st.floats(1, 1000))
def test_line_meets_its_limit_when_it_does(slope: float, hours: float) -> None:
    points = moments(lambda second: slope * second)
    met = trend_of(points).reaches(points[-1][1] + slope * hours * HOUR)
    assert met.at == pytest.approx(NOW.timestamp() + hours * HOUR, abs=HOUR / 10)


@given(seed=st.integers(0, 2**32), slope=slopes, limit=st.floats(-1e9, 1e9))
def test_earliest_is_before_and_latest_behind(seed: int, slope: float, limit: float) -> None:
    noise = random.Random(seed)
    met = trend_of(moments(lambda second: slope * second + noise.gauss(0, 100))).reaches(limit)
    never = math.inf
    at, earliest, latest = (never if each is None else each for each in (met.at, met.earliest, met.latest))
    assert earliest <= at <= latest


@given(seed=st.integers(0, 2**32), shift=st.floats(-1e6, 1e6), scale=st.floats(0.01, 100))
def test_units_and_zero_do_not_matter(seed: int, shift: float, scale: float) -> None:
    noise = random.Random(seed)
    points = moments(lambda second: second / 10 + noise.gauss(0, 50))
    one, other = trend_of(points), trend_of([(at, shift + scale * value) for at, value in points])
    assert other.slope == pytest.approx(scale * one.slope, rel=1e-4, abs=1e-6)
    assert other.level == pytest.approx(shift + scale * one.level, rel=1e-4, abs=1e-3)


@given(slope=st.floats(-100, 0))
def test_what_does_not_grow_meets_no_limit(slope: float) -> None:
    met = trend_of(moments(lambda second: slope * second)).reaches(1e9)
    assert (met.at, met.earliest, met.latest) == (None, None, None) or slope > -1e-9


def test_limit_that_is_met_already_is_met_now() -> None:
    trend = trend_of(moments(lambda second: second))
    assert trend.reaches(trend.level - 1).at == trend.at


def test_a_restart_or_a_load_now_and_then_moves_the_slope_little() -> None:
    noise = random.Random(1)
    points = moments(lambda second: second + (1e6 if noise.random() < 0.1 else 0))
    assert trend_of(points).slope == pytest.approx(1, rel=0.02)


def test_a_days_ups_and_downs_are_no_growth() -> None:
    noise = random.Random(1)

    def load(second: float) -> float:
        return 100 + 50 * math.sin(2 * math.pi * second / DAY) + second / DAY + noise.gauss(0, 2)

    for days in (2, 3, 10):
        trend = trend_of(moments(load, hours=24 * days + 1, every=15 * MINUTE))
        assert trend.slope * DAY == pytest.approx(1, abs=0.7)
        # It is the evening that meets the limit.
        assert trend.peak_at(trend.at) == pytest.approx(150 + days, abs=5)
        met = trend.reaches(trend.peak_at(trend.at) + 3).at
        assert met is not None
        assert 0 < met - trend.at < 6 * DAY
        assert ((met - NOW.timestamp()) / DAY + days + 1 / 24) % 1 == pytest.approx(0.25, abs=0.1)


def test_growth_that_has_changed_lately_is_a_wide_range() -> None:
    trend = trend_of(moments(lambda second: max(0.0, second - 4 * HOUR)))
    assert trend.slope_low <= trend.slope < trend.slope_high
    assert trend.slope_high == pytest.approx(1, rel=0.4)


def test_too_little_history_has_no_trend() -> None:
    assert find_trend([]) is None
    assert find_trend(moments(lambda second: second)[: MIN_POINTS - 1]) is None
    assert find_trend(moments(lambda second: second, hours=0.4)) is None
    assert find_trend(moments(lambda second: second, hours=0.4), min_span_seconds=60) is not None


@given(steps=st.lists(st.integers(0, 1000), min_size=2, max_size=60), at=st.integers(1, 59))
def test_counter_that_began_anew_has_grown_all_the_same(steps: list[int], at: int) -> None:
    total, points, truth, counted = 0, [], [], 0
    for number, step in enumerate(steps):
        total = step if number == at else total + step
        counted += step if number else 0
        points.append((float(number), float(total)))
        truth.append(float(counted))
    if at < len(steps) and steps[at] >= points[at - 1][1]:
        return  # that cannot be seen
    assert [value for _, value in without_resets(points)] == truth


def series(metric: str, value: Callable[[float], float], *, hours: float = 6.0, **labels: str) -> Series:
    """Return a series, the last sample of which is at NOW."""
    every = MINUTE if hours < 48 else 15 * MINUTE
    points = moments(value, hours=hours, every=every)
    return Series(metric, labels, [Point(datetime.fromtimestamp(at, tz=UTC), found) for at, found in points])


def look(*found: Series, days: int = 90) -> Forecast:
    return forecast(found, now=NOW, horizon=timedelta(days=days))


def only(found: Forecast) -> LimitLine:
    [line] = found.limits
    return line


def disk(node: str, free: Callable[[float], float], *, size: float = 1e9, hours: float = 6.0) -> list[Series]:
    return [
        series("mes_storage_disk_free_bytes", free, hours=hours, database="mes_0", node=node),
        series("mes_storage_disk_bytes", lambda _: size, hours=hours, database="mes_0", node=node),
    ]


def test_disk_is_full_when_nothing_is_left() -> None:
    line = only(look(*disk("primary", lambda second: 8e8 - 1e4 * second)))
    left = 8e8 - 1e4 * 6 * HOUR
    assert line.full_at is not None
    assert line.full_at - NOW == pytest.approx(timedelta(seconds=left / 1e4), abs=timedelta(minutes=5))
    assert (line.what, line.object, line.limit) == ("disk", "mes_0 primary", 1e9)
    assert "mesctl archive run" in line.command
    assert line.per_day == pytest.approx(1e4 * DAY, rel=0.01)


def test_disk_that_nodes_share_is_one_line() -> None:
    shared = [
        *disk("primary", lambda second: 8e8 - second),
        *disk("mes_0_replica", lambda second: 8e8 - second),
    ]
    assert len(look(*shared).limits) == 1
    assert len(look(*shared, *disk("far", lambda _: 9e9, size=1e10)).limits) == 2


def test_lines_without_a_date_say_why() -> None:
    free = disk("primary", lambda _: 5e8)
    assert only(look(*free)).note == "does not grow"
    assert only(look(*disk("primary", lambda second: 8e8 - second), days=1)).note == "after the horizon"
    short = only(look(*disk("primary", lambda second: 8e8 - second, hours=0.2)))
    assert short.note == "too little history: 13 samples over 12 min"
    assert short.full_at is None
    assert short.value == pytest.approx(2e8 + 720)


def noisy(seed: int) -> LimitLine:
    chance = random.Random(seed)
    level = series(
        "mes_storage_connections", lambda _: 40 + chance.uniform(-5, 5), hours=0.5, database="shop"
    )
    return only(look(level, series("mes_storage_connections_max", lambda _: 100, hours=0.5, database="shop")))


def test_noise_rarely_gives_a_date() -> None:
    """A range of 95 % leaves some to chance; nearly half of them had one when the range was not asked."""
    dated = [line for line in map(noisy, range(100)) if line.full_at is not None]
    assert len(dated) <= 10


def test_first_that_is_full_comes_first() -> None:
    found = look(
        *disk("primary", lambda second: 8e8 - 1e3 * second),
        series("mes_storage_connections", lambda second: 20 + second / 360, database="shop"),
        series("mes_storage_connections_max", lambda _: 197, database="shop"),
        series("mes_storage_id_leases", lambda _: 5, id_space="default"),
        series("mes_storage_id_leases_max", lambda _: 1024, id_space="default"),
    )
    assert [line.what for line in found.limits] == ["connections", "disk", "node numbers"]
    assert found.limits[0].command == "mesctl pgbouncer render, check"


def test_months_that_stand_ready_end_on_a_date() -> None:
    found = look(
        series("mes_storage_partitions_months_ahead", lambda _: 2, database="mes_0", table="orders_archive"),
        series("mes_storage_partitions_months_ahead", lambda _: -1, database="mes_1", table="orders_archive"),
    )
    late, ready = found.limits
    assert (late.object, late.full_at) == ("mes_1 orders_archive", NOW)
    assert (ready.full_at, ready.command) == (datetime(2027, 3, 1, tzinfo=UTC), "mesctl partitions apply")


def test_shards_that_grow_apart_are_foreseen() -> None:
    shards = [
        series("mes_storage_shard_rows", lambda second: 1e5 + 0.02 * second, tree="mes", shard="mes_0"),
        series("mes_storage_shard_rows", lambda second: 1e5 + 0.1 * second, tree="mes", shard="mes_1"),
    ]
    line = only(look(*shards))
    assert (line.what, line.object, line.command) == ("shard imbalance", "mes", "mesctl shards plan")
    assert line.value < 1.05
    # (1e5 + 0.1 t) * 2 = 1.25 * (2e5 + 0.12 t)
    expected = timedelta(seconds=5e4 / 0.05 - 6 * HOUR)
    assert line.full_at is not None
    assert abs(line.full_at - NOW - expected) <= timedelta(days=1)
    assert only(look(*shards, days=5)).note == "not until the horizon"


def test_growth_is_summed_by_database_and_counters_go_on() -> None:
    found = look(
        series("app_orders", lambda second: second / 60, database="shop", status="CLOSED"),
        series("app_orders", lambda _: 100.0, database="shop", status="SUBMITTED"),
        series("app_orders_oldest_seconds", lambda second: second, database="shop", status="CLOSED"),
        series("mes_storage_transactions_total", lambda second: second % HOUR, database="shop"),
        days=10,
    )
    lines = {line.what: line for line in found.growth}
    assert lines.keys() == {"app orders", "transactions"}
    assert lines["app orders"].value == 460
    assert lines["app orders"].per_day == pytest.approx(1440)
    assert lines["app orders"].at_horizon == pytest.approx(14_860)
    assert lines["transactions"].per_day == pytest.approx(DAY, rel=0.1)


def test_workers_that_are_needed_follow_from_the_time_that_they_are_busy() -> None:
    # Two shards, each with work for three workers; and it grows by one worker in ten days.
    growing = [
        series("app_pricing_busy_seconds_total", lambda second: 3 * second, database=f"mes_{n}", hours=24)
        for n in range(2)
    ]
    [line] = look(*growing, days=10).workers
    assert line.what == "app pricing"
    assert line.busy == pytest.approx(6, rel=0.01)
    assert (line.needed, line.needed_at_horizon) == (9, 9)


def test_metric_of_the_project_may_have_a_limit() -> None:
    found = look(
        series("app_desks", lambda second: 10 + second / HOUR, hall="a"),
        series("app_desks_max", lambda _: 40, hall="a"),
    )
    assert only(found).full_at is not None
    assert only(found).object == "a"


def test_nothing_is_said_of_nothing() -> None:
    assert look() == Forecast(NOW, timedelta(days=90), [], [], [])
    assert look(days=10**6).limits == []
