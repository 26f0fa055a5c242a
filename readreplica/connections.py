"""The psycopg connections under the sessions: what they add to a transaction costs no round trip."""

from typing import Any, NamedTuple

from psycopg import AsyncConnection, IsolationLevel
from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from readreplica.lsn import Lsn
from readreplica.token import Position

# pg_walfile_name tells the timeline that the server writes on now; pg_control_checkpoint would tell that of
# the last checkpoint, which after a promotion is still the old one.
_POSITION = """
    SELECT pg_current_wal_insert_lsn(),
           ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
"""
# A simple query may hold several statements: COMMIT ends the transaction, and what follows it runs in one of
# its own. The LSN must be read after COMMIT; before it, it is too early.
_COMMIT = f"COMMIT; {_POSITION}".encode()
_SERVER = """
    SELECT system_identifier, wal_block_size, bytes_per_wal_segment
    FROM pg_control_system(), pg_control_init()
"""


class WriterConnection(AsyncConnection[TupleRow]):
    """A connection to a primary that knows where its last commit stands in the WAL."""

    committed: Position | None = None
    """The position after the newest commit; None before the first."""

    server: "Server"
    """What `open_writer` learned of the server."""

    async def commit(self) -> None:
        """Commit, and note the WAL position after it, in one round trip.

        An error of the connection, or a cancellation, leaves open whether the transaction was committed, as
        it does with any driver. Nothing else can fail between COMMIT and the position: `open_writer` has
        read one before the connection was used.

        Raises:
            psycopg.errors.InFailedSqlTransaction: the server rolled back, because an earlier error was
                swallowed. psycopg's own commit() says nothing then.
        """
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            return
        # A prepared statement cannot hold two commands.
        cursor = await self.execute(_COMMIT, prepare=False)
        if cursor.statusmessage == "ROLLBACK":
            raise InFailedSqlTransaction("COMMIT was answered by ROLLBACK: an earlier statement had failed")
        cursor.nextset()
        [(lsn, timeline)] = await cursor.fetchall()
        self.committed = self.server.position(Lsn.parse(lsn), timeline)


class Server(NamedTuple):
    """What never changes under a connection: it is read from the control file once."""

    system_identifier: int
    wal_block_bytes: int
    wal_segment_bytes: int

    def position(self, lsn: Lsn, timeline: int) -> Position:
        end = lsn.before_page_header(block_bytes=self.wal_block_bytes, segment_bytes=self.wal_segment_bytes)
        return Position(self.system_identifier, timeline, end)


async def open_writer(*args: Any, **options: Any) -> WriterConnection:
    """Connect, and read a position once: a server that refuses to tell must refuse before any work is done.

    Raises:
        psycopg.errors.InsufficientPrivilege: the role may not execute `pg_control_system`, `pg_control_init`
            or `pg_walfile_name`; grant it that.
    """
    connection = await WriterConnection.connect(*args, **options)
    try:
        await connection.set_autocommit(True)  # one statement, and no transaction left open
        await connection.execute(_POSITION)
        [server] = await (await connection.execute(_SERVER)).fetchall()
        connection.server = Server(*server)
        await connection.set_autocommit(False)
    except BaseException:
        await connection.close()
        raise
    return connection


async def open_reader(*args: Any, **options: Any) -> AsyncConnection[TupleRow]:
    """Connect, and have psycopg begin each transaction with `READ ONLY, ISOLATION LEVEL REPEATABLE READ`.

    These are words in BEGIN: no round trip, no SET that a pooler in transaction mode would leak or lose.
    """
    connection = await AsyncConnection.connect(*args, **options)
    await connection.set_read_only(True)
    await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    return connection
