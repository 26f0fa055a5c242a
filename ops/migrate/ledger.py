"""The ledger: what was run where, how long it took and how it ended. It is a table in the directory.

`alembic_version` is authoritative: it is written in the transaction of the migration itself. The ledger is an
audit log, which also shows a run that was killed.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from ops.migrate.connect import open_owner
from ops.migrate.errors import LedgerUnreachable
from ops.migrate.outcome import Direction, PlannedRevision
from readreplica.errors import one_line
from sharding.errors import DirectoryMissing
from sharding.topology import Topology

_EXISTS = text("SELECT to_regclass('migration_ledger') IS NOT NULL")
_BEGIN = text("""
    INSERT INTO migration_ledger (database, tree, revision, direction, state)
    VALUES (:database, :tree, :revision, :direction, 'running') RETURNING entry_id
""")
_END = text("""
    UPDATE migration_ledger SET state = :state, duration_seconds = :seconds, error = :error
    WHERE entry_id = :entry_id
""")
# The entry of a migration that began before there was a ledger.
_RECORD = text("""
    INSERT INTO migration_ledger
        (database, tree, revision, direction, state, started_at, duration_seconds, error)
    VALUES (:database, :tree, :revision, :direction, :state,
            now() - :seconds * interval '1 second', :seconds, :error)
""")
_LEFT_RUNNING = text("""
    SELECT entry_id, revision, direction FROM migration_ledger
    WHERE database = :database AND state = 'running'
""")
_CLOSE = text("UPDATE migration_ledger SET state = :state, error = :error WHERE entry_id = :entry_id")
_LATEST = text("""
    SELECT DISTINCT ON (database) database, revision, direction, state, started_at, duration_seconds, error
    FROM migration_ledger ORDER BY database, entry_id DESC
""")

KILLED = "the run was killed before it told its end"


@dataclass(frozen=True)
class Entry:
    """One line of the ledger: the latest of a database."""

    revision: str
    direction: Direction
    state: str
    started_at: datetime
    duration_seconds: float | None
    error: str | None


def end_of_killed(step: PlannedRevision, applied: Collection[str]) -> tuple[str, str | None]:
    """Return how a migration ended whose run was killed.

    Parameters:
        step: what was running.
        applied: the revisions that the database has had, by its own account.

    Returns:
        the state, and the error if it did not come to its end.
    """
    ended = (step.revision in applied) == (step.direction == "up")
    return ("done", None) if ended else ("failed", KILLED)


class Ledger:
    """The ledger of one database of the fleet.

    Until the directory's own migration has made the table, entries wait in memory and are written once it
    is there.
    """

    def __init__(self, engine: Engine | None, *, directory: str, database: str, tree: str) -> None:
        self._engine = engine
        self._directory = directory
        self._of = {"database": database, "tree": tree}
        self._early: list[Mapping[str, Any]] = []

    def begin(self, step: PlannedRevision) -> int | None:
        """Record the start of a migration.

        Returns:
            the entry's number; None where there is no ledger yet.

        Raises:
            LedgerUnreachable: the directory does not answer.
        """
        try:
            with self._connect() as connection:
                values = {**self._of, "revision": step.revision, "direction": step.direction}
                return connection.scalar(_BEGIN, values) if connection else None
        except SQLAlchemyError as fault:
            raise LedgerUnreachable(self._directory, one_line(fault)) from fault

    def end(
        self, entry_id: int | None, step: PlannedRevision, *, seconds: float, error: str | None = None
    ) -> None:
        """Record how a migration ended.

        Parameters:
            entry_id: what `begin` gave.
            step: what was run.
            seconds: how long it took.
            error: why it failed, None if it did not.
        """
        how = {"state": "failed" if error else "done", "seconds": round(seconds, 3), "error": error}
        if entry_id is None:
            self._early.append({**self._of, "revision": step.revision, "direction": step.direction, **how})
        with self._connect() as connection:
            if connection is None:
                return
            if entry_id is not None:
                connection.execute(_END, {"entry_id": entry_id, **how})
            if self._early:
                connection.execute(_RECORD, self._early)
                self._early = []

    def close_killed(self, applied: Collection[str]) -> list[str]:
        """Close the entries of runs that were killed; only for the holder of the database's lock.

        Returns:
            a line about each.

        Raises:
            LedgerUnreachable: the directory does not answer.
        """
        try:
            with self._connect() as connection:
                return [] if connection is None else list(self._close_killed(connection, applied))
        except SQLAlchemyError as fault:
            raise LedgerUnreachable(self._directory, one_line(fault)) from fault

    def _close_killed(self, connection: Connection, applied: Collection[str]) -> Iterator[str]:
        for row in connection.execute(_LEFT_RUNNING, self._of).all():
            state, error = end_of_killed(PlannedRevision(row.revision, row.direction), applied)
            connection.execute(_CLOSE, {"entry_id": row.entry_id, "state": state, "error": error})
            yield f"{row.revision} {row.direction}: a run was killed; the revision was {_ENDED[state]}"

    @contextmanager
    def _connect(self) -> Iterator[Connection | None]:
        if self._engine is None:
            yield None
            return
        with self._engine.begin() as connection:
            yield connection if connection.scalar(_EXISTS) else None


_ENDED = {"done": "complete all the same", "failed": "not complete"}


@contextmanager
def open_ledger(topology: Topology, database: str) -> Iterator[Ledger]:
    """Open the ledger for one database; a topology without a directory has none."""
    tree = topology.database(database).tree
    try:
        directory = topology.directory_of(tree).name
    except DirectoryMissing:
        yield Ledger(None, directory="", database=database, tree=tree)
        return
    with open_owner(topology, directory) as engine:
        yield Ledger(engine, directory=directory, database=database, tree=tree)


def read_latest(topology: Topology) -> Mapping[str, Entry]:
    """Read the latest entry of every database; none where there is no ledger yet."""
    found: dict[str, Entry] = {}
    for directory in (
        name for tree in topology.names_of_kind("directory") for name in topology.databases_of(tree)
    ):
        with open_owner(topology, directory) as engine, engine.connect() as connection:
            rows = connection.execute(_LATEST).all() if connection.scalar(_EXISTS) else []
            found |= {row.database: Entry(*row[1:]) for row in rows}
    return found
