"""Growth of real databases at a rate that is known: six days of orders, more by day than by night.

The days are made up, the rows are not: each hour's orders are inserted, the exporter reads the databases, and
the samples go through the directory's table under the hour's time.
"""

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import psycopg
from sqlalchemy.engine import URL

from app.console.monitoring import samples as order_samples
from ops.fleet import Member
from ops.forecast.trend import find_trend
from ops.monitoring.databases import DatabaseReader
from ops.monitoring.exporter import Exporter
from ops.monitoring.samples import Series, read_series
from sharding.topology import Topology
from tests.project import PROJECT

BEGIN = datetime(2026, 11, 2, tzinfo=UTC)
DAYS, KNOWN_DAYS = 6, 4
"""The forecast sees the first days, and the others are held back."""

INSERT = """
    WITH made AS (
        INSERT INTO orders (order_id, status, channel, summary, version, customer_name, customer_email,
                            material, finish, quantity, idempotency_key)
        SELECT n, 'INITIATED', 'B2C', repeat('ring ', 20), 1, 'A. Customer', mod(n, 997) || '@example.org',
               'silver', 'polished', 1, 'key ' || n
        FROM generate_series(%(first)s::bigint, %(last)s) AS n RETURNING order_id)
    INSERT INTO order_events (order_id, event_no, status, at, actor, detail)
    SELECT order_id, event_no, 'INITIATED', now(), 'customer', '{"words": "as it was said"}'
    FROM made, generate_series(1, 3) AS event_no
"""


class Prediction(NamedTuple):
    """When a value was foreseen for, and when it was there, in hours from the end of what was known."""

    metric: str
    predicted_hours: float
    actual_hours: float

    @property
    def error(self) -> float:
        """The error of the date, as a share of the time until it."""
        return abs(self.predicted_hours - self.actual_hours) / self.actual_hours


def grow(topology: Topology, *, orders_an_hour: float, every_hours: int, seed: int) -> list[Prediction]:
    """Let the Shop's database grow, and compare what was foreseen with what came.

    Parameters:
        topology: of migrated databases.
        orders_an_hour: in the mean of a day.
        every_hours: from one look to the next.
        seed: of the ups and downs.
    """
    shop = topology.database("shop")
    exporter = Exporter(
        topology,
        DatabaseReader(topology, [Member(topology.database(name), PROJECT.tree(name)) for name in ("shop",)]),
        read_project=order_samples.read_samples,
        report=lambda _: None,
    )
    url = topology.url(shop, role=shop.owner, direct=True)
    with at_every_look(), psycopg.connect(conninfo_of(url), autocommit=True) as connection:
        last = 0
        for hour, orders in hours(random.Random(seed), orders_an_hour, every_hours):
            connection.execute(INSERT, {"first": last + 1, "last": last + orders})
            connection.execute("SELECT pg_stat_force_next_flush()")
            last += orders
            exporter.collect(hour)
            exporter.write(hour)
    exporter.close()
    return list(compare(topology))


def hours(noise: random.Random, mean: float, every_hours: int) -> Iterator[tuple[datetime, int]]:
    """Yield each look's moment and how many orders have come until then."""
    for hour in range(0, DAYS * 24, every_hours):
        by_day = 1 - 0.8 * math.cos(2 * math.pi * hour / 24)
        yield (
            BEGIN + timedelta(hours=hour),
            max(1, round(mean * every_hours * by_day * noise.uniform(0.5, 1.5))),
        )


@contextmanager
def at_every_look() -> Iterator[None]:
    """Have the order system count at each look: the hours here are fractions of a second."""
    before, order_samples.REST_FACTOR = order_samples.REST_FACTOR, 0
    try:
        yield
    finally:
        order_samples.REST_FACTOR = before


def conninfo_of(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


LABELS: Mapping[str, Mapping[str, str]] = {
    "app_orders": {"database": "shop", "status": "INITIATED"},
    "mes_storage_rows": {"database": "shop"},
    "mes_storage_database_bytes": {"database": "shop"},
}


def compare(topology: Topology) -> Iterator[Prediction]:
    """Forecast each metric by the days that are known, and look when it came to what it was in the end."""
    known_until = BEGIN + timedelta(days=KNOWN_DAYS)
    for series in read_series(topology, LABELS, since=BEGIN):
        if series.labels == LABELS[series.metric]:
            yield predict(series, known_until)


def predict(series: Series, known_until: datetime) -> Prediction:
    """Compare the moment that a trend of the known part has for a limit with the moment at which it came."""
    known = [(point.at.timestamp(), point.value) for point in series.points if point.at < known_until]
    limit = series.points[-2].value
    actual = next(point.at for point in series.points if point.value >= limit)
    trend = find_trend(known)
    assert trend is not None
    predicted, end = trend.reaches(limit).at, known[-1][0]
    hours_until = math.inf if predicted is None else (predicted - end) / 3600
    return Prediction(series.metric, hours_until, (actual.timestamp() - end) / 3600)
