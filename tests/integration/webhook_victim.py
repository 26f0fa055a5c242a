"""A dispatcher that kills itself behind its POST: `python -m tests.integration.webhook_victim TOPOLOGY`."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.database import open_directory, open_shards
from app.mes.outgoing import WebhookSender
from app.mes.webhook_endpoints import Endpoints
from app.mes.webhooks import Dispatcher, WebhookOptions
from sharding.topology import Topology


@dataclass(frozen=True, kw_only=True)
class DyingSender(WebhookSender):
    """Sends one, and is no more."""

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> int:
        """Send, and die before what came of it is written down."""
        await super().post(url, headers=headers, body=body)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


async def main(topology: Topology) -> None:
    """Dispatch until death."""
    async with (
        open_shards(topology, application_name="victim") as sessions,
        open_directory(topology, application_name="victim") as directory,
    ):
        options = WebhookOptions(lease_seconds=2.0, poll_seconds=0.05)
        sender = DyingSender(allows_local=True)
        await Dispatcher(sessions, Endpoints(directory), sender, options).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(Topology.load(Path(sys.argv[1]))))
