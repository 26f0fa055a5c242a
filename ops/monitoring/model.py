"""What is watched, as values: known metrics, recording rules, alerts, service level objectives. Pure.

A part of the platform declares a `Rules`, and so does the project; `ops.monitoring.render` writes them down
for Prometheus and Alertmanager.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

INTERVAL_SECONDS = 15
"""Between two scrapes, and between two evaluations of the rules."""

Severity = Literal["page", "ticket", "none"]
"""A page wakes someone, a ticket waits for the morning; `none` is for the watchdog, which always fires."""

WINDOW = "$window"
"""Stands in the queries of an objective for the range over which they are taken."""

ERRORS = "slo:errors"
"""The recorded share of what was not good; its window stands behind the name, its objective in a label."""


class Metric(NamedTuple):
    """A metric that some process serves: its type, every label that a query may name, and what it counts."""

    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...] = ()
    help: str = ""

    def series_of(self, name: str) -> tuple[str, ...]:
        """Return the names under which Prometheus stores it."""
        if self.kind == "histogram":
            return (f"{name}_bucket", f"{name}_sum", f"{name}_count")
        return (name,)


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that somebody must know of.

    `for_seconds` is how long it must hold. `runbook` is PAGE#SECTION in docs/runbooks; `command` changes
    nothing and shows what is wrong, or mends it. All texts may have Prometheus' templates.
    """

    name: str
    expr: str
    for_seconds: int
    severity: Severity
    summary: str
    runbook: str
    command: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """A query whose result is stored under a name of its own."""

    record: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)


class BurnRate(NamedTuple):
    """When an error budget is spent too fast: over a long window, and still over a short one."""

    speed: str
    factor: float
    long: str
    short: str
    severity: Severity


BURN_RATES = (
    BurnRate("Fast", 14.4, "1h", "5m", "page"),
    BurnRate("Steady", 6, "6h", "30m", "page"),
    BurnRate("Slow", 1, "3d", "6h", "ticket"),
)
"""Of the SRE workbook, chapter 5, for a budget of 30 days: 2 % of it in 1 h, 5 % in 6 h, 10 % in 3 days."""

WINDOWS = ("5m", "30m", "1h", "6h", "3d")


@dataclass(frozen=True, slots=True)
class Slo:
    """A service level objective: the share of what is good, over 30 days.

    `good` and `total` are queries with `WINDOW` in place of the range; each has one value at most.
    `least_total` is the value of `total` over the long window below which nothing is said: one failure among
    three requests of a night is no trouble.
    """

    name: str
    objective: float
    good: str
    total: str
    summary: str
    runbook: str
    command: str
    least_total: float = 0

    @property
    def title(self) -> str:
        """The name as alerts begin with it."""
        return "".join(word.capitalize() for word in self.name.split("_"))

    def recording_rules(self) -> Iterator[RecordingRule]:
        """Return a rule for each window."""
        for window in WINDOWS:
            good, total = (query.replace(WINDOW, window) for query in (self.good, self.total))
            # Where all fails, nothing good has a series.
            expr = f"1 - (({good}) or vector(0)) / ({total})"
            yield RecordingRule(f"{ERRORS}:{window}", expr, {"slo": self.name})

    def alerts(self) -> Iterator[Alert]:
        """Return an alert for each speed at which the budget is spent."""
        for rate in BURN_RATES:
            burnt = rate.factor * (1 - self.objective)
            over = [f'{ERRORS}:{window}{{slo="{self.name}"}} > {burnt:.6g}' for window in rate[2:4]]
            if self.least_total:
                over.append(f"on() ({self.total.replace(WINDOW, rate.long)}) >= {self.least_total:g}")
            yield Alert(
                f"{self.title}Burn{rate.speed}",
                " and ".join(over),
                0,
                rate.severity,
                f"{self.summary}: the error budget burns {rate.factor:g} times too fast over {rate.long}",
                self.runbook,
                self.command,
                {"slo": self.name, "burn": rate.speed.lower()},
            )


@dataclass(frozen=True, slots=True)
class Inhibition:
    """While an alert fires that matches `source`, those that match `target` are not sent.

    Both are matchers of Alertmanager; of `equal` labels the two must have the same values.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    equal: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """What a part of the platform, or the project, has to be watched."""

    recording: tuple[RecordingRule, ...] = ()
    alerts: tuple[Alert, ...] = ()
    slos: tuple[Slo, ...] = ()
    inhibitions: tuple[Inhibition, ...] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def every_recording(self) -> tuple[RecordingRule, ...]:
        """Return the recording rules, with those of the objectives."""
        return (*self.recording, *(rule for slo in self.slos for rule in slo.recording_rules()))

    def every_alert(self) -> tuple[Alert, ...]:
        """Return the alerts, with those of the objectives."""
        return (*self.alerts, *(alert for slo in self.slos for alert in slo.alerts()))

    def series(self) -> Iterator[str]:
        """Return the names of all series that are served or recorded."""
        for name, metric in self.metrics.items():
            yield from metric.series_of(name)
        yield from (rule.record for rule in self.every_recording())

    def __add__(self, other: "Rules") -> "Rules":
        return Rules(
            recording=self.recording + other.recording,
            alerts=self.alerts + other.alerts,
            slos=self.slos + other.slos,
            inhibitions=self.inhibitions + other.inhibitions,
            metrics={**self.metrics, **other.metrics},
        )


_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_SELECTOR = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\$\w+")
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])")
_WORDS = frozenset({"and", "or", "unless", "offset", "bool", "by", "without", "group_left", "group_right"})
_DURATION = re.compile(r"\boffset\s+\w+")


def metrics_of(query: str) -> frozenset[str]:
    """Return the names of the series that a PromQL query reads."""
    bare = _TEXT.sub('""', query)
    for pattern in (_GROUPING, _SELECTOR, _DURATION):
        bare = pattern.sub(" ", bare)
    return frozenset(_NAME.findall(bare)) - _WORDS


def unknown_metrics(rules: Rules, queries: Iterable[str]) -> frozenset[str]:
    """Return the series that queries read, and that no process serves and no rule records."""
    known = {*rules.series(), "up", "ALERTS"}
    return frozenset(name for query in queries for name in metrics_of(query)) - known
