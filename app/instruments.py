"""The metrics of the order system, by OpenTelemetry's API: next to free without an SDK in the process.

Every instrument and every label stands here. A label has few values: what a client or a peer could choose is
folded (`other`), so that no one can make a process remember more and more series.
"""

import re
import time
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from statistics import fmean
from threading import Lock
from typing import Any, Literal
from weakref import WeakSet

from opentelemetry.metrics import CallbackOptions, Histogram, Observation, get_meter
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

OTHER = "other"
"""In place of a label's value that is not known, or is one too many."""

NO_ROUTE = "unmatched"
"""The route of a request that none has matched."""

DOOR = "none"
"""By which door a request has come: the services are called past every gateway."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_EVENT_NAME = re.compile(r"[a-z][a-z0-9_ ]{0,59}")

Seconds = tuple[float, ...]
_REQUEST: Seconds = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_WAIT: Seconds = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)
_PRICING: Seconds = (0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 900, 1800)
_DELIVERY: Seconds = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600, 3600)
_STAGE: Seconds = (1, 10, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 86400, 3 * 86400, 7 * 86400, 30 * 86400)

_meter = get_meter("app")


def _seconds(name: str, what: str, bounds: Seconds) -> Histogram:
    return _meter.create_histogram(
        name, unit="s", description=what, explicit_bucket_boundaries_advisory=bounds
    )


_request_duration = _seconds("http.server.request.duration", "Requests, by route.", _REQUEST)
_in_progress = _meter.create_up_down_counter(
    "app.requests.in_progress", unit="{request}", description="Requests that are worked on."
)
_created = _meter.create_counter(
    "app.order.created", unit="{order}", description="Orders that were made here."
)
_transitions = _meter.create_counter(
    "app.order.transitions",
    unit="{order}",
    description="Changes of an order's status that were decided here.",
)
_stage = _seconds(
    "app.order.stage.duration", "Time that orders spent in a status that they have left.", _STAGE
)
_pricing = _seconds("app.pricing.duration", "Attempts to price an order.", _PRICING)
_pricing_running = _meter.create_up_down_counter(
    "app.pricing.running", unit="{order}", description="Orders that are being priced."
)
_pricing_workers = _meter.create_gauge(
    "app.pricing.workers", unit="{process}", description="Worker processes: that run, and that should."
)
_sent = _meter.create_counter("app.messages.sent", unit="{message}", description="Sendings to a stream.")
_handled = _meter.create_counter(
    "app.messages.handled",
    unit="{message}",
    description="Messages that were received, by what became of them.",
)
_acknowledged = _seconds(
    "app.message.acknowledged.duration", "From a message's event to its acknowledgement.", _DELIVERY
)
_errors = _meter.create_counter("app.errors", unit="{line}", description="Log lines of level ERROR.")
_board_streams = _meter.create_up_down_counter(
    "app.board.streams", unit="{stream}", description="Streams of events that are open to boards."
)
_board_shown = _seconds(
    "app.board.shown.duration", "From a change in a service to the boards that are open.", _DELIVERY
)
_lag = _meter.create_gauge("app.event_loop.lag", unit="s", description="How late the event loop is.")
_pool_wait = _seconds("app.pool.wait.duration", "From asking a pool to having a connection.", _WAIT)


class Bounded:
    """The values of a label: at most `most` are kept, the others are `other`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()
        self._lock = Lock()

    def fold(self, value: str) -> str:
        """Return the value, or `other` if it is one too many."""
        if value in self._known:
            return value
        with self._lock:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(value)
        return value


_routes, _sources, _types, _events = Bounded(200), Bounded(100), Bounded(50), Bounded(200)


@contextmanager
def request_in_progress() -> Iterator[None]:
    """Count a request as one that is worked on."""
    _in_progress.add(1)
    try:
        yield
    finally:
        _in_progress.add(-1)


def request_ended(method: str, route: str | None, status: int, *, seconds: float) -> None:
    """Record a request.

    Parameters:
        method: of HTTP, as the client has sent it.
        route: the template that has matched, and never the path; None if none has.
        status: of the answer.
        seconds: how long it took.
    """
    labels = {
        "http.route": NO_ROUTE if route is None else _routes.fold(route),
        "http.request.method": method if method in _METHODS else "_OTHER",
        "http.response.status_code": str(status),
        "door": DOOR,
    }
    _request_duration.record(seconds, labels)


_WHEN_COMMITTED = "when_committed"


def when_committed(session: Session, call: Callable[[], None]) -> None:
    """Call `call` once the session's transaction is committed, and never if it is not.

    A unit of work that is run again has a new session, and so counts and is logged once.
    """
    session.info.setdefault(_WHEN_COMMITTED, []).append(call)


@event.listens_for(Session, "after_commit")
def _call_committed(session: Session) -> None:
    for call in session.info.pop(_WHEN_COMMITTED, ()):
        call()


@event.listens_for(Session, "after_rollback")
def _forget_uncommitted(session: Session) -> None:
    session.info.pop(_WHEN_COMMITTED, None)


def order_created(session: Session, *, channel: str) -> None:
    """Count a new order at its commit."""
    when_committed(session, lambda: _created.add(1, {"channel": channel}))


def order_advanced(
    session: Session, *, channel: str, old: str, new: str, since: datetime, now: datetime
) -> None:
    """Count a change of an order's status at its commit, and how long the order was in the old one."""
    seconds = max(0.0, (now - since).total_seconds())

    def count() -> None:
        _transitions.add(1, {"from": old, "to": new, "channel": channel})
        _stage.record(seconds, {"from": old, "to": new})

    when_committed(session, count)


class PricingAttempt:
    """One attempt to price an order; `outcome` and `reused` are filled in on the way."""

    outcome: Literal["priced", "rejected", "failed", "interrupted"] = "failed"
    reused = False
    """Whether every measurement was there already."""


@contextmanager
def pricing_attempt() -> Iterator[PricingAttempt]:
    """Record an attempt to price an order; as failed, unless it says otherwise."""
    attempt, started = PricingAttempt(), time.monotonic()
    _pricing_running.add(1)
    try:
        yield attempt
    except CancelledError:
        attempt.outcome = "interrupted"
        raise
    finally:
        _pricing_running.add(-1)
        labels = {"outcome": attempt.outcome, "reused": "true" if attempt.reused else "false"}
        _pricing.record(time.monotonic() - started, labels)


def pricing_workers(*, running: int, wanted: int) -> None:
    """Record how many worker processes run, and how many should."""
    _pricing_workers.set(running, {"state": "running"})
    _pricing_workers.set(wanted, {"state": "wanted"})


def messages_sent(destination: str, count: int) -> None:
    """Count messages that were written to the stream of a service."""
    _sent.add(count, {"destination": destination})


def message_handled(
    source: str, type_: str, outcome: Literal["handled", "repeated", "postponed", "refused"]
) -> None:
    """Count a message that was received, with a good signature.

    Parameters:
        source: the database that has sent it.
        type_: the event's name.
        outcome: what became of it; what is postponed comes again.
    """
    labels = {"source": _sources.fold(source), "type": _types.fold(type_), "outcome": outcome}
    _handled.add(1, labels)


def message_acknowledged(destination: str, *, seconds: float) -> None:
    """Record how long after its event a message was acknowledged."""
    _acknowledged.record(max(0.0, seconds), {"destination": destination})


def error_logged(name: str) -> None:
    """Count a log line of level ERROR by its event; a sentence that is none is `other`."""
    _errors.add(1, {"event": _events.fold(name) if _EVENT_NAME.fullmatch(name) else OTHER})


_dropped: dict[Literal["spans", "logs"], int] = {"spans": 0, "logs": 0}


def telemetry_dropped(signal: Literal["spans", "logs"], count: int) -> None:
    """Count what was not delivered: the queue was full, or who was to take it did not."""
    _dropped[signal] += count


def _observe_dropped(_options: CallbackOptions) -> Iterable[Observation]:
    for signal, count in _dropped.items():
        yield Observation(count, {"signal": signal})


_meter.create_observable_counter(
    "app.telemetry.dropped",
    [_observe_dropped],
    unit="{item}",
    description="Spans and log lines that were not delivered.",
)


class Recent:
    """The mean of the last seconds: what a process measures of itself, for itself."""

    def __init__(self, *, seconds: float = 5.0) -> None:
        self._seconds = seconds
        self._values: deque[tuple[float, float]] = deque(maxlen=1000)

    def note(self, value: float) -> None:
        """Keep a value."""
        self._values.append((time.monotonic(), value))

    def mean(self) -> float:
        """Return the mean of the last seconds; 0 if there was none."""
        since = time.monotonic() - self._seconds
        values = [value for at, value in tuple(self._values) if at >= since]
        return fmean(values) if values else 0.0


recent_lag, recent_pool_wait, recent_creation_wait = Recent(), Recent(), Recent()
"""What a service slows down its senders by."""


@contextmanager
def board_stream() -> Iterator[None]:
    """Count a stream of events as one that is open."""
    _board_streams.add(1)
    try:
        yield
    finally:
        _board_streams.add(-1)


def board_shown(*, seconds: float) -> None:
    """Record that a change of an order was given to the boards that are open."""
    _board_shown.record(max(0.0, seconds))


def event_loop_lag(seconds: float) -> None:
    """Record how late the event loop has woken a task."""
    _lag.set(seconds)
    recent_lag.note(seconds)


_intake = _meter.create_gauge("app.intake.waiting", unit="{order}", description="Partners' orders that wait.")
_intake_refused = _meter.create_counter(
    "app.intake.refused", unit="{order}", description="Partners' orders that were refused: too many waited."
)
_audit_unsealed = _meter.create_gauge(
    "app.audit.unsealed.age", unit="s", description="Age of the oldest line that no seal covers."
)
_grant = _meter.create_gauge(
    "app.flow.granted", unit="{message}", description="What a sender may send in a second."
)
_paused = _meter.create_gauge("app.flow.paused", description="1 while a person has paused a sender.")
_pressure = _meter.create_gauge("app.flow.pressure", description="A signal over its limit; above 1 it slows.")
_ignored = _meter.create_counter(
    "app.flow.ignored", unit="{message}", description="Messages far beyond their sender's grant."
)
_shed = _meter.create_counter(
    "app.requests.shed", unit="{request}", description="Requests that were refused."
)
_limit = _meter.create_gauge("app.requests.limit", unit="{request}", description="How many may be worked on.")


_limited = _meter.create_counter(
    "app.requests.limited", unit="{request}", description="Requests beyond their caller's limits."
)
_limits_unknown = _meter.create_counter(
    "app.limits.unknown", unit="{request}", description="Times that Redis did not say what is left of limits."
)


_identities_unknown = _meter.create_counter(
    "app.identities.unknown",
    unit="{request}",
    description="Requests refused because the identities could not be read for too long.",
)


def identities_unknown() -> None:
    """Count a request that was refused because the directory was away for too long."""
    _identities_unknown.add(1)


def request_limited(role: str, limit: str) -> None:
    """Count a request that was refused by a limit of its caller; roles and limits are few."""
    _limited.add(1, {"role": role, "limit": limit})


def limits_unknown() -> None:
    """Count that Redis did not answer what is left of a limit."""
    _limits_unknown.add(1)


def intake_waiting(database: str, count: int) -> None:
    """Record how many partners' orders wait to be placed on a shard."""
    _intake.set(count, {"database": database})


def intake_refused() -> None:
    """Count a partner's order that was refused, because too many waited."""
    _intake_refused.add(1)


def audit_unsealed(database: str, seconds: float) -> None:
    """Record how old the oldest line of an audit log is that no seal covers; 0 if there is none."""
    _audit_unsealed.set(seconds, {"database": database})


def granted(sender: str, per_second: float, *, paused: bool) -> None:
    """Record what a sender may send; the senders are few."""
    _grant.set(per_second, {"sender": sender})
    _paused.set(int(paused), {"sender": sender})


def flow_pressure(signal: str, pressure: float) -> None:
    """Record a signal, as a share of its limit; the signals are few."""
    _pressure.set(pressure, {"signal": signal})


def grant_ignored(sender: str) -> None:
    """Count a message that came far beyond its sender's grant."""
    _ignored.add(1, {"sender": sender})


def request_shed(priority: str) -> None:
    """Count a request that was refused, so that what matters more is done."""
    _shed.add(1, {"priority": priority})


def request_limit(limit: int) -> None:
    """Record how many requests may be worked on at once."""
    _limit.set(limit)


_webhooks = _meter.create_counter(
    "app.webhooks.sent", unit="{request}", description="Sendings to partners, by what became of them."
)
_webhooks_dead = _meter.create_counter(
    "app.webhooks.dead", unit="{event}", description="Events that a partner's endpoint has not taken in days."
)
_webhooks_disabled = _meter.create_counter(
    "app.webhooks.disabled", unit="{endpoint}", description="Partners' endpoints that were disabled."
)


def webhook_sent(outcome: Literal["delivered", "failed"]) -> None:
    """Count a sending to a partner's endpoint."""
    _webhooks.add(1, {"outcome": outcome})


def webhook_dead() -> None:
    """Count an event that is not sent any more: it was not taken for too long."""
    _webhooks_dead.add(1)


def webhook_disabled() -> None:
    """Count an endpoint to which nothing has come through for too long."""
    _webhooks_disabled.add(1)


_pools: dict[str, WeakSet[Engine]] = {}


def watch_pool(engine: Engine, *, database: str) -> None:
    """Measure how long connections of an engine's pool are waited for, and how many there are."""
    _pools.setdefault(database, WeakSet()).add(engine)
    labels = {"database": database}

    def watch(_engine: Any = None) -> None:
        pool = engine.pool
        connect = pool.connect

        def timed() -> Any:
            started = time.monotonic()
            try:
                return connect()
            finally:
                _pool_wait.record(time.monotonic() - started, labels)
                recent_pool_wait.note(time.monotonic() - started)

        # SQLAlchemy has an event for a connection that was got, and none for one that is asked for.
        pool.connect = timed  # type: ignore[method-assign]

    watch()
    event.listen(engine, "engine_disposed", watch)  # by then it has a new pool


def _observe_pools(_options: CallbackOptions) -> Iterable[Observation]:
    for database, engines in list(_pools.items()):
        pools: list[Any] = [engine.pool for engine in list(engines)]
        for state, count in (("used", "checkedout"), ("idle", "checkedin")):
            connections = sum(getattr(pool, count)() for pool in pools)
            yield Observation(connections, {"database": database, "state": state})


_meter.create_observable_gauge(
    "app.pool.connections", [_observe_pools], unit="{connection}", description="Connections of the pools."
)
