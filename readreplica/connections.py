"""The psycopg connections under the sessions: what a commit and a replica can tell at no extra cost."""

from typing import Any

from psycopg import AsyncConnection, IsolationLevel
from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from readreplica.lsn import Lsn
from readreplica.token import Position

# pg_walfile_name tells the timeline that the server writes on now; pg_control_checkpoint would tell that of
# the last checkpoint, which after a promotion is still the old one.
_POSITION = (
    "pg_current_wal_insert_lsn(), "
    "('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint"
)
_SYSTEM = "(SELECT system_identifier FROM pg_control_system())"
# Both timelines lag behind a switch until the next restartpoint: this may refuse a good replica for a
# while, and never trusts a bad one.
_REPLAYED = """
    SELECT system_identifier,
           greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                    (SELECT min_recovery_end_timeline FROM pg_control_recovery())),
           pg_last_wal_replay_lsn()
    FROM pg_control_system()
"""


class WriterConnection(AsyncConnection[TupleRow]):
    """A connection to a primary that knows where its last commit stands in the WAL."""

    committed: Position | None = None
    """The position after the newest commit; None before the first."""

    _system_identifier: int | None = None

    async def commit(self) -> None:
        """Commit, and note the WAL position after it, in one round trip.

        A simple query may hold several statements: COMMIT ends the transaction, and what follows it runs
        in a transaction of its own. The LSN must be read after COMMIT; before it, it is too early.

        Raises:
            psycopg.errors.InFailedSqlTransaction: the server rolled back, because an earlier error was
                swallowed. psycopg's own commit() says nothing then.
        """
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            return
        # The system identifier never changes under a connection: one reading of the control file is enough.
        known = self._system_identifier
        wanted = _SYSTEM if known is None else str(known)
        # A prepared statement cannot hold two commands.
        cursor = await self.execute(f"COMMIT; SELECT {wanted}, {_POSITION}".encode(), prepare=False)
        if cursor.statusmessage == "ROLLBACK":
            raise InFailedSqlTransaction("COMMIT was answered by ROLLBACK: an earlier statement had failed")
        cursor.nextset()
        row = await cursor.fetchone()
        assert row is not None
        self._system_identifier, lsn, timeline = row[0], row[1], row[2]
        self.committed = Position(row[0], timeline, Lsn.parse(lsn))


class ReaderConnection(AsyncConnection[TupleRow]):
    """A connection whose every transaction begins READ ONLY, with one snapshot for all of it."""

    async def replayed(self) -> Position | None:
        """Ask how far this replica has replayed, leaving no transaction open.

        Returns:
            The position, or None if the node is no replica.
        """
        # No round trip: psycopg only stops putting BEGIN before the statement.
        await self.set_autocommit(True)
        try:
            row = await (await self.execute(_REPLAYED)).fetchone()
        finally:
            await self.set_autocommit(False)
        if row is None or row[2] is None:
            return None
        return Position(row[0], row[1], Lsn.parse(row[2]))


async def open_reader(*args: Any, **options: Any) -> ReaderConnection:
    """Connect, and have psycopg begin each transaction with `READ ONLY, ISOLATION LEVEL REPEATABLE READ`.

    These are words in BEGIN: no round trip, no SET that a pooler in transaction mode would leak or lose.
    """
    connection = await ReaderConnection.connect(*args, **options)
    await connection.set_read_only(True)
    await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    return connection
