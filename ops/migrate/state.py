"""Where the databases stand: by their own account, and by the ledger's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from ops.migrate.adoption import Examination, examine
from ops.migrate.connect import is_being_migrated, open_owner
from readreplica.errors import one_line
from ops.migrate.ledger import Entry, read_latest
from ops.project.project import ProjectTree
from sharding.topology import Topology


@dataclass(frozen=True)
class DatabaseState:
    """What was found in a database, or why it could not be read; `busy` is whether a run holds its lock."""

    database: str
    tree: ProjectTree
    found: Examination | None = None
    busy: bool = False
    unreachable: str | None = None

    @property
    def revision(self) -> str | None:
        """The database's revision; None at base, and where it could not be read."""
        return self.found.revision if self.found else None


def read_states(topology: Topology, tree: ProjectTree) -> Iterator[DatabaseState]:
    """Examine every database of a tree; one that is down does not hide the others."""
    for name in topology.databases_of(tree.name):
        try:
            with open_owner(topology, name) as engine, engine.connect() as connection:
                found = examine(connection, topology, tree, name)
                connection.rollback()
                yield DatabaseState(name, tree, found, is_being_migrated(connection))
        except SQLAlchemyError as fault:
            yield DatabaseState(name, tree, unreachable=one_line(fault))


def read_ledger(topology: Topology) -> Mapping[str, Entry]:
    """Read the latest entry of every database, as far as the directory can be reached."""
    try:
        return read_latest(topology)
    except SQLAlchemyError:
        return {}


def last_run(entry: Entry | None, state: DatabaseState) -> str | None:
    """Tell how the latest run on a database ended."""
    if entry is None:
        return None
    what = f"{entry.revision} {entry.direction}"
    if entry.state == "running":
        return f"{what} runs" if state.busy else f"{what} was killed; the next run settles it"
    return f"{what} failed: {entry.error}" if entry.state == "failed" else f"{what} {entry.state}"
