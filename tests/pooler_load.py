"""A seeded mix of units of work, with their errors counted: writes, reads of one's own, units, pages."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Update, select, update

from app.models.mes import MesOrder
from app.models.status import Channel, Status
from readreplica.sessions import WriteSession
from readreplica.token import CausalToken
from sharding.ids import first_id_at
from sharding.sessions import ShardedSessions

FIRST = first_id_at(datetime(2026, 3, 1, tzinfo=UTC))
newest = select(MesOrder).order_by(MesOrder.order_id.desc())


class Abandoned(Exception):
    """A unit that is given up midway, as a failing request does."""


@dataclass
class Load:
    """What became of the units."""

    transactions: int = 0
    stale: int = 0
    nodes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        reads = ", ".join(f"{count} reads on {node}" for node, count in sorted(self.nodes.items()))
        return f"{self.transactions} transactions, {self.errors.total()} errors, {self.stale} stale; {reads}"


async def run_load(
    sessions: ShardedSessions,
    *,
    transactions: int,
    workers: int,
    seed: int,
    begun: asyncio.Event | None = None,
) -> Load:
    """Run a number of transactions in parallel; every worker has an order of its own.

    Parameters:
        sessions: of the MES shards, with a map.
        transactions: how many in all.
        workers: how many at a time.
        seed: of the choices.
        begun: is set when every worker has its order.
    """
    load = Load()
    crew = [_Worker(sessions, load, seed, number) for number in range(workers)]
    await asyncio.gather(*(worker.create() for worker in crew))
    if begun is not None:
        begun.set()
    await asyncio.gather(*(worker.run(transactions // workers - 1) for worker in crew))
    return load


class _Worker:
    def __init__(self, sessions: ShardedSessions, load: Load, seed: int, number: int) -> None:
        self._sessions = sessions
        self._load = load
        self._rng = random.Random(seed * 1000 + number)
        # Every load has orders of its own, so that several may run on one platform.
        self._order_id = FIRST + ((seed * 1000 + number) << 12)
        self._said = "new"
        self._token = CausalToken()

    async def run(self, transactions: int) -> None:
        steps = (self._write, self._read, self._unit, self._abandon, self._page)
        for _ in range(transactions):
            [step] = self._rng.choices(steps, weights=(30, 50, 10, 5, 5))
            await self._counted(step())

    async def _counted(self, step: Awaitable[None]) -> None:
        self._load.transactions += 1
        try:
            await step
        except Abandoned:
            return
        except Exception as error:
            said = str(error).partition("\n")[0][:160]
            self._load.errors[f"{type(error).__name__}: {said}"] += 1

    async def create(self) -> None:
        self._load.transactions += 1
        async with self._sessions.write(self._order_id) as session:
            session.add(self._order())
        self._token = session.token

    def _order(self) -> MesOrder:
        return MesOrder(
            order_id=self._order_id, status=Status.SUBMITTED, channel=Channel.B2C, summary=self._said
        )

    async def _write(self) -> None:
        said = f"{self._rng.random()}"
        async with self._sessions.write(self._order_id) as session:
            await session.execute(self._change(said))
        self._said, self._token = said, session.token

    def _change(self, said: str) -> Update:
        own = MesOrder.order_id == self._order_id
        return update(MesOrder).where(own).values(summary=said)

    async def _read(self) -> None:
        async with self._sessions.read(self._order_id, after=self._token) as session:
            order = await session.get_one(MesOrder, self._order_id)
            self._load.nodes[str(session.node)] += 1
        self._load.stale += order.summary != self._said

    async def _unit(self) -> None:
        said, used = f"{self._rng.random()}", list[WriteSession]()

        async def work(session: WriteSession) -> None:
            used.append(session)
            order = await session.get_one(MesOrder, self._order_id, with_for_update=True)
            order.summary = said

        await self._sessions.transact(self._order_id, work)
        self._said, self._token = said, used[-1].token

    async def _abandon(self) -> None:
        async with self._sessions.write(self._order_id) as session:
            await session.execute(self._change("abandoned"))
            raise Abandoned

    async def _page(self) -> None:
        page = await self._sessions.scatter(newest, limit=20, after=self._token)
        mine = [order.summary for order in page.rows if order.order_id == self._order_id]
        self._load.stale += bool(mine) and mine != [self._said]
