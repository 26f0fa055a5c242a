"""What must be in the databases before a service may start.

Schemas, partitions, the first shard map and each shard's name. The project's hook brings the rest.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from ops.embedded.shape import PlatformShape
from ops.embedded.topology_file import Report
from ops.fleet import raise_failures
from ops.migrate import run
from ops.partitions.service import apply_partitions
from ops.project.project import Project
from ops.shards.guard import init_shards
from ops.shards.service import ensure_shard_map
from sharding.errors import DirectoryMissing
from sharding.topology import Topology


def fill(project: Project, topology: Topology, shape: PlatformShape, *, report: Report) -> None:
    """Bring every tree to its newest schema, with its partitions and its shard map; repeatable.

    A tree of which a part is elsewhere is left alone, and so is one that the project does not have. The
    project's own hook is called when nothing is elsewhere: it may reach for every database.
    """
    away = {name: elsewhere for name in topology.trees if (elsewhere := _elsewhere(topology, name, shape))}
    for name, databases in away.items():
        report(f"tree {name}: its schema is left alone, for {', '.join(databases)} is elsewhere")
    directories = topology.names_of_kind("directory")
    unknown = topology.trees.keys() - project.trees.keys() - set(directories)
    for name in sorted(unknown):
        report(f"tree {name}: its schema is left alone, for {project.path.name} has no such tree")
    names = [
        name
        for name in dict.fromkeys([*directories, *project.trees])
        if name in topology.trees and name not in away
    ]
    _bring_up(_only(project, names), names, topology, report)
    if project.file.up.fill is None:
        return
    if away:
        report(f"{project.file.up.fill}: not called, for a part of the topology is elsewhere")
    else:
        project.resolve("up.fill", project.file.up.fill)(project, topology)


def _elsewhere(topology: Topology, tree: str, shape: PlatformShape) -> list[str]:
    """List the databases of a tree, its directory among them, that are not on this machine."""
    needed = [*topology.databases_of(tree)]
    with suppress(DirectoryMissing):  # a tree may do without
        needed.append(topology.directory_of(tree).name)
    here = {database.name for database in shape.databases}
    return [name for name in dict.fromkeys(needed) if name not in here]


def _only(project: Project, trees: Iterable[str]) -> Project:
    """Return the project with some of its trees."""
    chosen = {name: entry for name, entry in project.file.trees.items() if name in trees}
    return Project(project.path, project.file.model_copy(update={"trees": chosen}))


def _bring_up(project: Project, names: Sequence[str], topology: Topology, report: Report) -> None:
    kinds = {name: topology.trees[name].kind for name in names}
    report("schemas: bringing every database to the newest")
    # The ledger of the others is in a directory.
    for name in sorted(kinds, key=lambda name: kinds[name] != "directory"):
        run.upgrade(topology, project.tree_in(topology, name))
    begun = {name for name, tree in project.trees.items() if any(tree.revisions.glob("*.py"))}
    for name in sorted(name for name, kind in kinds.items() if kind != "directory" and name not in begun):
        report(f"tree {name}: has no revision yet; `alembic revision --autogenerate` writes the first one")
    raise_failures(apply_partitions(topology, _only(project, begun), now=datetime.now(UTC)))
    for name, kind in kinds.items():
        if kind == "sharded" and name in begun:
            shard_map = asyncio.run(ensure_shard_map(topology, name))
            init_shards(topology, project.tree(name), shard_map)
