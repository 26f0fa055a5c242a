"""The pricing worker as a process: `python -m app.pricing`; SIGTERM or SIGINT ends it in good order."""

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack
from datetime import timedelta

import structlog

from app.database import open_shards
from app.files import ModelStore
from app.instruments import event_loop_lag
from app.kit.admin import AdminPortTaken, Readings, measuring_lag, serving_admin
from app.kit.clock import utc_now
from app.kit.process import enter_with_retries, exit_on_signals, run_and_exit
from app.pricing.pricer import Pricer
from app.pricing.sandbox import Sandbox
from app.pricing.worker import Worker, WorkerOptions
from app.settings import Settings, configure
from app.topology import admin_address, files_url
from sharding.topology import Topology

MAX_ATTEMPTS = 3

log: structlog.stdlib.BoundLogger = structlog.get_logger("pricing")


def main() -> None:
    """Work until SIGTERM or SIGINT; exit with status 2 if the configuration is wrong."""
    exit_on_signals()
    settings, topology = configure("pricing")
    run_and_exit("pricing", work(settings, topology))


async def work(settings: Settings, topology: Topology) -> None:
    """Run a worker with everything that it needs."""
    models = ModelStore.open(files_url(topology))
    options = WorkerOptions(stop_seconds=settings.stop_seconds)
    ready = False

    async def state() -> Readings:
        return Readings(ready, {"status": "ok" if ready else "starting"})

    async with AsyncExitStack() as opened:
        try:
            address = admin_address(topology, "pricing")
            await opened.enter_async_context(serving_admin("pricing", address, state))
        except AdminPortTaken as error:
            # Another worker on this host has it, and any number of them may run.
            log.warning("admin_port_taken", error=str(error))
        await opened.enter_async_context(measuring_lag(event_loop_lag))
        sessions = await enter_with_retries(opened, lambda: open_shards(topology, application_name="pricing"))
        # Leases are to be returned from here on: a signal no longer ends the process at once.
        stop = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        sandbox = await opened.enter_async_context(Sandbox(concurrency=options.concurrency))
        pricer = Pricer(
            sessions,
            models,
            sandbox,
            now=utc_now,
            max_attempts=MAX_ATTEMPTS,
            price_valid_for=price_validity(settings),
        )
        holder = f"{socket.gethostname()}:{os.getpid()}"
        ready = True
        await Worker(sessions, pricer, holder=holder, options=options).run(stop)


def price_validity(settings: Settings) -> timedelta | None:
    """Return how long a price may be approved; None for ever."""
    return timedelta(days=settings.price_valid_days) if settings.price_valid_days else None


if __name__ == "__main__":
    main()
