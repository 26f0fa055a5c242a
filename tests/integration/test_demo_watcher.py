"""The demo's monitor counts real databases, and knows when a day is over."""

from dataclasses import dataclass, field

import pytest

from app.console.audit.databases import OrderDatabases
from app.console.demo.census import Census
from app.console.demo.day import DayMonitor
from app.console.demo.plan import AcceptedOrders, PlannedOrder, plan_day
from app.models.status import Status
from sharding.topology import Topology
from tests.integration.audit_rig import SHARDS, Clerk, owed


@dataclass
class QuietStage:
    """A platform to which nothing is really done; it remembers what was asked."""

    asked: list[str] = field(default_factory=list)

    def crash_mes(self) -> int | None:
        self.asked.append("crash")
        return None

    def start_mes(self) -> None:
        self.asked.append("start")

    def archive(self) -> int:
        self.asked.append("archive")
        return 0


class Silence:
    """Shows nothing."""

    def show(self, census: Census) -> None:
        pass

    def say(self, what: str) -> None:
        pass


def watcher_of(topology: Topology, order_ids: list[int], stage: QuietStage) -> DayMonitor:
    planned_orders: list[PlannedOrder] = plan_day(orders=len(order_ids), seed=1)
    accepted = AcceptedOrders(
        {str(order_id): planned for order_id, planned in zip(order_ids, planned_orders, strict=True)}
    )
    return DayMonitor(
        databases=OrderDatabases(topology),
        planned_orders=planned_orders,
        accepted=accepted,
        control=stage,
        display=Silence(),
        stall_seconds=1.5,
    )


async def test_a_day_is_over_when_all_orders_have_ended(topology: Topology) -> None:
    stage = QuietStage()
    monitor = watcher_of(topology, Clerk(topology).orders(4, status=Status.CLOSED), stage)
    assert await monitor.watch()
    assert sorted(stage.asked) == ["archive", "crash", "start"]


async def test_a_day_is_given_up_when_nothing_moves(topology: Topology) -> None:
    monitor = watcher_of(topology, Clerk(topology).orders(4, status=Status.SHIPPED), QuietStage())
    assert not await monitor.watch()
    assert "nothing moved" in monitor.notes[-1]


@pytest.mark.parametrize("missing", ["a message is owed", "an order was not accepted"])
async def test_a_day_is_not_over_while_something_is_missing(topology: Topology, missing: str) -> None:
    clerk = Clerk(topology)
    order_ids = clerk.orders(4, status=Status.CLOSED)
    monitor = watcher_of(topology, order_ids, QuietStage())
    if missing == "a message is owed":
        clerk.write(SHARDS.shard_of(order_ids[0]), owed(order_ids[0]))
    else:
        monitor.accepted.by_id.popitem()
    assert not await monitor.watch()
