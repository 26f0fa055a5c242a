"""From the shop's outbox to the CRM's history: real databases and a real Redis, with small delays."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from redis.asyncio import Redis
from sqlalchemy import func, insert, select, text, update

from app import topology as sections
from app.messaging.consumer import Consumer, Handler
from app.messaging.events import Event, OrderShipped
from app.messaging.message import Message
from app.messaging.outbox import publish
from app.messaging.relay import Relay
from app.messaging.routing import ServiceName
from app.messaging.signing import DESTINATION, SIGNATURE, SIGNER, EntrySigner, Kind
from app.messaging.streams import open_redis
from app.models.crm import CrmInbox, CrmOrderEvent
from app.models.shop import ShopOutbox
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession
from readreplica.token import Committed
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.message_keys import signer_of

AT = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)
STREAM = "orders:crm"
Fields = dict[Any, Any]
WORKER = "worker"
"""The application name of relays and consumers, whose connections a test may break."""


async def note(session: WriteSession, message: Message) -> None:
    """Handle a message by adding one line to the order's history: doubled or swapped ones would show."""
    assert isinstance(message.data, OrderShipped)
    lines = await session.scalar(
        select(func.count()).select_from(CrmOrderEvent).where(CrmOrderEvent.order_id == message.order_id)
    )
    await session.execute(
        insert(CrmOrderEvent).values(
            order_id=message.order_id,
            event_no=(lines or 0) + 1,
            status=message.data.status,
            at=message.time,
            actor=message.data.actor,
        )
    )


async def owe(
    session: WriteSession,
    order_id: int,
    word: str,
    destinations: Collection[ServiceName] = (ServiceName.CRM,),
) -> None:
    """Write one message into the shop's outbox; its word is the event's actor."""
    await publish(
        session,
        ShopOutbox,
        order_id=order_id,
        event=OrderShipped(actor=word),
        destinations=destinations,
        at=AT,
    )


def anything(_sender: ServiceName, _event: Event, _receiver: ServiceName) -> bool:
    """Let the Shop send what only the MES may: `note` needs a short event."""
    return True


def signed_copy(fields: Fields, *, destination: str = "crm") -> Fields:
    """Sign a copy of a message as the Shop; bytes as the CRM's client reads them."""
    return _signed(fields, signer_of(ServiceName.SHOP), "message", destination, ServiceName(destination))


def signed_ack(fields: Fields) -> Fields:
    """Sign an acknowledgement to the Shop as the CRM."""
    return _signed(fields, signer_of(ServiceName.CRM), "acknowledgement", "shop", ServiceName.SHOP)


def _signed(fields: Fields, signer: EntrySigner, kind: Kind, destination: str, peer: ServiceName) -> Fields:
    text = {_as_read(key): _as_read(value) for key, value in fields.items() if key != SIGNATURE}
    signed = signer.sign(text, kind=kind, destination=destination, peer=peer)
    return fields | {key: signed[key] for key in (SIGNER, DESTINATION, SIGNATURE)}


def _as_read(given: Any) -> str:
    return given.decode(errors="backslashreplace") if isinstance(given, bytes) else str(given)


class Part(Protocol):
    """A relay or a consumer."""

    def run(self, stop: asyncio.Event) -> Coroutine[Any, Any, None]:
        """Work until `stop` is set."""


@dataclass
class Rig:
    """The test's own sessions, Redis, and what the parts under test work with."""

    shop: Cluster
    crm: Cluster
    worker_shop: Cluster
    worker_crm: Cluster
    redis: Redis

    def relay(
        self,
        *,
        retry_seconds: float = 0.05,
        signer: EntrySigner | None = None,
        send_traceparent: bool = True,
        **options: Any,
    ) -> Relay:
        """Make a relay of the shop's outbox."""
        return Relay(
            self.worker_shop,
            self.redis,
            ShopOutbox,
            source="shop",
            signer=signer or signer_of(ServiceName.SHOP),
            poll_seconds=0.05,
            retry_seconds=retry_seconds,
            longest_retry_seconds=max(retry_seconds, 0.2),
            send_traceparent=send_traceparent,
            **options,
        )

    def consumer(
        self,
        handle: Handler = note,
        *,
        signer: EntrySigner | None = None,
        max_attempts: int = 1000,
        **options: Any,
    ) -> Consumer:
        """Make the CRM's consumer."""

        async def transact(_: int, work: Callable[[WriteSession], Awaitable[bool]], /) -> Committed[bool]:
            return await self.worker_crm.transact(work)

        return Consumer(
            self.redis,
            signer=signer or signer_of(ServiceName.CRM),
            inbox=CrmInbox,
            transact=transact,
            handle=handle,
            concurrency=4,
            max_attempts=max_attempts,
            block_seconds=0.05,
            **{"may_send": anything, **options},
        )

    async def owe(self, order_id: int, *words: str) -> None:
        """Owe messages of one order, each in a transaction of its own."""
        for word in words:
            async with self.shop.write() as session:
                await owe(session, order_id, word)

    async def owed(self) -> Sequence[ShopOutbox]:
        """Read what the shop still owes."""
        async with self.shop.write() as session:
            return (await session.scalars(select(ShopOutbox).order_by(ShopOutbox.sequence))).all()

    async def make_due(self) -> None:
        """Let the back-off of every message be over."""
        async with self.shop.write() as session:
            await session.execute(update(ShopOutbox).values(next_attempt_at=AT))

    async def history(self) -> dict[int, list[str]]:
        """Read the words that the CRM noted, by order."""
        lines: dict[int, list[str]] = {}
        async with self.crm.write() as session:
            select_all = select(CrmOrderEvent).order_by(CrmOrderEvent.order_id, CrmOrderEvent.event_no)
            for line in await session.scalars(select_all):
                lines.setdefault(line.order_id, []).append(line.actor)
        return lines

    async def sent(self) -> list[dict[str, str]]:
        """Read the messages that wait in the CRM's stream."""
        entries: Any = await self.redis.xrange(STREAM)
        return [fields for _, fields in entries]

    async def cut_relays(self) -> None:
        """Break the relays' connections, as a restart of the shop's database does."""
        await self._cut(self.shop)

    async def cut_consumers(self) -> None:
        """Break the consumers' connections to the CRM's database."""
        await self._cut(self.crm)

    async def wipe(self) -> None:
        """Make Redis forget everything."""
        await self.redis.flushall()

    async def _cut(self, cluster: Cluster) -> None:
        async with cluster.write() as session:
            await session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    f" WHERE application_name = '{WORKER}' AND datname = current_database()"
                )
            )

    async def until_settled(self) -> None:
        """Wait until the shop owes nothing that could still be sent."""
        await until(self._is_settled)

    async def _is_settled(self) -> bool:
        return all(row.set_aside_at is not None for row in await self.owed())


def pauses() -> Iterator[float]:
    """Give the seconds between two looks: longer ones when it lasts, for a look takes CPU too."""
    pause = 0.01
    while True:
        yield pause
        pause = 0.01


async def until(holds: Callable[[], Coroutine[Any, Any, bool]], *, seconds: float = 60.0) -> None:
    """Wait for a condition, looking often at first, and not for ever."""
    async with asyncio.timeout(seconds):
        for pause in pauses():
            if await holds():
                return
            await asyncio.sleep(pause)


@asynccontextmanager
async def running(*parts: Part) -> AsyncIterator[None]:
    """Run relays and consumers for the time of a block, then stop them as a service does."""
    stop = asyncio.Event()
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        for part in parts:
            tasks.create_task(part.run(stop))
        try:
            yield
        finally:
            stop.set()


@asynccontextmanager
async def open_rig(topology: Topology, *, redis_url: str | None = None) -> AsyncIterator[Rig]:
    """Connect to the shop's and the CRM's databases and to Redis."""
    async with (
        open_cluster(topology, "shop", role="shop", application_name="test") as shop,
        open_cluster(topology, "crm", role="crm", application_name="test") as crm,
        open_cluster(topology, "shop", role="shop", application_name=WORKER) as worker_shop,
        open_cluster(topology, "crm", role="crm", application_name=WORKER) as worker_crm,
        open_redis(redis_url or sections.redis_url(topology, "test")) as redis,
    ):
        yield Rig(shop, crm, worker_shop, worker_crm, redis)
