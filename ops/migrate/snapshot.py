"""`python -m ops.migrate.snapshot PROJECT TOPOLOGY` freezes what the migrations make, from freshly migrated databases.

Run it on the embedded platform after `mesctl up` when a revision was added, and commit the files.
"""

import sys
from pathlib import Path

from ops.migrate.catalogue import read_catalogue
from ops.migrate.connect import open_owner
from ops.migrate.drift import Snapshot, dump_snapshot
from ops.migrate.scripts import read_revision
from ops.project import Project, ProjectTree
from sharding.topology import Topology


def take_snapshot(topology: Topology, tree: ProjectTree) -> Snapshot:
    """Read the first database of a tree."""
    name = next(iter(topology.databases_of(tree.name)))
    with open_owner(topology, name) as engine, engine.connect() as connection:
        return Snapshot(read_revision(connection) or "base", read_catalogue(connection))


def main() -> None:
    """Write the snapshot of every tree."""
    project, topology = Project.load(Path(sys.argv[1])), Topology.load(sys.argv[2])
    for tree in project.trees.values():
        dump_snapshot(tree, take_snapshot(topology, tree))


if __name__ == "__main__":
    main()
