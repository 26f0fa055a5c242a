"""What the order system's databases hold from the beginning: the price list, and the folder of models."""

import asyncio
from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.messaging.routing import ServiceName
from app.topology import files_url
from ops.project.project import Project, ProjectTree
from ops.shards import reference_tables
from sharding.topology import Topology

PRICE_LIST = Path(__file__).with_name("price_list.toml")


def fill(project: Project, topology: Topology) -> None:
    """Create the folder of the customers' models, and publish the price list if none was ever; repeatable."""
    files = urlsplit(files_url(topology))
    if files.scheme == "file":
        Path(unquote(files.path)).mkdir(parents=True, exist_ok=True)
    asyncio.run(_ensure_prices(topology, project.tree(ServiceName.MES)))


async def _ensure_prices(topology: Topology, tree: ProjectTree) -> None:
    if await reference_tables.is_unpublished(topology, tree):
        content = reference_tables.read_file(PRICE_LIST, tree)
        reference_tables.raise_failed_copies(await reference_tables.load(topology, tree, content))
