# Generated from readreplica/retry.py by `make twins`: change that file, not this one.
"""Doing a unit of work again: what a concurrent transaction ended, and what an outage ended before COMMIT."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from readreplica.errors import RetriesExhausted
from readreplica.faults import is_transient, sqlstate_of

__all__ = ["is_transient", "retry_unit", "sqlstate_of"]

T = TypeVar("T")


def retry_unit(
    cluster: str,
    unit: Callable[[], T],
    *,
    attempts: int,
    may_repeat: Callable[[], bool] = lambda: True,
) -> T:
    """Run a unit of work, again after a random pause if a concurrent transaction ended it.

    Parameters:
        cluster: where it runs.
        unit: one attempt.
        attempts: how often it is tried at most.
        may_repeat: tells after an attempt that failed whether nothing of it is committed.

    Raises:
        RetriesExhausted: it was ended so at every attempt.
    """
    retrying = Retrying(
        stop=stop_after_attempt(attempts),
        # Random, or the two that met would meet again.
        wait=wait_random_exponential(multiplier=0.02, max=1.0),
        retry=retry_if_exception(lambda error: is_transient(error) and may_repeat()),
    )
    try:
        return retrying(unit)
    except RetryError as error:
        last = error.last_attempt.exception()
        assert last is not None
        raise RetriesExhausted(cluster, attempts=attempts, sqlstate=sqlstate_of(last) or "?") from last
