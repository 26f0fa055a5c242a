"""A sealer that kills itself between its seal and the head in the directory: `python -m ... TOPOLOGY`."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from app.audit_log import Sealer, in_directory
from app.orders import SHOP
from sharding.engines import open_cluster
from sharding.topology import Topology


async def main(topology_path: Path) -> None:
    """Seal the Shop's lines once."""
    topology = Topology.load(topology_path)
    async with (
        open_cluster(topology, "shop", role="shop", application_name="victim") as shop,
        open_cluster(topology, "directory", role="shop", application_name="victim") as directory,
    ):
        sealer = Sealer(
            shop,
            in_directory(directory),
            lines=SHOP.audit,
            seals=SHOP.seals,
            database="shop",
            sealed=lambda: os.kill(os.getpid(), signal.SIGKILL),
        )
        await sealer.turn()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
