"""The project under test, and the topology that `mesctl up` would make of it."""

from pathlib import Path

from ops.embedded.shape import roles_of, shapes_of
from ops.project.project import Project
from sharding.keys import guarded_tables
from sharding.topology import Topology

ROOT = Path(__file__).parents[1]

PROJECT = Project.load(ROOT / "pyproject.toml")
MES = PROJECT.tree("mes")
TEMPLATE = Topology.load(ROOT / "app" / "console" / "topology.toml")

DATABASES = shapes_of(TEMPLATE)
"""The six databases of the order system."""
ROLES = roles_of(DATABASES)
TREES = tuple(PROJECT.trees)
HTTP_SERVICES = tuple(name for name, each in TEMPLATE.sections["services"].items() if "port" in each)
PRICE_LIST = ROOT / "app" / "console" / "price_list.toml"
GUARDED = guarded_tables(MES.metadata)
"""The guarded tables of a MES shard."""
