"""How far a replica is behind, proven by WAL positions and one monotonic clock. Pure.

A replica that has replayed the position at which the primary stood at a moment has everything that was
committed before that moment. So the moments at which this process asked the primary date every replica, with
no clock of a server, and an idle primary makes nobody look late: its position stands still, and the moments
go on.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from typing import NamedTuple

from readreplica.freshness import Lag
from readreplica.lsn import Lsn
from readreplica.token import Position


class Sample(NamedTuple):
    """Where the primary stood at a moment of this process's monotonic clock, or later."""

    at: float
    position: Position


class PrimaryHistory:
    """The primary's positions, as far back as lag can be told."""

    def __init__(self, *, samples: int = 900) -> None:
        self._samples: deque[Sample] = deque(maxlen=samples)

    @property
    def newest(self) -> Sample | None:
        """The last sample."""
        return self._samples[-1] if self._samples else None

    def add(self, sample: Sample) -> None:
        """Note a sample; another history of the cluster (a failover) begins anew.

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

    def lag(self, replayed: Position, *, now: float) -> Lag:
        """Tell how far behind a node is that has replayed this."""
        newest = self.newest
        if newest is None or newest.position.system_identifier != replayed.system_identifier:
            return Lag(None, None)
        # An older one may lack what was written since, and a newer one has left the primary's history.
        if replayed.timeline != newest.position.timeline:
            return Lag(None, None)
        behind = max(0, newest.position.lsn - replayed.lsn)
        covered = self._last_covered_by(replayed.lsn)
        return Lag(None if covered is None else max(0.0, now - covered.at), behind)

    def age(self, lsn: Lsn, *, now: float) -> float:
        """Tell how long ago, at least, a position was written; 0 where it is newer than every sample."""
        samples = list(self._samples)
        found = bisect_left(samples, lsn, key=lambda sample: sample.position.lsn)
        return max(0.0, now - samples[found].at) if found < len(samples) else 0.0

    def _last_covered_by(self, lsn: Lsn) -> Sample | None:
        newest = self.newest
        if newest is not None and newest.position.lsn <= lsn:
            return newest  # the usual case, without looking further
        samples = list(self._samples)
        found = bisect_right(samples, lsn, key=lambda sample: sample.position.lsn)
        return samples[found - 1] if found else None
