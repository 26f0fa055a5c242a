"""The bounded table of samples in the directory: what was measured lately, for a look back of some weeks.

Each minute is kept for two days, each quarter of an hour for thirty. Of what the exporter reads, the chosen
metrics are kept and at most `MAX_SERIES` series of them; the table has at most `MAX_ROWS` rows, whatever the
clock does.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, text

from ops.monitoring.databases import PREFIX, open_limited
from ops.partitions.metrics import Sample
from sharding.topology import Database, Topology

KEPT = tuple(
    f"{PREFIX}_{name}"
    for name in (
        *("up", "database_bytes", "disk_free_bytes", "disk_bytes", "connections", "connections_max"),
        *("shard_rows", "shard_bytes", "id_leases", "id_leases_max", "partitions_months_ahead"),
        *("transactions_total", "replica_lag_seconds", "slot_wal_bytes", "transaction_age_seconds"),
        *("in_doubt_units", "archive_waiting_rows", "xid_age", "rows"),
    )
)
"""The platform's metrics that are kept, the most important first; those of the project come before them."""

MAX_SERIES = 200
MAX_ROWS = 1_200_000

FINE_SECONDS, FINE_KEPT = 60, timedelta(hours=48)
COARSE_SECONDS, COARSE_KEPT = 900, timedelta(days=30)

AHEAD = timedelta(hours=1)
"""Samples further ahead were written by a clock that was wrong."""

SLICE_ROWS = 5_000
SLICES = 4
"""How many slices are deleted after each minute's rows, at most."""

_INSERT = text("""
    INSERT INTO metric_samples (metric, at, labels, value, step_seconds)
    SELECT metric, :at, labels::jsonb, value, :step_seconds
    FROM unnest(CAST(:metrics AS text[]), CAST(:labels AS text[]), CAST(:values AS float8[]))
         AS given (metric, labels, value)
    ON CONFLICT DO NOTHING
""")

_DELETE = """
    DELETE FROM metric_samples WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM metric_samples WHERE {condition} ORDER BY step_seconds, at LIMIT :most))
"""
_DELETE_OLD = text(_DELETE.format(condition="step_seconds = :step_seconds AND at < :before"))
_DELETE_FUTURE = text(_DELETE.format(condition="at > :after"))
_DELETE_ANY = text(_DELETE.format(condition="true"))

_COUNT = text("SELECT count(*) FROM metric_samples")

_READ = text("""
    SELECT metric, labels, to_timestamp(avg(extract(epoch FROM at))) AS at, avg(value) AS value
    FROM metric_samples
    WHERE (:is_any OR metric = ANY(:metrics)) AND at >= :since AND at < :until
    GROUP BY metric, labels, floor(extract(epoch FROM at) / :every_seconds)
    ORDER BY metric, labels, at
""")
READ_SECONDS = 20.0


class Point(NamedTuple):
    """A value of a series, and its moment."""

    at: datetime
    value: float


class Series(NamedTuple):
    """A metric with its labels, and its values in time order."""

    metric: str
    labels: Mapping[str, str]
    points: Sequence[Point]


def choose(samples: Iterable[Sample]) -> list[Sample]:
    """Choose what is kept: the project's, and the platform's in the order of `KEPT`. Pure.

    Where there are too many, each has half of the room at least.
    """
    places = {name: place for place, name in enumerate(KEPT)}
    own = f"{PREFIX}_"
    kept = [each for each in samples if each.name in places or not each.name.startswith(own)]
    # The sort is stable: of one metric those that were read first are kept.
    platform = sorted((each for each in kept if each.name in places), key=lambda each: places[each.name])
    project = [each for each in kept if each.name not in places]
    room = MAX_SERIES - min(len(platform), MAX_SERIES // 2)
    return [*project[:room], *platform][:MAX_SERIES]


def directory_of(topology: Topology) -> Database | None:
    """Return the database that has the table: the first directory; None without one."""
    trees = topology.names_of_kind("directory")
    return next((base for name in trees for base in topology.databases_of(name).values()), None)


class SampleWriter:
    """Writes samples once a minute, and deletes what is old, in slices.

    Parameters:
        topology: has the directory.
        max_rows: how many rows the table may have.
    """

    def __init__(self, topology: Topology, *, max_rows: int = MAX_ROWS) -> None:
        self._topology = topology
        self._max_rows = max_rows
        self._written = datetime.fromtimestamp(0, tz=UTC)
        self._excess = 0

    def is_due(self, now: datetime) -> bool:
        """Whether nothing was written yet in this minute. The clock may have been set back since."""
        return _begin(now, FINE_SECONDS) != self._written

    def write(self, samples: Iterable[Sample], *, now: datetime) -> int:
        """Write the samples of this minute, in one statement; return the rows.

        Raises:
            DBAPIError: the directory does not answer in time, or has no such table yet.
        """
        directory = directory_of(self._topology)
        if directory is None:
            return 0
        at = _begin(now, FINE_SECONDS)
        is_coarse = _begin(at, COARSE_SECONDS) != _begin(self._written, COARSE_SECONDS)
        with open_limited(self._topology, directory, read_only=False) as connection:
            rows = _insert(connection, choose(samples), at, COARSE_SECONDS if is_coarse else FINE_SECONDS)
            self._written = at
            if is_coarse:
                connection.execute(_DELETE_FUTURE, {"after": at + AHEAD, "most": SLICE_ROWS})
                self._excess = (connection.scalar(_COUNT) or 0) - self._max_rows
            self._prune(connection, at)
        return rows

    def _prune(self, connection: Connection, at: datetime) -> None:
        """Delete what is too old or too much, a slice at a time; what is left comes with the next minute."""
        for _ in range(SLICES):
            deleted = sum(
                connection.execute(
                    _DELETE_OLD, {"step_seconds": step, "before": at - kept, "most": SLICE_ROWS}
                ).rowcount
                for step, kept in ((FINE_SECONDS, FINE_KEPT), (COARSE_SECONDS, COARSE_KEPT))
            )
            self._excess -= deleted
            if self._excess > 0:
                most = {"most": min(self._excess, SLICE_ROWS)}
                self._excess -= connection.execute(_DELETE_ANY, most).rowcount
            elif deleted < SLICE_ROWS:
                return


def _insert(connection: Connection, samples: Sequence[Sample], at: datetime, step_seconds: int) -> int:
    values = {
        "at": at,
        "step_seconds": step_seconds,
        "metrics": [each.name for each in samples],
        "labels": [json.dumps(dict(each.labels)) for each in samples],
        "values": [float(each.value) for each in samples],
    }
    return connection.execute(_INSERT, values).rowcount


def _begin(now: datetime, step_seconds: int) -> datetime:
    """Return the beginning of the step in which a moment lies."""
    return datetime.fromtimestamp(int(now.timestamp()) // step_seconds * step_seconds, tz=UTC)


def read_series(
    topology: Topology,
    metrics: Iterable[str] | None,
    *,
    since: datetime,
    until: datetime | None = None,
    every_seconds: int = FINE_SECONDS,
) -> list[Series]:
    """Read series back, by metric and labels.

    Parameters:
        topology: has the directory; without one there are no samples.
        metrics: their names; None is all.
        since: the earliest moment.
        until: the moment before which they end; None is the last one.
        every_seconds: of each such piece of time the mean is returned.

    Raises:
        DBAPIError: the directory does not answer, or has no such table yet.
    """
    directory = directory_of(topology)
    if directory is None:
        return []
    values = {
        "is_any": metrics is None,
        "metrics": list(metrics or ()),
        "since": since,
        "until": until or datetime.max.replace(tzinfo=UTC),
        "every_seconds": every_seconds,
    }
    with open_limited(topology, directory, statement_seconds=READ_SECONDS) as connection:
        rows = connection.execute(_READ, values).all()
    found: dict[tuple[str, tuple[tuple[str, str], ...]], list[Point]] = {}
    for row in rows:
        key = (row.metric, tuple(sorted(row.labels.items())))
        found.setdefault(key, []).append(Point(row.at.astimezone(UTC), row.value))
    return [Series(metric, dict(labels), points) for (metric, labels), points in found.items()]
