"""Keeps worker processes at work: as many as the queue has use for and the machine has room for.

A worker is `python -m app.pricing worker NUMBER`. It writes a line a second on its standard output, with its
metrics; one that falls silent is killed, and one that has ended is replaced. The end of its standard input
says that the supervisor is gone, and then it stops in good order.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import structlog
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from app import instruments
from app.kit.tasks import sleep_unless
from app.topology import AUTO, WorkerCount

log: structlog.stdlib.BoundLogger = structlog.get_logger("pricing")

BEAT_SECONDS = 1.0
_MOST_BEAT_BYTES = 4 * 2**20
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the machine, or the container, has for workers."""

    cores: int
    memory_bytes: int
    free_bytes: int

    @classmethod
    def measure(cls) -> Self:
        """Look at the machine, and at the limits of the container."""
        quota, period = _words(_CGROUP / "cpu.max", "max 100000")
        cores = len(os.sched_getaffinity(0))
        if quota != "max":
            cores = max(1, min(cores, int(quota) // int(period)))
        named = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(named[name]) * 1024 for name in ("MemTotal:", "MemAvailable:"))
        (limit,) = _words(_CGROUP / "memory.max", "max")
        if limit != "max":
            (used,) = _words(_CGROUP / "memory.current", "0")
            total, free = min(total, int(limit)), min(free, int(limit) - int(used))
        return cls(cores=cores, memory_bytes=total, free_bytes=free)


def _words(path: Path, default: str) -> list[str]:
    try:
        return path.read_text().split()
    except FileNotFoundError:
        return default.split()


def most_workers(wanted: WorkerCount, room: Room, *, job_bytes: int) -> int:
    """Return how many workers may run: a fixed number, or one for each core for whose job there is memory.

    All of them together get half of the memory, for the machine has other work as well.
    """
    if wanted != AUTO:
        return wanted
    return max(1, min(room.cores, room.memory_bytes // 2 // job_bytes))


def workers_for(jobs: int, *, running: int, most: int, room: Room, job_bytes: int) -> int:
    """Return how many workers should run: one for each job, as long as memory is free for one more."""
    useful = min(most, max(1, jobs))
    if useful > running > 0:
        return min(useful, running + max(0, room.free_bytes) // job_bytes)
    return useful


@dataclass(frozen=True, kw_only=True)
class SupervisorOptions:
    """How the supervisor works.

    Parameters:
        workers: how many, or "auto".
        job_bytes: the memory that one job may use.
        poll_seconds: how often it looks at the workers and the queue.
        grow_seconds: how long jobs have to be more than the workers before another one is started.
        shrink_seconds: how long workers have to be too many before one is stopped.
        silent_seconds: after which time without a line a worker counts as frozen. Its jobs are taken by
            others before that.
        start_seconds: how long a worker may be silent at its start.
        restart_seconds: how long the place of a worker stays empty that has ended soon after its start; twice
            as long each time.
        stop_seconds: how long a worker may take to stop.
    """

    workers: WorkerCount = AUTO
    job_bytes: int = 3 * 2**30
    poll_seconds: float = 0.5
    grow_seconds: float = 1.0
    shrink_seconds: float = 60.0
    silent_seconds: float = 15.0
    start_seconds: float = 90.0
    restart_seconds: float = 1.0
    stop_seconds: float = 15.0


_LONGEST_RESTART_SECONDS = 30.0
_SETTLED_SECONDS = 20.0
"""One that has worked for so long has not failed at its start."""


@dataclass
class _Child:
    """A worker process, with what it has said last."""

    process: Process
    started_at: float
    heard_at: float | None = None
    ready: bool = False
    stopping_since: float | None = None
    metrics: str = ""
    listening: asyncio.Task[None] | None = None


@dataclass
class _Place:
    """The number of a worker: who has it, and when it may be given again."""

    child: _Child | None = None
    failures: int = 0
    free_at: float = 0.0


CountJobs = Callable[[], Awaitable[int | None]]
"""Counts the jobs of all shards that can be reached; None if none can."""


@dataclass
class Supervisor:
    """Keeps workers running. Several supervisors may run side by side, on one machine or many."""

    count_jobs: CountJobs
    options: SupervisorOptions = field(default_factory=SupervisorOptions)
    measure_room: Callable[[], Room] = Room.measure
    places: dict[int, _Place] = field(default_factory=dict)
    _jobs: int | None = None
    _wanted: int = 1
    _differs_since: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Keep workers until `stop` is set; then stop them, and end when the last one has."""
        # On its own: while a shard does not answer, workers are replaced all the same.
        counting = asyncio.create_task(self._count(), name="count jobs")
        try:
            while not stop.is_set():
                if counting.done():
                    counting.result()
                await self._look()
                await sleep_unless(stop, self.options.poll_seconds)
        finally:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)
            await self._end()

    async def _count(self) -> None:
        while True:
            self._jobs = await self.count_jobs()
            await asyncio.sleep(self.options.poll_seconds)

    @property
    def children(self) -> Mapping[int, _Child]:
        """The workers that run, by their numbers."""
        return {number: place.child for number, place in self.places.items() if place.child is not None}

    @property
    def is_ready(self) -> bool:
        """Whether a worker is at work."""
        return any(child.ready for child in self.children.values())

    def metrics(self) -> Mapping[str, str]:
        """Return what each worker has said last of its metrics, in the text format."""
        return {str(number): child.metrics for number, child in self.children.items() if child.metrics}

    async def _look(self) -> None:
        for number, place in self.places.items():
            self._check(number, place)
        self._decide(self._jobs)
        for number in range(self._wanted):
            place = self.places.setdefault(number, _Place())
            if place.child is None and place.free_at <= _now():
                await self._fill(number, place)
        for number, child in self.children.items():
            if number >= self._wanted and child.stopping_since is None:
                log.info("worker_not_needed", worker=number)
                _stop(child)
        at_work = sum(child.stopping_since is None for child in self.children.values())
        instruments.pricing_workers(running=at_work, wanted=self._wanted)

    def _decide(self, jobs: int | None) -> None:
        """Follow the queue, and not every job that comes and goes; without an answer, all stays as it is."""
        room, options = self.measure_room(), self.options
        most = most_workers(options.workers, room, job_bytes=options.job_bytes)
        if options.workers != AUTO:
            self._wanted = most
        if options.workers != AUTO or jobs is None:
            return
        running, bytes_ = len(self.children), options.job_bytes
        wanted = workers_for(jobs, running=running, most=most, room=room, job_bytes=bytes_)
        if wanted == self._wanted:
            self._differs_since = None
            return
        since = self._differs_since = _now() if self._differs_since is None else self._differs_since
        grows = wanted > self._wanted
        if _now() - since >= (options.grow_seconds if grows else options.shrink_seconds):
            self._wanted = wanted if grows else self._wanted - 1
            self._differs_since = None

    def _check(self, number: int, place: _Place) -> None:
        """Free the place of a worker that has ended, and kill one that is frozen or does not stop."""
        child = place.child
        if child is None:
            return
        if child.process.returncode is not None:
            self._free(number, place, child)
        elif self._is_silent(child):
            log.error("worker_frozen", worker=number, pid=child.process.pid)
            _kill(child)
        elif child.stopping_since is not None and _now() - child.stopping_since > self.options.stop_seconds:
            _kill(child)

    def _free(self, number: int, place: _Place, child: _Child) -> None:
        place.child = None
        if child.stopping_since is not None:
            place.failures = 0
            return
        place.failures = 0 if _now() - child.started_at > _SETTLED_SECONDS else place.failures + 1
        log.error("worker_ended", worker=number, status=child.process.returncode)
        place.free_at = _now() + self._rest_seconds(place.failures)

    def _rest_seconds(self, failures: int) -> float:
        """Return how long a place stays empty; after the first time not at all: its start had no fault."""
        # A power above this is past the longest rest, and would overflow in the end.
        rest = self.options.restart_seconds * 2 ** min(failures - 2, 32) if failures > 1 else 0.0
        return min(rest, _LONGEST_RESTART_SECONDS)

    async def _fill(self, number: int, place: _Place) -> None:
        """Start a worker; where the machine has no room for a process, it may have later."""
        try:
            place.child = await self._start(number)
        except OSError as error:
            place.failures += 1
            place.free_at = _now() + self._rest_seconds(place.failures)
            log.error("worker_not_started", worker=number, error=str(error))

    def _is_silent(self, child: _Child) -> bool:
        if child.heard_at is None:
            return _now() - child.started_at > self.options.start_seconds
        return _now() - child.heard_at > self.options.silent_seconds

    async def _start(self, number: int) -> _Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "app.pricing",
            "worker",
            str(number),
            stdin=PIPE,
            stdout=PIPE,
            limit=_MOST_BEAT_BYTES,
            # Ctrl-C at a terminal is for the supervisor to handle.
            start_new_session=True,
        )
        log.info("worker_started", worker=number, pid=process.pid)
        child = _Child(process, _now())
        child.listening = asyncio.create_task(_listen(child), name=f"worker {number}")
        return child

    async def _end(self) -> None:
        """Stop all workers side by side, and kill those that take too long."""
        children = list(self.children.values())
        for child in children:
            _stop(child)
        waits = [asyncio.create_task(child.process.wait()) for child in children]
        if waits:
            await asyncio.wait(waits, timeout=self.options.stop_seconds)
        for child in children:
            _kill(child)
            await child.process.wait()
            if child.listening is not None:
                await child.listening
        self.places.clear()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _stop(child: _Child) -> None:
    child.stopping_since = _now()
    with contextlib.suppress(ProcessLookupError):
        child.process.send_signal(signal.SIGTERM)


def _kill(child: _Child) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.process.kill()


async def _listen(child: _Child) -> None:
    """Take a worker's lines until its end."""
    assert child.process.stdout is not None
    async for said in listen(child.process.stdout):
        child.heard_at, child.ready, child.metrics = _now(), said["ready"], said["metrics"]


async def listen(stdout: asyncio.StreamReader) -> AsyncIterator[Mapping[str, Any]]:
    """Yield a worker's lines; the last one of a worker that was killed may have no end, and is none."""
    async for line in stdout:
        if line.endswith(b"\n"):
            yield json.loads(line)


class FleetMetrics(Collector):
    """The metrics of this process and those of the workers, which have the label `worker`."""

    def __init__(self, own: Collector, texts: Callable[[], Mapping[str, str]]) -> None:
        """Take a registry, and what gives each worker's metrics in the text format."""
        self._own = own
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        """Return one family for each name."""
        families: dict[str, Metric] = {}
        for family in self._own.collect():
            # A new one with the samples: some collectors return the same family each time.
            families[family.name] = copied = _empty(family)
            copied.samples += family.samples
        for worker, text in self._texts().items():
            for family in text_string_to_metric_families(text):
                known = families.setdefault(family.name, _empty(family))
                known.samples += [
                    sample._replace(labels={**sample.labels, "worker": worker}) for sample in family.samples
                ]
        return families.values()


def _empty(family: Metric) -> Metric:
    return Metric(family.name, family.documentation, family.type, family.unit)
