"""The exporter: it collects in the background, and a scrape gets what was collected last.

Every database is read by a thread of its own, and so is what the project adds. A round ends in time: what
does not is left at work, shown as not read, and not asked again before it has ended.
"""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ops.monitoring.databases import EXTENSION, HELP, PREFIX, DatabaseReader, DatabaseReading
from ops.monitoring.samples import SampleWriter, directory_of
from ops.partitions.metrics import Sample
from readreplica.errors import one_line
from sharding.topology import Topology

INTERVAL_SECONDS = 15.0
SERIES_MOST = 5_000
"""Of what the project adds; more is a mistake in a label."""

PROJECT = "project"
"""What stands in place of a database where it is the project's own samples that could not be read."""
WRITER = "samples"

_OWN_HELP: Mapping[str, str] = {
    f"{PREFIX}_exporter_last_success_timestamp_seconds": "When a database was last read without an error.",
    f"{PREFIX}_exporter_errors_total": "What could not be read, in all rounds.",
    f"{PREFIX}_exporter_missing": "A right or an extension, without which some metrics are left out.",
    f"{PREFIX}_exporter_samples_written_total": "Rows written to the directory's table of samples.",
    f"{PREFIX}_exporter_round_seconds": "How long the last round took.",
}

ReadProject = Callable[[Topology], Iterable[Sample]]
Report = Callable[[str], None]


class SampleCollector(Collector):
    """Returns the samples of the last round to Prometheus' client.

    Parameters:
        helps: what the project's metrics count, by name.
    """

    def __init__(self, helps: Mapping[str, str] | None = None) -> None:
        self.samples: Sequence[Sample] = ()
        self._helps = helps or {}

    def collect(self) -> Iterator[Metric]:
        """Return the samples by metric."""
        metrics: dict[str, Metric] = {}
        for name, labels, value in self.samples:
            if name not in metrics:
                metrics[name] = _metric(name, self._helps)
            metrics[name].add_sample(name, dict(labels), value)
        yield from metrics.values()


def _metric(name: str, helps: Mapping[str, str]) -> Metric:
    short = name.removeprefix(f"{PREFIX}_")
    meaning = _OWN_HELP.get(name) or HELP.get(short) or helps.get(name) or "Of the project."
    kind = "counter" if name.endswith("_total") else "gauge"
    return Metric(name.removesuffix("_total"), meaning, kind)


class Exporter:
    """Collects round after round.

    Parameters:
        topology: where the databases are.
        reader: of the databases.
        read_project: reads what the project adds; None where it adds nothing.
        helps: what the project's metrics count, by name.
        report: is called with a line when a database begins or ceases to be read without a fault.
        round_seconds: how long a round waits for what it reads.
    """

    def __init__(
        self,
        topology: Topology,
        reader: DatabaseReader,
        *,
        read_project: ReadProject | None = None,
        helps: Mapping[str, str] | None = None,
        report: Report,
        round_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self.registry = CollectorRegistry()
        self._collector = SampleCollector(helps)
        self.registry.register(self._collector)
        self._topology = topology
        self._reader = reader
        self._read_project = read_project
        self._report = report
        self._round_seconds = round_seconds
        self._writer = SampleWriter(topology)
        # Each has at most one thread at work, the writer too.
        self._pool = ThreadPoolExecutor(max_workers=len(reader.members) + 2, thread_name_prefix="exporter")
        self._running: dict[str, Future[Any]] = {}
        self._names = [*reader.members, *([PROJECT] if read_project else [])]
        self._errors = Counter(dict.fromkeys(self._names, 0))
        self._succeeded: dict[str, float] = {}
        self._faults: dict[str, tuple[str, ...]] = {}
        self._written = 0

    @property
    def samples(self) -> Sequence[Sample]:
        """What was collected last."""
        return self._collector.samples

    @property
    def is_ready(self) -> bool:
        """Whether a round has ended."""
        return bool(self._collector.samples)

    def collect(self, now: datetime) -> None:
        """Read everything once, and publish it.

        Parameters:
            now: the current instant.
        """
        began = time.monotonic()
        for name in self._reader.members:
            self._start(name, partial(self._reader.read, name, now=now))
        if self._read_project is not None:
            self._start(PROJECT, partial(_read_project, self._read_project, self._topology))
        wait(list(self._running.values()), timeout=self._round_seconds)
        readings = [self._result(name) for name in self._names]
        for reading in readings:
            self._count(reading, now)
        samples = [sample for reading in readings for sample in reading.samples]
        self._collector.samples = [*samples, *self._own(readings, time.monotonic() - began)]

    def write(self, now: datetime) -> None:
        """Write what was collected last to the directory's table, once a minute.

        Parameters:
            now: the current instant.
        """
        directory = directory_of(self._topology)
        if directory is None or not self._writer.is_due(now):
            return
        if self._start(WRITER, partial(self._writer.write, list(self._collector.samples), now=now)):
            wait([self._running[WRITER]], timeout=self._round_seconds)
        try:
            self._written += self._running[WRITER].result(timeout=0)
            fault = ""
        except TimeoutError:
            fault = "the table of samples was not written in time"
        except Exception as error:  # whatever it is, the rounds go on
            fault = f"the table of samples was not written: {one_line(error)}"
        self._errors[directory.name] += bool(fault)
        self._say(WRITER, (fault,) if fault else ())

    def close(self) -> None:
        """Begin nothing more. What is at work ends by its own limits."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, name: str, work: Callable[[], object]) -> bool:
        """Submit work, unless the last of that name is still at it."""
        if name in self._running and not self._running[name].done():
            return False
        self._running[name] = self._pool.submit(work)
        return True

    def _result(self, name: str) -> DatabaseReading:
        running = self._running[name]
        why = "it was not read in time" if not running.done() else ""
        if running.done() and (fault := running.exception()):  # a bug costs no other database its metrics
            why = f"{type(fault).__name__}: {fault}"
        if not why:
            found: DatabaseReading = running.result()
            return found
        return DatabaseReading(PROJECT, errors=[why]) if name == PROJECT else self._reader.unread(name, why)

    def _count(self, reading: DatabaseReading, now: datetime) -> None:
        self._errors[reading.database] += len(reading.errors)
        if not reading.errors:
            self._succeeded[reading.database] = now.timestamp()
        self._say(reading.database, (*reading.errors, *_hints(reading.missing)))

    def _say(self, name: str, faults: tuple[str, ...]) -> None:
        """Report faults when they are others than before: not every 15 s."""
        if faults != self._faults.get(name, ()):
            lines = faults or ("is read again without a fault",)
            self._report("\n".join(f"{name}: {line}" for line in lines))
        self._faults[name] = faults

    def _own(self, readings: Iterable[DatabaseReading], seconds: float) -> Iterator[Sample]:
        prefix = f"{PREFIX}_exporter"
        for name, count in self._errors.items():
            yield Sample(f"{prefix}_errors_total", {"database": name}, count)
        for name, at in self._succeeded.items():
            yield Sample(f"{prefix}_last_success_timestamp_seconds", {"database": name}, at)
        for reading in readings:
            for what in sorted(reading.missing):
                yield Sample(f"{prefix}_missing", {"database": reading.database, "what": what}, 1)
        yield Sample(f"{prefix}_round_seconds", {}, seconds)
        yield Sample(f"{prefix}_samples_written_total", {}, self._written)


def _read_project(read: ReadProject, topology: Topology) -> DatabaseReading:
    return DatabaseReading(PROJECT, list(islice(read(topology), SERIES_MOST)))


def _hints(missing: Iterable[str]) -> Iterator[str]:
    """Name what the owner lacks. The extension is for those who want it: it is no fault."""
    for what in sorted(set(missing) - {EXTENSION}):
        yield f"its owner lacks {what}, and some metrics are left out: GRANT pg_monitor TO the owner"


class MetricsServer(ThreadingHTTPServer):
    """Serves /metrics, /livez and /readyz of an exporter."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], exporter: Exporter) -> None:
        self.exporter = exporter
        super().__init__(address, MetricsHandler)


class MetricsHandler(BaseHTTPRequestHandler):
    """Answers a scrape at once, with what was collected last."""

    timeout = 10
    server: MetricsServer

    def do_GET(self) -> None:
        """Answer."""
        exporter = self.server.exporter
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(exporter.registry))
            case "/livez":
                self._answer(HTTPStatus.OK, "text/plain", b"alive\n")
            case "/readyz":
                status = HTTPStatus.OK if exporter.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
                self._answer(status, "text/plain", b"ready\n" if exporter.is_ready else b"not yet\n")
            case _:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"/metrics /livez /readyz\n")

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_facts: object) -> None:
        """Log no request: one comes every few seconds."""


def serve(exporter: Exporter, *, host: str, port: int, every_seconds: float) -> None:
    """Collect and serve until SIGTERM or SIGINT.

    Parameters:
        exporter: what is served.
        host: an address of this machine.
        port: 0 lets the kernel choose.
        every_seconds: from the beginning of one round to that of the next.

    Raises:
        OSError: the port is taken.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with MetricsServer((host, port), exporter) as server:
        rounds = partial(_collect_until, ended, exporter, every_seconds)
        for work in (server.serve_forever, rounds):
            threading.Thread(target=work, daemon=True).start()
        ended.wait()
        exporter.close()
        server.shutdown()


def _collect_until(ended: threading.Event, exporter: Exporter, every_seconds: float) -> None:
    while not ended.is_set():
        began = time.monotonic()
        exporter.collect(datetime.now(UTC))
        exporter.write(datetime.now(UTC))
        ended.wait(max(0.0, began + every_seconds - time.monotonic()))
