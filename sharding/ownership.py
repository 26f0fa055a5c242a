"""Telling a shard what it owns, in one transaction: writers of its tables wait for it, readers do not."""

import time
from collections.abc import Callable, Iterable

from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from sharding.errors import OwnershipConflict, OwnershipNotChanged, WrongShard
from sharding.keys import GuardedTable

Report = Callable[[str], None]

_IDENTITY = text("SELECT shard, map_version, owned FROM public.shard_identity")
# What the guard itself would do, read out of its body: `identity` is what somebody noted.
_GUARD = text("""
    SELECT substring(pg_get_functiondef(to_regprocedure('public.shard_owns(bigint)')) FROM 'B?''([01]+)''')
""")


def read_identity(connection: Connection) -> Ownership | None:
    """Read what a shard was told; None if it was never told anything."""
    row = connection.execute(_IDENTITY).one_or_none()
    return None if row is None else Ownership(row.shard, row.map_version, row.owned)


def read_guard(connection: Connection) -> str | None:
    """Read the bits that the guard goes by; None if it lets everything pass."""
    found: str | None = connection.execute(_GUARD).scalar_one()
    return found


def ownership_statements(
    told: Ownership, tables: Iterable[GuardedTable], *, lock_timeout_ms: int
) -> list[str]:
    """Give the statements of the transaction that tells a shard what it owns."""
    return [
        f"SET LOCAL lock_timeout = {lock_timeout_ms}",
        lock_writers([guarded.table for guarded in tables]),
        replace_guard(told),
        record_identity(told),
    ]


def set_ownership(
    engine: Engine,
    told: Ownership,
    *,
    tables: Iterable[GuardedTable],
    lock_timeout_seconds: float = 1.0,
    attempts: int = 10,
    report: Report = lambda _line: None,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Tell a shard who it is and what it owns.

    Those who write wait while this waits for those who wrote before, so the wait is short; if it was too
    short, they go on, and it is tried again after a random pause. A writer that took the tables in another
    order may be ended by PostgreSQL as a deadlock (40P01), which `transact` repeats.

    Parameters:
        engine: the shard's primary, as the owner of its tables.
        told: the shard's name and what it owns.
        tables: the guarded tables; in the order in which transactions use them, if there is one.
        lock_timeout_seconds: how long writers are made to wait at most, each time.
        attempts: how often it is tried.
        report: is told a line of each attempt in vain.
        sleep: waits so many seconds between two attempts.

    Returns:
        Whether there was anything to change.

    Raises:
        WrongShard: the database has another shard's name.
        OwnershipConflict: it knows a newer map.
        OwnershipNotChanged: the lock was not had, at any attempt.
    """
    guarded = list(tables)

    def once() -> bool:
        with engine.begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout = {round(lock_timeout_seconds * 1000)}"))
            if not _differs(connection, told):
                return False
            for statement in ownership_statements(
                told, guarded, lock_timeout_ms=round(lock_timeout_seconds * 1000)
            ):
                connection.exec_driver_sql(statement)
            return True

    def again(state: RetryCallState) -> None:
        fault = state.outcome.exception() if state.outcome else None
        report(f"{told.shard}: {_words(fault)}; again")

    retrying = Retrying(
        retry=retry_if_exception(_in_vain),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        before_sleep=again,
        sleep=sleep,
        reraise=True,
    )
    try:
        return retrying(once)
    except DBAPIError as error:
        if not _in_vain(error):
            raise
        raise OwnershipNotChanged(told.shard, attempts=attempts, reason=_words(error)) from error


def _differs(connection: Connection, told: Ownership) -> bool:
    # The row's lock makes two that tell at once come one after the other.
    connection.execute(text("SELECT FROM public.shard_identity FOR UPDATE"))
    found = read_identity(connection)
    if found is None:
        return True
    if found.shard != told.shard:
        raise WrongShard(expected=told.shard, found=found.shard, address=_address(connection))
    if found.map_version > told.map_version:
        raise OwnershipConflict(told.shard, found_version=found.map_version, version=told.map_version)
    # A guard without bits lets everything pass: to who owns everything it is as good.
    return found != told or (read_guard(connection) or "1" * told.buckets) != told.owned


def _address(connection: Connection) -> str:
    url = connection.engine.url
    return f"{url.host}:{url.port}/{url.database}"


def _in_vain(error: BaseException) -> bool:
    return isinstance(error, DBAPIError) and isinstance(error.orig, LockNotAvailable | DeadlockDetected)


def _words(error: BaseException | None) -> str:
    orig = getattr(error, "orig", error)
    return str(orig).splitlines()[0] if orig else ""
