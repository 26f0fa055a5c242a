"""Where the databases stand: by their own account, and by the ledger's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from ops.migrate.connect import is_being_migrated, open_owner, words_of
from ops.migrate.ledger import Entry, read_latest
from ops.migrate.scripts import read_revision
from sharding.topology import Topology


@dataclass(frozen=True)
class DatabaseState:
    """A database's revision, or why it cannot be told; `busy` is whether a run holds its lock."""

    database: str
    tree: str
    revision: str | None = None
    busy: bool = False
    unreachable: str | None = None


def read_states(topology: Topology, tree: str) -> Iterator[DatabaseState]:
    """Read the revision of every database of a tree; one that is down does not hide the others."""
    for name in topology.databases_of(tree):
        try:
            with open_owner(topology, name) as engine, engine.connect() as connection:
                revision = read_revision(connection)
                connection.rollback()
                yield DatabaseState(name, tree, revision, is_being_migrated(connection))
        except SQLAlchemyError as fault:
            yield DatabaseState(name, tree, unreachable=words_of(fault))


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
