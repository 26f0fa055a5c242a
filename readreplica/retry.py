"""Doing a unit of work again when a concurrent transaction was in its way."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError
from tenacity import (
    AsyncRetrying,
    RetryError,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from readreplica.errors import RetriesExhausted

T = TypeVar("T")

# PostgreSQL: serialization_failure, deadlock_detected. Nothing was committed, so doing it again is safe.
# The first also comes in READ COMMITTED, when another transaction moved the row to another partition.
TRANSIENT_SQLSTATES = frozenset({"40001", "40P01"})


def sqlstate_of(error: BaseException) -> str | None:
    """Tell the SQLSTATE behind an error of SQLAlchemy, if it has one."""
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


def is_transient(error: BaseException) -> bool:
    """Tell whether the whole transaction may simply be done again."""
    return sqlstate_of(error) in TRANSIENT_SQLSTATES


async def retry_unit(cluster: str, unit: Callable[[], Awaitable[T]], *, attempts: int) -> T:
    """Run a unit of work, again after a random pause if a concurrent transaction ended it.

    Raises:
        RetriesExhausted: it was ended so at every attempt.
    """
    retrying = AsyncRetrying(
        stop=stop_after_attempt(attempts),
        # Random, or the two that met would meet again.
        wait=wait_random_exponential(multiplier=0.02, max=1.0),
        retry=retry_if_exception(is_transient),
    )
    try:
        return await retrying(unit)
    except RetryError as error:
        last = error.last_attempt.exception()
        assert last is not None
        raise RetriesExhausted(cluster, attempts=attempts, sqlstate=sqlstate_of(last) or "?") from last
