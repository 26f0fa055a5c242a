"""Pricing as processes: `python -m app.pricing` keeps workers, `python -m app.pricing worker NUMBER` is one.

SIGTERM or SIGINT ends each in good order.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog
from prometheus_client import REGISTRY, generate_latest

from app.database import DatabaseTimeouts, open_shards
from app.files import ModelStore
from app.instruments import event_loop_lag
from app.kit.admin import AdminPortTaken, Readings, measuring_lag, serving_admin
from app.kit.clock import utc_now
from app.kit.process import enter_with_retries, exit_on_signals, run_and_exit
from app.pricing import jobs
from app.pricing.cache import DATABASE_AWAY
from app.pricing.pricer import Pricer
from app.pricing.sandbox import Sandbox, SandboxLimits
from app.pricing.supervisor import BEAT_SECONDS, FleetMetrics, Supervisor, SupervisorOptions
from app.pricing.worker import Worker, WorkerOptions
from app.settings import Settings, configure
from app.topology import admin_address, files_url, worker_count
from sharding.sessions import ShardedSessions
from sharding.topology import Topology

MAX_ATTEMPTS = 3

log: structlog.stdlib.BoundLogger = structlog.get_logger("pricing")


def main() -> None:
    """Work until SIGTERM or SIGINT; exit with status 2 if the configuration is wrong."""
    exit_on_signals()
    settings, topology = configure("pricing")
    is_worker = sys.argv[1:2] == ["worker"]
    run_and_exit("pricing", work(settings, topology) if is_worker else supervise(settings, topology))


async def supervise(settings: Settings, topology: Topology) -> None:
    """Keep workers at work."""
    options = SupervisorOptions(
        workers=settings.pricing_workers or worker_count(topology, "pricing"),
        job_bytes=settings.pricing_memory_bytes,
        stop_seconds=settings.stop_seconds + 5.0,
    )
    async with AsyncExitStack() as opened:
        supervisor: Supervisor | None = None

        async def state() -> Readings:
            ready = supervisor is not None and supervisor.is_ready
            return Readings(ready, {"status": "ok" if ready else "starting"})

        metrics = FleetMetrics(REGISTRY, lambda: supervisor.metrics() if supervisor is not None else {})
        try:
            address = admin_address(topology, "pricing")
            await opened.enter_async_context(serving_admin("pricing", address, state, metrics=metrics))
        except AdminPortTaken as error:
            # Another supervisor on this host has it, and any number of them may run.
            log.warning("admin_port_taken", error=str(error))
        await opened.enter_async_context(measuring_lag(event_loop_lag))
        sessions = await enter_with_retries(opened, lambda: _open_shards(settings, topology))
        stop = _stop_on_signals()
        supervisor = Supervisor(JobCount(sessions), options)
        await supervisor.run(stop)


@dataclass(frozen=True)
class JobCount:
    """Counts the jobs of all shards, up to a bound on each."""

    sessions: ShardedSessions

    async def __call__(self) -> int | None:
        """Return how many there are on the shards that answer; None if none does."""
        found = await asyncio.gather(
            *(cluster.transact(jobs.count) for cluster in self.sessions.clusters.values()),
            return_exceptions=True,
        )
        counts = []
        for each in found:
            if isinstance(each, BaseException) and not isinstance(each, DATABASE_AWAY):
                raise each
            if not isinstance(each, BaseException):
                counts.append(each.value)
        return sum(counts) if counts else None


async def work(settings: Settings, topology: Topology) -> None:
    """Run a worker with everything that it needs."""
    models = ModelStore.open(files_url(topology))
    options = WorkerOptions(concurrency=1, stop_seconds=settings.stop_seconds)
    beats = Beats()
    async with AsyncExitStack() as opened:
        await _end_with_supervisor()
        await opened.enter_async_context(beats.sent())
        await opened.enter_async_context(measuring_lag(event_loop_lag))
        sessions = await enter_with_retries(opened, lambda: _open_shards(settings, topology))
        # Leases are to be returned from here on: a signal no longer ends the process at once.
        stop = _stop_on_signals()
        sandbox = Sandbox(limits=_limits(settings), concurrency=options.concurrency)
        await opened.enter_async_context(sandbox)
        pricer = Pricer(
            sessions,
            models,
            sandbox,
            now=utc_now,
            max_attempts=MAX_ATTEMPTS,
            price_valid_for=price_validity(settings),
        )
        holder = f"{socket.gethostname()}:{os.getpid()}"
        beats.ready = True
        await Worker(sessions, pricer, holder=holder, options=options).run(stop)


def price_validity(settings: Settings) -> timedelta | None:
    """Return how long a price may be approved; None for ever."""
    return timedelta(days=settings.price_valid_days) if settings.price_valid_days else None


def _open_shards(settings: Settings, topology: Topology) -> AbstractAsyncContextManager[ShardedSessions]:
    # A shard that is frozen, or behind a network that drops everything, is one that is away after this time.
    limits = DatabaseTimeouts(
        statement_seconds=settings.statement_seconds, queue_seconds=settings.queue_seconds
    )
    return open_shards(topology, application_name="pricing", timeouts=limits)


def _limits(settings: Settings) -> SandboxLimits:
    return SandboxLimits(
        memory_bytes=settings.pricing_memory_bytes,
        cpu_seconds=settings.pricing_cpu_seconds,
        wall_seconds=settings.pricing_wall_seconds,
        file_bytes=settings.pricing_model_bytes,
    )


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    return stop


class _SupervisorsEnd(asyncio.Protocol):
    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # its signature
        """Stop as on SIGTERM, also while this waits for its databases: the supervisor is gone."""
        signal.raise_signal(signal.SIGTERM)


async def _end_with_supervisor() -> None:
    await asyncio.get_running_loop().connect_read_pipe(_SupervisorsEnd, sys.stdin)


class Beats:
    """The lines by which a worker shows that it is alive: whether it is ready, and its metrics."""

    ready = False

    @asynccontextmanager
    async def sent(self) -> AsyncIterator[None]:
        """Write them while the block runs."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)
        task = asyncio.create_task(self._send(transport), name="beats")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            transport.abort()

    async def _send(self, transport: asyncio.WriteTransport) -> None:
        while not transport.is_closing():
            # A supervisor that is frozen takes none; what it has not taken is enough.
            if not transport.get_write_buffer_size():
                beat = {"ready": self.ready, "metrics": generate_latest(REGISTRY).decode()}
                transport.write(json.dumps(beat).encode() + b"\n")
            await asyncio.sleep(BEAT_SECONDS)


if __name__ == "__main__":
    main()
