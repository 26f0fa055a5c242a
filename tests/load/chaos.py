"""A day of chaos: orders arrive while everything beneath them is killed, frozen and wiped; then the audit.

`python -m tests.load.chaos --orders 2000 --seed 1` prints the faults, and what became of every order.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy.exc import DBAPIError

from app.console.audit.databases import OrderDatabases
from app.console.audit.report import AuditReport, audit
from app.console.audit.rules import OrderFacts
from app.console.demo.census import Census, take_census
from app.console.demo.client import HttpRefusal, RetryingClient, TemporarilyUnavailable
from app.console.demo.day import OPERATORS, SELLERS, give_keys
from app.console.demo.figures import Reconciliation, reconcile
from app.console.demo.people import Operator, Partner, Seller, ShopCustomer
from app.console.demo.plan import AcceptedOrders, PlannedOrder, plan_day
from app.console.demo.report import describe_stuck
from app.messaging.routing import ServiceName
from app.models.status import Channel
from app.topology import services_of
from ops.embedded.platform import Platform
from ops.errors import OpsError
from ops.shards.service import load_shard_map
from sharding.topology import Topology
from tests.load.faults import Breaker, Fault, plan_faults
from tests.project import PROJECT

CENSUS_EVERY_SECONDS = 1.0
BUYERS_AT_ONCE = 60
"""Of all buyers that have come; the others wait at the door, and the client has connections for these."""
PATIENCE_SECONDS = 600.0
STALL_SECONDS = 150.0
"""The run is given up when nothing at all has changed for so long: longer than any back-off."""


@dataclass(frozen=True)
class Verdict:
    """What became of the orders, and of the faults that were to strike."""

    reconciled: Reconciliation
    audit: AuditReport
    stuck: Sequence[str]
    faults: Sequence[Fault]
    struck_at_work: int
    refused: Counter[str]
    seconds: float
    repeats: int

    @property
    def wrong(self) -> int:
        """How many orders were lost, doubled, are not explained or not at their end; and findings."""
        unexplained = len(self.reconciled.accepted - self.reconciled.accounted_for)
        return unexplained + len(self.reconciled.duplicated) + self.audit.faults

    @property
    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.reconciled.line}, {self.audit.faults} findings; {len(self.faults)} faults, "
            f"{self.struck_at_work} of them with orders under way, in {self.seconds:.0f} s; "
            f"{self.repeats} requests repeated"
        )

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "line": self.line,
            "wrong": self.wrong,
            "audit": self.audit.as_json(),
            "stuck": list(self.stuck),
            "refused": dict(self.refused),
            "faults": [fault.line for fault in self.faults],
        }


@dataclass(kw_only=True)
class Chaos:
    """One run.

    Parameters:
        planned_orders: what is ordered; they arrive at random over `seconds`, however slow the services are.
        faults: what is broken meanwhile.
        say: is given a line for each fault and, now and then, for the orders.
    """

    topology: Topology
    planned_orders: Sequence[PlannedOrder]
    faults: Sequence[Fault]
    strike: Callable[[Fault], None]
    seed: int
    seconds: float
    say: Callable[[str], None]
    keys: Mapping[str, str]
    accepted: AcceptedOrders = field(default_factory=AcceptedOrders)
    refused: Counter[str] = field(default_factory=Counter)
    struck_at_work: int = 0
    repeats: int = 0
    _is_settled: bool = False

    async def live(self) -> None:
        """Run until every order has ended and every fault is mended, or nothing changes any more."""
        over = asyncio.Event()
        async with self._clients() as buyers, self._clients() as staff, asyncio.TaskGroup() as tasks:
            work = [
                *self._buyers(buyers["shop"], buyers["mes"]),
                *self._staff(staff["crm"], staff["mes"], over),
            ]
            people = [tasks.create_task(each) for each in work]
            faults = [tasks.create_task(self._break(fault)) for fault in self.faults]
            await self._watch(faults)
            over.set()
            for person in people:
                if not self._is_settled:
                    person.cancel()
            self.repeats = sum(client.repeats for client in (*buyers.values(), *staff.values()))

    async def _break(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at_seconds)
        self.say(fault.line)
        self.struck_at_work += not self._is_settled
        await asyncio.to_thread(self.strike, fault)

    async def _watch(self, faults: Sequence[asyncio.Task[None]]) -> None:
        last: Census | None = None
        changed_at = time.monotonic()
        while time.monotonic() < changed_at + STALL_SECONDS:
            census = await self._census()
            if census is not None and census != last:
                last, changed_at = census, time.monotonic()
                self.say(
                    f"        {len(self.accepted.by_id)} accepted, {_ended(census)} ended, {census.owed} owed"
                )
            if not all(fault.done() for fault in faults):
                changed_at = time.monotonic()
            self._is_settled = census is not None and self._has_settled(census)
            if self._is_settled and all(fault.done() for fault in faults):
                return
            await asyncio.sleep(CENSUS_EVERY_SECONDS)
        self.say(f"nothing moved for {STALL_SECONDS:.0f} s")

    async def _census(self) -> Census | None:
        """Count the orders; None while a database is away."""
        try:
            return await asyncio.to_thread(take_census, OrderDatabases(self.topology))
        except (OpsError, DBAPIError):
            return None

    def _has_settled(self, census: Census) -> bool:
        """Whether every order that was not refused has ended wherever it must stand, and none is owed."""
        b2c = sum(planned.channel is Channel.B2C for planned in self.accepted.by_id.values())
        accepted = len(self.accepted.by_id)
        wanted = {ServiceName.SHOP: b2c, ServiceName.CRM: accepted, ServiceName.MES: accepted}
        is_complete = accepted + self.refused.total() == len(self.planned_orders)
        ended = all(census.ended(service) >= count for service, count in wanted.items())
        return is_complete and ended and census.owed == 0

    @asynccontextmanager
    async def _clients(self) -> AsyncIterator[dict[str, RetryingClient]]:
        """Open clients of their own for some people: who waits for a frozen service keeps a connection."""
        async with AsyncExitStack() as stack:
            yield {
                name: await stack.enter_async_context(
                    RetryingClient(service.url, patience_seconds=PATIENCE_SECONDS)
                )
                for name, service in services_of(self.topology).items()
            }

    def _buyers(self, shop: RetryingClient, mes: RetryingClient) -> Iterator[Coroutine[Any, Any, None]]:
        random, door = Random(self.seed), asyncio.Semaphore(BUYERS_AT_ONCE)
        for planned in self.planned_orders:
            yield self._buy(planned, shop, mes, door, after_seconds=random.uniform(0, self.seconds))

    async def _buy(
        self,
        planned: PlannedOrder,
        shop: RetryingClient,
        mes: RetryingClient,
        door: asyncio.Semaphore,
        *,
        after_seconds: float,
    ) -> None:
        await asyncio.sleep(after_seconds)
        try:
            async with door:
                if planned.channel is Channel.B2C:
                    await ShopCustomer(planned, shop=shop, accepted=self.accepted).visit()
                else:
                    own = mes.bearing(self.keys[planned.buyer])
                    await Partner(planned, mes=own, accepted=self.accepted).visit()
        except (HttpRefusal, TemporarilyUnavailable) as error:
            self.refused[str(error)] += 1

    def _staff(
        self, crm: RetryingClient, mes: RetryingClient, over: asyncio.Event
    ) -> list[Coroutine[Any, Any, None]]:
        operators = [
            Operator(name, mes=mes.bearing(self.keys[name]), accepted=self.accepted) for name in OPERATORS
        ]
        for operator, colleague in pairwise([*operators, operators[0]]):
            operator.colleague = colleague
        sellers = [Seller(crm=crm.bearing(self.keys[name]), accepted=self.accepted) for name in SELLERS]
        return [*(seller.day(over) for seller in sellers), *(operator.day(over) for operator in operators)]


def _ended(census: Census) -> int:
    return census.ended(ServiceName.MES)


def run_chaos(
    folder: Path,
    *,
    orders: int,
    seed: int,
    seconds: float,
    every_seconds: float,
    say: Callable[[str], None] = lambda _line: None,
) -> Verdict:
    """Run a platform of its own in `folder`, break it while orders arrive, and audit it.

    Parameters:
        seconds: over how long orders arrive, and faults begin.
        every_seconds: the mean time from one fault to the next.
    """
    with _platform(folder) as platform:
        breaker, topology = Breaker(platform), platform.topology()
        faults = plan_faults(breaker.targets, seed=seed, seconds=seconds, every_seconds=every_seconds)
        chaos = Chaos(
            topology=topology,
            planned_orders=plan_day(orders=orders, seed=seed),
            faults=faults,
            strike=breaker.strike,
            seed=seed,
            seconds=seconds,
            say=say,
            keys=give_keys(topology),
        )
        started = time.monotonic()
        asyncio.run(chaos.live())
        return _verdict(chaos, seconds=time.monotonic() - started)


def _verdict(chaos: Chaos, *, seconds: float) -> Verdict:
    databases = OrderDatabases(chaos.topology)
    orders: list[OrderFacts] = []
    shard_map = asyncio.run(load_shard_map(chaos.topology, ServiceName.MES))
    found = audit(databases, shard_of=shard_map.shard_of, keep_findings=sys.maxsize, seen=orders.append)
    reconciled = reconcile([int(order_id) for order_id in chaos.accepted.by_id], orders, found.findings)
    return Verdict(
        reconciled=reconciled,
        audit=found,
        stuck=describe_stuck(orders, reconciled.unfinished),
        faults=chaos.faults,
        struck_at_work=chaos.struck_at_work,
        refused=chaos.refused,
        seconds=seconds,
        repeats=chaos.repeats,
    )


@contextmanager
def _platform(folder: Path) -> Iterator[Platform]:
    """Start a platform, and stop it at the end, whatever state it is in; its logs stay."""
    platform = Platform(folder, PROJECT, safe=False)
    try:
        platform.up()
        yield platform
    finally:
        platform.down()


def main() -> int:
    """Run it from the command line; exit status 1 unless every order is explained."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.chaos", description=__doc__)
    parser.add_argument("--orders", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300.0, help="over how long orders arrive")
    parser.add_argument("--every", type=float, default=5.0, help="seconds from one fault to the next")
    parser.add_argument("--folder", type=Path, help="where the platform is made, and its logs stay readable")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="mes-storage-chaos-") as folder:
        verdict = run_chaos(
            (given.folder or Path(folder)) / "platform",
            orders=given.orders,
            seed=given.seed,
            seconds=given.seconds,
            every_seconds=given.every,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(json.dumps(verdict.as_json(), indent=2))
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
