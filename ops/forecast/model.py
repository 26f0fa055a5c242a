"""What grows, and when what is full: lines of a forecast, from series of samples. Pure.

The limits are data. A metric of the project has one if there is another of its name with `_max` behind it.
The growth of a metric that ends in `_busy_seconds_total` is how many workers are busy.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import ceil
from typing import NamedTuple

from ops.forecast.trend import DAY, MIN_SPAN_SECONDS, SEASON_DAYS, Moment, Trend, find_trend, without_resets
from ops.monitoring.databases import PREFIX
from ops.monitoring.samples import Series
from partitions.bounds import Month
from sharding.ids import MAX_ID, instant_of

BUSY = "_busy_seconds_total"
UTILISATION = 0.7
"""How much of their time workers may be busy: beyond it, work waits."""

SKEW_LIMIT = 1.25
"""Rows of the fullest shard over the mean: what `mesctl shards plan` is worth while for."""

_LAST = datetime(9000, 1, 1, tzinfo=UTC)
_RATES = 48
"""In how many pieces of time the work of workers is looked at."""


class LimitRule(NamedTuple):
    """A metric, the metric of its limit, and what helps; `is_free` says that it counts what is left."""

    what: str
    metric: str
    limit: str
    command: str
    is_free: bool = False


LIMITS = (
    LimitRule(
        "disk",
        f"{PREFIX}_disk_free_bytes",
        f"{PREFIX}_disk_bytes",
        "mesctl archive run, mesctl archive export",
        is_free=True,
    ),
    LimitRule(
        "connections", f"{PREFIX}_connections", f"{PREFIX}_connections_max", "mesctl pgbouncer render, check"
    ),
    LimitRule(
        "node numbers",
        f"{PREFIX}_id_leases",
        f"{PREFIX}_id_leases_max",
        "fewer processes, or an id_space of its own for a tree",
    ),
)

GROWTHS: Mapping[str, str] = {
    "transactions": f"{PREFIX}_transactions_total",
    "rows": f"{PREFIX}_rows",
    "bytes": f"{PREFIX}_database_bytes",
}


@dataclass(frozen=True, slots=True)
class LimitLine:
    """When something is full, and what helps. Without a moment the note says why there is none."""

    what: str
    object: str
    value: float
    limit: float
    per_day: float | None = None
    full_at: datetime | None = None
    earliest: datetime | None = None
    latest: datetime | None = None
    history_seconds: float = 0.0
    command: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class GrowthLine:
    """How much there is of something, how it grows, and how much it will be at the horizon."""

    what: str
    object: str
    value: float
    per_day: float | None
    at_horizon: float | None
    history_seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class WorkersLine:
    """How many workers are busy in the mean, and how many are needed now and at the horizon."""

    what: str
    busy: float
    needed: int
    needed_at_horizon: int
    history_seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """All lines; limits by their date, the first one first."""

    at: datetime
    horizon: timedelta
    limits: Sequence[LimitLine]
    growth: Sequence[GrowthLine]
    workers: Sequence[WorkersLine]


def forecast(
    series: Iterable[Series],
    *,
    now: datetime,
    horizon: timedelta,
    min_span_seconds: float = MIN_SPAN_SECONDS,
) -> Forecast:
    """Return what the samples say about the time until the horizon.

    Parameters:
        series: of all metrics.
        now: the current instant.
        horizon: how far to look.
        min_span_seconds: with a shorter history nothing is said about the future.
    """
    book = _Book(series, now, horizon, min_span_seconds)
    limits = [*book.limits(), *book.months(), *book.skews(), *book.id_time()]
    return Forecast(
        now,
        horizon,
        sorted(limits, key=lambda line: (line.full_at or _LAST, line.what, line.object)),
        list(book.growth()),
        list(book.workers()),
    )


class _Book:
    """The series by metric, and what follows from them."""

    def __init__(
        self, series: Iterable[Series], now: datetime, horizon: timedelta, min_span_seconds: float
    ) -> None:
        self._metrics: dict[str, list[Series]] = {}
        for each in series:
            self._metrics.setdefault(each.metric, []).append(each)
        self._now, self._min_span = now, min_span_seconds
        # The moments that a calendar has.
        self._horizon = min(horizon, _LAST - now)

    def limits(self) -> Iterator[LimitLine]:
        """Return when each metric meets its limit, those of the project among them."""
        own = [
            LimitRule(name.replace("_", " "), name, f"{name}_max", "")
            for name in self._metrics
            if not name.startswith(PREFIX) and f"{name}_max" in self._metrics
        ]
        for rule in (*LIMITS, *own):
            ends = {_object(each.labels): each.points[-1].value for each in self._metrics.get(rule.limit, ())}
            seen: dict[tuple[float, float], str] = {}
            for each in self._metrics.get(rule.metric, ()):
                name = _object(each.labels)
                if name in ends and self._is_new(rule, each, ends[name], seen):
                    yield self._limit(rule, each, ends[name])

    @staticmethod
    def _is_new(rule: LimitRule, series: Series, limit: float, seen: dict[tuple[float, float], str]) -> bool:
        """Return whether a disk was not seen yet: nodes on one machine may share it."""
        key = (limit, round(series.points[-1].value / limit, 3))
        return not rule.is_free or seen.setdefault(key, _object(series.labels)) == _object(series.labels)

    def _limit(self, rule: LimitRule, series: Series, limit: float) -> LimitLine:
        moments = _moments(series)
        if rule.is_free:
            moments = [(moment, limit - value) for moment, value in moments]
        value, name = moments[-1][1], _object(series.labels)
        trend = self._trend(moments)
        if trend is None:
            return LimitLine(rule.what, name, value, limit, command=rule.command, note=_too_little(moments))
        met = trend.reaches(limit)
        # A slope whose range includes 0 is noise.
        is_growth = trend.slope_low > 0 or value >= limit
        full_at = self._within(met.at) if is_growth else None
        note = "" if full_at else "after the horizon" if is_growth else "no clear growth"
        if met.at is None:
            note = "does not grow"
        return LimitLine(
            rule.what,
            name,
            value,
            limit,
            per_day=trend.slope * DAY,
            full_at=full_at,
            earliest=self._within(met.earliest),
            latest=self._within(met.latest),
            history_seconds=trend.span_seconds,
            command=rule.command,
            note=note,
        )

    def months(self) -> Iterator[LimitLine]:
        """Return when the months end that stand ready: it needs no trend."""
        for each in self._metrics.get(f"{PREFIX}_partitions_months_ahead", ()):
            ahead = int(each.points[-1].value)
            month = Month.of(each.points[-1].at)
            # What is not ready now is due now.
            end = month.later(ahead + 1).start if ahead >= 0 else self._now
            yield LimitLine(
                "months ahead",
                _object(each.labels),
                ahead,
                0,
                full_at=end,
                earliest=end,
                latest=end,
                command="mesctl partitions apply",
            )

    def skews(self) -> Iterator[LimitLine]:
        """Return when the fullest shard of each tree has too much more than the mean."""
        trees: dict[str, list[Series]] = {}
        for each in self._metrics.get(f"{PREFIX}_shard_rows", ()):
            trees.setdefault(each.labels["tree"], []).append(each)
        for tree, shards in trees.items():
            trends = [self._trend(_moments(each)) for each in shards]
            known = [trend for trend in trends if trend is not None]
            now = _skew([each.points[-1].value for each in shards])
            line = LimitLine("shard imbalance", tree, now, SKEW_LIMIT, command="mesctl shards plan")
            if len(shards) > 1 and len(known) == len(shards):
                yield self._skew_line(line, known)
            elif len(shards) > 1:
                yield replace(line, note=_too_little(min(map(_moments, shards), key=len)))

    def _skew_line(self, line: LimitLine, trends: Sequence[Trend]) -> LimitLine:
        moments = [self._now + timedelta(days=day) for day in range(self._horizon.days + 1)]
        found = next((each for each in moments if _skew_at(trends, each) > SKEW_LIMIT), None)
        span = min(trend.span_seconds for trend in trends)
        note = "" if found else "not until the horizon"
        return replace(line, full_at=found, history_seconds=span, note=note)

    def id_time(self) -> Iterator[LimitLine]:
        """Return when the time in ids ends: 41 bits of milliseconds, whatever is made."""
        end = instant_of(MAX_ID)
        if self._metrics.get(f"{PREFIX}_id_leases") and end <= self._now + self._horizon:
            yield LimitLine("id time", "all", 0, 0, full_at=end, earliest=end, latest=end)

    def growth(self) -> Iterator[GrowthLine]:
        """Return how the sums grow, by database."""
        own = {
            name.replace("_", " "): name
            for name in self._metrics
            if not name.startswith(PREFIX) and not name.endswith(("_seconds", "_max", BUSY))
        }
        for what, metric in (*GROWTHS.items(), *own.items()):
            for database, moments in _sums(self._metrics.get(metric, ())).items():
                grown = without_resets(moments) if metric.endswith("_total") else moments
                yield self._growth(what, database, moments[-1][1], grown)

    def _growth(self, what: str, database: str, value: float, moments: Sequence[Moment]) -> GrowthLine:
        trend = self._trend(moments)
        if trend is None:
            return GrowthLine(what, database, value, None, None, 0.0, _too_little(moments))
        per_day = trend.slope * DAY
        at_horizon = value + trend.slope * self._horizon.total_seconds()
        return GrowthLine(what, database, value, per_day, at_horizon, trend.span_seconds)

    def workers(self) -> Iterator[WorkersLine]:
        """Return how many workers are needed for each kind of work that says how long it was busy."""
        for name, series in self._metrics.items():
            if name.endswith(BUSY):
                rates = _rates(series)
                trend = self._trend(rates)
                if trend is not None:
                    busy = max(0.0, trend.peak_at(trend.at))
                    later = max(0.0, trend.peak_at((self._now + self._horizon).timestamp()))
                    what = name.removesuffix(BUSY).replace("_", " ")
                    yield WorkersLine(what, busy, _workers(busy), _workers(later), trend.span_seconds)

    def _trend(self, moments: Sequence[Moment]) -> Trend | None:
        return find_trend(moments, min_span_seconds=self._min_span)

    def _within(self, moment: float | None) -> datetime | None:
        """Return a moment that is not past the horizon."""
        if moment is None or moment > (self._now + self._horizon).timestamp():
            return None
        return _instant(moment)


def _object(labels: Mapping[str, str]) -> str:
    return " ".join(labels.values())


def _moments(series: Series) -> list[Moment]:
    return [(point.at.timestamp(), point.value) for point in series.points]


def _sums(series: Iterable[Series]) -> dict[str, list[Moment]]:
    """Return the sum of the series of each database, at the moments at which all of them have a value."""
    databases: dict[str, list[Series]] = {}
    for each in series:
        databases.setdefault(each.labels.get("database", ""), []).append(each)
    return {name: _sum(map(_moments, members)) for name, members in databases.items()}


def _sum(series: Iterable[Sequence[Moment]]) -> list[Moment]:
    found: dict[float, list[float]] = {}
    for moments in series:
        for moment, value in moments:
            found.setdefault(moment, []).append(value)
    most = max(map(len, found.values()))
    return [(moment, sum(values)) for moment, values in sorted(found.items()) if len(values) == most]


def _rates(series: Sequence[Series]) -> list[Moment]:
    """Return by how much counters grow in a second, over all of them, for each piece of time."""
    total = _sum(without_resets(_moments(each)) for each in series)
    span = total[-1][0] - total[0][0]
    width = DAY / 24 if span >= SEASON_DAYS * DAY else span / _RATES
    ends = {int((moment - total[0][0]) / width) if width else 0: (moment, value) for moment, value in total}
    pairs = pairwise(ends.values())
    return [(end, (after - before) / (end - begin)) for (begin, before), (end, after) in pairs]


def _instant(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, tz=UTC)


def _workers(busy: float) -> int:
    return ceil(busy / UTILISATION)


def _skew(rows: Sequence[float]) -> float:
    return max(rows) * len(rows) / sum(rows) if any(rows) else 1.0


def _skew_at(trends: Iterable[Trend], moment: datetime) -> float:
    return _skew([max(0.0, trend.value_at(moment.timestamp())) for trend in trends])


def _too_little(moments: Sequence[Moment]) -> str:
    minutes = (moments[-1][0] - moments[0][0]) / 60 if moments else 0
    return f"too little history: {len(moments)} samples over {minutes:.0f} min"
