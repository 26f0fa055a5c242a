"""The status of a transaction whose COMMIT got no answer, by what the primary says now. Pure.

pg_xact_status answers for a transaction id, and that may be the id of another transaction by now: a server
that was promoted, or started after a crash, counts on where its own WAL ended. So "committed" counts only
where the transaction's WAL is known to have survived; "aborted" holds either way.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from readreplica.wal import Lsn, Position


class TransactionStatus(StrEnum):
    """What became of a transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    """Nothing of it is there, and nothing will be: it may be done again."""

    IN_PROGRESS = "in progress"
    """It has not ended yet; ask again."""

    UNKNOWN = "unknown"
    """The server does not know; look for the unit's idempotency key."""


class InDoubtTransaction(NamedTuple):
    """What is known of a transaction whose COMMIT got no answer."""

    xid: int | None
    """Its 64-bit id (xid8); None where it was not recorded before COMMIT."""

    before: Position | None
    """Where the primary stood when the transaction had its id already."""

    server: str | None
    """The incarnation of the server that was to commit."""


@dataclass
class CommitOutcome:
    """What became of one transaction's COMMIT."""

    committed: Position | None = None
    """The position after it; None before it, and where there was nothing to commit."""

    in_doubt: InDoubtTransaction | None = None
    """Set when it was sent and its answer was lost, or not awaited."""


class Evidence(NamedTuple):
    """What the primary says now."""

    position: Position
    server: str
    """The incarnation of the server: see `readreplica.wal.INCARNATION`."""

    status: str | None
    """pg_xact_status: committed, aborted, in progress; None where the server has forgotten it."""

    is_in_future: bool
    """The server has given out no such transaction id yet."""

    recovered_at: Lsn | None
    """Where this server ended its last recovery; None if it began without one."""

    was_promoted: bool
    """That recovery ended in a promotion: this incarnation of the server was seen as a standby. After the
    crash of a server that had been promoted before, `recovered_at` is the end of crash recovery, far beyond
    the fork."""

    earlier_are_over: bool
    """Every transaction that was in progress at the first question has ended."""


def judge(
    *, xid: int | None, before: Position | None, server: str | None, seen: Evidence
) -> TransactionStatus:
    """Return what became of a transaction.

    Parameters:
        xid, before, server: as in `InDoubtTransaction`.
        seen: what the present primary says.
    """
    if xid is None or before is None:
        return TransactionStatus.UNKNOWN if seen.earlier_are_over else TransactionStatus.IN_PROGRESS
    if before.system_identifier != seen.position.system_identifier:
        return TransactionStatus.UNKNOWN
    if seen.server != server and seen.recovered_at is not None and seen.recovered_at <= before.lsn:
        return TransactionStatus.ABORTED  # its commit record, later than that, is not in this history
    if seen.is_in_future or seen.status == "aborted":
        return TransactionStatus.ABORTED
    if seen.status is None or not _has_its_wal(before, server, seen):
        return TransactionStatus.UNKNOWN
    return TransactionStatus(seen.status)


def _has_its_wal(before: Position, server: str | None, seen: Evidence) -> bool:
    if seen.server == server:
        return True
    return seen.was_promoted and seen.position.timeline == before.timeline + 1
