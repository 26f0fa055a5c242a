"""A MES that kills itself while it places a partner's order: `python -m ... POINT TOPOLOGY ORDER`."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from app.flow.grants import Allowance
from app.mes.intake import Drain, IntakeState
from readreplica.sessions import WriteSession
from readreplica.token import Committed
from sharding.sessions import ShardedSessions, open_sessions
from sharding.topology import Topology

T = TypeVar("T")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingSessions(ShardedSessions):
    """Sessions of a process that is killed in its first transaction, or after it."""

    point = "placing"

    async def transact(
        self, key: int, work: Callable[[WriteSession], Awaitable[T]], *, attempts: int = 5
    ) -> Committed[T]:
        async def dying(session: WriteSession) -> T:
            done = await work(session)
            await session.flush()
            if self.point == "placing":
                die()
            return done

        done = await super().transact(key, dying, attempts=attempts)
        die()
        return done


async def main(point: str, topology_path: Path, order_id: int) -> None:
    """Place what waits on the order's shard."""
    topology = Topology.load(topology_path)
    async with open_sessions(topology, role="mes", application_name="victim") as sessions:
        dying = DyingSessions(sessions.shard_map, sessions.clusters)
        dying.point = point
        shard = sessions.shard_of(order_id)
        bells = {shard: asyncio.Event()}
        state = IntakeState(Allowance(floor_per_second=100.0), arrived=bells)
        await Drain(dying, shard, state).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
