"""What an error says about the unit that it ended, and about the server. Pure; shared by both twins."""

import re

from sqlalchemy.exc import DBAPIError, OperationalError

# PostgreSQL: serialization_failure, deadlock_detected. Nothing was committed, so doing it again is safe.
# The first also comes in READ COMMITTED, when another transaction moved the row to another partition, and on
# a replica, when replay had to remove what the query still saw.
TRANSIENT_SQLSTATES = frozenset({"40001", "40P01"})

# protocol_violation: with this PgBouncer says all that it has to say itself, and hangs up.
POOLER_SQLSTATE = "08P01"
_POOL_IS_FULL = "query_wait_timeout"

# read_only_sql_transaction: the primary was demoted under a pooler. admin_shutdown, crash_shutdown,
# cannot_connect_now: it goes down, or comes up as something else. A pooler's own: it has lost the server.
OUTAGE_SQLSTATES = frozenset({"25006", "57P01", "57P02", "57P03", POOLER_SQLSTATE})


# libpq gives no SQLSTATE for a connection that was not made. It writes what the server said as
# "SEVERITY:  text" (fe-protocol3.c; the severity may be translated), its own faults without the two spaces.
_SERVER_SAID = re.compile(r"failed: [^\s:]+:  ")


def is_refusal(error: BaseException | None) -> bool:
    """Tell whether a server took the connection and said no: wrong password, no slot left, starting up.

    Or a pooler, whose pool is full.

    It is there, so what it does for others goes on: those connections are in order.

    Parameters:
        error: the driver's error, or SQLAlchemy's around it.
    """
    original = getattr(error, "orig", None) or error
    sqlstate = getattr(original, "sqlstate", None)
    if sqlstate is not None:
        return sqlstate == POOLER_SQLSTATE and _POOL_IS_FULL in str(original)
    return _SERVER_SAID.search(str(original)) is not None


def sqlstate_of(error: BaseException) -> str | None:
    """Tell the SQLSTATE behind an error of SQLAlchemy, if it has one."""
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


def is_transient(error: BaseException) -> bool:
    """Tell whether the whole transaction may simply be done again."""
    return sqlstate_of(error) in TRANSIENT_SQLSTATES


def is_outage(error: BaseException) -> bool:
    """Tell whether the primary is away, or is no longer the primary; nothing was committed then.

    A COMMIT that got no answer is no such error: it is `CommitInDoubt`.
    """
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated or sqlstate_of(error) in OUTAGE_SQLSTATES:
        return True
    # A connection that could not be made has no SQLSTATE: nobody answered, or not with one.
    return isinstance(error, OperationalError) and sqlstate_of(error) is None


def is_unsupported(error: BaseException) -> bool:
    """Tell whether the server refused a statement as something that it cannot do: no wait mends that.

    A statement that was prepared before its columns changed gets the same SQLSTATE, and works once it is
    prepared again.
    """
    return sqlstate_of(error) == "0A000" and "cached plan must not change" not in str(error)


def may_read_elsewhere(error: BaseException) -> bool:
    """Tell whether a unit of reading may be done again, on another node.

    query_canceled stands for a statement_timeout and for a user's cancel as well, which are to be obeyed;
    older servers use it for conflicts with recovery too, and only the text tells.
    """
    if is_transient(error) or is_outage(error):
        return True
    return sqlstate_of(error) == "57014" and "conflict with recovery" in str(error)
