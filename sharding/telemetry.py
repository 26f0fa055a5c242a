"""The metrics and spans of a process's shards, by OpenTelemetry's API: none, and at no cost, without an SDK.

    mes_storage.shard.units       counter    units of work, by shard and outcome (done, failed)
    mes_storage.shard.statements  counter    statements, by shard
    mes_storage.shard.duration    histogram  seconds from the first statement of a unit to its end, by shard
    mes_storage.shard_map.version gauge      the version of the shard map that this process routes by

and a span `shard unit` for each unit. They are counted once a unit, and not once a statement.
"""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, NoOpMeterProvider, Observation
from opentelemetry.trace import Span, StatusCode

NAME = "mes_storage.sharding"


class UnitSpan(NamedTuple):
    """A unit that is under way."""

    at: float
    span: Span


class ShardMeter:
    """Counts the units of work on one shard."""

    def __init__(self, telemetry: "Telemetry", shard: str) -> None:
        self._telemetry = telemetry
        self._labels = {"shard": shard}
        self._done = {"shard": shard, "outcome": "done"}
        self._failed = {"shard": shard, "outcome": "failed"}

    def begin(self) -> UnitSpan:
        """Note that a unit has begun."""
        span = self._telemetry.tracer.start_span("shard unit", attributes=self._labels)
        return UnitSpan(time.monotonic(), span)

    def end(self, started: UnitSpan, *, statements: int, failed: bool) -> None:
        """Count a unit that has ended."""
        telemetry = self._telemetry
        telemetry.units.add(1, self._failed if failed else self._done)
        telemetry.statements.add(statements, self._labels)
        telemetry.duration.record(time.monotonic() - started.at, self._labels)
        started.span.set_attribute("statements", statements)
        if failed:
            started.span.set_status(StatusCode.ERROR)
        started.span.end()


class Telemetry:
    """The instruments of a process."""

    def __init__(self, map_version: Callable[[], int]) -> None:
        """Create the instruments.

        Parameters:
            map_version: returns the version of the map by which keys are routed.
        """
        meter = metrics.get_meter(NAME)
        self.tracer = trace.get_tracer(NAME)
        self.units = meter.create_counter("mes_storage.shard.units", description="Units of work.")
        self.statements = meter.create_counter("mes_storage.shard.statements", description="Statements.")
        self.duration = meter.create_histogram(
            "mes_storage.shard.duration", unit="s", description="From a unit's first statement to its end."
        )

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(map_version())]

        meter.create_observable_gauge(
            "mes_storage.shard_map.version", [observe], description="The shard map that is routed by."
        )

    @classmethod
    def if_wanted(cls, map_version: Callable[[], int]) -> "Telemetry | None":
        """Create the instruments if the API has an SDK; set that up before sessions are opened."""
        ways = (metrics.get_meter_provider(), trace.get_tracer_provider())
        idle = (NoOpMeterProvider, trace.NoOpTracerProvider, trace.ProxyTracerProvider)
        if all(isinstance(way, idle) or "Proxy" in type(way).__name__ for way in ways):
            return None
        return cls(map_version)

    def of(self, shard: str) -> ShardMeter:
        """Return the meter of a shard."""
        return ShardMeter(self, shard)
