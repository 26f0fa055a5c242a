# Generated from readreplica/connections.py by `make twins`: change that file, not this one.
"""The psycopg connections under the sessions: what they add to a transaction costs no round trip."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

from psycopg import Connection, DatabaseError, Error, IsolationLevel, OperationalError, generators
from psycopg.errors import InFailedSqlTransaction, ObjectNotInPrerequisiteState, error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import TupleRow
from psycopg.waiting import wait

from readreplica.errors import NotThePrimary
from readreplica.fate import LIFE, Doubt, Outcome
from readreplica.lsn import Lsn
from readreplica.sockets import shut
from readreplica.token import UNKNOWN_SYSTEM, Position

# The name of a WAL file begins with the timeline that the server writes on now; pg_control_checkpoint would
# tell that of the last checkpoint, which after a promotion is still the old one. The start of its postmaster
# tells one server from another, behind a pooler, for a fraction of what reading the control file takes; as a
# number, for the text of a time depends on the session's settings.
# It is planned anew with each COMMIT: with names to look up in the search path, and the timeline cut out
# here, it would take as long again as COMMIT itself.
_POSITION = """
    SELECT pg_catalog.pg_current_wal_insert_lsn() AS lsn,
           pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) AS file,
           pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()) AS started
"""
# A simple query may hold several statements: COMMIT ends the transaction, and what follows it runs in one of
# its own. The LSN must be read after COMMIT; before it, it is too early.
_COMMIT = f"COMMIT; {_POSITION}".encode()
_SERVER = f"""
    SELECT system_identifier, wal_block_size, bytes_per_wal_segment, lsn, file, started::text
    FROM pg_control_system(), pg_control_init(), ({_POSITION}) AS position
"""
# A transaction that has written nothing has no id, and nothing of it can be in doubt.
# Everything is asked anew: behind a pooler the server may be another one than at connect.
_TRACE = f"""
    SELECT pg_current_xact_id_if_assigned()::text::bigint,
           pg_current_wal_insert_lsn(),
           pg_walfile_name(pg_current_wal_insert_lsn()),
           {LIFE},
           (pg_control_system()).system_identifier
"""

Greet: TypeAlias = Callable[[Connection[TupleRow]], None]
"""Is given each new connection once, before any work; raises to refuse the server."""

# Reported by the server itself since PostgreSQL 14, and so known without asking.
_READ_ONLY = "default_transaction_read_only"
READ_ONLY_OPTION = f"-c {_READ_ONLY}=on"


_UNTRACED = Doubt(None, None, None)
_LOOK_UP_SECONDS = 0.1
"""How often a thread that waits looks for Ctrl-C; as psycopg has it."""


class AnswerLost(OperationalError):
    """COMMIT was sent, and its answer was lost."""

    def __init__(self, message: str, *, doubt: Doubt) -> None:
        """Keep what is known of the transaction."""
        super().__init__(message)
        self.doubt = doubt


class WriterConnection(Connection[TupleRow]):
    """A connection to a primary that knows where its last commit stands in the WAL."""

    outcome: Outcome | None = None
    """Is told of the next commit. Each transaction brings its own, and may look when the connection is
    another's."""

    traced: bool = False
    """Whether to ask for the transaction's id before COMMIT: one more round trip."""

    guard: Callable[[], None] | None = None
    """Called before COMMIT; raises NotThePrimary where another primary was found since this connected."""

    server: "Server"
    """What is known of the server behind this: of the one at connect, or that committed last."""

    position: Position
    """Where the server stood when this connected."""

    def commit(self) -> None:
        """Commit, and note the WAL position after it, in one round trip.

        If the connection is lost before COMMIT is answered, or this is cancelled, nobody here knows whether
        the transaction was committed: `Outcome.doubt` tells what is known. What goes wrong after that
        answer changes nothing: the transaction is committed, and whoever reads after it is sent to the
        primary.

        Raises:
            AnswerLost: the connection was lost before the answer came.
            psycopg.errors.InFailedSqlTransaction: the server rolled back, because an earlier error was
                swallowed. psycopg's own commit() says nothing then.
            NotThePrimary: the cluster has another primary by now; nothing was sent.
        """
        watched, self.outcome = self.outcome, None
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            return
        outcome = watched or Outcome()
        if self.guard is not None:
            self.guard()
        doubt = self._trace() if self.traced else _UNTRACED
        answers: list[PGresult] = []
        try:
            self._send_commit(answers)
        except OperationalError as error:
            # An error that leaves the connection in order is the server's answer: it has rolled back.
            if not self.closed or doubt is None or watched is None:
                raise
            outcome.doubt = doubt
            raise AnswerLost(str(error), doubt=doubt) from error
        except Exception:
            raise  # the server's answer as well
        except BaseException:  # called off
            if answers:
                outcome.committed = self._somewhere()
            else:
                outcome.doubt = doubt
            raise
        told = _position_in(answers)
        if told is None:
            outcome.committed = self._somewhere()
            return
        started = _text(told, 2)
        if started != self.server.started:
            outcome.committed = self._somewhere()  # stands if this is called off while it asks
            self._meet(started)
        outcome.committed = self.server.position(_text(told, 0), file=_text(told, 1))

    def _somewhere(self) -> Position:
        """Give the position of a commit whose place is not told: who reads after it goes to the primary."""
        return self.position._replace(system_identifier=UNKNOWN_SYSTEM)

    def rollback(self) -> None:
        """Roll back; whoever commits next on this connection is somebody else."""
        self.outcome = None
        super().rollback()

    def _send_commit(self, answers: list[PGresult]) -> None:
        """Send COMMIT with the question for the position, and keep what is answered."""
        # As psycopg's own commit() does it; a cursor would cost a twentieth of a small unit of work.
        with self.lock:
            self.pgconn.send_query(_COMMIT)
            try:
                # Not by self.wait: called off, that would have the server cancel COMMIT. One that waits for
                # its standby would let everybody see what no standby has.
                wait(_collect(self.pgconn, answers), self.pgconn.socket, interval=_LOOK_UP_SECONDS)
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

    def _meet(self, started: str) -> None:
        """Learn whom a pooler has put behind this connection; one round trip, once for each server.

        The transaction is committed, so this says nothing when it fails; nor can it be known who committed
        if the pooler has changed the server again.
        """
        found = None
        try:
            self.set_autocommit(True)
            [(*server, _lsn, _file, now)] = (self.execute(_SERVER, prepare=False)).fetchall()
            found = Server._make((*server, now))
            self.set_autocommit(False)
        except Error:
            self.close()
        if found is None or found.started != started:
            found = self.server._replace(system_identifier=UNKNOWN_SYSTEM, started=started)
        self.server = found

    def _trace(self) -> Doubt | None:
        if self.pgconn.transaction_status != TransactionStatus.INTRANS:
            return _UNTRACED
        [(xid, lsn, file, started, system)] = (self.execute(_TRACE, prepare=False)).fetchall()
        server = self.server._replace(system_identifier=system)
        return None if xid is None else Doubt(xid, server.position(lsn, file=file), started)


def _collect(pgconn: PGconn, answers: list[PGresult]) -> Generator[Any, Any, None]:
    """Do as psycopg's `execute`, and keep the answers that came before the connection was lost."""
    yield from generators.send(pgconn)
    while (answer := (yield from generators.fetch(pgconn))) is not None:
        answers.append(answer)


def _position_in(answers: Sequence[PGresult]) -> PGresult | None:
    """Give the answer with the position; None where it is committed, and that was not told."""
    return answers[1] if len(answers) > 1 and answers[1].status == ExecStatus.TUPLES_OK else None


def _text(answer: PGresult, column: int) -> str:
    return str(answer.get_value(0, column) or b"", "ascii")


class Server(NamedTuple):
    """What never changes while a server runs: it is read once."""

    system_identifier: int
    wal_block_bytes: int
    wal_segment_bytes: int
    started: str
    """When its postmaster started."""

    def position(self, lsn: str, *, file: str) -> Position:
        """Give the position of an insert LSN, in the history that this server writes.

        Parameters:
            lsn: as PostgreSQL writes it.
            file: the name of the WAL file that is written, which begins with the timeline.
        """
        insert = Lsn.parse(lsn)
        end = insert.before_page_header(
            block_bytes=self.wal_block_bytes, segment_bytes=self.wal_segment_bytes
        )
        return Position(self.system_identifier, int(file[:8], 16), end)


def open_writer(
    *args: Any, greet: Greet | None = None, traced: bool = False, **options: Any
) -> WriterConnection:
    """Connect, and read a position once: a server that refuses to tell must refuse before any work is done.

    Parameters:
        args, options: psycopg's.
        greet: is given the connection once.
        traced: see `WriterConnection.traced`.

    Raises:
        NotThePrimary: the server is a standby.
        psycopg.errors.InsufficientPrivilege: the role may not execute `pg_control_system`, `pg_control_init`
            or `pg_walfile_name`; grant it that.
    """
    connection = WriterConnection.connect(*args, **options)
    try:
        connection.set_autocommit(True)  # one statement, and no transaction left open
        _learn(connection)
        connection.traced = traced
        if greet is not None:
            greet(connection)
        connection.set_autocommit(False)
    except BaseException:
        connection.close()
        raise
    return connection


def _learn(connection: WriterConnection) -> None:
    try:
        cursor = connection.execute(_SERVER)
    except ObjectNotInPrerequisiteState as error:
        info = connection.info
        raise NotThePrimary(info.dbname, f"{info.host}:{info.port}", "it is in recovery") from error
    [(*server, lsn, file, started)] = cursor.fetchall()
    connection.server = Server._make((*server, started))
    connection.position = connection.server.position(lsn, file=file)


class ReaderConnection(Connection[TupleRow]):
    """A connection whose transactions are read only."""

    is_direct: bool = False
    """Whether the option of `open_reader` has reached the server, which a pooler keeps to itself."""

    @property
    def refuses_writes(self) -> bool:
        """Whether the server refuses writes outside of our transactions too, by its own word.

        It does where the option of `open_reader` has reached it, and says so. A pooler that drops the option
        is found out by this, and then a unit of reading gets a transaction that says READ ONLY.
        """
        return self.info.parameter_status(_READ_ONLY) == "on"

    @property
    def seems_standby(self) -> bool:
        """Whether the server may be in recovery; PostgreSQL (14 and newer) says so unasked.

        What a pooler passes on was said by whatever server it had when it was asked first.
        """
        return not self.is_direct or self.info.parameter_status("in_hot_standby") == "on"


def open_reader(*args: Any, greet: Greet | None = None, **options: Any) -> ReaderConnection:
    """Connect, and have psycopg begin each transaction with `READ ONLY, ISOLATION LEVEL REPEATABLE READ`.

    These are words in BEGIN: no round trip, no SET that a pooler in transaction mode would leak or lose.

    Parameters:
        args, options: psycopg's.
        greet: is given the connection once.
    """
    connection = _connect_reader(*args, **options)
    try:
        if greet is not None:
            connection.set_autocommit(True)
            greet(connection)
            connection.set_autocommit(False)
        connection.is_direct = connection.refuses_writes
        connection.set_read_only(True)
        connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_reader(*args: Any, **options: Any) -> ReaderConnection:
    given = options.pop("options", "")
    try:
        return ReaderConnection.connect(*args, options=f"{given} {READ_ONLY_OPTION}".strip(), **options)
    except OperationalError as error:
        # PgBouncer refuses an option that it does not know (its ignore_startup_parameters and
        # track_extra_parameters say which it does); the text is not translated.
        if "unsupported startup parameter" not in str(error):
            raise
    words = {**options, "options": given} if given else options
    return ReaderConnection.connect(*args, **words)
