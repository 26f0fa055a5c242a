"""What a poll of a node showed, whether it is a fault, and when replicas are ejected and readmitted. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from readreplica.freshness import ReplicaLag
from readreplica.options import ReplicaOptions
from readreplica.wal import Lsn, Position


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The answer of a node to one poll."""

    at: float
    """When it was polled, by this process's monotonic clock."""

    in_recovery: bool
    position: Position | None
    """What it has replayed, or, outside of recovery, where it writes; None while it has replayed nothing."""

    received_timeline: int | None = None
    """The timeline that its walreceiver follows; None without one, or without the right to see it."""

    has_receiver: bool = False
    replay_paused: bool = False
    server: str = ""
    """The start of its postmaster: two addresses of one server have the same."""

    incarnation: str = ""
    """That, and when its statistics began: a postmaster that starts its processes anew after a crash keeps
    its start. Empty where it is unknown."""

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
        """Return whether the node has everything that `wanted` asks for.

        The control file has the timeline of the last restartpoint, which is late after a promotion. A
        walreceiver that follows the wanted timeline, or a newer one, proves as much for a position that
        was written on it: replay that is past such a position is on the history of that timeline.

        A newer timeline is past the fork only if the primary has come that way. A replica that was promoted
        by mistake, and is a standby again, has a history of its own.

        Parameters:
            wanted: the position.
            primary_timeline: the newest that a primary was seen on; 0 while it is unknown, and then only the
                history that `wanted` names itself counts.
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


def read_observation(row: Sequence[Any], *, at: float, server_version: int) -> Observation:
    """Read the answer to `readreplica.wal.poll_statement`.

    Parameters:
        row: its one row.
        at: when it was asked, by the monotonic clock, in seconds.
        server_version: the server's version, as libpq returns it.
    """
    in_recovery, system, timeline, lsn, block, segment, received, receiver, paused, server, incarnation = row
    position = None
    if lsn is not None:
        found = Lsn.parse(lsn)
        if not in_recovery:
            found = found.before_page_header(block_bytes=block, segment_bytes=segment)
        position = Position(system, timeline, found)
    return Observation(
        at=at,
        in_recovery=in_recovery,
        position=position,
        received_timeline=received,
        has_receiver=receiver,
        replay_paused=paused,
        server=server,
        incarnation=incarnation,
        server_version=server_version,
    )


class NodeFault(StrEnum):
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


IMMEDIATE_FAULTS = frozenset(
    {NodeFault.UNREACHABLE, NodeFault.REFUSES, NodeFault.OTHER_SYSTEM, NodeFault.NOT_A_REPLICA}
)
"""Faults that one poll proves. Of the others a single poll may be an accident."""


@dataclass(frozen=True)
class NodeHealth:
    """Whether a replica is ejected, and what its last polls were like."""

    ejected: NodeFault | None = None
    """Why it serves no reads; None while it does."""

    bad_polls: int = 0
    good_polls: int = 0
    ejected_after: int = 0
    """How many bad polls it took to eject it."""


def find_fault(
    seen: Observation,
    lag: ReplicaLag,
    *,
    system_identifier: int | None,
    primary_answers: bool,
    primary_timeline: int,
    options: ReplicaOptions,
) -> NodeFault | None:
    """Return what is wrong with a replica that answered; None if it is in order.

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
        return NodeFault.LAG
    if system_identifier is not None and seen.position.system_identifier != system_identifier:
        return NodeFault.OTHER_SYSTEM
    if not seen.in_recovery:
        return NodeFault.NOT_A_REPLICA
    if primary_answers and (fault := _other_history(seen, primary_timeline)):
        return fault
    return _behind(seen, lag, primary_answers=primary_answers, options=options)


def _other_history(seen: Observation, primary_timeline: int) -> NodeFault | None:
    if seen.timeline > primary_timeline > 0:
        return NodeFault.NEWER_TIMELINE
    # Its own timeline is that of its last restartpoint; what its walreceiver follows is known at once.
    follows_demoted = seen.received_timeline is not None and seen.received_timeline < primary_timeline
    return NodeFault.OLDER_TIMELINE if follows_demoted else None


def _behind(
    seen: Observation, lag: ReplicaLag, *, primary_answers: bool, options: ReplicaOptions
) -> NodeFault | None:
    if seen.replay_paused:
        return NodeFault.PAUSED
    if options.expect_walreceiver and primary_answers and not seen.has_receiver and lag.bytes != 0:
        return NodeFault.NO_RECEIVER
    return NodeFault.LAG if _is_late(lag, options) and primary_answers else None


def _is_late(lag: ReplicaLag, options: ReplicaOptions) -> bool:
    by_time = lag.seconds is not None and lag.seconds > options.eject_lag_seconds
    return by_time or (lag.bytes is not None and lag.bytes > options.eject_lag_bytes)


def after_poll(health: NodeHealth, fault: NodeFault | None, options: ReplicaOptions) -> NodeHealth:
    """Return a replica's health after one more poll: it is ejected fast, and readmitted slowly."""
    if fault is None:
        good = health.good_polls + 1
        if health.ejected is not None and good < options.readmit_polls:
            return replace(health, bad_polls=0, good_polls=good)
        return NodeHealth(good_polls=good)
    bad = health.bad_polls + 1
    if health.ejected is not None or fault in IMMEDIATE_FAULTS or bad >= options.eject_polls:
        return NodeHealth(ejected=fault, bad_polls=bad, ejected_after=health.ejected_after or bad)
    return NodeHealth(bad_polls=bad)
