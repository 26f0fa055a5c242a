"""Plots and events from the samples that the exporter keeps in the directory; all but the reading is pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from ops.monitoring.databases import PREFIX
from ops.monitoring.samples import FINE_SECONDS, Series, read_series
from ops.pages.content import N_, Code, PanelRow, PanelTable, Plot, PlotLine, Since
from sharding.topology import Topology

MOST_POINTS = 180
MOST_LINES = 8


def read_history(topology: Topology, metrics: Sequence[str], *, span: timedelta) -> list[Series]:
    """Read the series of some of the platform's metrics, so many points that a plot shows them.

    Parameters:
        topology: has the directory.
        metrics: their names.
        span: how far to look back.

    Raises:
        DBAPIError: the directory does not answer.
    """
    every = max(FINE_SECONDS, int(span.total_seconds()) // MOST_POINTS)
    return read_series(topology, metrics, since=datetime.now(UTC) - span, every_seconds=every)


def plot_of(
    title: str,
    series: Iterable[Series],
    *,
    metric: str,
    label: Sequence[str],
    is_rate: bool = False,
    unit: str = "",
) -> list[Plot]:
    """Return the plot of a metric; none where there are not two moments of it.

    Parameters:
        title: above it.
        series: of any metrics.
        metric: with its prefix.
        label: the labels that name a line.
        is_rate: it is a counter, and its growth in a second is shown.
        unit: of the values.
    """
    chosen = [each for each in series if each.metric == metric]
    chosen = sorted(chosen, key=lambda each: -max(point.value for point in each.points))[:MOST_LINES]
    values: dict[str, dict[int, float]] = {}
    for each in chosen:
        name = " ".join(each.labels.get(key, "") for key in label)
        found = values.setdefault(name, {})
        for moment, value in _rates(each) if is_rate else _points(each):
            # Points of one piece of time are a little apart.
            found[round(moment / FINE_SECONDS) * FINE_SECONDS] = value
    moments = sorted({moment for found in values.values() for moment in found})
    if len(moments) < 2:
        return []
    lines = [
        PlotLine(name, [found.get(moment) for moment in moments]) for name, found in sorted(values.items())
    ]
    return [Plot(title=title, moments=moments, lines=lines, unit=unit)]  # type: ignore[arg-type]


def _points(series: Series) -> Iterator[tuple[float, float]]:
    for point in series.points:
        yield point.at.timestamp(), point.value


def _rates(series: Series) -> Iterator[tuple[float, float]]:
    for before, after in pairwise(series.points):
        seconds = (after.at - before.at).total_seconds()
        if seconds > 0 and after.value >= before.value:  # a server that began anew has counted from 0
            yield after.at.timestamp(), (after.value - before.value) / seconds


def lag_plot(series: Iterable[Series]) -> list[Plot]:
    """Return how far behind the replicas were."""
    metric = f"{PREFIX}_replica_lag_seconds"
    return plot_of(N_("Seconds behind"), series, metric=metric, label=("node",), unit="seconds")


def last_rates(series: Iterable[Series]) -> Mapping[str, float]:
    """Return the transactions of a second of each database, by the last two samples."""
    metric = f"{PREFIX}_transactions_total"
    found = {}
    for each in series:
        rates = list(_rates(each)) if each.metric == metric else []
        if rates:
            found[each.labels.get("database", "")] = rates[-1][1]
    return found


def failovers(series: Iterable[Series]) -> list[tuple[datetime, str, str, str]]:
    """Return when a database got another primary: the moment, the database, the old one and the new one."""
    seen: dict[str, list[tuple[datetime, str]]] = {}
    for each in series:
        if each.metric == f"{PREFIX}_up" and each.labels.get("role") == "primary":
            moments = [(point.at, each.labels.get("node", "")) for point in each.points if point.value > 0.5]
            seen.setdefault(each.labels.get("database", ""), []).extend(moments)
    return sorted(
        (after[0], database, before[1], after[1])
        for database, moments in seen.items()
        for before, after in pairwise(sorted(moments))
        if before[1] != after[1]
    )


def failovers_of(series: Iterable[Series]) -> list[PanelTable]:
    """Return the table of failovers, the last one first; none where there was none."""
    rows = [
        PanelRow(f"{database} {at.timestamp():.0f}", (Since(at), Code(database), Code(f"{old} → {new}")))
        for at, database, old, new in reversed(failovers(series))
    ]
    columns = (N_("when"), N_("database"), N_("primary"))
    return [PanelTable(columns=columns, rows=rows, caption=N_("Failovers"), shown=3)] if rows else []
