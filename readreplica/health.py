"""What a node said, whether that is a fault, and when a replica goes out and comes in. Pure."""

from dataclasses import dataclass, replace
from enum import StrEnum

from readreplica.freshness import Lag
from readreplica.options import ReplicaOptions
from readreplica.token import Position


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One answer of a node."""

    at: float
    """When it was asked, by this process's monotonic clock."""

    in_recovery: bool
    position: Position | None
    """What it has replayed, or, outside of recovery, where it writes; None while it has replayed nothing."""

    received_timeline: int | None = None
    """The timeline that its walreceiver follows; None without one, or without the right to see it."""

    has_receiver: bool = False
    replay_paused: bool = False
    server: str = ""
    """The start of its postmaster: tells two addresses of one server from two servers."""

    life: str = ""
    """That, and when its statistics began: a postmaster that starts its processes anew after a crash keeps
    its start. Empty where it was not told."""

    server_version: int = 0

    @property
    def timeline(self) -> int:
        """The newest timeline that it is on, or follows; 0 while it has replayed nothing."""
        return max(self.position.timeline, self.received_timeline or 0) if self.position else 0

    @property
    def reached(self) -> Position | None:
        """Where it stands in the newest history that it is on or follows, for its lag.

        As for `covers`: replay that is past a position of that history is on it, and replay that is before
        all of them is no nearer for the name.
        """
        return self.position._replace(timeline=self.timeline) if self.position else None

    def covers(self, wanted: Position, *, primary_timeline: int) -> bool:
        """Tell whether the node has everything that `wanted` asks for.

        The control file tells the timeline of the last restartpoint, which is late after a promotion. A
        walreceiver that follows the wanted timeline, or a newer one, proves as much for a position that
        was written on it: replay that is past such a position is on the history of that timeline.

        A newer timeline is past the fork only if the primary has come that way. A replica that was promoted
        by mistake, and is a standby again, has a history of its own.

        Parameters:
            wanted: the position.
            primary_timeline: the newest that a primary was seen on; 0 while it is unknown, and then only the
                history that `wanted` names itself is believed in.
        """
        position, newest = self.position, self.timeline
        if position is None or newest > (primary_timeline or wanted.timeline):
            return False
        if position.covers(wanted):
            return True
        return (
            newest >= wanted.timeline
            and position.lsn >= wanted.lsn
            and position.system_identifier == wanted.system_identifier
        )


class Fault(StrEnum):
    """Why a replica does not serve reads."""

    SILENT = "silent"
    UNREACHABLE = "unreachable"
    REFUSES = "refuses connections"
    OTHER_SYSTEM = "other system"
    OTHER_SERVER = "another server"
    NOT_A_REPLICA = "not a replica"
    OLDER_TIMELINE = "older timeline"
    NEWER_TIMELINE = "newer timeline"
    NO_RECEIVER = "no walreceiver"
    PAUSED = "replay paused"
    LAG = "lag"


AT_ONCE = frozenset({Fault.UNREACHABLE, Fault.REFUSES, Fault.OTHER_SYSTEM, Fault.NOT_A_REPLICA})
"""Faults that one poll proves. Of the others a single poll may be an accident."""


@dataclass(frozen=True)
class Health:
    """Whether a replica is out, and what its last polls were like."""

    out: Fault | None = None
    bad_polls: int = 0
    good_polls: int = 0
    out_after: int = 0
    """How many bad polls it took to take it out."""


def find_fault(
    seen: Observation,
    lag: Lag,
    *,
    system_identifier: int | None,
    primary_answers: bool,
    primary_timeline: int,
    options: ReplicaOptions,
) -> Fault | None:
    """Tell what is wrong with a replica that answered.

    Parameters:
        seen: its answer.
        lag: how far it is behind the primary.
        system_identifier: the cluster's; None while it is unknown.
        primary_answers: whether the primary does. Without one no replica has a walreceiver, and what they
            have is all that there is.
        primary_timeline: the newest that a primary was seen on; 0 while that is unknown.
        options: the bounds.
    """
    if seen.position is None:
        return Fault.LAG
    if system_identifier is not None and seen.position.system_identifier != system_identifier:
        return Fault.OTHER_SYSTEM
    if not seen.in_recovery:
        return Fault.NOT_A_REPLICA
    if primary_answers and (fault := _other_history(seen, primary_timeline)):
        return fault
    return _behind(seen, lag, primary_answers=primary_answers, options=options)


def _other_history(seen: Observation, primary_timeline: int) -> Fault | None:
    if seen.timeline > primary_timeline > 0:
        return Fault.NEWER_TIMELINE
    # Its own timeline is that of its last restartpoint; what its walreceiver follows is known at once.
    follows_demoted = seen.received_timeline is not None and seen.received_timeline < primary_timeline
    return Fault.OLDER_TIMELINE if follows_demoted else None


def _behind(seen: Observation, lag: Lag, *, primary_answers: bool, options: ReplicaOptions) -> Fault | None:
    if seen.replay_paused:
        return Fault.PAUSED
    if options.expect_walreceiver and primary_answers and not seen.has_receiver and lag.bytes != 0:
        return Fault.NO_RECEIVER
    return Fault.LAG if _is_late(lag, options) and primary_answers else None


def _is_late(lag: Lag, options: ReplicaOptions) -> bool:
    by_time = lag.seconds is not None and lag.seconds > options.eject_lag_seconds
    return by_time or (lag.bytes is not None and lag.bytes > options.eject_lag_bytes)


def after_poll(health: Health, fault: Fault | None, options: ReplicaOptions) -> Health:
    """Give a replica's health after one more poll: out fast, in slowly."""
    if fault is None:
        good = health.good_polls + 1
        if health.out is not None and good < options.readmit_polls:
            return replace(health, bad_polls=0, good_polls=good)
        return Health(good_polls=good)
    bad = health.bad_polls + 1
    if health.out is not None or fault in AT_ONCE or bad >= options.eject_polls:
        return Health(out=fault, bad_polls=bad, out_after=health.out_after or bad)
    return Health(bad_polls=bad)
