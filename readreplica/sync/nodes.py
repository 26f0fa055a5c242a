# Generated from readreplica/nodes.py by `make twins`: change that file, not this one.
"""One node as a process sees it: how to reach it, what it said last, and whether it serves reads."""

import math

from sqlalchemy import Engine

from readreplica.eviction import epoch_of
from readreplica.health import Health, Observation
from readreplica.token import Position


class Node:
    """A primary or a replica; which one it is may change, so it knows itself by name and address only."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self.engine = engine
        self.bind = engine
        self.epoch = epoch_of(self.bind)
        self.health = Health()
        self.judged_at = -math.inf
        self.seen: Observation | None = None
        self._checkedout = getattr(self.bind.pool, "checkedout", int)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{self.engine.url.host}:{self.engine.url.port or 5432}"

    def load(self) -> int:
        """Tell how many of this process's sessions it serves now."""
        found: int = self._checkedout()
        return found

    def covers(self, wanted: Position, *, primary_timeline: int) -> bool:
        """Tell whether it is known to have replayed a position; it is, until a connection to it is lost."""
        return self.seen is not None and self.seen.covers(wanted, primary_timeline=primary_timeline)

    def forget(self) -> None:
        """Forget what it said: it may come back rebuilt from an older copy."""
        self.seen = None
