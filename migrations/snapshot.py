"""`python -m migrations.snapshot TOPOLOGY` freezes what the migrations make, from freshly migrated databases.

Run it on the embedded platform after `mesctl up` when a revision was added, and commit the files.
"""

import sys

from migrations.catalogue import read_catalogue
from migrations.connect import open_owner
from migrations.drift import Snapshot, dump_snapshot
from migrations.scripts import read_revision
from migrations.trees import METADATA
from sharding.topology import Topology, Tree


def take_snapshot(topology: Topology, tree: Tree) -> Snapshot:
    """Read the first database of a tree."""
    name = next(iter(topology.tree(tree)))
    with open_owner(topology, name) as engine, engine.connect() as connection:
        return Snapshot(read_revision(connection) or "base", read_catalogue(connection))


def main() -> None:
    """Write the snapshot of every tree."""
    topology = Topology.load(sys.argv[1])
    for tree in METADATA:
        dump_snapshot(tree, take_snapshot(topology, tree))


if __name__ == "__main__":
    main()
