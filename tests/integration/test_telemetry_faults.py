"""A collector that is dead, slow or full costs nothing, and what it does not take is counted."""

import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

from tests.collector import collecting
from tests.servers import PostgresServers

# A process of its own: the SDK's providers are global.
HEAD = """
import json, logging, re, sys, time
import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from prometheus_client import REGISTRY, generate_latest
from app.kit.logs import configure_logging
from app.kit.telemetry import start_telemetry, working

configure_logging("shop", level="info")
OURS = set(sys.argv[2:3])
stop = start_telemetry("shop", otlp_endpoint=sys.argv[1], trace_ratio=1.0, own_services=OURS)
"""
PROGRAM = (
    HEAD
    + """
started = time.monotonic()
for number in range(int(sys.argv[2])):
    with working("work", kind=SpanKind.SERVER, order_id=str(number)):
        pass
worked = time.monotonic() - started
structlog.get_logger("shop").error("order_lost")
logging.getLogger("some.library").error("no event %s", 1)
for number in range(500):
    structlog.get_logger("shop").error(f"order {number} is lost")
ending = time.monotonic()
trace.get_tracer_provider().shutdown()
text = generate_latest(REGISTRY).decode()
stop()
found = re.findall(r"^(app_(?:telemetry|errors).*) ([0-9.]+)$", text, re.M)
counts = {name: float(count) for name, count in found}
print(json.dumps({"worked": worked, "ended": time.monotonic() - ending, "counts": counts}))
"""
)
DROPPED = 'app_telemetry_dropped_total{signal="spans"}'


@dataclass(frozen=True)
class Ended:
    """What a process has shown."""

    worked: float
    ended: float
    counts: dict[str, float]
    log: str


def run(url: str, spans: int) -> Ended:
    """Make spans in a process, and end it."""
    words = [sys.executable, "-c", PROGRAM, url, str(spans)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return Ended(**json.loads(done.stdout.splitlines()[-1]), log=done.stdout + done.stderr)


def run_program(body: str, url: str, *arguments: str) -> str:
    """Run statements in a process whose spans are sent, and end it; return what it has printed."""
    words = [sys.executable, "-c", f"{HEAD}{body}stop()\n", url, *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout


def dead_url() -> str:
    """Return the URL of a port on which no one listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_all_spans_arrive_at_a_collector_that_takes_them_and_errors_count_by_their_event() -> None:
    with collecting() as collector:
        ended = run(collector.url, 2000)
    assert len(collector.spans) == 2000
    assert ended.counts[DROPPED] == 0
    assert ended.counts['app_errors_total{event="order_lost"}'] == 1
    assert ended.counts['app_errors_total{event="other"}'] >= 1
    events = [name for name in ended.counts if name.startswith("app_errors_total")]
    assert len(events) <= 201


def test_work_that_begins_in_the_context_of_other_work_is_not_about_its_order() -> None:
    """A server handles a request in the context of the one before on the same connection."""
    with collecting() as collector:
        run_program(
            """
with working("first", kind=SpanKind.SERVER, order_id="1"):
    with working("second", kind=SpanKind.SERVER, order_id="2"):
        pass
    with working("without an order", kind=SpanKind.SERVER):
        trace.get_tracer("test").start_span("statement").end()
""",
            collector.url,
        )
    found = {span.name: span.order for span in collector.spans}
    assert found == {"first": "1", "second": "2", "without an order": None, "statement": None}


ERRORS = """
import asyncio, httpx, psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL, text
from readreplica.engines import writer_engine

CONNINFO = sys.argv[2]
TABLE = "CREATE TEMP TABLE customers (name text NOT NULL, email text UNIQUE)"

async def insert_twice():
    url = URL.create("postgresql+psycopg", query=conninfo_to_dict(CONNINFO))
    engine = writer_engine(url, application_name="test")
    async with engine.begin() as connection:
        await connection.execute(text(TABLE))
        for _ in range(2):
            ada = {"name": "Ada Berg", "email": "ada@example.org"}
            await connection.execute(text("INSERT INTO customers VALUES (:name, :email)"), ada)

def insert_no_name():
    with psycopg.connect(CONNINFO, autocommit=True) as connection:
        connection.execute(TABLE)
        connection.execute("INSERT INTO customers VALUES (NULL, %s)", ["ada@example.org"])

def ask():
    httpx.get("http://ada:hunter2@127.0.0.1:9/?mail=ada@example.org")

for call in (lambda: asyncio.run(insert_twice()), insert_no_name, ask):
    try:
        with working("work", kind=SpanKind.SERVER, order_id="1"):
            call()
    except Exception as error:
        assert not isinstance(error, (NameError, TypeError)), error
        print(error)
"""


def test_what_an_error_says_is_sent_without_addresses_and_rows(postgres: PostgresServers) -> None:
    with collecting() as collector:
        printed = run_program(ERRORS, collector.url, postgres.conninfo())
    assert "(ada@example.org)" in printed
    failed = [span for span in collector.spans if span.failed]
    assert Counter(span.name for span in failed) == {"work": 3, "INSERT": 2, "GET": 1}
    faults = [span.facts["error.type"] for span in failed if span.name == "work"]
    assert faults == [
        "sqlalchemy.exc.IntegrityError",
        "psycopg.errors.NotNullViolation",
        "httpx.ConnectError",
    ]
    said = repr(collector.spans)
    assert "duplicate key value violates unique constraint" in said
    for secret in ("ada@example.org", "Ada Berg", "hunter2"):
        assert secret not in said


CALLS = """
import asyncio, httpx

async def ask(url):
    async with httpx.AsyncClient() as client:
        return (await client.get(url)).headers["seen"]

for url in sys.argv[2:]:
    url = f"http://{url}/orders/1?page=2"
    with working("work", kind=SpanKind.SERVER, order_id="1"):
        print(asyncio.run(ask(url)), httpx.get(url).headers["seen"])
    print(httpx.get(url).headers["seen"])
"""


@contextmanager
def answering() -> Iterator[str]:
    """Run a server that answers which `traceparent` it has got; give its HOST:PORT."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.send_header("seen", self.headers.get("traceparent", "none"))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_calls_by_httpx_are_spans_and_name_the_trace_to_our_services_only() -> None:
    with collecting() as collector, answering() as ours, answering() as strange:
        printed = run_program(CALLS, collector.url, ours, strange)
    inside, outside, strange_inside, strange_outside = printed.splitlines()
    calls = [span for span in collector.spans if span.kind == "CLIENT"]
    works = [span for span in collector.spans if span.kind == "SERVER"]
    assert [span.parent for span in calls] == [works[0].span] * 2 + [works[1].span] * 2
    named = [traceparent.rpartition("-")[0] for traceparent in inside.split()]  # without its flags
    assert named == [f"00-{span.trace}-{span.span}" for span in calls[:2]]
    assert {outside, *strange_inside.split(), strange_outside} == {"none"}
    assert {span.order for span in calls} == {"1"}
    facts = {"http.request.method": "GET", "http.response.status_code": 204, "server.address": "127.0.0.1"}
    assert all(facts.items() <= span.facts.items() for span in calls)
    assert calls[0].facts["url.full"] == f"http://{ours}/orders/1?page=2"


def test_a_dead_collector_costs_nothing_and_every_span_is_counted_as_dropped() -> None:
    ended = run(dead_url(), 3000)
    assert ended.counts[DROPPED] == 3000
    assert ended.log.count("collector_away") == 1
    assert ended.ended < 15


def test_a_frozen_collector_holds_up_neither_work_nor_the_end_and_the_queue_has_an_end() -> None:
    with collecting(answers=False) as collector:
        ended = run(collector.url, 20_000)
        assert collector.asked.is_set()
    # Far more than it takes on a busy machine: none of it waits for the collector.
    assert ended.worked < 20
    assert ended.ended < 15
    assert ended.counts[DROPPED] == 20_000


@contextmanager
def trickling() -> Iterator[str]:
    """Run a collector that answers byte by byte, so that no wait for the next one is long; give its URL."""
    ended = Event()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not ended.wait(0.2):
                connection.sendall(b"X")

    def accept(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=accept, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        ended.set()


def test_a_collector_that_trickles_holds_up_the_end_for_its_bound_only() -> None:
    with trickling() as url:
        ended = run(url, 10)
    assert ended.ended < 15
    assert ended.counts[DROPPED] == 10
