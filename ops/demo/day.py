"""The day itself: all clients at work at once, and someone who watches, kills the MES and starts it again."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from app.models.status import Channel
from ops.audit.books import Books
from ops.audit.facts import Service
from ops.demo.buyers import Customer, Partner
from ops.demo.census import Census, take_census
from ops.demo.client import PatientClient
from ops.demo.ledger import Ledger
from ops.demo.plan import Errand
from ops.demo.progress import Display
from ops.demo.staff import Operator, Seller
from sharding.topology import Topology

BUYERS_AT_ONCE = 8
SELLERS = ("Nadia", "Oskar")
OPERATORS = ("Rosa", "Sam", "Tomas", "Uma", "Viktor", "Wanda")

CRASH_SHARE = 0.4
"""The MES is killed when this share of the orders has ended: the others are then at every stage."""
ARCHIVE_SHARE = 0.6
"""The archive job runs when this share has ended, beside the traffic of the others."""
OUTAGE_SECONDS = 1.0
CENSUS_EVERY_SECONDS = 0.4


class Backstage(Protocol):
    """What happens to the platform behind the clients' backs. Every call blocks."""

    def crash_mes(self) -> int | None:
        """Kill the MES process with SIGKILL and return its pid."""

    def start_mes(self) -> None:
        """Start the MES process again, and wait until it is healthy."""

    def archive(self) -> int:
        """Archive the orders that have ended so far, and return how many."""


@dataclass
class Day:
    """One run of all clients against a platform that is up.

    Parameters:
        errands: what is ordered.
        deadline_seconds: when the watcher gives up waiting; what has not ended then is stuck.
        notes: after the day, sentences about what happened.
    """

    topology: Topology
    errands: Sequence[Errand]
    backstage: Backstage
    display: Display
    deadline_seconds: float
    ledger: Ledger = field(default_factory=Ledger)
    notes: list[str] = field(default_factory=list)

    async def live(self) -> None:
        """Let everybody work until every order has ended, or the deadline has passed."""
        over = asyncio.Event()
        async with self._clients() as (shop, crm, mes), asyncio.TaskGroup() as tasks:
            buyers = tasks.create_task(self._buy(shop, mes))
            for person in self._staff(crm, mes):
                tasks.create_task(person.day(over))
            await self._watch(tasks)
            over.set()
            buyers.cancel()  # only after the deadline is there anybody left
        repeats = shop.repeats + crm.repeats + mes.repeats
        self.notes.append(f"{repeats} requests were repeated after a lost connection or a 503")
        self.notes.append(
            f"{self.ledger.races} times two operators took one order at once: one got it each time"
        )

    @asynccontextmanager
    async def _clients(self) -> AsyncIterator[tuple[PatientClient, PatientClient, PatientClient]]:
        async with AsyncExitStack() as stack:
            shop, crm, mes = [
                await stack.enter_async_context(PatientClient(self.topology.services[service].url))
                for service in ("shop", "crm", "mes")
            ]
            yield shop, crm, mes

    async def _buy(self, shop: PatientClient, mes: PatientClient) -> None:
        room = asyncio.Semaphore(BUYERS_AT_ONCE)

        async def visit(buyer: Customer | Partner) -> None:
            async with room:
                await buyer.visit()

        async with asyncio.TaskGroup() as tasks:
            for errand in self.errands:
                if errand.channel is Channel.B2C:
                    buyer: Customer | Partner = Customer(errand, shop=shop, ledger=self.ledger)
                else:
                    buyer = Partner(errand, mes=mes, ledger=self.ledger)
                tasks.create_task(visit(buyer))

    def _staff(self, crm: PatientClient, mes: PatientClient) -> list[Seller | Operator]:
        sellers = [Seller(name, crm=crm, ledger=self.ledger) for name in SELLERS]
        operators = [Operator(name, mes=mes, ledger=self.ledger) for name in OPERATORS]
        for operator, colleague in pairwise([*operators, operators[0]]):
            operator.colleague = colleague
        return [*sellers, *operators]

    async def _watch(self, tasks: asyncio.TaskGroup) -> None:
        """Show the progress and let things happen on the way, until all is settled or time is up."""
        books = Books(self.topology)
        deadline = time.monotonic() + self.deadline_seconds
        coming = [(CRASH_SHARE, self._crash), (ARCHIVE_SHARE, self._archive)]
        while True:
            census = await asyncio.to_thread(take_census, books)
            self.display.show(census)
            while coming and census.ended(Service.MES) >= coming[0][0] * len(self.errands):
                _, happen = coming.pop(0)
                tasks.create_task(happen(census))
            if self._is_settled(census):
                return
            if time.monotonic() > deadline:
                self.notes.append(f"not everything was settled after {self.deadline_seconds:.0f} s")
                return
            await asyncio.sleep(CENSUS_EVERY_SECONDS)

    def _is_settled(self, census: Census) -> bool:
        """Whether every order was accepted, has ended wherever it must stand, and no message is owed."""
        b2c = sum(errand.channel is Channel.B2C for errand in self.errands)
        wanted = {Service.SHOP: b2c, Service.CRM: len(self.errands), Service.MES: len(self.errands)}
        ended = all(census.ended(service) >= count for service, count in wanted.items())
        return ended and census.owed == 0 and len(self.ledger.accepted) == len(self.errands)

    async def _crash(self, census: Census) -> None:
        ended = census.ended(Service.MES)
        started = time.monotonic()
        pid = await asyncio.to_thread(self.backstage.crash_mes)
        self.display.say(f"MES (pid {pid}) killed with SIGKILL, {ended} of {len(self.errands)} orders ended")
        await asyncio.sleep(OUTAGE_SECONDS)
        await asyncio.to_thread(self.backstage.start_mes)
        away = time.monotonic() - started
        self.display.say(f"MES is back after {away:.1f} s")
        self.notes.append(f"MES was killed when {ended} orders had ended, and was away for {away:.1f} s")

    async def _archive(self, _: Census) -> None:
        moved = await asyncio.to_thread(self.backstage.archive)
        self.display.say(f"archive job: {moved} orders moved to their months")
        self.notes.append(f"the archive job moved {moved} orders while others were under way")
