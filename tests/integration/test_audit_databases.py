"""The audit on real databases: it passes when all is well, and it can fail."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from app.console.audit.databases import OrderDatabases
from app.console.audit.report import AuditReport, audit
from app.console.audit.rules import Fault, OrderFacts
from app.console.audit.trace import trace
from app.models import crm, mes, shop
from app.models.status import Status
from sharding.ids import first_id_at
from sharding.topology import Topology
from tests.integration.audit_rig import MADE_AT, SHARDS, Clerk, order_row, owed, shop_order


@pytest.fixture
def clerk(topology: Topology) -> Clerk:
    return Clerk(topology)


@pytest.fixture
def order_ids(clerk: Clerk) -> list[int]:
    return clerk.orders(30)


@pytest.fixture
def run(topology: Topology) -> Callable[[], AuditReport]:
    databases = OrderDatabases(topology)
    return lambda: audit(databases, shard_of=SHARDS.shard_of)


Run = Callable[[], AuditReport]


def test_orders_that_are_as_they_should_be_pass(run: Run, order_ids: list[int]) -> None:
    report = run()
    assert report.clean
    assert (report.orders, report.in_flight) == (30, 0)


def test_every_row_is_read_once_and_in_order(topology: Topology, order_ids: list[int]) -> None:
    with OrderDatabases(topology).open() as orders:
        facts = list(orders)
    assert [found.order_id for found in facts] == order_ids
    assert all(len(found.copies) == 3 and len(found.children) == 1 for found in facts)


@pytest.mark.parametrize("service", ["shop", "crm", "mes"])
def test_an_order_that_was_deleted_is_missed(
    run: Run, clerk: Clerk, order_ids: list[int], service: str
) -> None:
    victim = order_ids[7]
    model: Any = {"shop": shop.ShopOrder, "crm": crm.CrmOrder, "mes": mes.MesOrder}[service]
    database = SHARDS.shard_of(victim) if service == "mes" else service
    clerk.write(database, delete(model).where(model.order_id == victim))
    found = {(finding.order_id, finding.fault) for finding in run().findings}
    # In MES its history stays behind, without an order.
    assert found == {(victim, Fault.MISSING)} | ({(victim, Fault.ORPHAN)} if service == "mes" else set())


def test_an_order_on_the_other_shard_too_is_found(run: Run, clerk: Clerk, order_ids: list[int]) -> None:
    victim = order_ids[3]
    (other,) = set(SHARDS.shards) - {SHARDS.shard_of(victim)}
    clerk.write(other, insert(mes.MesOrder).values(**order_row(victim, Status.SHIPPED)))
    report = run()
    assert {finding.order_id for finding in report.findings} == {victim}
    assert set(report.counts) == {Fault.DUPLICATE, Fault.WRONG_SHARD}


def test_an_order_in_two_partitions_is_found(run: Run, clerk: Clerk, order_ids: list[int]) -> None:
    # The primary key (order_id, status) lets this in.
    victim = order_ids[3]
    clerk.write(SHARDS.shard_of(victim), insert(mes.MesOrder).values(**order_row(victim, Status.CLOSED)))
    (finding,) = run().findings
    assert (finding.order_id, finding.fault) == (victim, Fault.DUPLICATE)
    assert "orders_hot (SHIPPED)" in finding.detail
    assert "orders_done (CLOSED)" in finding.detail


def test_a_difference_is_a_fault_unless_its_message_is_under_way(
    run: Run, clerk: Clerk, order_ids: list[int]
) -> None:
    victim = order_ids[5]
    behind = update(shop.ShopOrder).where(shop.ShopOrder.order_id == victim)
    clerk.write("shop", behind.values(status=Status.PACKAGING))
    assert run().counts == {Fault.STATUS_DIFFERS: 1}

    clerk.write(SHARDS.shard_of(victim), owed(victim))
    assert run().clean
    assert run().in_flight == 1

    aside = update(mes.MesOutbox).values(set_aside_at=MADE_AT, set_aside_reason="unknown field")
    clerk.write(SHARDS.shard_of(victim), aside)
    assert set(run().counts) == {Fault.STATUS_DIFFERS, Fault.DEAD_LETTER}


def test_an_order_that_moves_on_between_the_looks_is_no_fault(
    topology: Topology, clerk: Clerk, order_ids: list[int]
) -> None:
    victim = order_ids[0]
    clerk.write("shop", update(shop.ShopOrder).where(shop.ShopOrder.order_id == victim).values(price=None))

    def deliver(facts: OrderFacts) -> None:
        if facts.order_id == victim:
            now_told = update(shop.ShopOrder).where(shop.ShopOrder.order_id == victim)
            clerk.write("shop", now_told.values(price=Decimal("90.00")))

    assert audit(OrderDatabases(topology), shard_of=SHARDS.shard_of, seen=deliver).clean


def test_a_draft_given_up_is_told_from_an_order_that_was_cancelled(run: Run, clerk: Clerk) -> None:
    draft, cancelled = first_id_at(MADE_AT), first_id_at(MADE_AT) + 1
    for order_id in (draft, cancelled):
        clerk.write("shop", insert(shop.ShopOrder).values(**shop_order(order_id, Status.CANCELLED)))
    event = {"event_no": 1, "at": MADE_AT, "actor": "Ada"}
    was_submitted = insert(shop.ShopOrderEvent).values(order_id=cancelled, status=Status.SUBMITTED, **event)
    clerk.write("shop", was_submitted)
    assert {finding.order_id for finding in run().findings} == {cancelled}


def test_findings_are_counted_beyond_those_that_are_kept(
    topology: Topology, clerk: Clerk, order_ids: list[int]
) -> None:
    clerk.write("crm", delete(crm.CrmOrder))
    report = audit(OrderDatabases(topology), shard_of=SHARDS.shard_of, keep_findings=4)
    assert len(report.findings) == 4
    assert report.counts == {Fault.MISSING: 30}


def test_a_trace_tells_where_the_order_is_and_what_is_under_way(
    topology: Topology, clerk: Clerk, order_ids: list[int]
) -> None:
    order_id = order_ids[9]
    shard = SHARDS.shard_of(order_id)
    clerk.write(shard, owed(order_id), insert(mes.PricingJob).values(order_id=order_id))
    found = trace(OrderDatabases(topology), order_id)
    assert [str(standing.place) for standing in found.standings] == [
        "shop.orders",
        "crm.orders",
        f"{shard}.orders_hot",
    ]
    assert [(step.status, step.actor) for step in found.history] == [(Status.SHIPPED, "Rosa")]
    assert [(letter.source, letter.destination) for letter in found.letters] == [(shard, "shop")]
    assert [job.database for job in found.jobs] == [shard]


def test_an_unknown_order_is_known_to_nobody(topology: Topology, order_ids: list[int]) -> None:
    assert not trace(OrderDatabases(topology), order_ids[-1] + 1).known
