"""What can go wrong between a session and its cluster, and what an error of the driver says.

SQLAlchemy's own errors pass through as they are. What a conflict is and what an outage is, by SQLSTATE, is
decided here and nowhere else.
"""

import re
from collections.abc import Sequence

import psycopg
from sqlalchemy.exc import DBAPIError, OperationalError


class ReadReplicaError(Exception):
    """Base of every error of this package."""


class MissingExtra(ReadReplicaError, ImportError):
    """A package is needed that an extra of mes-storage installs."""

    def __init__(self, extra: str, *, package: str) -> None:
        self.extra = extra
        self.package = package
        super().__init__(f"{package} is not installed: pip install 'mes-storage[{extra}]'")


class TokenMalformed(ReadReplicaError, ValueError):
    """The text is not a causal token that this version can read."""

    def __init__(self, text: str, fault: str) -> None:
        self.text = text
        self.fault = fault
        super().__init__(f"{text[:40]!r} is no causal token: {fault}; send back what an earlier answer gave")


class TokenUnsigned(TokenMalformed):
    """The text has no signature, where one is needed."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "it is not signed")


class TokenKeyUnknown(TokenMalformed):
    """The token was signed with a key that is not in the ring: it was removed, or is another service's."""

    def __init__(self, text: str, key: str) -> None:
        self.key = key
        super().__init__(text, f"its key {key!r} is not, or no longer, known")


class TokenForged(TokenMalformed):
    """The token's signature is not that of its text: it was made up or changed."""

    def __init__(self, text: str, key: str) -> None:
        self.key = key
        super().__init__(text, f"its signature by the key {key!r} is wrong")


class LsnMalformed(ReadReplicaError, ValueError):
    """The text is not a WAL position."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(f"{text[:40]!r} is no LSN: PostgreSQL writes one as two hexadecimal numbers, X/Y")


class Unavailable(ReadReplicaError):
    """Base of what passes by itself: the same unit may well succeed later, if doing it twice does no harm."""


class RetriesExhausted(Unavailable):
    """A unit of work met a concurrent transaction at every attempt; the last error is chained."""

    def __init__(self, cluster: str, *, attempts: int, sqlstate: str) -> None:
        self.cluster = cluster
        self.attempts = attempts
        self.sqlstate = sqlstate
        super().__init__(
            f"a transaction on {cluster} was given up after {attempts} attempts, the last one ended by "
            f"SQLSTATE {sqlstate}: another transaction wants the same rows; try again later"
        )


class ReplicasTooStale(Unavailable):
    """No replica is fit for the read, and the primary may not be asked.

    The budget for such reads on it is used up, or it is known to be older than what the read asks for.
    """

    def __init__(
        self,
        cluster: str,
        *,
        asked: str,
        retry_after_seconds: float,
        fault: str = "the primary has as many such reads as it may have",
    ) -> None:
        self.cluster = cluster
        self.asked = asked
        self.retry_after_seconds = retry_after_seconds
        super().__init__(
            f"no replica of {cluster} is fit for a read that asks for {asked}, and {fault}; "
            f"try again in {retry_after_seconds:.2g} s"
        )


class NotThePrimary(ReadReplicaError, psycopg.OperationalError):
    """A server that was to be written to may not be. Nothing was written.

    It is an OperationalError of the driver too: for a caller it is one more way in which the primary is away.
    """

    sqlstate = "25006"  # read_only_sql_transaction, which a demoted primary would have answered

    def __init__(self, cluster: str, address: str, fault: str) -> None:
        self.cluster = cluster
        self.address = address
        self.fault = fault
        super().__init__(f"{address} is not the primary of {cluster}: {fault}; nothing was written")


class TwoPrimaries(NotThePrimary):
    """Several nodes claim to be the primary on one timeline, and nothing shows which one is right."""

    def __init__(self, cluster: str, nodes: Sequence[str]) -> None:
        self.nodes = tuple(nodes)
        fault = "they all take writes on the same timeline; stop all but the one whose data is to be kept"
        super().__init__(cluster, " and ".join(nodes), fault)


class WritesRefused(Unavailable):
    """Writes are held back for a planned switchover."""

    def __init__(self, cluster: str, *, retry_after_seconds: float) -> None:
        self.cluster = cluster
        self.retry_after_seconds = retry_after_seconds
        super().__init__(
            f"{cluster} is being switched over to another primary; "
            f"try the write again in {retry_after_seconds:.2g} s"
        )


class WrongEngine(ReadReplicaError, TypeError):
    """A cluster was given an engine that cannot do what it is there for."""

    def __init__(self, cluster: str, *, role: str, found: str, needed: str, make: str) -> None:
        self.cluster = cluster
        self.role = role
        super().__init__(
            f"the {role} of cluster {cluster} needs a {needed} engine, and this is {found}: make it with "
            f"{make}(url, application_name=...)"
        )


class ClusterClosed(ReadReplicaError):
    """A session needs a connection of a cluster that was closed."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        super().__init__(f"{cluster} was closed: end its sessions before, or make another Cluster")


class OtherEventLoop(ReadReplicaError):
    """A cluster is used in another event loop than the one in which its monitor runs."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        super().__init__(
            f"{cluster} belongs to the event loop that used it first; make a Cluster in this one"
        )


class SwitchoverFailed(ReadReplicaError):
    """A planned switchover did not end; writes go on where they were."""

    def __init__(self, cluster: str, fault: str) -> None:
        self.cluster = cluster
        self.fault = fault
        super().__init__(f"{cluster} was not switched over: {fault}")


class CommitInDoubt(Unavailable):
    """COMMIT was sent, and its answer was lost: the unit is committed, or it is not.

    Never do the unit again before that is known: `Cluster.resolve` finds out.
    """

    def __init__(
        self,
        cluster: str,
        *,
        xid: int | None,
        before: tuple[int, int, int] | None,
        server: str | None,
    ) -> None:
        """Keep what `Cluster.resolve` needs.

        Parameters:
            cluster: its name.
            xid: the transaction's 64-bit id (xid8), if it is known.
            before: system identifier, timeline and LSN at a moment when the transaction had the xid already.
            server: the incarnation of the server that was to commit.
        """
        self.cluster = cluster
        self.xid = xid
        self.before = before
        self.server = server
        self.committed_at: tuple[int, int, int] | None = None
        """Where the primary stood when `Cluster.resolve` found it committed: see `Cluster.token_of`."""
        named = "" if xid is None else f" of transaction {xid}"
        super().__init__(
            f"the answer to COMMIT{named} on {cluster} was lost: it may be committed; "
            "ask cluster.resolve(error) before doing it again"
        )


class CommitLost(Unavailable):
    """COMMIT's answer was lost, and the primary was asked: nothing of the unit is there, nor will be."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        super().__init__(f"a transaction on {cluster} was lost with its COMMIT; nothing was written")


class SessionNotEntered(ReadReplicaError):
    """A write session is used outside of its `async with`, where its writes are not counted."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        super().__init__(
            f"a write session of {cluster} is used outside of its block: write `async with ... as session`"
        )


class NoTransaction(ReadReplicaError):
    """A write session was asked for AUTOCOMMIT."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        super().__init__(
            f"AUTOCOMMIT in a write session of {cluster}: a unit of work is one transaction; "
            "for a statement that cannot be in one take a connection of the engine `cluster.primary`"
        )


class NothingDiscovered(ReadReplicaError):
    """A source of addresses gave none."""

    def __init__(self, source: str, fault: str) -> None:
        self.source = source
        self.fault = fault
        super().__init__(f"{source} named no server: {fault}; the addresses known before stay in use")


# PostgreSQL: serialization_failure, deadlock_detected. Nothing was committed, so doing it again is safe.
# The first also comes in READ COMMITTED, when another transaction moved the row to another partition, and on
# a replica, when replay had to remove what the query still saw.
CONFLICT_SQLSTATES = frozenset({"40001", "40P01"})

# protocol_violation: with this PgBouncer says all that it has to say itself, and hangs up.
POOLER_SQLSTATE = "08P01"
_POOL_IS_FULL = "query_wait_timeout"

# admin_shutdown, crash_shutdown, cannot_connect_now: the server goes down, or comes up as something else.
SHUTDOWN_SQLSTATES = frozenset({"57P01", "57P02", "57P03"})

# read_only_sql_transaction: the primary was demoted under a pooler. A pooler's own: it has lost the server.
OUTAGE_SQLSTATES = SHUTDOWN_SQLSTATES | {"25006", POOLER_SQLSTATE}

# idle_session_timeout ends the connection too, and is no outage.
_DISCONNECTED_SQLSTATES = SHUTDOWN_SQLSTATES | {"57P05"}
_CONNECTION_EXCEPTION = "08"


# libpq returns no SQLSTATE for a connection that was not made. It writes the server's message as
# "SEVERITY:  text" (fe-protocol3.c; the severity may be translated), its own faults without the two spaces.
_SERVER_MESSAGE = re.compile(r"failed: [^\s:]+:  ")


def is_rejection(error: BaseException | None) -> bool:
    """Return whether a server rejected a new connection: wrong password, no slot left, starting up.

    Or a pooler, whose pool is full. Existing pooled connections to it stay open.

    Parameters:
        error: the driver's error, or SQLAlchemy's around it.
    """
    original = getattr(error, "orig", None) or error
    sqlstate = getattr(original, "sqlstate", None)
    if sqlstate is not None:
        return sqlstate == POOLER_SQLSTATE and _POOL_IS_FULL in str(original)
    return _SERVER_MESSAGE.search(str(original)) is not None


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE behind an error of SQLAlchemy, if it has one."""
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


def is_conflict(error: BaseException) -> bool:
    """Return whether a concurrent transaction ended this one, which may simply be done again."""
    return sqlstate_of(error) in CONFLICT_SQLSTATES


def is_outage(error: BaseException) -> bool:
    """Return whether the primary is away, or is no longer the primary; nothing was committed then.

    A COMMIT that got no answer is no such error: it is `CommitInDoubt`.
    """
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated or sqlstate_of(error) in OUTAGE_SQLSTATES:
        return True
    # A connection that could not be made has no SQLSTATE: no server answered, or not with one.
    return isinstance(error, OperationalError) and sqlstate_of(error) is None


def is_unsupported(error: BaseException) -> bool:
    """Return whether the server refused a statement as something that it cannot do: no wait mends that.

    A statement that was prepared before its columns changed gets the same SQLSTATE, and works once it is
    prepared again.
    """
    return sqlstate_of(error) == "0A000" and "cached plan must not change" not in str(error)


def is_retryable_read(error: BaseException) -> bool:
    """Return whether a unit of reading may be done again, on another node.

    query_canceled stands for a statement_timeout and for a user's cancel as well, which are to be obeyed;
    older servers use it for conflicts with recovery too, with another text.
    """
    if is_conflict(error) or is_outage(error):
        return True
    return sqlstate_of(error) == "57014" and "conflict with recovery" in str(error)


def driver_error(error: BaseException) -> psycopg.Error | None:
    """Return the driver's error behind an error of SQLAlchemy, or the driver's own."""
    found = error.orig if isinstance(error, DBAPIError) else error
    return found if isinstance(found, psycopg.Error) else None


def one_line(error: BaseException) -> str:
    """Return an error's message on one line: the server's or the driver's where it has one.

    The text of SQLAlchemy adds the statement and a link.
    """
    return " ".join(str(driver_error(error) or error).split()) or type(error).__name__


def is_connection_lost(error: BaseException) -> bool:
    """Return whether an error is about the connection, so that the server's answer may not have arrived."""
    found = driver_error(error)
    if not isinstance(found, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    state = found.sqlstate
    return state is None or state.startswith(_CONNECTION_EXCEPTION) or state in _DISCONNECTED_SQLSTATES
