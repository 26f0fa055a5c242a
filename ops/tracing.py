"""Spans of `mesctl`: one of each verb, and in it one of each batch that is archived.

Without a collector nothing of OpenTelemetry is imported.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ops.errors import ExitStatus

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

ENDPOINT = "MES_STORAGE_OTLP_ENDPOINT"
"""Where a collector takes OTLP over HTTP."""

RATIO = "MES_STORAGE_TRACE_RATIO"
"""The share of the runs whose spans are sent, from 0 to 1; those that fail are sent always."""

VERB: ContextVar[str] = ContextVar("VERB", default="mesctl")
"""The verb of this run, such as `mesctl archive run`; it has no argument, which may be a secret."""

_SEND_SECONDS = 2.0
_END_SECONDS = 3.0
"""How long a run waits for the collector in the end."""

_tracer: ContextVar["Tracer | None"] = ContextVar("_tracer", default=None)

Attributes = Mapping[str, str | int | Sequence[str]]


def run_traced(run: Callable[[], int]) -> int:
    """Run a verb, in a span if a collector is configured; return its exit status."""
    endpoint = os.environ.get(ENDPOINT)
    if not endpoint:
        return run()
    ratio = _read_ratio(os.environ.get(RATIO, "1"))
    if ratio is None:
        print(f"mesctl: {RATIO} must be a number from 0 to 1", file=sys.stderr)
        return ExitStatus.USAGE
    try:
        chosen, always = _providers(f"{endpoint.rstrip('/')}/v1/traces", ratio)
    except ModuleNotFoundError as fault:
        print(
            f"mesctl: no spans are sent: install the extra, mesctl[monitoring] ({fault.name})",
            file=sys.stderr,
        )
        return run()
    return _run_in_span(run, chosen, always)


def _read_ratio(text: str) -> float | None:
    try:
        ratio = float(text)
    except ValueError:
        return None
    return ratio if 0 <= ratio <= 1 else None


def _run_in_span(run: Callable[[], int], chosen: "TracerProvider", always: "TracerProvider") -> int:
    """Run a verb in a span of one provider; if it has failed and that sends none, make one of the other."""
    tracer, began, status = chosen.get_tracer("mesctl"), time.time_ns(), int(ExitStatus.FAILED)
    token = _tracer.set(tracer)
    VERB.set("mesctl")
    try:
        # What an error says may hold rows and addresses; it stands on stderr.
        with tracer.start_as_current_span(
            "mesctl", start_time=began, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                status = run()
            finally:
                _describe(span, status)
    finally:
        _tracer.reset(token)
        if status and not span.get_span_context().trace_flags.sampled:
            span = always.get_tracer("mesctl").start_span("mesctl", start_time=began)
            _describe(span, status)
            span.end()
        _end(chosen)
    return status


def _describe(span: "Span", status: int) -> None:
    from opentelemetry.trace import StatusCode

    span.update_name(VERB.get())
    span.set_attributes({"process.executable.name": "mesctl", "process.exit.code": status})
    if status:
        span.set_status(StatusCode.ERROR)


@contextmanager
def span_of(name: str, *, began_ns: int, attributes: Attributes) -> Iterator[None]:
    """Do the last part of a piece of work in a span of the whole, if the verb has one.

    Parameters:
        name: of the span.
        began_ns: when the work has begun, in nanoseconds of the epoch.
        attributes: of the span.
    """
    tracer = _tracer.get()
    if tracer is None:
        yield
        return
    with tracer.start_as_current_span(
        name, start_time=began_ns, attributes=attributes, record_exception=False
    ):
        yield


def _providers(url: str, ratio: float) -> "tuple[TracerProvider, TracerProvider]":
    """Make the providers of a share of all traces and of every trace; both send by one queue."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBasedTraceIdRatio

    # Of a batch that fails it logs each attempt as a WARNING, and the end as an ERROR.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    place = f"{socket.gethostname()}:{os.getpid()}"
    resource = Resource.create({"service.name": "mesctl", "service.instance.id": place})
    queue = BatchSpanProcessor(OTLPSpanExporter(url, timeout=_SEND_SECONDS))
    chosen = TracerProvider(ParentBasedTraceIdRatio(ratio), resource, shutdown_on_exit=False)
    always = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
    for provider in (chosen, always):
        provider.add_span_processor(queue)
    return chosen, always


def _end(provider: "TracerProvider") -> None:
    """Send what waits; a collector that does not answer holds up the end for a moment only."""
    ending = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
    ending.start()
    ending.join(_END_SECONDS)
