"""OpenTelemetry's SDK in a process: metrics for the admin port, and spans for a collector if there is one.

Nothing of a service waits for it. Spans wait in a queue with an end, a thread sends them, and what the
collector does not take in time is dropped and counted (`app_telemetry_dropped_total`).

Whether the spans of a piece of work (a request, a message, an attempt to price) are kept is decided at its
end, and by the order that it was about: so of each order every process keeps everything or nothing. Work that
concerns no order is decided by its trace. A piece in which a span has failed is always kept, whatever the
ratio; "always" ends where a process is killed, or the queue is full.
"""

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from hashlib import sha256
from importlib.util import find_spec
from threading import Lock
from types import MappingProxyType
from typing import Any

import structlog
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes, AttributeValue

from app import instruments
from app.kit.log_masks import mask, mask_text

ORDER_ID = "order.id"
"""The attribute of every span that concerns an order."""

TRACEPARENT = "traceparent"
FRESH = timedelta(minutes=10)
"""How much later work still belongs to the trace that has caused it; beyond that it is linked to it."""

QUEUE_SPANS = 8192
"""How many spans may wait for the collector."""

_BATCH_SPANS = 512
_DELAY_MILLISECONDS = 250
"""How long a span may wait to be sent, and so how much is lost with a process that is killed."""

_MOST_HELD = 16384
"""How many spans of unfinished work are kept until it is decided."""

_SEND_SECONDS = 2.0
"""How long the collector may take for one batch, with every attempt."""

_STOP_SECONDS = 3.0
_METRICS_EVERY_SECONDS = 15.0
_RANGE = 2**64

log: structlog.stdlib.BoundLogger = structlog.get_logger("telemetry")
tracer = trace.get_tracer("app")
_propagator = TraceContextTextMapPropagator()


class Work:
    """A piece of work, and the order that it is about as soon as that is known."""

    def __init__(self, order_id: str | None) -> None:
        self.order_id = order_id
        self.span: trace.Span = trace.INVALID_SPAN


_work: ContextVar[Work | None] = ContextVar("work", default=None)


@contextmanager
def working(
    name: str,
    *,
    kind: SpanKind,
    order_id: str | None = None,
    context: Context | None = None,
    links: Sequence[Link] = (),
    attributes: Mapping[str, AttributeValue] = MappingProxyType({}),
) -> Iterator[trace.Span]:
    """Do a piece of work in a span: all spans inside of it bear the order that it is about.

    Parameters:
        name: of the span.
        kind: SERVER for a request, CONSUMER for a message or a job.
        order_id: the order, if it is known by now; else see `concerns`.
        context: from `cause_of`, of which this is a part.
        links: from `cause_of`.
        attributes: of the span.
    """
    work = Work(order_id)
    own = dict(attributes) | ({ORDER_ID: order_id} if order_id is not None else {})
    # Before the span begins: a server may run a request in the context of the one before on that connection.
    token = _work.set(work)
    try:
        # An empty context, and not the one of now: this is a part of what has caused it, and of nothing else.
        with tracer.start_as_current_span(
            name,
            context or Context(),
            kind=kind,
            links=links,
            attributes=own,
            record_exception=False,
            set_status_on_exception=False,
        ) as work.span:
            try:
                yield work.span
            except Exception as error:
                # Its text is in the log.
                work.span.set_attribute("error.type", f"{type(error).__module__}.{type(error).__qualname__}")
                work.span.set_status(StatusCode.ERROR)
                raise
    finally:
        _work.reset(token)


def concerns(order_id: int) -> None:
    """Note which order the present piece of work is about: it was only made, or found, in it."""
    work = _work.get()
    if work is not None and work.order_id is None:
        work.order_id = str(order_id)
        work.span.set_attribute(ORDER_ID, work.order_id)


def traceparent_of(span: trace.Span | None = None) -> str | None:
    """Return the `traceparent` of a span, of the present one without it; None where there is none."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, None if span is None else trace.set_span_in_context(span))
    return carrier.get(TRACEPARENT)


def cause_of(traceparent: str | None, *, is_fresh: bool = True) -> tuple[Context, list[Link]]:
    """Read a `traceparent`: the context that work is a part of, or links to what has caused it long ago.

    One that cannot be read causes nothing.
    """
    if not traceparent:
        return Context(), []
    found = _propagator.extract({TRACEPARENT: traceparent}, Context())
    span = trace.get_current_span(found).get_span_context()
    if not span.is_valid:
        return Context(), []
    return (found, []) if is_fresh else (Context(), [Link(span)])


def is_kept(key: str, ratio: float) -> bool:
    """Return whether what has this key is kept; of the same key every process says the same."""
    return int.from_bytes(sha256(key.encode()).digest()[:8], "big") < ratio * _RANGE


class EntrySampler(Sampler):
    """Records work that has come in from somewhere: a request, a message, a job; and all that is done for it.

    What a process does by itself all the time (asks a stream, a database, a peer) is no one's work, and would
    bury the rest.
    """

    def should_sample(  # noqa: PLR0917 (the SDK's signature)
        self,
        parent_context: Context | None,
        trace_id: int,  # noqa: ARG002 (the SDK's signature)
        name: str,  # noqa: ARG002 (the SDK's signature)
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,  # noqa: ARG002 (the SDK's signature)
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide on a span that begins."""
        parent = trace.get_current_span(parent_context).get_span_context()
        if parent.is_valid:
            wanted = parent.is_remote or parent.trace_flags.sampled
        else:
            wanted = kind in _ENTRIES or ORDER_ID in (attributes or {})
        decision = Decision.RECORD_AND_SAMPLE if wanted else Decision.DROP
        return SamplingResult(decision, attributes if wanted else None, trace_state)

    def get_description(self) -> str:
        """Name the sampler."""
        return "EntrySampler"


_ENTRIES = (SpanKind.SERVER, SpanKind.CONSUMER)


class Piece:
    """The spans of one piece of work in this process, until its first one ends."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.ended: list[ReadableSpan] = []


class OrderSampling(SpanProcessor):
    """Passes the spans of a piece of work on, all or none; see the module."""

    def __init__(self, after: SpanProcessor, ratio: float, *, most_held: int = _MOST_HELD) -> None:
        self._after = after
        self._ratio = ratio
        self._most_held = most_held
        self._held = 0
        self._pieces: dict[int, Piece] = {}
        self._lock = Lock()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 (the SDK's signature)
        """Note which order a span is about, and which piece of work it belongs to."""
        work = _work.get()
        if work is not None and work.order_id is not None:
            span.set_attribute(ORDER_ID, work.order_id)
        if self._ratio >= 1:
            return
        own, parent = span.get_span_context(), span.parent
        with self._lock:
            piece = None if _is_first(span) or parent is None else self._pieces.get(parent.span_id)
            if own is not None and self._held < self._most_held:
                piece = piece or Piece()
                piece.ids.append(own.span_id)
                self._pieces[own.span_id] = piece
                self._held += 1

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span until its piece of work has ended, and then decide on all of them."""
        if self._ratio >= 1:
            self._after.on_end(span)
            return
        with self._lock:
            piece = self._pieces.get(_id_of(span))
            if piece is not None:
                piece.ended.append(span)
                if _id_of(span) != piece.ids[0]:
                    return
                for span_id in piece.ids:
                    del self._pieces[span_id]
                self._held -= len(piece.ids)
        spans = [span] if piece is None else piece.ended
        if is_wanted(spans, self._ratio):
            for each in spans:
                self._after.on_end(each)

    def shutdown(self) -> None:
        """End what comes after."""
        self._after.shutdown()

    def force_flush(self, timeout_millis: int | None = 30000) -> bool:
        """Send what waits."""
        return self._after.force_flush(timeout_millis or 30000)


def _is_first(span: ReadableSpan) -> bool:
    return span.parent is None or span.parent.is_remote


def _id_of(span: ReadableSpan) -> int:
    return 0 if span.context is None else span.context.span_id


def is_wanted(spans: Sequence[ReadableSpan], ratio: float) -> bool:
    """Decide on the spans of one piece of work."""
    if any(span.status.status_code is StatusCode.ERROR for span in spans):
        return True
    orders = (span.attributes[ORDER_ID] for span in spans if span.attributes and ORDER_ID in span.attributes)
    traces = (str(span.context.trace_id) for span in spans if span.context is not None)
    key: AttributeValue | None = next(orders, None) or next(traces, None)
    return key is not None and is_kept(str(key), ratio)


_STATEMENTS = frozenset({"db.statement", "db.query.text"})
"""They are recorded without their parameters, and are long."""


def mask_span(span: ReadableSpan) -> ReadableSpan:
    """Return a span without what instrumentations repeat of errors and URLs: addresses, rows, passwords."""
    facts = {name: fact for name, fact in (span.attributes or {}).items() if name not in _STATEMENTS}
    about = span.status.description
    masked = {name: mask_text(fact) for name, fact in facts.items() if isinstance(fact, str)}
    if not span.events and about is None and masked.items() <= facts.items():
        return span
    return ReadableSpan(
        span.name,
        span.context,
        span.parent,
        span.resource,
        {**(span.attributes or {}), **masked},
        [Event(each.name, mask("", each.attributes or {}), each.timestamp) for each in span.events],
        span.links,
        span.kind,
        status=Status(span.status.status_code, None if about is None else mask_text(about)),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


class CountingExporter(SpanExporter):
    """Sends batches, masked; counts what is not taken, and says once that the collector is away.

    The SDK logs each batch that fails, and goes on for as long as there is one.
    """

    def __init__(self, exporter: SpanExporter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._exporter = exporter
        self._clock = clock
        self._ends_at = math.inf
        self._is_away = False
        self._settling = threading.Lock()
        self._settled = 0
        self.taken = 0
        """How many spans have left the queue."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; what is not taken is dropped."""
        self.taken += len(spans)
        result = self._send([mask_span(span) for span in spans])
        is_away = result is not SpanExportResult.SUCCESS
        self._settle(len(spans), is_lost=is_away)
        if is_away != self._is_away:
            if is_away:
                log.warning("collector_away", lost=len(spans))
            else:
                log.info("collector_back")
        self._is_away = is_away
        return result

    def _send(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._clock() > self._ends_at:
            return SpanExportResult.FAILURE
        try:
            return self._exporter.export(spans)
        except Exception:  # whatever it is, it is no matter of the service's; `export` says it
            return SpanExportResult.FAILURE

    def _settle(self, count: int, *, is_lost: bool) -> None:
        with self._settling:
            if self._settled + count > self.taken:  # what was given up is counted already
                return
            self._settled += count
        if is_lost:
            instruments.telemetry_dropped("spans", count)

    def end_within(self, seconds: float) -> None:
        """Send nothing any more after so many seconds: the process ends."""
        self._ends_at = self._clock() + seconds

    def give_up(self, given: int) -> None:
        """Count as dropped what was given to the queue and is not settled: no one waits for it."""
        with self._settling:
            lost, self._settled = given - self._settled, given
        if lost > 0:
            instruments.telemetry_dropped("spans", lost)

    def shutdown(self) -> None:
        """Close the connections to the collector."""
        self._exporter.shutdown()


class BoundedQueue(SpanProcessor):
    """Counts what is dropped between the spans that end and the SDK's queue, which drops in silence."""

    def __init__(self, exporter: CountingExporter, *, most_spans: int = QUEUE_SPANS) -> None:
        self._exporter = exporter
        self._most_spans = most_spans
        self._given = 0
        self._queue = BatchSpanProcessor(
            exporter,
            max_queue_size=most_spans,
            max_export_batch_size=min(_BATCH_SPANS, most_spans),
            schedule_delay_millis=_DELAY_MILLISECONDS,
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span, or drop it if there is no room."""
        if self._given - self._exporter.taken >= self._most_spans:
            instruments.telemetry_dropped("spans", 1)
            return
        self._given += 1
        self._queue.on_end(span)

    def shutdown(self) -> None:
        """Send what waits, within a bound, and end."""
        self._exporter.end_within(_STOP_SECONDS)
        # The SDK's waits for 30 s where a collector never lets a batch end.
        ending = threading.Thread(target=self._queue.shutdown, name="last spans", daemon=True)
        ending.start()
        ending.join(_STOP_SECONDS + _SEND_SECONDS)
        self._exporter.give_up(self._given)

    def force_flush(self, timeout_millis: int | None = 30000) -> bool:
        """Send what waits."""
        return self._queue.force_flush(timeout_millis or 30000)


def start_telemetry(
    service: str,
    *,
    otlp_endpoint: str | None,
    trace_ratio: float,
    own_services: Collection[str] = frozenset(),
) -> Callable[[], None]:
    """Set the SDK up for this process, once, before anything is opened that is to be measured.

    Without an endpoint there are metrics for the admin port, and trace ids for log lines and messages, but no
    spans.

    Parameters:
        service: its name.
        otlp_endpoint: where a collector takes OTLP over HTTP, such as http://127.0.0.1:4318.
        trace_ratio: the share of the orders whose spans are sent, from 0 to 1.
        own_services: HOST:PORT of each service that httpx names the trace to; strangers do not see it.

    Returns:
        what ends it: it sends what waits, for a few seconds at most.
    """
    # The names of the stable conventions, where an instrumentation knows older ones still.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")
    place = f"{socket.gethostname()}:{os.getpid()}"
    resource = Resource.create({"service.name": service, "service.instance.id": place})
    # By it instrumentations would name the trace to every server that they call. See `_instrument`.
    propagate.set_global_textmap(CompositePropagator([]))
    meters = MeterProvider(
        _readers(otlp_endpoint),
        resource=resource,
        exemplar_filter=AlwaysOffExemplarFilter(),
        shutdown_on_exit=False,
    )
    metrics.set_meter_provider(meters)
    tracers = _tracers(resource, otlp_endpoint, trace_ratio, own_services)
    trace.set_tracer_provider(tracers)
    # It logs each batch that fails; `CountingExporter` says it once.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)

    def stop() -> None:
        tracers.shutdown()
        meters.shutdown(timeout_millis=_STOP_SECONDS * 1000)

    return stop


def _readers(otlp_endpoint: str | None) -> list[MetricReader]:
    readers: list[MetricReader] = [PrometheusMetricReader(scope_info_enabled=False)]
    if otlp_endpoint is not None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        url = f"{otlp_endpoint.rstrip('/')}/v1/metrics"
        exporter = OTLPMetricExporter(url, timeout=_SEND_SECONDS)
        readers.append(
            PeriodicExportingMetricReader(exporter, export_interval_millis=_METRICS_EVERY_SECONDS * 1000)
        )
    return readers


def _tracers(
    resource: Resource, otlp_endpoint: str | None, ratio: float, own_services: Collection[str]
) -> TracerProvider:
    if otlp_endpoint is None:
        return TracerProvider(ALWAYS_OFF, resource, shutdown_on_exit=False)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    _instrument(own_services)
    url = f"{otlp_endpoint.rstrip('/')}/v1/traces"
    queue = BoundedQueue(CountingExporter(OTLPSpanExporter(url, timeout=_SEND_SECONDS)))
    tracers = TracerProvider(EntrySampler(), resource, shutdown_on_exit=False)
    tracers.add_span_processor(OrderSampling(queue, ratio))
    return tracers


def _instrument(own_services: Collection[str]) -> None:
    """Have the drivers make spans of what they do, inside of work only: see `EntrySampler`."""
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
    from opentelemetry.instrumentation.redis import RedisInstrumentor

    PsycopgInstrumentor().instrument()
    RedisInstrumentor().instrument()
    if find_spec("httpx") is not None:  # no service needs it
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

        def name_trace(span: trace.Span, request: Any) -> None:
            port = request.url.port or {"http": 80, "https": 443}.get(request.url.scheme)
            if span.is_recording() and f"{request.url.host}:{port}" in own_services:
                _propagator.inject(request.headers, trace.set_span_in_context(span))

        async def name_trace_async(span: trace.Span, request: Any) -> None:
            name_trace(span, request)

        hooks = {"request_hook": name_trace, "async_request_hook": name_trace_async}
        HTTPXClientInstrumentor().instrument(**hooks)
