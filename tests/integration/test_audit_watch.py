"""`mesctl orders audit --watch` and `--repair`: no snapshot is held, faults are found, some are mended."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import delete, insert, select, update

from app.console import orders
from app.console.audit import repair
from app.console.audit.databases import OrderDatabases
from app.console.audit.repair import do_repair, plan_repairs
from app.console.audit.rules import AuditFinding, Fault, OrderFacts
from app.console.audit.watch import OrderWatch
from app.models import crm, mes, shop
from app.models.status import Status
from ops.waiting import wait_until
from sharding.topology import Topology
from tests.integration.audit_rig import MADE_AT, SHARDS, Clerk, order_row, owed
from tests.integration.mesctl_rig import Mesctl, Said
from tests.integration.services_rig import Services, ok, open_services
from tests.project import PROJECT
from tests.servers import PostgresServers


@pytest.fixture
def clerk(topology: Topology) -> Clerk:
    clerk = Clerk(topology)
    clerk.shard_map()
    return clerk


@pytest.fixture
def mesctl(topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    return Mesctl(topology_path, capsys, PROJECT.path)


def watch_of(topology: Topology, **changed: Any) -> OrderWatch:
    options: dict[str, Any] = {"rows": 4, "rest": lambda _: None} | changed
    return OrderWatch(OrderDatabases(topology), shard_of=SHARDS.shard_of, **options)


def found_by(watch: OrderWatch) -> set[tuple[str, int, Fault]]:
    return {(each.kind, each.finding.order_id, each.finding.fault) for each in watch.run_pass()}


def test_every_order_is_compared_slice_by_slice(topology: Topology, clerk: Clerk) -> None:
    order_ids = clerk.orders(30)
    slices: list[float] = []
    watch = watch_of(topology, rest=slices.append)
    assert found_by(watch) == set()
    assert (watch.report.orders, watch.report.clean) == (30, True)
    assert len(slices) >= len(order_ids) / 4


def held_snapshots(postgres: PostgresServers) -> tuple[int, int]:
    """Count the connections of mesctl, and those of them that keep vacuum from rows."""
    with postgres.primary.connect() as connection:
        [(connections, held)] = connection.execute("""
            SELECT count(*), count(*) FILTER (WHERE backend_xmin IS NOT NULL OR xact_start IS NOT NULL)
            FROM pg_stat_activity WHERE application_name = 'mesctl' AND pid <> pg_backend_pid()
        """)
    return connections, held


def test_no_snapshot_is_held_between_two_slices(
    topology: Topology, clerk: Clerk, postgres: PostgresServers
) -> None:
    clerk.orders(10)
    seen: list[tuple[int, int]] = []
    watch = watch_of(topology, rest=lambda _: seen.append(held_snapshots(postgres)))
    assert found_by(watch) == set()
    assert len(seen) >= 3
    assert {held for _, held in seen} == {0}
    assert min(connections for connections, _ in seen) >= 4
    # The audit of one moment does hold them, and so this would be seen.
    with OrderDatabases(topology).open() as orders:
        next(orders)
        assert held_snapshots(postgres)[1] >= 4


def test_each_fault_is_found_and_said_once(topology: Topology, clerk: Clerk) -> None:
    lost, doubled, differs, stuck, jobless, aside, *_ = clerk.orders(20)
    clerk.write("crm", delete(crm.CrmOrder).where(crm.CrmOrder.order_id == lost))
    [other] = set(SHARDS.shards) - {SHARDS.shard_of(doubled)}
    clerk.write(other, insert(mes.MesOrder).values(**order_row(doubled, Status.SHIPPED)))
    behind = update(shop.ShopOrder).where(shop.ShopOrder.order_id == differs)
    clerk.write("shop", behind.values(status=Status.PACKAGING))
    long_ago = datetime.now(UTC) - timedelta(days=15)
    late = update(mes.MesOrder).where(mes.MesOrder.order_id == stuck).values(changed_at=long_ago)
    clerk.write(SHARDS.shard_of(stuck), late)
    for name, model in (("shop", shop.ShopOrder), ("crm", crm.CrmOrder), (None, mes.MesOrder)):
        submitted = update(model).where(model.order_id == jobless).values(status=Status.SUBMITTED)
        clerk.write(name or SHARDS.shard_of(jobless), submitted)
    letter = owed(aside).values(set_aside_at=MADE_AT, set_aside_reason="unknown field")
    clerk.write(SHARDS.shard_of(aside), letter)

    watch = watch_of(topology)
    assert found_by(watch) == {
        ("found", lost, Fault.MISSING),
        ("found", doubled, Fault.DUPLICATE),
        ("found", doubled, Fault.WRONG_SHARD),
        ("found", differs, Fault.STATUS_DIFFERS),
        ("found", stuck, Fault.STUCK),
        ("found", jobless, Fault.NO_JOB),
        ("found", aside, Fault.DEAD_LETTER),
    }
    assert watch.report.faults == 7
    assert found_by(watch) == set()  # nothing has changed
    assert watch.report.faults == 7

    clerk.write("shop", behind.values(status=Status.SHIPPED))
    assert found_by(watch) == {("settled", differs, Fault.STATUS_DIFFERS)}
    assert watch.report.faults == 6


def test_what_is_settled_between_the_looks_is_no_fault(topology: Topology, clerk: Clerk) -> None:
    order_id = clerk.orders(3)[1]
    row = update(shop.ShopOrder).where(shop.ShopOrder.order_id == order_id)
    clerk.write("shop", row.values(price=None))

    class Settling(OrderDatabases):
        def read_slice(self, *arguments: Any) -> Any:
            facts = super().read_slice(*arguments)
            clerk.write("shop", row.values(price=order_row(order_id, Status.SHIPPED)["price"]))
            return facts

    watch = OrderWatch(Settling(topology), shard_of=SHARDS.shard_of, rest=lambda _: None)
    assert found_by(watch) == set()
    assert watch.report.clean


def test_a_message_that_is_under_way_for_too_long_is_stuck(topology: Topology, clerk: Clerk) -> None:
    order_id = clerk.orders(3)[1]
    row = update(shop.ShopOrder).where(shop.ShopOrder.order_id == order_id)
    clerk.write("shop", row.values(status=Status.PACKAGING))
    clerk.write(SHARDS.shard_of(order_id), owed(order_id))
    clock = [datetime.now(UTC)]
    watch = watch_of(topology, now=lambda: clock[0])
    assert found_by(watch) == set()
    assert watch.report.in_flight == 1
    clock[0] += timedelta(minutes=11)
    assert found_by(watch) == set()
    assert found_by(watch) == {("found", order_id, Fault.STUCK)}


def test_the_verb_prints_what_begins_and_a_line_for_each_pass(mesctl: Mesctl, clerk: Clerk) -> None:
    lost = clerk.orders(5)[2]
    clerk.write("crm", delete(crm.CrmOrder).where(crm.CrmOrder.order_id == lost))
    watch = ("orders", "audit", "--watch", "--count", "2", "--every-seconds", "0")
    said = mesctl(*watch)
    assert said.status == 1
    first, *passes = said.out.splitlines()
    assert f"found: order {lost}, missing: not in crm" in first
    assert len(passes) == 2
    assert all(line.endswith("5 orders compared, 1 fault, 0 in flight") for line in passes)


def test_a_database_that_is_away_cuts_off_one_pass(mesctl: Mesctl, clerk: Clerk, topology: Topology) -> None:
    clerk.orders(2)
    text = mesctl.topology_path.read_text()
    port = topology.database("crm").primary.port
    head, found, tail = text.partition("[databases.crm]")
    mesctl.topology_path.write_text(head + found + tail.replace(f"port = {port}", "port = 1", 1))
    said = mesctl("orders", "audit", "--watch", "--count", "1")
    assert said.status == 1
    assert said.err.startswith("this pass was cut off: crm: ")


@pytest_asyncio.fixture
async def services(topology: Topology) -> AsyncIterator[Services]:
    async with open_services(topology) as services:
        yield services


@pytest.fixture
def repaired(topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    mesctl = Mesctl(topology_path, capsys, PROJECT.path)

    async def run(*words: str) -> Said:
        said = await asyncio.to_thread(mesctl, "orders", "audit", "--repair", "--json", *words)
        # The services log into the same stream.
        return said._replace(out=said.out[said.out.index('{\n  "dry_run"') : said.out.rindex("\n}\n") + 3])

    return run


async def test_lost_messages_are_sent_again_and_the_services_agree(
    services: Services, topology: Topology, repaired: Any
) -> None:
    """Of an order that the CRM lost, a price that it did not learn, a job that is gone, an approval."""
    clerk = Clerk(topology)
    unknown, unpriced, jobless = [int(await services.b2c()) for _ in range(3)]
    approved = int(await services.b2b())
    for order_id in (unknown, unpriced, jobless, approved):
        await services.shows(services.crm, str(order_id), "SUBMITTED")
        await services.shows(services.mes, str(order_id), "SUBMITTED")
    for order_id in (unpriced, approved):
        await services.price(str(order_id))
        await services.shows(services.crm, str(order_id), "PRICE_CALCULATED")
    await services.shows(services.shop, str(unpriced), "PRICE_CALCULATED")
    ok(await services.crm.post(f"/v1/orders/{approved}/approve"))
    await services.shows(services.mes, str(approved), "MANUFACTURING_APPROVED")
    await settled(clerk)

    order, event = crm.CrmOrder, crm.CrmOrderEvent
    clerk.write("crm", delete(order).where(order.order_id == unknown))
    clerk.write("crm", delete(event).where(event.order_id == unknown))
    lost = update(order).where(order.order_id == unpriced)
    clerk.write("crm", lost.values(status=Status.SUBMITTED, price=None))
    clerk.write("crm", delete(event).where(event.order_id == unpriced, event.status == "PRICE_CALCULATED"))
    job = mes.PricingJob
    clerk.write(SHARDS.shard_of(jobless), delete(job).where(job.order_id == jobless))
    back = update(mes.MesOrder).where(mes.MesOrder.order_id == approved)
    clerk.write(SHARDS.shard_of(approved), back.values(status=Status.PRICE_CALCULATED))

    dry = await repaired("--dry-run")
    assert (dry.status, len(dry.json["repaired"])) == (1, 4), dry
    assert (await repaired("--dry-run")).json == dry.json
    done = await repaired()
    assert {each["order_id"]: each["sent_again"] for each in done.json["repaired"]} == {
        str(unknown): "the order as it was submitted, from shop to crm",
        str(unpriced): f"what followed SUBMITTED, from {SHARDS.shard_of(unpriced)} to crm",
        str(jobless): f"a pricing job on {SHARDS.shard_of(jobless)}",
        str(approved): "what followed PRICE_CALCULATED, from crm to mes",
    }
    assert done.status == 0

    await services.shows(services.crm, str(unknown), "SUBMITTED")
    priced = await services.shows(services.crm, str(unpriced), "PRICE_CALCULATED")
    assert priced["price"] == "412.50"
    await services.shows(services.mes, str(approved), "MANUFACTURING_APPROVED")
    await services.price(str(jobless))
    await services.shows(services.crm, str(jobless), "PRICE_CALCULATED")
    await settled(clerk)
    again = await repaired()
    assert (again.status, again.json["repaired"], again.json["left"]) == (0, [], []), again

    shown = ok(await services.shop.get(f"/v1/orders/{unknown}"))
    [line] = [each for each in shown["history"] if "repaired" in each["detail"]]
    assert line["actor"].startswith("mesctl: ")
    assert line["status"] == "SUBMITTED"


async def settled(clerk: Clerk) -> None:
    """Wait until no message is owed."""
    async with asyncio.timeout(30):
        while any(owes(clerk, name) for name in ("shop", "crm", "mes_0", "mes_1")):  # noqa: ASYNC110 (no signal)
            await asyncio.sleep(0.02)


def owes(clerk: Clerk, name: str) -> bool:
    with clerk.engine(name).connect() as connection:
        return connection.scalar(select(mes.MesOutbox.sequence).limit(1)) is not None


def test_a_dead_letter_is_sent_again_only_where_it_would_be_taken(
    mesctl: Mesctl, topology: Topology, clerk: Clerk
) -> None:
    """A final event that its follower missed; and one that it would refuse again."""
    fits, not_yet = clerk.orders(2, status=Status.CLOSED)
    shop_order = shop.ShopOrder
    behind = {fits: Status.SHIPPED, not_yet: Status.SUBMITTED}
    for order_id, status in behind.items():
        row = update(shop_order).where(shop_order.order_id == order_id).values(status=status)
        clerk.write("shop", row)
        letter = {"order_id": order_id, "message_id": uuid4(), "destination": "shop", "type": "order.closed"}
        aside = {
            "data": {"actor": "Sara"},
            "set_aside_at": MADE_AT,
            "set_aside_reason": "cannot become CLOSED",
        }
        clerk.write(SHARDS.shard_of(order_id), insert(mes.MesOutbox).values(letter | aside))
    said = mesctl(*REPAIR)
    assert said.status == 1
    shard = SHARDS.shard_of(fits)
    sent = {"order_id": str(fits), "sent_again": f"the dead letter of {shard} to shop"}
    assert said.json["repaired"] == [sent]
    assert {each["order_id"] for each in said.json["left"]} == {str(not_yet)}
    assert mesctl(*REPAIR).json["repaired"] == []  # it is under way
    with clerk.engine(shard).connect() as connection:
        lines = connection.execute(select(mes.MesOrderEvent.detail).where(mes.MesOrderEvent.order_id == fits))
        assert [line.detail for line in lines if "repaired" in line.detail] != []


def lost_closings(clerk: Clerk, count: int = 1) -> list[int]:
    """Have orders that MES knows as packed, and of which the CRM lost that message."""
    order_ids = clerk.orders(count, status=Status.PACKAGING)
    for order_id in order_ids:
        row = update(crm.CrmOrder).where(crm.CrmOrder.order_id == order_id)
        clerk.write("crm", row.values(status=Status.MANUFACTURING_COMPLETED))
        made = {"order_id": order_id, "event_no": 0, "at": MADE_AT, "actor": "Rosa"}
        line = insert(mes.MesOrderEvent).values(made | {"status": Status.MANUFACTURING_COMPLETED})
        clerk.write(SHARDS.shard_of(order_id), line)
    return order_ids


def catch_up(clerk: Clerk, order_id: int) -> None:
    """Have the CRM handle the message after all."""
    row = update(crm.CrmOrder).where(crm.CrmOrder.order_id == order_id)
    clerk.write("crm", row.values(status=Status.PACKAGING))


REPAIR = ("orders", "audit", "--repair", "--json")


def test_an_order_that_moves_while_its_repair_waits_is_left_alone(
    mesctl: Mesctl, clerk: Clerk, postgres: PostgresServers
) -> None:
    """A second connection holds the order at its source, and lets it go when the other service agrees."""
    moves, stays = lost_closings(clerk, 2)
    assert SHARDS.shard_of(moves) != SHARDS.shard_of(stays) or moves < stays
    shard = SHARDS.shard_of(moves)
    row = select(mes.MesOrder.order_id).where(mes.MesOrder.order_id == moves).with_for_update()
    with ThreadPoolExecutor(1) as pool, clerk.engine(shard).begin() as other:
        other.execute(row)
        repairing = pool.submit(mesctl, *REPAIR)
        assert wait_until(lambda: waiting_for_locks(postgres) > 0, timeout_seconds=30)
        catch_up(clerk, moves)
        other.rollback()
        said = repairing.result(60)
    assert [each["order_id"] for each in said.json["repaired"]] == [str(stays)]
    assert said.json["settled"] == [{"order_id": str(moves), "settled": "the services agree"}]
    assert (said.status, said.json["refused"], said.json["left"]) == (0, [], [])
    assert owed_of(clerk, moves) == []
    assert owed_of(clerk, stays) == ["order.packaging"]


def waiting_for_locks(postgres: PostgresServers) -> int:
    with postgres.primary.connect() as connection:
        [(count,)] = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'mesctl' AND wait_event_type = 'Lock'"
        )
    return int(count)


def owed_of(clerk: Clerk, order_id: int) -> list[str]:
    query = select(mes.MesOutbox.type).where(mes.MesOutbox.order_id == order_id)
    with clerk.engine(SHARDS.shard_of(order_id)).connect() as connection:
        return list(connection.scalars(query))


def test_a_dead_letter_that_would_be_refused_by_now_is_left_alone(
    mesctl: Mesctl, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    [order_id] = clerk.orders(1, status=Status.CLOSED)
    row = update(shop.ShopOrder).where(shop.ShopOrder.order_id == order_id)
    clerk.write("shop", row.values(status=Status.SHIPPED))
    letter = {"order_id": order_id, "message_id": uuid4(), "destination": "shop", "type": "order.closed"}
    aside = {"data": {"actor": "Sara"}, "set_aside_at": MADE_AT, "set_aside_reason": "no room"}
    clerk.write(SHARDS.shard_of(order_id), insert(mes.MesOutbox).values(letter | aside))
    move_before(monkeypatch, lambda: clerk.write("shop", row.values(status=Status.CANCELLED)))
    said = mesctl(*REPAIR)
    [refused] = said.json["refused"]
    assert (said.status, said.json["repaired"]) == (1, [])
    assert refused["why"].startswith("it has changed meanwhile: ")
    with clerk.engine(SHARDS.shard_of(order_id)).connect() as connection:
        assert connection.scalar(select(mes.MesOutbox.set_aside_at)) == MADE_AT


def move_before(monkeypatch: pytest.MonkeyPatch, move: Callable[[], None]) -> None:
    """Do something between the look at all orders and the first repair."""

    async def late(*arguments: Any, **options: Any) -> None:
        move()
        await do_repair(*arguments, **options)

    monkeypatch.setattr(repair, "do_repair", late)


def test_a_job_that_was_written_meanwhile_is_settled(
    mesctl: Mesctl, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    [order_id] = clerk.orders(1, status=Status.SUBMITTED)
    job = insert(mes.PricingJob).values(order_id=order_id)
    move_before(monkeypatch, lambda: clerk.write(SHARDS.shard_of(order_id), job))
    said = mesctl(*REPAIR)
    assert said.json["settled"] == [{"order_id": str(order_id), "settled": "it is SUBMITTED and has a job"}]
    assert (said.json["repaired"], said.json["refused"]) == ([], [])


def test_what_settles_within_the_look_at_all_orders_is_not_repaired(
    mesctl: Mesctl, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was found, and has gone by the end of the pass: no repair is even planned."""
    settles, stays = lost_closings(clerk, 2)
    watching = partial(OrderWatch, rest=lambda _: catch_up(clerk, settles))
    monkeypatch.setattr(orders, "OrderWatch", watching)
    planned: list[int] = []

    def plan(found: Iterable[tuple[AuditFinding, OrderFacts]]) -> Any:
        known = list(found)
        planned.extend(finding.order_id for finding, _ in known)
        return plan_repairs(known)

    monkeypatch.setattr(repair, "plan_repairs", plan)
    said = mesctl(*REPAIR)
    assert set(planned) == {stays}
    assert [each["order_id"] for each in said.json["repaired"]] == [str(stays)]
    assert (said.json["settled"], said.json["left"], said.status) == ([], [], 0)
