"""Submitted orders on real shards, real model files, and workers that price them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import delete, select, update

from app.console.demo.shapes import Shape
from app.files import ModelStore
from app.mes.intake import place
from app.messaging.events import Customer, Item, OrderSubmitted
from app.messaging.message import Message
from app.models.mes import (
    MeasurementClaim,
    MesOrder,
    MesOrderEvent,
    MesOrderItem,
    MesOutbox,
    ModelMeasurement,
    ModelShape,
    PricingJob,
)
from app.models.status import Channel, Status
from app.pricing.measurement import Outcome
from app.pricing.pricer import Pricer
from app.pricing.sandbox import Sandbox, Shapes
from app.pricing.worker import Worker, WorkerOptions
from app.topology import files_url
from readreplica.sessions import WriteSession
from sharding.sessions import ShardedSessions, open_sessions
from sharding.topology import Topology
from tests.integration.messaging_rig import running, until
from tests.integration.services_rig import save_map

AT = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)
SETTLED = datetime(2026, 11, 3, 9, 35, tzinfo=UTC)
SOON = WorkerOptions(concurrency=4, poll_seconds=0.1, retry_seconds=0.0, stop_seconds=0.1)


class Bytes:
    """An upload."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, size: int = -1, /) -> bytes:
        """Give everything, then nothing."""
        data, self._data = self._data, b""
        return data


class CountingSandbox(Sandbox):
    """A sandbox that knows which files it has measured."""

    measured: list[str]

    async def measure(self, path: Path, *, suffix: str, shapes: Shapes | None = None) -> Outcome:
        """Count, and measure."""
        self.measured = [*getattr(self, "measured", []), path.name]
        return await super().measure(path, suffix=suffix, shapes=shapes)


@dataclass(frozen=True)
class Seen:
    """Everything that a shard knows of an order."""

    order: MesOrder
    items: Sequence[MesOrderItem]
    history: Sequence[MesOrderEvent]
    owed: Sequence[MesOutbox]
    job: PricingJob | None


@dataclass
class Rig:
    """The shards and the model store."""

    topology: Topology
    sessions: ShardedSessions
    models: ModelStore
    ids: "count[int]" = field(default_factory=lambda: count(1000))

    async def store(self, shape: Shape) -> str:
        """Store a model; give its key."""
        return (await self.models.put(Bytes(shape.data), shape.suffix, 2**26)).key

    async def submit(
        self,
        *shapes: Shape,
        quantity: int = 1,
        channel: Channel = Channel.B2B,
        shard: str | None = None,
        partner: str = "atelier-nord",
        keys: Sequence[str] = (),
    ) -> int:
        """Place an order with a line for each model, as the MES does; give its id.

        `keys` are those of models that are stored already.
        """
        order_id = next(number for number in self.ids if shard in {None, self.sessions.shard_of(number)})
        every = [*keys, *[await self.store(shape) for shape in shapes]]
        message, submitted = _message(order_id, every, quantity=quantity, channel=channel, partner=partner)

        async def work(session: WriteSession) -> None:
            await place(session, message, submitted)

        await self.sessions.transact(order_id, work)
        return order_id

    async def submit_many(self, keys: Sequence[str], *, partner: str) -> None:
        """Place an order for each key of a model, all of a shard in one transaction."""
        orders = [(next(self.ids), key) for key in keys]
        for shard in self.sessions.clusters:
            mine = [order for order in orders if self.sessions.shard_of(order[0]) == shard]

            async def work(session: WriteSession, mine: list[tuple[int, str]] = mine) -> None:
                for order_id, key in mine:
                    await place(session, *_message(order_id, [key], partner=partner))

            if mine:
                await self.sessions.transact(mine[0][0], work)

    def worker(self, sandbox: Sandbox, *, holder: str = "worker", options: WorkerOptions = SOON) -> Worker:
        """Make a worker."""
        pricer = Pricer(self.sessions, self.models, sandbox, now=lambda: SETTLED, max_attempts=3)
        return Worker(self.sessions, pricer, holder=holder, options=options)

    async def see(self, order_id: int) -> Seen:
        """Look at an order on its primary."""
        async with self.sessions.write(order_id) as session:
            items = select(MesOrderItem).filter_by(order_id=order_id)
            events = select(MesOrderEvent).filter_by(order_id=order_id)
            owed = select(MesOutbox).filter_by(order_id=order_id)
            return Seen(
                (await session.scalars(select(MesOrder).filter_by(order_id=order_id))).one(),
                (await session.scalars(items.order_by(MesOrderItem.line_no))).all(),
                (await session.scalars(events.order_by(MesOrderEvent.event_no))).all(),
                (await session.scalars(owed.order_by(MesOutbox.sequence))).all(),
                await session.scalar(select(PricingJob).filter_by(order_id=order_id)),
            )

    async def job(self, order_id: int) -> PricingJob | None:
        """Look at an order's job."""
        async with self.sessions.write(order_id) as session:
            return await session.scalar(select(PricingJob).filter_by(order_id=order_id))

    async def forget(self) -> None:
        """Drop all jobs and what is known of models; orders have new ids in each test."""
        for cluster in self.sessions.clusters.values():
            async with cluster.write() as session:
                await session.execute(delete(PricingJob))
                for known in (ModelMeasurement, MeasurementClaim, ModelShape):
                    await session.execute(delete(known))

    async def set_job(self, order_id: int, **values: object) -> None:
        """Change a job: time that has passed, attempts that were made."""
        async with self.sessions.write(order_id) as session:
            await session.execute(update(PricingJob).filter_by(order_id=order_id).values(**values))

    async def known(self) -> list[ModelMeasurement]:
        """Read what all shards remember of models."""
        rows: list[ModelMeasurement] = []
        for cluster in self.sessions.clusters.values():
            async with cluster.write() as session:
                rows += await session.scalars(select(ModelMeasurement))
        return rows

    async def until_done(self, *order_ids: int) -> None:
        """Wait until the orders have no job any more."""

        async def done() -> bool:
            return not any([await self.job(order_id) for order_id in order_ids])

        await until(done, seconds=120)

    async def price(self, worker: Worker, *order_ids: int) -> list[Seen]:
        """Run a worker until it has settled the orders; look at them."""
        async with running(worker):
            await self.until_done(*order_ids)
        return [await self.see(order_id) for order_id in order_ids]

    async def cancel(self, order_id: int) -> None:
        """Cancel an order, but leave its job."""
        async with self.sessions.write(order_id) as session:
            order = await session.scalar(select(MesOrder).filter_by(order_id=order_id))
            assert order is not None
            order.status, order.changed_at = Status.CANCELLED, AT


def _message(
    order_id: int,
    keys: Sequence[str],
    *,
    quantity: int = 1,
    channel: Channel = Channel.B2B,
    partner: str = "atelier-nord",
) -> tuple[Message, OrderSubmitted]:
    """Make the message that submits an order with a line for each model."""
    items = [
        Item(
            line_no=line_no,
            material="silver_925",
            finish="matte",
            quantity=quantity,
            model_key=key,
            model_name=f"model{line_no}.stl",
        )
        for line_no, key in enumerate(keys, start=1)
    ]
    submitted = OrderSubmitted(
        actor="test",
        channel=channel,
        summary="test",
        customer=Customer(name="Ada", email="ada@example.org") if channel is Channel.B2C else None,
        partner=partner if channel is Channel.B2B else None,
        items=tuple(items),
        submitted_at=AT,
    )
    return Message(id=uuid4(), source="test", subject=str(order_id), time=AT, data=submitted), submitted


async def until_leased(rig: Rig, order_id: int) -> None:
    """Wait until a worker has the order's job."""

    async def leased() -> bool:
        job = await rig.job(order_id)
        return job is not None and job.leased_by is not None

    await until(leased, seconds=120)


@asynccontextmanager
async def open_rig(topology: Topology) -> AsyncIterator[Rig]:
    """Connect to the shards and the model store."""
    await save_map(topology)
    async with open_sessions(topology, role="mes", application_name="test") as sessions:
        models = await asyncio.to_thread(ModelStore.open, files_url(topology))
        yield Rig(topology, sessions, models)


@pytest.fixture(scope="module")
async def shared_rig(module_topology: Topology) -> AsyncIterator[Rig]:
    async with open_rig(module_topology) as rig:
        yield rig


@pytest.fixture
async def rig(shared_rig: Rig) -> Rig:
    await shared_rig.forget()
    return shared_rig
