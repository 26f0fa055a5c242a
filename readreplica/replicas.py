"""What a process knows of one replica: how far it has replayed, and whether it is out."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from readreplica.connections import ReaderConnection
from readreplica.token import Position


@dataclass(slots=True, eq=False)
class ReplicaNode:
    """One replica. What was once replayed stays replayed, so the last answer can be trusted from then on."""

    name: str
    engine: AsyncEngine
    replayed: Position | None = None
    out_until: float = 0.0

    def covers(self, wanted: Position) -> bool:
        """Tell whether the replica is known to have replayed a position."""
        return self.replayed is not None and self.replayed.covers(wanted)

    async def ask(self) -> None:
        """Ask the replica how far it is."""
        async with self.engine.connect() as connection:
            raw = await connection.get_raw_connection()
            driver = raw.driver_connection
            assert isinstance(driver, ReaderConnection)
            self.replayed = await driver.replayed()

    def put_out(self, until: float) -> None:
        """Leave the replica alone until a moment of the monotonic clock.

        It may come back rebuilt from an older copy, so what was known of it is forgotten.
        """
        self.out_until = until
        self.replayed = None
