"""What the revisions of a tree make, frozen beside them: `TREE/schema/REVISION.json`, a file for each.

Run `mesctl migrate freeze` on freshly migrated databases when a revision was added, and commit the file.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from ops.migrate.catalogue.facts import Fact, read_catalogue
from ops.migrate.citus import is_on_citus
from ops.migrate.connect import open_owner
from ops.migrate.errors import NotFreezable, SnapshotInvalid, SnapshotMissing
from ops.migrate.library import part_of, separate
from ops.migrate.scripts import Scripts, read_revision
from ops.project.project import ProjectTree
from sharding.topology import Topology

BASE = "base"
CITUS = frozenset({"citus", "citus_columnar"})


class Snapshot(NamedTuple):
    """What a tree's migrations make, up to a revision.

    Read from a database that has recorded a version of the library's schema, that is apart, in `library`.
    """

    revision: str
    facts: Collection[Fact]
    library: Collection[Fact] = ()
    library_version: int = 0


def file_of(tree: ProjectTree, revision: str) -> Path:
    """Return where the snapshot of a revision is kept."""
    return tree.schemas / f"{revision}.json"


def load_snapshot(tree: ProjectTree, revision: str | None) -> Snapshot:
    """Read what the migrations of a tree make up to a revision; at base, nothing.

    Raises:
        SnapshotMissing: no schema is frozen for it.
        SnapshotInvalid: its file is none.
    """
    if revision is None:
        return Snapshot(BASE, [])
    path = file_of(tree, revision)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Snapshot(content["revision"], [Fact(*fact) for fact in content["facts"]])
    except FileNotFoundError:
        known = revision in {script.revision for script in Scripts(tree, tree.revisions).line()}
        raise SnapshotMissing(tree.name, revision, known=known) from None
    except (ValueError, KeyError, TypeError) as fault:  # half of a merge, or an empty file
        raise SnapshotInvalid(path, f"{type(fault).__name__}: {fault}") from fault


def render(snapshot: Snapshot) -> str:
    """Return the text of a snapshot's file, a line for each object: a review sees what changes."""
    lines = ",\n".join(f"    {json.dumps(fact)}" for fact in sorted(snapshot.facts))
    return f'{{\n  "revision": {json.dumps(snapshot.revision)},\n  "facts": [\n{lines}\n  ]\n}}\n'


def dump_snapshot(tree: ProjectTree, snapshot: Snapshot) -> None:
    """Write what the migrations of a tree make."""
    tree.schemas.mkdir(exist_ok=True)
    file_of(tree, snapshot.revision).write_text(render(snapshot), encoding="utf-8")


def read_snapshot(connection: Connection, topology: Topology, tree: ProjectTree) -> Snapshot:
    """Read what stands in a database of a tree, and at which revision."""
    facts = read_catalogue(connection, version_table=tree.version_table)
    if is_on_citus(topology, tree.name):
        # The administrator's: it must be there before any migration.
        facts = [fact for fact in facts if fact.kind != "extension" or fact.name not in CITUS]
    found = separate(connection, part_of(topology, tree.name), facts)
    revision = read_revision(connection, tree) or BASE
    return Snapshot(revision, found.others, found.library, found.version)


def take_snapshot(topology: Topology, tree: ProjectTree) -> Snapshot:
    """Read the first database of a tree."""
    return _read(topology, tree, next(iter(topology.databases_of(tree.name))))


def freezable(topology: Topology, tree: ProjectTree) -> Snapshot:
    """Read what all databases of a tree have in common, which may be frozen.

    Raises:
        NotFreezable: one is not at the head, or differs from the first one.
    """
    head = Scripts(tree, tree.revisions).head or BASE
    first, *others = ((name, _read(topology, tree, name)) for name in topology.databases_of(tree.name))
    for name, found in (first, *others):
        if found.revision != head:
            raise NotFreezable(
                name, f"is at {found.revision}, and the head is {head}: `mesctl migrate upgrade`"
            )
        if set(found.facts) != set(first[1].facts):
            raise NotFreezable(name, f"is not as {first[0]} is: `mesctl migrate drift` compares them")
    return first[1]


def _read(topology: Topology, tree: ProjectTree, name: str) -> Snapshot:
    with open_owner(topology, name) as engine, engine.connect() as connection:
        return read_snapshot(connection, topology, tree)
