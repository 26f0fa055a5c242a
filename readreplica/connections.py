"""The psycopg connections under the sessions: what they add to a transaction costs no round trip."""

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, TypeAlias

from psycopg import AsyncConnection, DatabaseError, Error, IsolationLevel, OperationalError
from psycopg.errors import InFailedSqlTransaction, ObjectNotInPrerequisiteState, error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import TupleRow

from readreplica.errors import NotThePrimary
from readreplica.pool import shut
from readreplica.private_api import fetch, send, wait_async
from readreplica.transaction_status import CommitOutcome, InDoubtTransaction
from readreplica.wal import (
    COMMIT_WITH_POSITION,
    IDENTIFY_SERVER,
    IDENTIFY_TRANSACTION,
    UNKNOWN_SYSTEM,
    Position,
    ServerIdentity,
)

Configure: TypeAlias = Callable[[AsyncConnection[TupleRow]], Awaitable[None]]
"""Called with each new connection before any work, as `configure` of psycopg_pool; raises to refuse it."""

# Reported by the server itself since PostgreSQL 14, and so known without asking.
_READ_ONLY = "default_transaction_read_only"
READ_ONLY_OPTION = f"-c {_READ_ONLY}=on"


_NOT_RECORDED = InDoubtTransaction(None, None, None)
_INTERRUPT_CHECK_SECONDS = 0.1
"""How often a waiting thread checks for Ctrl-C; as psycopg has it."""


class CommitAnswerLost(OperationalError):
    """COMMIT was sent, and its answer was lost."""

    def __init__(self, message: str, *, in_doubt: InDoubtTransaction) -> None:
        """Keep what is known of the transaction."""
        super().__init__(message)
        self.in_doubt = in_doubt


class WriterConnection(AsyncConnection[TupleRow]):
    """A connection to a primary that reads the WAL position of each commit with COMMIT itself."""

    outcome: CommitOutcome | None = None
    """Set to what becomes of the next commit. Each transaction brings its own, which stays readable when the
    connection is another transaction's."""

    record_xid: bool = False
    """Whether to ask for the transaction's id before COMMIT: one more round trip."""

    guard: Callable[[], None] | None = None
    """Called before COMMIT; raises NotThePrimary where another primary was found since this connected."""

    server: ServerIdentity
    """The server behind this: the one at connect, or the one that committed last."""

    position: Position
    """Where the server stood when this connected."""

    async def commit(self) -> None:
        """Commit, and note the WAL position after it, in one round trip.

        If the connection is lost before COMMIT is answered, or this is cancelled, it is unknown whether the
        transaction was committed: `CommitOutcome.in_doubt` has what is known. What goes wrong after that
        answer changes nothing: the transaction is committed, and a read after it goes to the primary.

        Cancelling the task does not cancel COMMIT on the server.

        Raises:
            CommitAnswerLost: the connection was lost before the answer came.
            psycopg.errors.InFailedSqlTransaction: the server rolled back, because an earlier error was
                swallowed. psycopg's own commit() says nothing then.
            NotThePrimary: the cluster has another primary by now; nothing was sent.
        """
        watched, self.outcome = self.outcome, None
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            return
        outcome = watched or CommitOutcome()
        if self.guard is not None:
            self.guard()
        in_doubt = await self._identify_transaction() if self.record_xid else _NOT_RECORDED
        answers: list[PGresult] = []
        try:
            await self._send_commit(answers)
        except OperationalError as error:
            # An error that leaves the connection in order is the server's answer: it has rolled back.
            if not self.closed or in_doubt is None or watched is None:
                raise
            outcome.in_doubt = in_doubt
            raise CommitAnswerLost(str(error), in_doubt=in_doubt) from error
        except Exception:
            raise  # the server's answer as well
        except BaseException:  # cancelled
            if answers:
                outcome.committed = self._unknown_position()
            else:
                outcome.in_doubt = in_doubt
            raise
        await self._note_position(answers, outcome)

    async def _note_position(self, answers: Sequence[PGresult], outcome: CommitOutcome) -> None:
        # Stands where the position was not returned, and if this is cancelled while it asks.
        outcome.committed = self._unknown_position()
        answer = _position_in(answers)
        if answer is None:
            return
        started = _text(answer, 2)
        if started != self.server.started:
            await self._identify_new_server(started)
        outcome.committed = self.server.position(_text(answer, 0), file=_text(answer, 1))

    def _unknown_position(self) -> Position:
        """Return the position of a commit whose place is unknown: a read after it goes to the primary."""
        return self.position._replace(system_identifier=UNKNOWN_SYSTEM)

    async def rollback(self) -> None:
        """Roll back; the next commit on this connection is of another transaction."""
        self.outcome = None
        await super().rollback()

    async def _send_commit(self, answers: list[PGresult]) -> None:
        """Send COMMIT with the question for the position, and keep what is answered."""
        # As psycopg's own commit() does it; a cursor would cost a twentieth of a small unit of work.
        async with self.lock:
            self.pgconn.send_query(COMMIT_WITH_POSITION)
            try:
                # Not by self.wait: cancelled, that would have the server cancel COMMIT. One that waits for
                # its standby would then be visible to all, and be on no standby.
                await wait_async(
                    _collect(self.pgconn, answers), self.pgconn.socket, interval=_INTERRUPT_CHECK_SECONDS
                )
            except DatabaseError:
                if not answers:
                    raise
            except BaseException:
                shut(self)  # the answer may come yet, and would be taken for another's
                raise
        if answers[0].command_status == b"ROLLBACK":
            raise InFailedSqlTransaction("COMMIT was answered by ROLLBACK: an earlier statement had failed")
        if answers[0].status == ExecStatus.FATAL_ERROR:
            raise error_from_result(answers[0])

    async def _identify_new_server(self, started: str) -> None:
        """Identify the server that a pooler has put behind this connection; one round trip for each server.

        The transaction is committed, so this raises nothing when it fails; nor can it be known which server
        committed if the pooler has changed it again.
        """
        found = None
        try:
            await self.set_autocommit(True)
            [(*server, _lsn, _file, now)] = await (
                await self.execute(IDENTIFY_SERVER, prepare=False)
            ).fetchall()
            found = ServerIdentity._make((*server, now))
            await self.set_autocommit(False)
        except Error:
            await self.close()
        if found is None or found.started != started:
            found = self.server._replace(system_identifier=UNKNOWN_SYSTEM, started=started)
        self.server = found

    async def _identify_transaction(self) -> InDoubtTransaction | None:
        # One that has written nothing has no id, and nothing of it can be in doubt.
        if self.pgconn.transaction_status != TransactionStatus.INTRANS:
            return _NOT_RECORDED
        cursor = await self.execute(IDENTIFY_TRANSACTION, prepare=False)
        [(xid, lsn, file, incarnation, system)] = await cursor.fetchall()
        server = self.server._replace(system_identifier=system)
        return None if xid is None else InDoubtTransaction(xid, server.position(lsn, file=file), incarnation)


def _collect(pgconn: PGconn, answers: list[PGresult]) -> Generator[Any, Any, None]:
    """Do as psycopg's `execute`, and keep the answers that came before the connection was lost."""
    yield from send(pgconn)
    while (answer := (yield from fetch(pgconn))) is not None:
        answers.append(answer)


def _position_in(answers: Sequence[PGresult]) -> PGresult | None:
    """Return the answer with the position; None if COMMIT was answered, and the position was not returned."""
    return answers[1] if len(answers) > 1 and answers[1].status == ExecStatus.TUPLES_OK else None


def _text(answer: PGresult, column: int) -> str:
    return str(answer.get_value(0, column) or b"", "ascii")


async def open_writer(
    *args: Any, configure: Configure | None = None, record_xid: bool = False, **options: Any
) -> WriterConnection:
    """Connect, and read a position once: a server that refuses that must refuse before any work is done.

    Parameters:
        args, options: psycopg's.
        configure: called with the connection once.
        record_xid: see `WriterConnection.record_xid`.

    Raises:
        NotThePrimary: the server is a standby.
        psycopg.errors.InsufficientPrivilege: the role may not execute `pg_control_system`, `pg_control_init`
            or `pg_walfile_name`; grant it that.
    """
    connection = await WriterConnection.connect(*args, **options)
    try:
        await connection.set_autocommit(True)  # one statement, and no transaction left open
        await _identify_server(connection)
        connection.record_xid = record_xid
        if configure is not None:
            await configure(connection)
        await connection.set_autocommit(False)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _identify_server(connection: WriterConnection) -> None:
    try:
        cursor = await connection.execute(IDENTIFY_SERVER)
    except ObjectNotInPrerequisiteState as error:
        info = connection.info
        raise NotThePrimary(info.dbname, f"{info.host}:{info.port}", "it is in recovery") from error
    [(*server, lsn, file, started)] = await cursor.fetchall()
    connection.server = ServerIdentity._make((*server, started))
    connection.position = connection.server.position(lsn, file=file)


class ReaderConnection(AsyncConnection[TupleRow]):
    """A connection whose transactions are read only."""

    is_direct: bool = False
    """Whether the option of `open_reader` has reached the server, which a pooler keeps to itself."""

    @property
    def refuses_writes(self) -> bool:
        """Whether the server reports that it refuses writes outside of our transactions too.

        It does where the option of `open_reader` has reached it. Behind a pooler that drops the option it
        does not, and then a unit of reading gets a transaction that says READ ONLY.
        """
        return self.info.parameter_status(_READ_ONLY) == "on"

    @property
    def seems_standby(self) -> bool:
        """Whether the server may be in recovery; PostgreSQL (14 and newer) reports it by itself.

        A pooler passes on what its first server reported.
        """
        return not self.is_direct or self.info.parameter_status("in_hot_standby") == "on"


async def open_reader(*args: Any, configure: Configure | None = None, **options: Any) -> ReaderConnection:
    """Connect, and have psycopg begin each transaction with `READ ONLY, ISOLATION LEVEL REPEATABLE READ`.

    These are words in BEGIN: no round trip, no SET that a pooler in transaction mode would leak or lose.

    Parameters:
        args, options: psycopg's.
        configure: called with the connection once.
    """
    connection = await _connect_reader(*args, **options)
    try:
        if configure is not None:
            await connection.set_autocommit(True)
            await configure(connection)
            await connection.set_autocommit(False)
        connection.is_direct = connection.refuses_writes
        await connection.set_read_only(True)
        await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _connect_reader(*args: Any, **options: Any) -> ReaderConnection:
    given = options.pop("options", "")
    try:
        return await ReaderConnection.connect(*args, options=f"{given} {READ_ONLY_OPTION}".strip(), **options)
    except OperationalError as error:
        # PgBouncer refuses an option that it does not know (its ignore_startup_parameters and
        # track_extra_parameters say which it does); the text is not translated.
        if "unsupported startup parameter" not in str(error):
            raise
    words = {**options, "options": given} if given else options
    return await ReaderConnection.connect(*args, **words)
