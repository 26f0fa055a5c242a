"""What a shard owns: the SQL by which a shard refuses rows that are not its own, and the change of that.

The guard is `CHECK (shard_owns(KEY))` on every table that has a shard key. PostgreSQL prepares a check anew
for each statement, after it has locked the table: so the definition of `shard_owns` that a statement
meets is the newest one, whatever was prepared or begun before. To change it, one transaction locks the
tables against writers (readers go on), replaces the function, and records the change in `shard_identity`.
"""

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from partitions.sql import relation
from readreplica.errors import one_line
from sharding.errors import (
    BucketNotOwned,
    OwnershipConflict,
    OwnershipNotChanged,
    ShardMapInvalid,
    WrongShard,
)
from sharding.keys import GuardedTable
from sharding.shard_map import ShardMap

REFUSED = "MS001"
"""The SQLSTATE of a refused row; PostgreSQL leaves classes that begin with I-Z to implementations."""

CHECK_NAME = "shard_owns_check"

# What owns the bucket now, by the function, and what did in the snapshot of the transaction, by the table: a
# REPEATABLE READ unit that began while the bucket was away does not see the rows that have come back.
ASK_OWNERSHIP = """
    SELECT bool_and(public.shard_owns(key)), bool_and(
        CASE substr(owned, ((hashint8(key) + 2147483648) * length(owned) / 4294967296 + 1)::integer, 1)
        WHEN '1' THEN true ELSE public.shard_refuse(key, length(owned), shard, map_version) END)
    FROM public.shard_identity, unnest(%(keys)s::bigint[]) AS key
"""
"""Raises `REFUSED` for a key whose bucket the shard does not own.

Asked after a statement that has locked a guarded table, for what the guard cannot see: absent rows. A change
of ownership waits for that lock, so what this says holds until the transaction ends.
"""
GUARD_FUNCTION = "public.shard_owns(bigint)"
_BITS = re.compile(r"[01]+")


@dataclass(frozen=True)
class Ownership:
    """A shard's name, the version of the map, and a bit for each bucket, `1` for those that it owns.

    Raises:
        ShardMapInvalid: the bits are none, or their number is no power of two.
    """

    shard: str
    map_version: int
    owned: str

    def __post_init__(self) -> None:
        """Check the bits."""
        count = len(self.owned)
        if not _BITS.fullmatch(self.owned) or count & (count - 1):
            raise ShardMapInvalid(self.map_version, f"{self.shard} cannot own {self.owned[:70]!r}")

    @classmethod
    def of(cls, shard_map: ShardMap, shard: str) -> Self:
        """Return what a shard owns by a map; one that the map does not name owns nothing."""
        return cls(
            shard, shard_map.version, "".join("1" if owner == shard else "0" for owner in shard_map.owners)
        )

    @property
    def buckets(self) -> int:
        """How many buckets there are, owned or not."""
        return len(self.owned)

    def owns(self, bucket: int) -> bool:
        """Return whether the shard owns a bucket."""
        return self.owned[bucket] == "1"


def bucket_sql(key: str, buckets: int) -> str:
    """Return the SQL that computes the bucket of a key, as `sharding.shard_map.bucket_of` does."""
    if buckets == 1:
        # A shift by 32 bits is no shift at all to PostgreSQL.
        return "0"
    shift = 33 - buckets.bit_length()
    return f"(hashint8({key}) >> {shift}) + {buckets // 2}"


def replace_guard(ownership: Ownership) -> str:
    """Return the statement by which a shard refuses what it does not own.

    CASE, because PostgreSQL promises for no other expression that it leaves the refusal alone while the
    bit is set. The body is parsed when it is made, so no search_path can redirect it.
    """
    shard, version = ownership.shard.replace("'", "''"), ownership.map_version
    return f"""\
CREATE OR REPLACE FUNCTION {GUARD_FUNCTION.replace("bigint", "shard_key bigint")} RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN get_bit(B'{ownership.owned}', {bucket_sql("shard_key", ownership.buckets)}) = 1 THEN true
            ELSE public.shard_refuse(shard_key, {ownership.buckets}, '{shard}', {version}) END"""


def record_identity(ownership: Ownership) -> str:
    """Return the statement that records the name of a shard and what it owns."""
    shard = ownership.shard.replace("'", "''")
    return f"""\
INSERT INTO public.shard_identity (shard, map_version, owned)
VALUES ('{shard}', {ownership.map_version}, '{ownership.owned}')
ON CONFLICT (singleton) DO UPDATE
SET shard = excluded.shard, map_version = excluded.map_version, owned = excluded.owned, changed_at = now()"""


def lock_writers(tables: list[str]) -> str:
    """Return the statement that waits for transactions that write, and blocks new ones.

    A transaction that has written holds ROW EXCLUSIVE until it ends, and SHARE ROW EXCLUSIVE waits for
    it: so what was written under the old ownership is committed before the new one begins. Readers go on.
    """
    return f"LOCK TABLE {', '.join(map(relation, tables))} IN SHARE ROW EXCLUSIVE MODE"


def read_refusal(detail: str | None) -> BucketNotOwned | None:
    """Read the facts of a refusal out of the DETAIL of the server's error; None if there are none."""
    try:
        facts: dict[str, Any] = json.loads(detail or "")
        return BucketNotOwned(
            shard=facts["shard"],
            key=int(facts["key"]),
            bucket=facts["bucket"],
            map_version=facts["map_version"],
        )
    except (ValueError, KeyError, TypeError):
        return None


Report = Callable[[str], None]

_IDENTITY = text("SELECT shard, map_version, owned FROM public.shard_identity")
# What the guard itself would do, read out of its body: `identity` is what was recorded.
_GUARD = text("""
    SELECT substring(pg_get_functiondef(to_regprocedure('public.shard_owns(bigint)')) FROM 'B?''([01]+)''')
""")


def read_identity(connection: Connection) -> Ownership | None:
    """Read the recorded name and ownership of a shard; None if there is no record."""
    row = connection.execute(_IDENTITY).one_or_none()
    return None if row is None else Ownership(row.shard, row.map_version, row.owned)


def read_guard(connection: Connection) -> str | None:
    """Read the bits in the guard's definition; None if it lets everything pass."""
    found: str | None = connection.execute(_GUARD).scalar_one()
    return found


def ownership_statements(
    ownership: Ownership, tables: Iterable[GuardedTable], *, lock_timeout_ms: int
) -> list[str]:
    """Return the statements of the transaction that sets what a shard owns."""
    return [
        f"SET LOCAL lock_timeout = {lock_timeout_ms}",
        lock_writers([guarded.table for guarded in tables]),
        replace_guard(ownership),
        record_identity(ownership),
    ]


def set_ownership(
    engine: Engine,
    ownership: Ownership,
    *,
    tables: Iterable[GuardedTable],
    lock_timeout_seconds: float = 1.0,
    attempts: int = 10,
    report: Report = lambda _line: None,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Set the name of a shard and what it owns.

    Transactions that write wait while this waits for those that wrote before, so the lock_timeout is short;
    after it they go on, and this tries again after a random pause. A writer that took the tables in another
    order may be ended by PostgreSQL as a deadlock (40P01), which `transact` repeats.

    Parameters:
        engine: the shard's primary, as the owner of its tables.
        ownership: the shard's name and what it owns.
        tables: the guarded tables; in the order in which transactions use them, if there is one.
        lock_timeout_seconds: how long writers wait at most, at each attempt.
        attempts: how many there are.
        report: called with a line for each attempt that failed.
        sleep: called with the seconds between two attempts.

    Returns:
        Whether there was anything to change.

    Raises:
        WrongShard: the database has another shard's name.
        OwnershipConflict: it has the ownership of a newer map.
        OwnershipNotChanged: no attempt got the lock.
    """
    guarded = list(tables)

    def once() -> bool:
        with engine.begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout = {round(lock_timeout_seconds * 1000)}"))
            if not _differs(connection, ownership):
                return False
            for statement in ownership_statements(
                ownership, guarded, lock_timeout_ms=round(lock_timeout_seconds * 1000)
            ):
                connection.exec_driver_sql(statement)
            return True

    def again(state: RetryCallState) -> None:
        fault = state.outcome.exception() if state.outcome else None
        report(f"{ownership.shard}: {one_line(fault) if fault else ''}; again")

    retrying = Retrying(
        retry=retry_if_exception(_is_lock_failure),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        before_sleep=again,
        sleep=sleep,
        reraise=True,
    )
    try:
        return retrying(once)
    except DBAPIError as error:
        if not _is_lock_failure(error):
            raise
        raise OwnershipNotChanged(ownership.shard, attempts=attempts, reason=one_line(error)) from error


def _differs(connection: Connection, ownership: Ownership) -> bool:
    # The row's lock puts two changes at the same time one after the other.
    connection.execute(text("SELECT FROM public.shard_identity FOR UPDATE"))
    found = read_identity(connection)
    if found is None:
        return True
    if found.shard != ownership.shard:
        raise WrongShard(expected=ownership.shard, found=found.shard, address=_address(connection))
    if found.map_version > ownership.map_version:
        raise OwnershipConflict(
            ownership.shard, found_version=found.map_version, version=ownership.map_version
        )
    # A guard without bits lets everything pass: for a shard that owns everything it is as good.
    return found != ownership or (read_guard(connection) or "1" * ownership.buckets) != ownership.owned


def _address(connection: Connection) -> str:
    url = connection.engine.url
    return f"{url.host}:{url.port}/{url.database}"


def _is_lock_failure(error: BaseException) -> bool:
    return isinstance(error, DBAPIError) and isinstance(error.orig, LockNotAvailable | DeadlockDetected)
