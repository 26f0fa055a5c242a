"""What a token's position means to a cluster, by name. Pure.

| verdict | what it is | what a read does |
| --- | --- | --- |
| CURRENT | of the timeline that is written now | waits for a replica, or takes another node |
| SUPERSEDED | of an older timeline | any node that has passed the fork has all that survived of it |
| AHEAD | of a newer timeline than is known here | waits until it is known; nodes of the old one do not do |
| UNKNOWN_SYSTEM | of another cluster, or of this one before it was rebuilt | the primary, under the budget |
| FROM_THE_FUTURE | beyond what the primary can have written | asks for the primary's last known position |
"""

from enum import StrEnum

from readreplica.lag import Sample
from readreplica.lsn import Lsn
from readreplica.options import ReplicaOptions
from readreplica.token import Position


class Verdict(StrEnum):
    """What a token's position means to a cluster."""

    CURRENT = "current"
    SUPERSEDED = "superseded"
    AHEAD = "ahead"
    UNKNOWN_SYSTEM = "unknown_system"
    FROM_THE_FUTURE = "from_the_future"


def appraise(wanted: Position, newest: Sample | None, *, now: float, options: ReplicaOptions) -> Verdict:
    """Name what a position means.

    Parameters:
        wanted: the position in the token.
        newest: where the primary stood when it last told; None before the first answer.
        now: the monotonic clock of the sample.
        options: how much WAL a second may bring at most.
    """
    if newest is None:
        return Verdict.CURRENT  # nothing speaks against it yet
    known = newest.position
    if wanted.system_identifier != known.system_identifier:
        return Verdict.UNKNOWN_SYSTEM
    if wanted.timeline != known.timeline:
        return Verdict.SUPERSEDED if wanted.timeline < known.timeline else Verdict.AHEAD
    possible = known.lsn + int((now - newest.at + 1) * options.plausible_wal_bytes_per_second)
    return Verdict.FROM_THE_FUTURE if wanted.lsn > possible else Verdict.CURRENT


def clamped(wanted: Position, to: Position) -> Position:
    """Give the position that a token from the future is taken for."""
    return wanted._replace(lsn=Lsn(min(wanted.lsn, to.lsn)))


def is_beyond(wanted: Position, primary: Position) -> bool:
    """Tell whether a position is of the primary's history, and the primary has not written that far."""
    return wanted[:2] == primary[:2] and wanted.lsn > primary.lsn
