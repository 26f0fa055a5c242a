"""How stale a read may be: staleness policies, the lag of a replica, and what a token's position means. Pure.

**Lag.** A replica that has replayed the position at which the primary stood at a moment has everything that
was committed before that moment. So the moments at which this process polled the primary date every replica,
with no clock of a server, and an idle primary makes no replica look late: its position stands still, and the
moments go on.

**Tokens.** What a token's position means to a cluster, by its `PositionStatus`:

| status | what it is | what a read does |
| --- | --- | --- |
| CURRENT | of the timeline that is written now | waits for a replica, or takes another node |
| SUPERSEDED | of an older timeline | any node that has passed the fork has all that survived of it |
| AHEAD | of a newer timeline than is known here | waits until it is known; nodes of the old one do not do |
| UNKNOWN_SYSTEM | of another cluster, or of this one before it was rebuilt | the primary, under the budget |
| FROM_THE_FUTURE | beyond what the primary can have written | asks for the primary's last known position |
"""

from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from readreplica.options import ReplicaOptions
from readreplica.token import CausalToken
from readreplica.wal import Lsn, Position


class ReplicaLag(NamedTuple):
    """How far a node may be behind the primary, at most."""

    seconds: float | None
    """It has everything that was committed longer ago than this; None where nothing proves that."""

    bytes: int | None
    """What it had not replayed at its last poll; None where the primary's position is unknown."""


UNKNOWN_LAG = ReplicaLag(None, None)


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """A staleness policy. Make one with `bounded`, `after`, or take `ANY` or `PRIMARY`."""

    on_primary: bool = False
    max_lag_seconds: float | None = None
    max_lag_bytes: int | None = None
    token: CausalToken | None = None

    def __post_init__(self) -> None:
        """Refuse bounds that nothing can meet."""
        for name in ("max_lag_seconds", "max_lag_bytes"):
            bound = getattr(self, name)
            if bound is not None and bound < 0:
                raise ValueError(f"{name} is {bound}; a lag is 0 or more")

    @property
    def is_bounded(self) -> bool:
        """Whether the node's lag matters."""
        return self.max_lag_seconds is not None or self.max_lag_bytes is not None

    def with_token(self, token: CausalToken | None) -> "Freshness":
        """Return the policy that asks for what a token names as well."""
        if not token:
            return self
        return replace(self, token=self.token.merge(token) if self.token else token)

    def fits(self, lag: ReplicaLag) -> bool:
        """Return whether a node with this lag is near enough; what is unknown does not fit a bound."""
        return _within(lag.seconds, self.max_lag_seconds) and _within(lag.bytes, self.max_lag_bytes)


def _within(found: float | None, bound: float | None) -> bool:
    return bound is None or (found is not None and found <= bound)


ANY = Freshness()
"""Whatever a replica has."""

PRIMARY = Freshness(on_primary=True)
"""The primary itself, outside the fallback budget: the caller has decided."""


def bounded(*, max_lag_seconds: float | None = None, max_lag_bytes: int | None = None) -> Freshness:
    """Return the policy that takes a node which is behind by no more than this.

    Parameters:
        max_lag_seconds: the node has everything that was committed longer ago. This is proven by WAL
            positions and this process's monotonic clock, not by the clocks of servers; below the monitor's
            period it can hold only by luck.
        max_lag_bytes: what it had not replayed at the monitor's last poll.
    """
    return Freshness(max_lag_seconds=max_lag_seconds, max_lag_bytes=max_lag_bytes)


def after(token: CausalToken) -> Freshness:
    """Return the policy that takes a node which has replayed what the token names."""
    return ANY.with_token(token)


class ReadRequest(NamedTuple):
    """What one read session asks of the router."""

    freshness: Freshness = ANY
    position: Position | None = None
    """What the node must have replayed: the token's position in this cluster."""

    can_wait: bool = False
    """Whether waiting for replay may help."""

    autocommit: bool = False
    excluded: frozenset[str] = frozenset()
    """Nodes that failed this unit before."""

    def __str__(self) -> str:
        return str(self.position.lsn) if self.position else str(self.freshness)


class PrimarySample(NamedTuple):
    """Where the primary stood at a moment of this process's monotonic clock, or later."""

    at: float
    position: Position


class PrimaryHistory:
    """The primary's positions, as far back as lag can be proven."""

    def __init__(self, *, samples: int = 900) -> None:
        self._samples: deque[PrimarySample] = deque(maxlen=samples)

    @property
    def newest(self) -> PrimarySample | None:
        """The last sample."""
        return self._samples[-1] if self._samples else None

    def add(self, sample: PrimarySample) -> None:
        """Add a sample; another history of the cluster (a failover) begins anew.

        A primary that crashed comes back without the WAL that it had not written out, on the same timeline:
        what was seen of that is no more.
        """
        newest = self.newest
        if newest is not None and newest.position[:2] != sample.position[:2]:
            self._samples.clear()
        elif newest is not None and sample.at < newest.at:
            return  # an answer that was overtaken by another one
        while self._samples and self._samples[-1].position.lsn > sample.position.lsn:
            self._samples.pop()
        self._samples.append(sample)

    def lag(self, replayed: Position, *, now: float) -> ReplicaLag:
        """Return how far behind a node is that has replayed this.

        Parameters:
            replayed: the node's position.
            now: the monotonic clock of the samples, in seconds.
        """
        newest = self.newest
        if newest is None or newest.position.system_identifier != replayed.system_identifier:
            return UNKNOWN_LAG
        # An older one may lack what was written since, and a newer one has left the primary's history.
        if replayed.timeline != newest.position.timeline:
            return UNKNOWN_LAG
        behind = max(0, newest.position.lsn - replayed.lsn)
        covered = self._last_covered_by(replayed.lsn)
        return ReplicaLag(None if covered is None else max(0.0, now - covered.at), behind)

    def age(self, lsn: Lsn, *, now: float) -> float:
        """Return the seconds since a position was written, at least; 0 if it is newer than every sample."""
        samples = list(self._samples)
        found = bisect_left(samples, lsn, key=lambda sample: sample.position.lsn)
        return max(0.0, now - samples[found].at) if found < len(samples) else 0.0

    def _last_covered_by(self, lsn: Lsn) -> PrimarySample | None:
        newest = self.newest
        if newest is not None and newest.position.lsn <= lsn:
            return newest  # the usual case, without looking further
        samples = list(self._samples)
        found = bisect_right(samples, lsn, key=lambda sample: sample.position.lsn)
        return samples[found - 1] if found else None


class PositionStatus(StrEnum):
    """What a token's position means to a cluster."""

    CURRENT = "current"
    SUPERSEDED = "superseded"
    AHEAD = "ahead"
    UNKNOWN_SYSTEM = "unknown_system"
    FROM_THE_FUTURE = "from_the_future"


def check_position(
    wanted: Position, newest: PrimarySample | None, *, now: float, options: ReplicaOptions
) -> PositionStatus:
    """Return what a token's position means to a cluster.

    Parameters:
        wanted: the position in the token.
        newest: where the primary stood at its last poll; None before the first answer.
        now: the monotonic clock of the sample, in seconds.
        options: how much WAL a second may bring at most.
    """
    if newest is None:
        return PositionStatus.CURRENT  # nothing speaks against it yet
    known = newest.position
    if wanted.system_identifier != known.system_identifier:
        return PositionStatus.UNKNOWN_SYSTEM
    if wanted.timeline != known.timeline:
        return PositionStatus.SUPERSEDED if wanted.timeline < known.timeline else PositionStatus.AHEAD
    possible = known.lsn + int((now - newest.at + 1) * options.plausible_wal_bytes_per_second)
    return PositionStatus.FROM_THE_FUTURE if wanted.lsn > possible else PositionStatus.CURRENT


def clamped(wanted: Position, to: Position) -> Position:
    """Return the position that replaces one from the future: no LSN beyond `to`."""
    return wanted._replace(lsn=Lsn(min(wanted.lsn, to.lsn)))


def is_beyond(wanted: Position, primary: Position) -> bool:
    """Return whether a position is of the primary's history, and the primary has not written that far."""
    return wanted[:2] == primary[:2] and wanted.lsn > primary.lsn
