"""What a shard owns, as the shard itself is told, and the SQL that tells it. Pure: nothing here connects.

The guard is `CHECK (shard_owns(KEY))` on every table that has a shard key. PostgreSQL prepares a check anew
for each statement, after it has locked the table: so the definition of `shard_owns` that a statement
meets is the newest one, whatever was prepared or begun before. To change it, one transaction locks the
tables against writers (readers go on), replaces the function, and notes the change in `shard_identity`.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from sharding.errors import BucketNotOwned, ShardMapInvalid
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
FUNCTION = "public.shard_owns(bigint)"
_BITS = re.compile(r"[01]+")


@dataclass(frozen=True)
class Ownership:
    """What a shard is told: its name, the version of the map, and a bit for each bucket, `1` where it owns.

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
        """Tell what a map gives to a shard; one that the map does not name owns nothing."""
        return cls(
            shard, shard_map.version, "".join("1" if owner == shard else "0" for owner in shard_map.owners)
        )

    @property
    def buckets(self) -> int:
        """How many buckets there are, owned or not."""
        return len(self.owned)

    def owns(self, bucket: int) -> bool:
        """Tell whether the shard owns a bucket."""
        return self.owned[bucket] == "1"


class GuardedTable(NamedTuple):
    """A table whose rows are guarded, and the column by which they are placed."""

    table: str
    key: str


def bucket_sql(key: str, buckets: int) -> str:
    """Write the bucket of a key as PostgreSQL computes it; the twin of `sharding.shard_map.bucket_of`."""
    if buckets == 1:
        # A shift by 32 bits is no shift at all to PostgreSQL.
        return "0"
    shift = 33 - buckets.bit_length()
    return f"(hashint8({key}) >> {shift}) + {buckets // 2}"


def replace_guard(told: Ownership) -> str:
    """Write the statement that has a shard refuse what it does not own.

    CASE, because PostgreSQL promises for no other expression that it leaves the refusal alone while the
    bit is set. The body is parsed when it is made, so no search_path can redirect it.
    """
    shard = told.shard.replace("'", "''")
    return f"""\
CREATE OR REPLACE FUNCTION {FUNCTION.replace("bigint", "shard_key bigint")} RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN get_bit(B'{told.owned}', {bucket_sql("shard_key", told.buckets)}) = 1 THEN true
            ELSE public.shard_refuse(shard_key, {told.buckets}, '{shard}', {told.map_version}) END"""


def note_identity(told: Ownership) -> str:
    """Write the statement that notes who a shard is and what it was told."""
    shard = told.shard.replace("'", "''")
    return f"""\
INSERT INTO public.shard_identity (shard, map_version, owned)
VALUES ('{shard}', {told.map_version}, '{told.owned}')
ON CONFLICT (singleton) DO UPDATE
SET shard = excluded.shard, map_version = excluded.map_version, owned = excluded.owned, changed_at = now()"""


def lock_writers(tables: list[str]) -> str:
    """Write the statement that waits for those who write, and keeps new ones out until the transaction ends.

    A transaction that has written holds ROW EXCLUSIVE until it ends, and SHARE ROW EXCLUSIVE waits for
    it: so what was written under the old ownership is committed before the new one begins. Readers go on.
    """
    return f"LOCK TABLE {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE"


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
