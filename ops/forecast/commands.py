"""`mesctl forecast`: when what is full, by the samples that the exporter has kept."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.fleet import naming
from ops.options import format_duration, options_of, parse_duration
from ops.output import note, print_json, print_table

if TYPE_CHECKING:
    from ops.forecast.model import Forecast, GrowthLine, LimitLine, WorkersLine
    from sharding.topology import Topology

HISTORY_PIECES = 720
"""In how many pieces of time the history is read."""

NO_SAMPLES = (
    "no samples: `mesctl monitoring exporter` writes them, to the directory; `mesctl up` runs it where the "
    "topology has [monitoring] port"
)


def forecast(
    context: typer.Context,
    horizon: Annotated[str, typer.Option(help="How far to look, as 90d, 12w or 36h.")] = "90d",
    history: Annotated[str, typer.Option(help="How much of the samples to go by.")] = "30d",
) -> None:
    """Forecast how the platform grows, and when which disk, shard, id space or connection limit is full.

    It goes by the samples in the directory. Each date has its range, and the command that helps. Where the
    history is too short, that is said, and nothing is guessed.
    """
    from ops.monitoring.samples import directory_of

    options = options_of(context)
    topology, now = options.topology(), datetime.now(UTC)
    ahead, back = parse_duration(horizon), parse_duration(history)
    directory = directory_of(topology)
    if directory is None:
        note(NO_SAMPLES)
        raise typer.Exit(1)
    with naming(directory):
        found, has_samples = read_forecast(topology, now=now, history=back, horizon=ahead)
    if options.json:
        print_json(_as_json(found))
    elif has_samples:
        _print(found)
    else:
        print(NO_SAMPLES)


def read_forecast(
    topology: "Topology", *, now: datetime, history: timedelta, horizon: timedelta
) -> tuple["Forecast", bool]:
    """Forecast by the samples of the directory; return whether there are any, too.

    Parameters:
        topology: has the directory.
        now: the current instant.
        history: how much of the samples to go by.
        horizon: how far to look.
    """
    from ops.forecast.model import forecast as look_ahead
    from ops.monitoring.samples import FINE_SECONDS, read_series

    every = max(FINE_SECONDS, int(history.total_seconds()) // HISTORY_PIECES)
    series = read_series(topology, None, since=now - history, every_seconds=every)
    # A platform is younger than that: what there is, is looked at closely.
    begin = min((each.points[0].at for each in series), default=now) - timedelta(seconds=every)
    if (young := int((now - begin).total_seconds()) // HISTORY_PIECES) < every > FINE_SECONDS:
        series = read_series(topology, None, since=begin, every_seconds=max(FINE_SECONDS, young))
    return look_ahead(series, now=now, horizon=horizon), bool(series)


def _as_json(found: "Forecast") -> dict[str, Any]:
    return {
        "at": found.at.isoformat(),
        "horizon_seconds": found.horizon.total_seconds(),
        **{
            kind: [_with_dates(asdict(line)) for line in getattr(found, kind)]
            for kind in ("limits", "growth", "workers")
        },
    }


def _with_dates(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in line.items()}


def _print(found: "Forecast") -> None:
    headers = ["what", "of", "now", "limit", "full", "earliest", "latest", "by history of", "what helps"]
    print_table(headers, [_limit_row(line) for line in found.limits])
    print()
    ahead = f"in {format_duration(found.horizon)}"
    rows = [_growth_row(line) for line in found.growth]
    rows += [_workers_row(line) for line in found.workers]
    print_table(["what grows", "in", "now", "a day", ahead, "by history of"], rows)


def _limit_row(line: "LimitLine") -> list[Any]:
    full = line.note or _date(line.full_at)
    dates = [_date(line.earliest), _date(line.latest)] if line.full_at else ["", ""]
    limit = _number(line.limit) if line.limit else ""
    return [line.what, line.object, _number(line.value), limit, full, *dates, _span(line), line.command]


def _growth_row(line: "GrowthLine") -> list[Any]:
    if line.per_day is None or line.at_horizon is None:
        return [line.what, line.object, _number(line.value), line.note, "", ""]
    numbers = [_number(each) for each in (line.value, line.per_day, line.at_horizon)]
    return [line.what, line.object, *numbers, _span(line)]


def _workers_row(line: "WorkersLine") -> list[Any]:
    words = f"{line.needed} workers"
    return [f"{line.what} workers", "", words, "", f"{line.needed_at_horizon} workers", _span(line)]


def _date(moment: datetime | None) -> str:
    return "after the horizon" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _span(line: "LimitLine | GrowthLine | WorkersLine") -> str:
    if not line.history_seconds:
        return ""
    unit = next((size for size in (86_400, 3_600) if line.history_seconds >= 2 * size), 60)
    return format_duration(timedelta(seconds=line.history_seconds // unit * unit))


def _number(value: float) -> str:
    """Write a number for people: large ones by thousands, small ones as they are."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.1f}{unit}"
    return f"{value:.2f}".rstrip("0").rstrip(".")
