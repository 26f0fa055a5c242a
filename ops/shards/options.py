"""The sharded tree that a verb is about: the one that `--tree` names, else the only one."""

from typing import Annotated, NamedTuple

import typer

from ops.options import options_of
from ops.project.project import ProjectTree
from sharding.errors import TreeUnclear, UnknownTree
from sharding.topology import Topology

TreeName = Annotated[
    str | None, typer.Option("--tree", help="The sharded tree; without it, the only one.", show_default=False)
]

KEY_BITS = 63

Key = Annotated[
    int,
    typer.Argument(
        metavar="KEY", min=-(2**KEY_BITS), max=2**KEY_BITS - 1, help="The shard key.", show_default=False
    ),
]

TAKES_KEY = {"ignore_unknown_options": True}
"""A verb's settings with which a negative key is taken for a key, and not for an option."""


class Sharded(NamedTuple):
    """A sharded tree: where its shards are, and what its models declare."""

    topology: Topology
    tree: ProjectTree

    @property
    def is_on_citus(self) -> bool:
        """Whether Citus keeps its shards."""
        return self.topology.trees[self.tree.name].backend == "citus"


def sharded(context: typer.Context, name: str | None) -> Sharded:
    """Find the sharded tree that is meant.

    Raises:
        BadParameter: there is none of that name; or none was named, and there is none, or several.
        UnknownProjectTree: the project has no such tree.
    """
    options = options_of(context)
    topology = options.topology()
    try:
        found = topology.sharded_tree(name)
    except (TreeUnclear, UnknownTree) as error:
        raise typer.BadParameter(str(error), param_hint="--tree") from error
    return Sharded(topology, options.project().tree(found))
