"""One node as a process sees it: how to reach it, what it said last, and whether it serves reads."""

import math
from typing import Any
from weakref import WeakSet

from sqlalchemy import QueuePool, event
from sqlalchemy.ext.asyncio import AsyncEngine

from readreplica.concurrency import Lock
from readreplica.eviction import epoch_of
from readreplica.health import Health, Observation
from readreplica.token import Position


class Node:
    """A primary or a replica; which one it is may change, so it knows itself by name and address only."""

    def __init__(self, name: str, engine: AsyncEngine, *, as_replica: str | None = None) -> None:
        """Note a node.

        Parameters:
            name: its name, which it keeps.
            engine: a reader engine to it.
            as_replica: what it is called to people and in metrics while it is a replica, if not by its name.
        """
        self.name = name
        self.as_replica = as_replica or name
        self.engine = engine
        self.bind = engine.sync_engine
        self.epoch = epoch_of(self.bind)
        self.health = Health()
        self.judged_at = -math.inf
        self.seen: Observation | None = None
        self.life = ""
        """Which server, and in which life, its newest connection led to: see `Observation.life`."""
        self.moves = 0
        """How often a reader's connection led to another server than those before."""
        self.era = 0
        """Grows with whatever makes void what it has said, and what it was asked before that."""
        self._lock = Lock()
        self._held: WeakSet[Any] = WeakSet()
        if not isinstance(self.bind.pool, QueuePool):
            self._count()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{self.engine.url.host}:{self.engine.url.port or 5432}"

    def load(self) -> int:
        """Tell how many of this process's sessions it serves now."""
        pool = self.bind.pool  # looked up each time: dispose() makes another
        return pool.checkedout() if isinstance(pool, QueuePool) else len(self._held)

    def _count(self) -> None:
        """Count what is held, for a pool that does not; from before it connects, or many would at once."""

        def take(_: Any, record: Any, *_others: Any) -> None:
            self._held.add(record)

        event.listen(self.bind, "do_connect", take)
        event.listen(self.bind, "checkout", take)
        event.listen(self.bind, "checkin", lambda _, record: self._held.discard(record))

    def covers(self, wanted: Position, *, primary_timeline: int) -> bool:
        """Tell whether it is known to have replayed a position; it is, until a connection to it is lost."""
        return self.seen is not None and self.seen.covers(wanted, primary_timeline=primary_timeline)

    def forget(self) -> None:
        """Forget what it said: it may come back rebuilt from an older copy."""
        with self._lock:
            self.seen = None
            self.era += 1

    def learn(self, said: Observation, *, era: int) -> bool:
        """Note an answer; False where what was asked is void by now.

        Parameters:
            said: the answer.
            era: the node's, when it was asked.
        """
        with self._lock:
            if era != self.era:
                return False
            if said.life and self.life and said.life != self.life:
                # The readers' connections may lead to the server of before; what is known is not of it.
                self.epoch.evict()
                self.era += 1
            self.life = said.life or self.life
            self.seen = said
        return True

    def meet(self, life: str, record: Any) -> bool:
        """Note where a reader's new connection leads to; False if that is another server than before.

        The address was moved, or the server was started anew, and may have less than before. What was said is
        forgotten then, and the pool replaces its other connections.

        Parameters:
            life: the server that is behind it.
            record: the pool's, of the connection.
        """
        with self._lock:
            known, self.life = self.life, life
            if known in ("", life):
                return True
            self.moves += 1  # before the era: who asks in the new one must ask the new server
            self.seen = None
            self.era += 1
            self.epoch.evict()
            self.epoch.admit(record)
        return False
