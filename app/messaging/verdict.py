"""What becomes of a message whose handler failed: again later, or set aside."""

from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError

from app.errors import AppError
from app.messaging.errors import NotYet
from app.models.status import IllegalTransition
from readreplica.errors import Unavailable

# psycopg's OperationalError covers a lost connection, a full server, a lock that was not granted, a deadlock
# and a failed serialization (classes 08, 53, 55, 57, 40).
_PASSING = (
    NotYet,
    Unavailable,
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
    StaleDataError,
    ConnectionError,
    TimeoutError,
)
_FINAL = (AppError, IllegalTransition)


def reason_to_set_aside(error: Exception, *, attempt: int, max_attempts: int) -> str | None:
    """Say why a message is given up; None if it is to come again.

    What will pass by itself is tried for ever, and what the rules forbid is not tried again. Of the rest,
    which nobody foresaw, nobody knows: it has a few attempts.

    Parameters:
        error: what the handler, or the transaction around it, raised.
        attempt: how often the message has been sent, from 1.
        max_attempts: how often an unforeseen error may happen.
    """
    if isinstance(error, _PASSING) or _is_demoted_primary(error):
        return None
    if isinstance(error, _FINAL):
        return str(error)
    return f"{type(error).__name__}: {error}" if attempt >= max_attempts else None


def _is_demoted_primary(error: Exception) -> bool:
    """A failover is under way: the pool still holds connections to a server that turned read-only."""
    return isinstance(error, DBAPIError) and isinstance(error.orig, ReadOnlySqlTransaction)
