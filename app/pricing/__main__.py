"""The pricing worker as a process: `python -m app.pricing`; SIGTERM or SIGINT ends it in good order."""

import asyncio
import os
import signal
import socket
import sys

from app.clock import utc_now
from app.database import open_shards
from app.files import ModelStore
from app.logs import configure_logging
from app.pricing.pricer import Pricer
from app.pricing.sandbox import Sandbox
from app.pricing.worker import Pace, Worker
from app.settings import Settings, SettingsInvalid, load_settings
from sharding.errors import TopologyError
from sharding.topology import Topology

WRONG_USAGE = 2
MAX_ATTEMPTS = 3


def main() -> None:
    """Read the configuration and work until told to stop; exit with status 2 if it is wrong."""
    try:
        settings = load_settings()
        topology = Topology.load(settings.topology)
    except (SettingsInvalid, TopologyError) as error:
        sys.stderr.write("".join(f"pricing: {line}\n" for line in str(error).splitlines()))
        sys.exit(WRONG_USAGE)
    configure_logging("pricing", level=settings.log_level)
    asyncio.run(work(settings, topology))


async def work(settings: Settings, topology: Topology) -> None:
    """Run a worker with everything that it needs."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    pace = Pace(stop_seconds=settings.stop_seconds)
    async with (
        open_shards(topology, application_name="pricing") as sessions,
        Sandbox(concurrency=pace.concurrency) as sandbox,
    ):
        models = ModelStore.open(topology.files.url)
        pricer = Pricer(sessions, models, sandbox, now=utc_now, max_attempts=MAX_ATTEMPTS)
        holder = f"{socket.gethostname()}:{os.getpid()}"
        await Worker(sessions, pricer, holder=holder, pace=pace).run(stop)


if __name__ == "__main__":
    main()
