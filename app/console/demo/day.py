"""The day itself: all clients at work at once, each on its own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from app.console.audit.books import Books
from app.console.demo.buyers import Customer, Partner
from app.console.demo.client import PatientClient
from app.console.demo.ledger import Ledger
from app.console.demo.plan import Errand
from app.console.demo.progress import Display
from app.console.demo.staff import Operator, Seller
from app.console.demo.watcher import Backstage, Watcher
from app.models.status import Channel
from app.topology import services_of
from sharding.topology import Topology

BUYERS_AT_ONCE = 8
SELLERS = ("Nadia", "Oskar", "Petra")
OPERATORS = ("Rosa", "Sam", "Tomas", "Uma", "Viktor", "Wanda")


@dataclass(kw_only=True)
class Day:
    """One run of all clients against a platform that is up.

    Parameters:
        errands: what is ordered.
        stall_seconds: the day is given up when nothing at all has changed for so long.
        ledger: after the day, what was accepted.
        notes: after the day, sentences about what happened.
    """

    topology: Topology
    errands: Sequence[Errand]
    backstage: Backstage
    display: Display
    stall_seconds: float
    ledger: Ledger = field(default_factory=Ledger)
    notes: list[str] = field(default_factory=list)

    async def live(self) -> None:
        """Let everybody work until every order has ended, or nothing moves any more."""
        over = asyncio.Event()
        async with self._clients() as (shop, crm, mes), asyncio.TaskGroup() as tasks:
            work = [self._buy(shop, mes), *(person.day(over) for person in self._staff(crm, mes))]
            people = [tasks.create_task(day) for day in work]
            settled = await self._watcher().watch()
            over.set()
            if not settled:
                # Who waits for a service that is away would wait on.
                for person in people:
                    person.cancel()
        repeats = shop.repeats + crm.repeats + mes.repeats
        self.notes.append(f"{repeats} requests were repeated after a lost connection or a 503")
        self.notes.append(f"{self.ledger.races} orders were taken by two operators at once: each went to one")

    @asynccontextmanager
    async def _clients(self) -> AsyncIterator[tuple[PatientClient, PatientClient, PatientClient]]:
        async with AsyncExitStack() as stack:
            shop, crm, mes = [
                await stack.enter_async_context(PatientClient(services_of(self.topology)[service].url))
                for service in ("shop", "crm", "mes")
            ]
            yield shop, crm, mes

    async def _buy(self, shop: PatientClient, mes: PatientClient) -> None:
        room = asyncio.Semaphore(BUYERS_AT_ONCE)

        async def visit(errand: Errand) -> None:
            async with room:
                if errand.channel is Channel.B2C:
                    await Customer(errand, shop=shop, ledger=self.ledger).visit()
                else:
                    await Partner(errand, mes=mes, ledger=self.ledger).visit()

        async with asyncio.TaskGroup() as tasks:
            for errand in self.errands:
                tasks.create_task(visit(errand))

    def _staff(self, crm: PatientClient, mes: PatientClient) -> list[Seller | Operator]:
        sellers = [Seller(name, crm=crm, ledger=self.ledger) for name in SELLERS]
        operators = [Operator(name, mes=mes, ledger=self.ledger) for name in OPERATORS]
        for operator, colleague in pairwise([*operators, operators[0]]):
            operator.colleague = colleague
        return [*sellers, *operators]

    def _watcher(self) -> Watcher:
        return Watcher(
            books=Books(self.topology),
            errands=self.errands,
            ledger=self.ledger,
            backstage=self.backstage,
            display=self.display,
            stall_seconds=self.stall_seconds,
            notes=self.notes,
        )
