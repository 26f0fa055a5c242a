"""What the order system's databases hold from the beginning: a price list, a folder of models, an admin."""

import asyncio
from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.console.identities import create_all, read_all
from app.kit.caller import Role
from app.messaging.routing import ServiceName
from app.topology import files_url
from ops.output import note
from ops.project.project import Project, ProjectTree
from ops.shards import reference_tables
from sharding.topology import Topology

PRICE_LIST = Path(__file__).with_name("price_list.toml")


def fill(project: Project, topology: Topology) -> None:
    """Create the folder of the models, and a price list and an admin if there was none ever; repeatable."""
    files = urlsplit(files_url(topology))
    if files.scheme == "file":
        Path(unquote(files.path)).mkdir(parents=True, exist_ok=True)
    asyncio.run(_ensure_prices(topology, project.tree(ServiceName.MES)))
    if not read_all(topology, everything=True):
        key = create_all(topology, {"admin": Role.ADMIN})["admin"]
        note(f"the API key of admin, which is shown this once: {key}")


async def _ensure_prices(topology: Topology, tree: ProjectTree) -> None:
    if await reference_tables.is_unpublished(topology, tree):
        content = reference_tables.read_file(PRICE_LIST, tree)
        reference_tables.raise_failed_copies(await reference_tables.load(topology, tree, content))
