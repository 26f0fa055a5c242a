"""The day itself: all clients at work at once, and the monitor that counts the orders and ends it."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import pairwise
from typing import Protocol

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_fixed

from app.console.audit.databases import OrderDatabases
from app.console.demo.census import Census, take_census
from app.console.demo.client import HttpRefusal, RetryingClient, way_to
from app.console.demo.people import Operator, Partner, Seller, ShopCustomer
from app.console.demo.plan import PARTNERS, AcceptedOrders, PlannedOrder
from app.console.demo.progress import Display
from app.console.identities import create_all
from app.kit.caller import Door, Role
from app.messaging.routing import ServiceName
from app.models.status import Channel
from app.topology import services_of
from sharding.topology import Topology

BUYERS_AT_ONCE = 8
WAYS = (("shop", Door.CUSTOMER), ("crm", Door.STAFF), ("mes", Door.STAFF), ("mes", Door.EXTERNAL))
"""By which door customers, sellers, operators and partners come, and to which service."""
SELLERS = ("Nadia", "Oskar", "Petra")
OPERATORS = ("Rosa", "Sam", "Tomas", "Uma", "Viktor", "Wanda")
KEYS_SECONDS = 30.0
"""How long services may take to hear of new keys; it is a fifth of a second."""

CRASH_SHARE = 0.4
"""The MES is killed when this share of the orders has ended: the others are then at every stage."""
ARCHIVE_SHARE = 0.6
"""The archive job runs when this share has ended, beside the traffic of the others."""
OUTAGE_SECONDS = 1.0
CENSUS_EVERY_SECONDS = 0.5


class PlatformControl(Protocol):
    """What is done to the platform while the clients work. Every call blocks."""

    def crash_mes(self) -> int | None:
        """Kill the MES process with SIGKILL and return its pid."""

    def start_mes(self) -> None:
        """Start the MES process again, and wait until it is healthy."""

    def archive(self) -> int:
        """Archive the orders that have ended so far, and return how many."""


@dataclass(kw_only=True)
class DayMonitor:
    """Watches one day.

    Parameters:
        databases: the services' databases, where the orders are counted.
        planned_orders: what was to be ordered.
        accepted: what was accepted.
        stall_seconds: the day is given up when nothing at all has changed for so long.
        notes: after the day, sentences about what happened.
    """

    databases: OrderDatabases
    planned_orders: Sequence[PlannedOrder]
    accepted: AcceptedOrders
    control: PlatformControl
    display: Display
    stall_seconds: float
    notes: list[str] = field(default_factory=list)

    async def watch(self) -> bool:
        """Show the progress, kill the MES and archive on the way, until all is settled or nothing changes.

        Returns:
            Whether all is settled.
        """
        coming = [(CRASH_SHARE, self._crash), (ARCHIVE_SHARE, self._archive)]
        async with asyncio.TaskGroup() as happening:
            async for census in self._censuses():
                self.display.show(census)
                while coming and census.ended(ServiceName.MES) >= coming[0][0] * len(self.planned_orders):
                    happening.create_task(coming.pop(0)[1](census))
                if self._is_settled(census):
                    return True
        self.notes.append(f"nothing moved for {self.stall_seconds:.0f} s, and not everything was settled")
        return False

    async def _censuses(self) -> AsyncIterator[Census]:
        """Count again and again, for as long as something changes."""
        last: Census | None = None
        changed_at = time.monotonic()
        while time.monotonic() < changed_at + self.stall_seconds:
            census = await asyncio.to_thread(take_census, self.databases)
            if census != last:
                last, changed_at = census, time.monotonic()
            yield census
            await asyncio.sleep(CENSUS_EVERY_SECONDS)

    def _is_settled(self, census: Census) -> bool:
        """Whether every order was accepted, has ended wherever it must stand, and no message is owed."""
        b2c = sum(planned.channel is Channel.B2C for planned in self.planned_orders)
        wanted = {
            ServiceName.SHOP: b2c,
            ServiceName.CRM: len(self.planned_orders),
            ServiceName.MES: len(self.planned_orders),
        }
        ended = all(census.ended(service) >= count for service, count in wanted.items())
        return ended and census.owed == 0 and len(self.accepted.by_id) == len(self.planned_orders)

    async def _crash(self, census: Census) -> None:
        ended = census.ended(ServiceName.MES)
        started = time.monotonic()
        pid = await asyncio.to_thread(self.control.crash_mes)
        self.display.say(
            f"MES (pid {pid}) killed with SIGKILL, {ended} of {len(self.planned_orders)} orders ended"
        )
        await asyncio.sleep(OUTAGE_SECONDS)
        await asyncio.to_thread(self.control.start_mes)
        away = time.monotonic() - started
        self.display.say(f"MES is back after {away:.1f} s")
        self.notes.append(f"MES was killed when {ended} orders had ended, and was away for {away:.1f} s")

    async def _archive(self, census: Census) -> None:
        under_way = len(self.planned_orders) - census.ended(ServiceName.MES)
        moved = await asyncio.to_thread(self.control.archive)
        self.display.say(f"archive job: {moved} orders moved to their months")
        self.notes.append(f"the archive job moved {moved} orders beside the traffic of {under_way} others")


def give_keys(topology: Topology) -> dict[str, str]:
    """Make an identity for each person and partner, and return the API key of each, once it is taken."""
    roles = {
        **dict.fromkeys(PARTNERS, Role.PARTNER),
        **dict.fromkeys(SELLERS, Role.SELLER),
        **dict.fromkeys(OPERATORS, Role.OPERATOR),
    }
    keys = create_all(topology, roles)
    wait_until_known(topology, {"crm": keys[SELLERS[0]], "mes": keys[OPERATORS[0]]})
    return keys


def wait_until_known(topology: Topology, keys: Mapping[str, str]) -> None:
    """Wait until services know keys, each of somebody who may list orders there."""
    asyncio.run(_wait_until_known(topology, keys))


async def _wait_until_known(topology: Topology, keys: Mapping[str, str]) -> None:
    for service, key in keys.items():
        async with RetryingClient(services_of(topology)[service].url) as client:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(_is_unknown),
                wait=wait_fixed(0.05),
                stop=stop_after_delay(KEYS_SECONDS),
                reraise=True,
            ):
                with attempt:
                    await client.bearing(key).get("/v1/orders", limit=1)


def _is_unknown(error: BaseException) -> bool:
    return isinstance(error, HttpRefusal) and error.status == HTTPStatus.UNAUTHORIZED


@dataclass(kw_only=True)
class Day:
    """One run of all clients against a platform that is up.

    Parameters:
        planned_orders: what is ordered.
        stall_seconds: the day is given up when nothing at all has changed for so long.
        keys: the API key of each partner, seller and operator.
        accepted: after the day, what was accepted.
        notes: after the day, sentences about what happened.
    """

    topology: Topology
    planned_orders: Sequence[PlannedOrder]
    control: PlatformControl
    display: Display
    stall_seconds: float
    keys: Mapping[str, str]
    accepted: AcceptedOrders = field(default_factory=AcceptedOrders)
    notes: list[str] = field(default_factory=list)

    async def live(self) -> None:
        """Run all clients until every order has ended, or nothing changes any more."""
        over = asyncio.Event()
        async with self._clients() as (shop, crm, mes, partners), asyncio.TaskGroup() as tasks:
            work = [self._buy(shop, partners), *(person.day(over) for person in self._staff(crm, mes))]
            people = [tasks.create_task(day) for day in work]
            settled = await self._monitor().watch()
            over.set()
            if not settled:
                # Who waits for a service that is away would wait on.
                for person in people:
                    person.cancel()
        repeats = sum(each.repeats for each in (shop, crm, mes, partners))
        self.notes.append(f"{repeats} requests were repeated after a lost connection or a 503")
        self.notes.append(
            f"{self.accepted.races} orders were taken by two operators at once: each went to one"
        )

    @asynccontextmanager
    async def _clients(self) -> AsyncIterator[Sequence[RetryingClient]]:
        """Open a client for each kind of caller, by its door: customers, sellers, operators, partners."""
        ways = [way_to(self.topology, service, door) for service, door in WAYS]
        if all(way.host is not None for way in ways):
            self.notes.append("all clients came by a door of the gateway")
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(RetryingClient(way)) for way in ways]

    async def _buy(self, shop: RetryingClient, partners: RetryingClient) -> None:
        room = asyncio.Semaphore(BUYERS_AT_ONCE)

        async def visit(planned: PlannedOrder) -> None:
            async with room:
                if planned.channel is Channel.B2C:
                    await ShopCustomer(planned, shop=shop, accepted=self.accepted).visit()
                else:
                    own = partners.bearing(self.keys[planned.buyer])
                    await Partner(planned, mes=own, accepted=self.accepted).visit()

        async with asyncio.TaskGroup() as tasks:
            for planned in self.planned_orders:
                tasks.create_task(visit(planned))

    def _staff(self, crm: RetryingClient, mes: RetryingClient) -> list[Seller | Operator]:
        sellers = [Seller(crm=crm.bearing(self.keys[name]), accepted=self.accepted) for name in SELLERS]
        operators = [
            Operator(name, mes=mes.bearing(self.keys[name]), accepted=self.accepted) for name in OPERATORS
        ]
        for operator, colleague in pairwise([*operators, operators[0]]):
            operator.colleague = colleague
        return [*sellers, *operators]

    def _monitor(self) -> DayMonitor:
        return DayMonitor(
            databases=OrderDatabases(self.topology),
            planned_orders=self.planned_orders,
            accepted=self.accepted,
            control=self.control,
            display=self.display,
            stall_seconds=self.stall_seconds,
            notes=self.notes,
        )
