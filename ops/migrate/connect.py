"""Connections of migrations: as the database's owner, straight to its primary, one run at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text

from ops.fleet import open_watched
from ops.migrate.errors import MigrationsBusy
from partitions.advisory_lock import poll_until, try_acquire_sql
from sharding.citus.distribute import MIGRATION_OPTIONS
from sharding.topology import Topology

LOCK_TIMEOUT_SECONDS = 3
"""How long a statement may queue for a table lock, and the application behind it; a revision may set less."""

# A run that was killed must not go on holding its locks until its statement has ended; nor may one that is
# frozen, or whose machine is gone, between two statements. A revision may compute there, for a moment.
OPTIONS = (
    # Not the role's own bounds, which are for queries: they would end the build of a large index each time.
    "-c statement_timeout=0 -c idle_session_timeout=0 "
    f"-c lock_timeout={LOCK_TIMEOUT_SECONDS}s -c client_connection_check_interval=1s "
    "-c idle_in_transaction_session_timeout=60s"
)
WAIT_SECONDS = 60.0
_KEY = "hashtext('mes-storage migrations')"
_TRY = text(f"SELECT {try_acquire_sql(_KEY, until_commit=False)}")
_IS_FREE = text(f"SELECT {try_acquire_sql(_KEY, until_commit=True)}")


@contextmanager
def open_owner(topology: Topology, database: str) -> Iterator[Engine]:
    """Open an engine on a database's primary as its owner; it keeps no connection between uses."""
    tree = topology.tree_of(database)
    words = {
        "application_name": "mesctl migrate",
        "options": f"{OPTIONS} {MIGRATION_OPTIONS}" if tree.backend == "citus" else OPTIONS,
    }
    with open_watched(topology.url(database, role=tree.owner, direct=True), words) as engine:
        yield engine


def take_lock(connection: Connection, database: str, *, wait_seconds: float = WAIT_SECONDS) -> None:
    """Keep every other run away from a database until the connection is closed.

    Parameters:
        connection: to the server itself: behind a transaction pooler the lock would belong to somebody else.
        database: its name, for the error.
        wait_seconds: how long another run is waited for.

    Raises:
        MigrationsBusy: it did not end in that time.
    """

    def try_once() -> bool:
        had = bool(connection.scalar(_TRY))
        connection.commit()  # each migration has a transaction of its own; the lock outlives them
        return had

    if not poll_until(try_once, wait_seconds=wait_seconds):
        raise MigrationsBusy(database, waited_seconds=wait_seconds)


def is_being_migrated(connection: Connection) -> bool:
    """Return whether some run holds the lock of a database at this moment."""
    free = connection.execute(_IS_FREE).scalar_one()
    connection.rollback()
    return not free
