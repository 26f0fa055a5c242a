"""A collector: takes OTLP over HTTP and decodes it, as a real one does."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class TakenSpan:
    """A span as it has arrived."""

    service: str
    instance: str
    name: str
    kind: str
    trace: str
    span: str
    parent: str
    failed: bool
    began: float
    """In seconds of the epoch."""
    seconds: float
    facts: dict[str, Any]
    texts: tuple[str, ...]
    """What it says of an error: its status and its events."""
    links: tuple[str, ...]

    @property
    def order(self) -> str | None:
        """The order that it concerns."""
        return self.facts.get("order.id")


@dataclass
class Collector:
    """What a collector has taken."""

    url: str
    spans: list[TakenSpan] = field(default_factory=list)
    metrics: set[str] = field(default_factory=set)
    may_answer: Event = field(default_factory=Event)
    asked: Event = field(default_factory=Event)
    """Set once something has come."""

    def take_spans(self, body: bytes) -> None:
        """Decode spans."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            own = {each.key: _value(each.value) for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [_taken(own, span) for span in scope.spans]

    def take_metrics(self, body: bytes) -> None:
        """Decode metrics; their names are kept."""
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for scope in resource.scope_metrics:
                self.metrics |= {metric.name for metric in scope.metrics}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)


def _taken(resource: Mapping[str, Any], span: Span) -> TakenSpan:
    return TakenSpan(
        service=str(resource["service.name"]),
        instance=str(resource["service.instance.id"]),
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace=span.trace_id.hex(),
        span=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        began=span.start_time_unix_nano / 1e9,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        facts={each.key: _value(each.value) for each in span.attributes},
        texts=(
            span.status.message,
            *(str(_value(fact.value)) for each in span.events for fact in each.attributes),
        ),
        links=tuple(link.trace_id.hex() for link in span.links),
    )


@contextmanager
def collecting(*, status: int = 200, answers: bool = True) -> Iterator[Collector]:
    """Run a collector for the time of a block.

    Parameters:
        status: what it answers.
        answers: whether it does so at once, or when `may_answer` is set.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.asked.set()
            collector.may_answer.wait()
            if status == 200:
                (collector.take_metrics if self.path.endswith("metrics") else collector.take_spans)(body)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        if answers:
            collector.may_answer.set()
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            collector.may_answer.set()
            server.shutdown()
            thread.join()
