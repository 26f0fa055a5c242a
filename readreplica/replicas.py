"""What a process knows of one replica: how far it has replayed, and whether it is out."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from readreplica.lsn import Lsn
from readreplica.token import Position

# Both timelines lag behind a switch until the next restartpoint: this may refuse a good replica for a
# while, and never trusts a bad one. A primary has no replay position.
_REPLAYED = text("""
    SELECT system_identifier,
           greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                    (SELECT min_recovery_end_timeline FROM pg_control_recovery())) AS timeline,
           pg_last_wal_replay_lsn() AS lsn
    FROM pg_control_system()
""")


class ReplicaNode:
    """One replica. What was once replayed stays replayed, so its last answer can be trusted from then on."""

    def __init__(self, name: str, engine: AsyncEngine) -> None:
        self.name = name
        self.engine = engine
        # Without a transaction, asking is one round trip and not three; the pool is the same.
        self._asking_engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._replayed: Position | None = None
        self._out_until = 0.0
        self._asking_task: asyncio.Task[None] | None = None

    def covers(self, wanted: Position) -> bool:
        """Tell whether the replica is known to have replayed a position."""
        return self._replayed is not None and self._replayed.covers(wanted)

    def is_out(self, now: float) -> bool:
        """Tell whether the replica is to be left alone."""
        return now < self._out_until

    def asking(self, ask: Callable[["ReplicaNode"], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Give the task that asks the replica now, or start one with `ask`."""
        if self._asking_task is None or self._asking_task.done():
            self._asking_task = asyncio.create_task(ask(self), name=f"replay of {self.name}")
        return self._asking_task

    async def stop_asking(self) -> None:
        """End the task that asks the replica, if there is one."""
        if self._asking_task is not None:
            self._asking_task.cancel()
            await asyncio.wait([self._asking_task])

    async def ask(self) -> None:
        """Ask the replica how far it is."""
        async with self._asking_engine.connect() as connection:
            row = (await connection.execute(_REPLAYED)).one()
        replayed = row.lsn and Position(row.system_identifier, row.timeline, Lsn.parse(row.lsn))
        self._replayed = replayed or None

    def put_out(self, until: float) -> None:
        """Leave the replica alone until a moment of the monotonic clock.

        It may come back rebuilt from an older copy, so what was known of it is forgotten.
        """
        self._out_until = until
        self._replayed = None
