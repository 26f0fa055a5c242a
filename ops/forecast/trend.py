"""How a series grows: a robust line through its samples, and when it meets a limit. Pure.

The slope is the median of the slopes of all pairs (Theil and Sen): a restart, a bulk load or a gap in the
samples moves it little. With two days of samples only pairs a whole number of days apart count, so that a
day's ups and downs are no growth. Early and late dates go by the range of that slope, widened by the slope
of the latest part: growth that has changed lately is a wide range.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import sqrt
from statistics import median
from typing import NamedTuple

DAY = 86_400.0
SEASON_DAYS = 2
"""From so many days on the time of day counts."""

MIN_POINTS = 10
MIN_SPAN_SECONDS = 1800.0
"""With less there is no trend, and nothing is guessed."""

PIECES = 96
SEASON_PIECES = 24
"""In how many pieces of time a history, or a day of it, is looked at."""
CONFIDENCE = 1.96
"""Standard deviations of a range that holds in 95 of 100 cases."""

Moment = tuple[float, float]
"""A time in seconds, and a value."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """When a limit is met: in seconds as those of the samples; None is never."""

    at: float | None
    earliest: float | None
    latest: float | None


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through samples, from the time of the last one on.

    `level` is where the line stands then, `spread` how far samples lie about it; slopes are by the second.
    `season` is how much the hours of a day lie above the line or below, the hour of the last sample first;
    it is empty where the time of day does not count.
    """

    at: float
    level: float
    spread: float
    slope: float
    slope_low: float
    slope_high: float
    span_seconds: float
    season: Sequence[float] = ()

    def value_at(self, moment: float) -> float:
        """Return the value that the line has at a moment."""
        return self.level + self.slope * (moment - self.at)

    def peak_at(self, moment: float) -> float:
        """Return the value at the hour of most load, on the day of a moment."""
        return self.value_at(moment) + max(self.season, default=0.0)

    def reaches(self, limit: float) -> Crossing:
        """Return when the series meets a limit, with the earliest and the latest moment."""
        return Crossing(
            at=self._meets(self.level, self.slope, limit),
            earliest=self._meets(self.level + self.spread, self.slope_high, limit),
            latest=self._meets(self.level - self.spread, self.slope_low, limit),
        )

    def _meets(self, level: float, slope: float, limit: float) -> float | None:
        peak = max(self.season, default=0.0)
        if slope <= 0:
            return self.at if level + peak >= limit else None
        first = max(0.0, (limit - level - peak) / slope)
        if not self.season:
            return self.at + first
        # An hour of most load comes within a day from when the line is that near.
        begin, width = int(first / DAY * SEASON_PIECES), DAY / SEASON_PIECES
        hours = range(begin, begin + SEASON_PIECES + 1)
        moments = (max(first, (limit - level - self.season[hour % SEASON_PIECES]) / slope) for hour in hours)
        found = (
            max(moment, hour * width)
            for hour, moment in zip(hours, moments, strict=True)
            if moment < (hour + 1) * width
        )
        return self.at + next(found, first)


def find_trend(points: Iterable[Moment], *, min_span_seconds: float = MIN_SPAN_SECONDS) -> Trend | None:
    """Return the trend of a series; None where it has too few samples, or too short a history.

    Parameters:
        points: in time order.
        min_span_seconds: how long the history must be.
    """
    known = list(points)
    if len(known) < MIN_POINTS or known[-1][0] - known[0][0] < min_span_seconds:
        return None
    at, span = known[-1][0], known[-1][0] - known[0][0]
    is_seasonal = span >= SEASON_DAYS * DAY
    pieces = _thin(known, width=DAY / SEASON_PIECES if is_seasonal else span / PIECES)
    step = SEASON_PIECES if is_seasonal else 1
    slopes = _slopes(pieces, step=step)
    if not slopes:
        return None
    slope, (low, high) = median(slopes), _interval(slopes, len(pieces))
    # Half of a history that has just two days has none, and would take an evening for growth.
    has_halves = not is_seasonal or span >= 2 * SEASON_DAYS * DAY
    late = _slopes(pieces[len(pieces) // 2 :], step=step) if has_halves else []
    latest = median(late) if late else slope
    season = _season(pieces, slope) if is_seasonal else ()
    level, spread = _level(pieces, slope, season)
    return Trend(at, level, spread, slope, min(low, latest), max(high, latest), span, season)


class _Piece(NamedTuple):
    """The middle of the samples of a piece of time; pieces are numbered back from the last sample."""

    number: int
    moment: float
    value: float

    @property
    def hour(self) -> int:
        """The hour of the day, counted from the time of day of the last sample."""
        return int(self.moment % DAY / DAY * SEASON_PIECES) % SEASON_PIECES


def _thin(points: Sequence[Moment], *, width: float) -> list[_Piece]:
    """Return the pieces in time order; their moments count from the last sample."""
    at, pieces = points[-1][0], dict[int, list[Moment]]()
    for moment, value in points:
        pieces.setdefault(int((at - moment) / width), []).append((moment - at, value))
    return [
        _Piece(number, median(moment for moment, _ in piece), median(value for _, value in piece))
        for number, piece in sorted(pieces.items(), reverse=True)
    ]


def _slopes(pieces: Sequence[_Piece], *, step: int) -> list[float]:
    """Return the slopes of all pairs of pieces a multiple of `step` apart, sorted."""
    groups: dict[int, list[_Piece]] = {}
    for piece in pieces:
        groups.setdefault(piece.number % step, []).append(piece)
    return sorted(
        (end.value - begin.value) / (end.moment - begin.moment)
        for group in groups.values()
        for begin, end in combinations(group, 2)
    )


def _interval(slopes: Sequence[float], points: int) -> tuple[float, float]:
    """Return the range of the slope, by the variance of Kendall's count of pairs that rise."""
    pairs = points * (points - 1) / 2
    half = CONFIDENCE * sqrt(points * (points - 1) * (2 * points + 5) / 18) / 2 / pairs
    last = len(slopes) - 1
    low, high = (round(last * min(1.0, max(0.0, 0.5 + side * half))) for side in (-1, 1))
    return slopes[low], slopes[high]


def _season(pieces: Sequence[_Piece], slope: float) -> Sequence[float]:
    """Return how much each hour lies above the line in the median of its days; it begins at the last one."""
    days: dict[int, list[tuple[int, float]]] = {}
    for piece in pieces:
        rest = piece.value - slope * piece.moment
        days.setdefault(piece.number // SEASON_PIECES, []).append((piece.hour, rest))
    above: dict[int, list[float]] = {}
    for found in days.values():
        middle = median(rest for _, rest in found)
        for hour, rest in found:
            above.setdefault(hour, []).append(rest - middle)
    # Where samples are rarer than hours, the nearest one stands for an hour.
    known = {hour: median(found) for hour, found in above.items()}
    return tuple(known[min(known, key=partial(_apart, hour))] for hour in range(SEASON_PIECES))


def _apart(hour: int, other: int) -> int:
    return min((hour - other) % SEASON_PIECES, (other - hour) % SEASON_PIECES)


def _level(pieces: Sequence[_Piece], slope: float, season: Sequence[float]) -> tuple[float, float]:
    """Return where the line stands at the last sample, and how far samples lie about it."""
    rests = [piece.value - slope * piece.moment for piece in pieces]
    if season:
        rests = [rest - season[piece.hour] for piece, rest in zip(pieces, rests, strict=True)]
    latest = rests[-SEASON_PIECES:] if season else rests[-max(3, len(rests) // 10) :]
    middle = median(latest)
    return middle, median(abs(rest - middle) for rest in latest)


def without_resets(points: Iterable[Moment]) -> list[Moment]:
    """Return a counter's samples as if it had never begun anew."""
    grown: list[Moment] = []
    before, total = 0.0, 0.0
    for moment, value in points:
        if grown:
            total += value - before if value >= before else value
        grown.append((moment, total))
        before = value
    return grown
