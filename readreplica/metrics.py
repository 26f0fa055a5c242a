"""A cluster's metrics for OpenTelemetry. Without its SDK in the process every call here does nothing.

| instrument | what |
| --- | --- |
| `readreplica.reads` | read sessions by cluster, node and `Reason` |
| `readreplica.replay.wait` | seconds that reads with a token waited for replay |
| `readreplica.token.age` | how old the tokens are that reads bring, in seconds |
| `readreplica.token.verdicts` | tokens that were not simply current, by verdict |
| `readreplica.lag.seconds`, `readreplica.lag.bytes` | how far each replica is behind, proven |
| `readreplica.ejections`, `readreplica.failovers` | replicas ejected, by fault; new primaries |
"""

from collections.abc import Callable, Iterable
from enum import StrEnum

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

_meter = get_meter("readreplica")
_reads = _meter.create_counter("readreplica.reads", unit="{session}")
_waits = _meter.create_histogram("readreplica.replay.wait", unit="s")
_ages = _meter.create_histogram("readreplica.token.age", unit="s")
_verdicts = _meter.create_counter("readreplica.token.verdicts", unit="{token}")
_ejections = _meter.create_counter("readreplica.ejections", unit="{replica}")
_failovers = _meter.create_counter("readreplica.failovers", unit="{failover}")

Lags = Callable[[], Iterable[tuple[str, str, float | None, int | None]]]
"""Returns cluster, node, lag in seconds and lag in bytes, for all replicas of this process."""


class Reason(StrEnum):
    """Why a read went to the node that it went to."""

    FRESH = "fresh"
    """A replica that was fit at once."""

    WAITED = "waited"
    """A replica that was fit after a wait for replay."""

    OTHER = "other"
    """Another replica, because the first choice failed."""

    FALLBACK = "fallback"
    """The primary, because no replica was fit."""

    REFUSED = "refused"
    """No node: no replica was fit, and the budget was used up."""

    PRIMARY = "primary"
    """The primary, because the read asked for it or there are no replicas."""


class ClusterMetrics:
    """One cluster's numbers; what names a series is put together once and not at every read."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        # By text: an Enum's hash is computed by a function in Python, at every look-up.
        self._attributes: dict[tuple[str, str], dict[str, str]] = {}

    def read(self, node: str, reason: Reason) -> None:
        """Count a read session."""
        key = node, reason._value_
        attributes = self._attributes.get(key)
        if attributes is None:
            attributes = {"cluster": self._cluster, "node": node, "reason": reason.value}
            self._attributes[key] = attributes
        _reads.add(1, attributes)

    def waited(self, seconds: float) -> None:
        """Record a wait for replay."""
        _waits.record(seconds, {"cluster": self._cluster})

    def token(self, verdict: str, age_seconds: float) -> None:
        """Record a token that a read brought."""
        _ages.record(age_seconds, {"cluster": self._cluster})
        if verdict != "current":
            _verdicts.add(1, {"cluster": self._cluster, "verdict": verdict})

    def ejected(self, node: str, fault: str) -> None:
        """Count a replica that was ejected."""
        _ejections.add(1, {"cluster": self._cluster, "node": node, "fault": fault})

    def failed_over(self, node: str) -> None:
        """Count a new primary."""
        _failovers.add(1, {"cluster": self._cluster, "node": node})


_lags: set[Lags] = set()


def show_lags(lags: Lags) -> None:
    """Add a source of the lag gauges."""
    _lags.add(lags)


def hide_lags(lags: Lags) -> None:
    """Remove a source of the lag gauges."""
    _lags.discard(lags)


def _observe(column: int) -> Iterable[Observation]:
    for lags in list(_lags):
        for row in lags():
            value = row[column]
            if isinstance(value, float | int):
                yield Observation(value, {"cluster": row[0], "node": row[1]})


def _observe_seconds(_: CallbackOptions) -> Iterable[Observation]:
    return _observe(2)


def _observe_bytes(_: CallbackOptions) -> Iterable[Observation]:
    return _observe(3)


_meter.create_observable_gauge("readreplica.lag.seconds", [_observe_seconds], unit="s")
_meter.create_observable_gauge("readreplica.lag.bytes", [_observe_bytes], unit="By")
