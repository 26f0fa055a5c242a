"""What became of a COMMIT whose answer was lost: the verdict over what a primary says. Pure.

pg_xact_status answers for a transaction id, and that may be the id of another transaction by now: a server
that was promoted, or started after a crash, counts on where its own WAL ended. So "committed" is believed
only where the transaction's WAL is known to have survived; "aborted" holds either way.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from readreplica.lsn import Lsn
from readreplica.token import Position

# A postmaster that restarts its processes after a crash keeps its start; the statistics begin anew then
# (src/backend/access/transam/xlog.c: pgstat_discard_stats). Where somebody resets them it is UNKNOWN, too.
# As numbers, for the text of a time depends on the session's settings.
STARTED = "(date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint"
_RESET = "(date_part('epoch', pg_stat_get_bgwriter_stat_reset_time()) * 1000000)::bigint"
LIFE = f"{STARTED} || '.' || coalesce({_RESET}, 0)"
"""The SQL that tells one life of a server from another."""


class Fate(StrEnum):
    """What became of it."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    """Nothing of it is there, and nothing will be: it may be done again."""

    IN_PROGRESS = "in progress"
    """The server is at it still; ask again."""

    UNKNOWN = "unknown"
    """The server cannot tell; the unit's idempotency key can."""


class Doubt(NamedTuple):
    """What is known of a transaction whose COMMIT got no answer."""

    xid: int | None
    before: Position | None
    server: str | None


@dataclass
class Outcome:
    """What became of one transaction's COMMIT."""

    committed: Position | None = None
    """The position after it; None before it, and where there was nothing to commit."""

    doubt: Doubt | None = None
    """Set when it was sent and its answer was lost, or not awaited."""


class Evidence(NamedTuple):
    """What the primary says now."""

    position: Position
    server: str
    """Which life of the server it is: see `LIFE`."""

    status: str | None
    """pg_xact_status: committed, aborted, in progress; None where it is too old to be told."""

    is_in_future: bool
    """The server has given out no such transaction id yet."""

    recovered_at: Lsn | None
    """Where this server ended its last recovery; None if it began without one."""

    was_promoted: bool
    """That recovery ended in a promotion: this life of the server was seen as a standby. After the crash of a
    server that had been promoted before, `recovered_at` is the end of crash recovery, far beyond the fork."""

    earlier_are_over: bool
    """Every transaction that was in progress when this was asked first has ended."""


def judge(*, xid: int | None, before: Position | None, server: str | None, seen: Evidence) -> Fate:
    """Give the verdict.

    Parameters:
        xid: the transaction's id; None where it was not asked for before COMMIT.
        before: where the primary stood when the transaction had its id.
        server: the life of the server that was to commit.
        seen: what the primary of now says.
    """
    if xid is None or before is None:
        return Fate.UNKNOWN if seen.earlier_are_over else Fate.IN_PROGRESS
    if before.system_identifier != seen.position.system_identifier:
        return Fate.UNKNOWN
    if seen.server != server and seen.recovered_at is not None and seen.recovered_at <= before.lsn:
        return Fate.ABORTED  # its commit record, later than that, is not in this history
    if seen.is_in_future or seen.status == "aborted":
        return Fate.ABORTED
    if seen.status is None or not _has_its_wal(before, server, seen):
        return Fate.UNKNOWN
    return Fate(seen.status)


def _has_its_wal(before: Position, server: str | None, seen: Evidence) -> bool:
    if seen.server == server:
        return True
    return seen.was_promoted and seen.position.timeline == before.timeline + 1
