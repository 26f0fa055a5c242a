"""A CRM consumer that kills itself: `python -m tests.integration.messaging_victim POINT TOPOLOGY`."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from app.messaging.consumer import Consumer
from app.messaging.message import Message
from app.messaging.routing import ServiceName
from app.models.crm import CrmInbox
from readreplica.sessions import WriteSession
from readreplica.token import Committed
from sharding.topology import Topology
from tests.integration.messaging_rig import anything, note, open_rig
from tests.message_keys import signer_of


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(point: str, topology_path: Path) -> None:
    """Consume until the first message has reached `point`: handled (not committed) or committed."""
    async with open_rig(Topology.load(topology_path)) as rig:

        async def handle(session: WriteSession, message: Message) -> None:
            await note(session, message)
            await session.flush()
            if point == "handled":
                die()

        async def transact(_: int, work: Callable[[WriteSession], Awaitable[bool]], /) -> Committed[bool]:
            done = await rig.worker_crm.transact(work)
            if point == "committed":
                die()
            return done

        consumer = Consumer(
            rig.redis,
            signer=signer_of(ServiceName.CRM),
            inbox=CrmInbox,
            transact=transact,
            handle=handle,
            may_send=anything,
            concurrency=1,
        )
        await consumer.run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
