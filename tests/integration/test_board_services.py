"""Orders on their way through the three services, and what the board shows of them meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import delete, select, update

from app import instruments
from app.access.credentials import TokenKeys
from app.board import repository
from app.board.actions import ActionRefused, Actions, ActionUnanswered
from app.board.application import build as build_board
from app.board.endpoints import Board
from app.board.repository import Filters, ListedOrder, ListedPage
from app.board.retention import OrderPruner
from app.console.audit.databases import SERVICE_TABLES, OrderDatabases
from app.console.audit.report import audit
from app.console.board import Rebuild
from app.kit.caller import Caller, Role
from app.messaging.routing import ORDER_SERVICES, ServiceName
from app.models.board import BoardHistory, BoardOrder, BoardSource
from app.models.crm import CrmOrder, CrmOutbox
from app.models.mes import MesOutbox
from app.models.status import Channel, Status
from app.orders import CRM, append_event
from app.topology import board_keeps
from readreplica.cluster import Cluster
from readreplica.freshness import PRIMARY
from readreplica.signing import TokenText
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.callers import ACCESS_KEYS, acting, by_operator
from tests.integration.board_rig import open_board, streaming, with_board
from tests.integration.messaging_rig import until
from tests.integration.services_rig import (
    Services,
    client_of,
    eventually,
    fast_settings,
    ok,
    open_services,
    problem,
)

ROSA = Caller(name="Rosa", role=Role.OPERATOR)
SARA = Caller(name="Sara", role=Role.SELLER)


@dataclass
class Platform:
    """The services and the board; `app` is the board's application."""

    services: Services
    app: FastAPI
    board: Board
    client: Any
    actions: Actions
    topology: Topology

    async def shows(self, order_id: str, status: str) -> dict[str, Any]:
        """Wait until the board shows an order with a status, and has heard the same of all."""

        def holds(answer: Any) -> bool:
            shown = answer.json() if answer.status_code == 200 else {}
            last = shown["timeline"][-1]["services"] if shown else []
            whole = {"mes", "crm"} | ({"shop"} if shown.get("channel") == "B2C" else set())
            return shown.get("status") == status and set(last) >= whole

        return await eventually(lambda: self.client.get(f"/v1/orders/{order_id}"), holds)

    async def listed(self, page: Any) -> list[str]:
        """Give the ids of a page that a query of the repository reads."""
        async with self.board.orders.write() as session:
            found: ListedPage = await page(session)
        return [str(order.order_id) for order in found.orders]


@asynccontextmanager
async def run_platform(topology: Topology) -> AsyncIterator[Platform]:
    topology = with_board(topology)
    app = build_board(fast_settings(topology), topology)
    async with AsyncExitStack() as opened:
        services = await opened.enter_async_context(open_services(topology))
        client = await opened.enter_async_context(client_of(app))
        clients = {"shop": services.shop, "crm": services.crm, "mes": services.mes}
        actions = Actions(clients, TokenKeys.parse(ACCESS_KEYS), TokenText(None))
        yield Platform(services, app, app.state.parts, client, actions, topology)


@pytest_asyncio.fixture
async def platform(topology: Topology) -> AsyncIterator[Platform]:
    async with run_platform(topology) as platform:
        yield platform


async def my_orders(orders: Cluster, operator: str) -> Sequence[ListedOrder]:
    async with orders.read(freshness=PRIMARY) as session:
        return await repository.my_orders(session, operator)


async def findings(platform: Platform) -> list[str]:
    """Audit until nothing is under way, and give what is wrong."""
    directory = platform.services.shards.shard_map
    async with asyncio.timeout(30):
        while True:
            report = await asyncio.to_thread(
                audit, OrderDatabases(platform.topology), shard_of=directory.shard_of
            )
            if report.in_flight == 0:
                return [f"{each.fault}: {each.detail}" for each in report.findings]


async def test_a_customers_order_is_on_the_board_from_its_draft_to_its_end(platform: Platform) -> None:
    services, now = platform.services, datetime.now(UTC)
    order_id = str(ok(await services.start(), 201)["order_id"])
    draft = await eventually(
        lambda: platform.client.get(f"/v1/orders/{order_id}"), lambda answer: answer.status_code == 200
    )
    assert (draft["status"], draft["price"]) == ("INITIATED", None)
    ok(await services.upload(order_id))
    ok(await services.shop.post(f"/v1/orders/{order_id}/submit"))
    await services.shows(services.mes, order_id, "SUBMITTED")
    await services.price(order_id)
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    await platform.shows(order_id, "PRICE_CALCULATED")
    assert await platform.listed(repository.to_confirm) == [order_id]
    assert await platform.listed(repository.new_orders) == []

    await platform.actions.approve(SARA, int(order_id))
    await platform.shows(order_id, "MANUFACTURING_APPROVED")
    assert await platform.listed(repository.to_confirm) == []
    rings = Filters(
        materials=["gold_18k", "brass"],
        price_from=Decimal(400),
        price_to=Decimal(500),
        channel=Channel.B2C,
        text="ada ring",
    )
    assert await platform.listed(lambda s: repository.new_orders(s, rings)) == [order_id]
    for other in (Filters(materials=["brass"]), Filters(partner="atelier-nord"), Filters(text="zeppelin")):
        assert await platform.listed(lambda s, wanted=other: repository.new_orders(s, wanted)) == []
    waiting = Filters(waits_since=now - timedelta(days=1))
    assert await platform.listed(lambda s: repository.new_orders(s, waiting)) == []

    taken = await platform.actions.take(ROSA, int(order_id))
    # Who has taken an order finds it among his own at once.
    orders = platform.board.orders
    assert await repository.wait_until_shown(orders, ServiceName.MES, taken, seconds=10)
    assert [str(order.order_id) for order in await my_orders(orders, "Rosa")] == [order_id]
    later = {**taken, "operator": "Olga"}
    assert not await repository.wait_until_shown(orders, ServiceName.MES, later, seconds=0.1)
    for step in (Status.MANUFACTURING_COMPLETED, Status.PACKAGING, Status.SHIPPED):
        await platform.actions.advance(ROSA, int(order_id), to=step)
    await platform.shows(order_id, "SHIPPED")
    async with platform.board.orders.write() as session:
        pay = await repository.pay(
            session, "Rosa", begin=now - timedelta(days=1), end=now + timedelta(days=1)
        )
        assert (pay.orders, pay.total) == (1, Decimal("412.50"))
        assert await repository.my_orders(session, "Rosa") == []
    await platform.actions.close(SARA, int(order_id))
    shown = await platform.shows(order_id, "CLOSED")
    assert [each["status"] for each in shown["timeline"]] == list(Status)[:10]
    assert await platform.listed(lambda s: repository.search(s, f"{order_id}")) == [order_id]
    assert await platform.listed(lambda s: repository.customer_history(s, email="ada@example.org")) == [
        order_id
    ]
    assert await findings(platform) == []
    await leaves_when_it_has_ended_long_ago(platform, int(order_id))


async def leaves_when_it_has_ended_long_ago(platform: Platform, order_id: int) -> None:
    """As two years later, by the clock of the board; the services' rows are made older instead."""
    orders, keep, stop = platform.board.orders, board_keeps(platform.topology), asyncio.Event()
    assert await OrderPruner(orders=orders, keep=keep).prune(stop) == 0
    later = datetime.now(UTC) + keep
    assert await OrderPruner(orders=orders, keep=keep, batch=1, now=lambda: later).prune(stop) == 1
    async with orders.write() as session:
        for model in (BoardOrder, BoardSource, BoardHistory):
            assert (await session.scalars(select(model.order_id))).all() == []
    assert {each.split(":")[0] for each in await findings(platform)} == {"not on the board"}
    for name, service in OrderDatabases(platform.topology).services.items():
        model, at = SERVICE_TABLES[service].orders[0], datetime.now(UTC) - keep - timedelta(days=1)
        async with (
            open_cluster(platform.topology, name, role=service, application_name="test") as cluster,
            cluster.write() as session,
        ):
            await session.execute(update(model).where(model.order_id == order_id).values(changed_at=at))
    assert await findings(platform) == []
    # What has left does not come back by a rebuild.
    done = await Rebuild(OrderDatabases(platform.topology), "board").run(ORDER_SERVICES)
    assert (sum(each.orders for each in done), sum(each.added for each in done)) == (3, 0)


async def test_an_order_that_was_taken_is_put_back_and_handed_over(platform: Platform) -> None:
    services = platform.services
    order_id = await services.approved()
    ok(await services.take(order_id))
    await services.shows(services.crm, order_id, "MANUFACTURING_STARTED")
    release = f"/v1/orders/{order_id}/release"
    reason = {"reason": "the furnace is broken"}
    refused = problem(await services.mes.post(release, json=reason, headers=by_operator("Olga")), 409)
    assert refused["held_by"] == "Rosa"
    freed = ok(await services.mes.post(release, json=reason, headers=by_operator()))
    assert (freed["status"], freed["operator"]) == ("MANUFACTURING_APPROVED", None)
    again = ok(await services.mes.post(release, json=reason, headers=by_operator()))
    assert again["changed_at"] == freed["changed_at"]
    shown = await platform.shows(order_id, "MANUFACTURING_APPROVED")
    assert shown["timeline"][-1]["detail"] == {"released": "the furnace is broken"}
    crm = await services.shows(services.crm, order_id, "MANUFACTURING_APPROVED")
    assert crm["history"][-1]["actor"] == "Rosa"
    assert await platform.listed(repository.new_orders) == [order_id]

    ok(await services.take(order_id, operator="Olga"))
    taken = problem(await services.take(order_id), 409)
    assert (taken["operator"], taken["since"] > crm["changed_at"]) == ("Olga", True)
    for_admin = acting("Anna", Role.ADMIN)
    ok(await services.mes.post(release, json={"reason": "she is ill"}, headers=for_admin))
    ok(await services.take(order_id))
    unknown = await services.mes.post(f"/v1/orders/{order_id}/hand-over", json={"to": "Olga"})
    assert problem(unknown, 422)["name"] == "Olga"
    await platform.shows(order_id, "MANUFACTURING_STARTED")
    # What the CRM has seen go back goes on, and what is being made cannot be approved again.
    problem(
        await services.crm.post(f"/v1/orders/{order_id}/approve", headers=acting("Udo", Role.SELLER)), 409
    )
    ok(await services.advance(order_id, "MANUFACTURING_COMPLETED"))
    problem(await services.mes.post(release, json=reason, headers=by_operator()), 409)
    await platform.shows(order_id, "MANUFACTURING_COMPLETED")
    assert await findings(platform) == []


async def test_what_a_service_refuses_is_refused_with_its_facts(platform: Platform) -> None:
    order_id = int(await platform.services.approved())
    await platform.actions.take(ROSA, order_id)
    with pytest.raises(ActionRefused) as refused:
        await platform.actions.take(Caller(name="Olga", role=Role.OPERATOR), order_id)
    assert (refused.value.status, refused.value.kind, refused.value.facts["operator"]) == (
        409,
        "taken-by-another",
        "Rosa",
    )
    with pytest.raises(ActionRefused) as forbidden:
        await platform.actions.approve(ROSA, order_id)
    assert forbidden.value.status == 403
    customer = Caller(name="customer", role=Role.CUSTOMER, order_ids=frozenset({order_id}))
    with pytest.raises(ActionRefused) as late:
        await platform.actions.approve(customer, order_id)
    assert late.value.status == 409


async def test_a_rebuild_makes_the_board_again_while_it_serves(platform: Platform) -> None:
    services = platform.services
    b2c, b2b = await services.b2c(), await services.approved()
    await services.shows(services.mes, b2c, "SUBMITTED")
    await platform.shows(b2c, "SUBMITTED")
    await platform.shows(b2b, "MANUFACTURING_APPROVED")
    assert await findings(platform) == []
    async with open_board(platform.topology) as board:
        async with board.write() as session:
            before = [tuple(row) for row in await session.execute(_everything())]
            for model in (BoardOrder, BoardSource, BoardHistory):
                await session.execute(delete(model).where(model.order_id == int(b2c)))
            broken = update(BoardOrder).where(BoardOrder.order_id == int(b2b))
            await session.execute(broken.values(mes_status=Status.SHIPPED, price=None))
        found = await findings(platform)
        assert sorted(each.split(":")[0] for each in found) == ["board differs", *["not on the board"] * 3]
        databases = OrderDatabases(platform.topology)
        dry = await Rebuild(databases, "board", dry_run=True).run(ORDER_SERVICES)
        # Each service's page is rolled back, so each of the three finds the order missing.
        assert sum(each.added for each in dry) == 3
        assert len(await findings(platform)) == 4
        done = await Rebuild(databases, "board", page_orders=1).run(ORDER_SERVICES)
        assert sum(each.added for each in done) == 1
        assert sum(each.orders for each in done) == 5
        async with board.write() as session:
            assert [tuple(row) for row in await session.execute(_everything())] == before
        assert await findings(platform) == []
        # A row that stands in the wrong list alone is found as well.
        async with board.write() as session:
            await session.execute(broken.values(status=Status.PACKAGING))
        [found_one] = await findings(platform)
        assert found_one.startswith("board differs")
        async with board.write() as session:
            await session.execute(broken.values(status=Status.MANUFACTURING_APPROVED, operator="Oleg"))
        [found_one] = await findings(platform)
        assert found_one.endswith("no operator (no reason), board Oleg (no reason)")
        await Rebuild(databases, "board").run([ServiceName.MES])
    assert await findings(platform) == []


def _everything() -> Any:
    columns = [getattr(BoardOrder, name) for name in ListedOrder._fields]
    return select(*columns, BoardOrder.words).order_by(BoardOrder.order_id)


async def test_changes_are_sent_as_they_happen_and_again_to_who_was_away(platform: Platform) -> None:
    live = platform.board.live
    order_id = await platform.services.b2b()
    await platform.shows(order_id, "SUBMITTED")
    async with asyncio.timeout(20), live.subscribe("") as events:
        assert (await anext(events)).is_reload
        since = live.position
        await platform.services.price(order_id)
        async for event in events:
            if event.after is Status.PRICE_CALCULATED and event.before is Status.SUBMITTED:
                break
        assert str(event.order_id) == order_id
        async with platform.board.orders.read(after=event.token) as session:
            found = await repository.find_order(session, int(order_id))
        assert found.order.price == Decimal("412.50")
    async with asyncio.timeout(20), live.subscribe(since) as missed:
        async for again in missed:
            if again.event_id == event.event_id:
                break
    assert live.subscribers == 0
    assert again == event


async def test_a_browser_follows_the_stream_of_changes(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages: list[float] = []
    monkeypatch.setattr(instruments, "board_shown", lambda *, seconds: ages.append(seconds))
    after = platform.board.live.position
    order_id = await platform.services.b2b()
    headers = {**by_operator(), "Last-Event-ID": after}
    async with asyncio.timeout(30), streaming(platform.app, "/v1/changes", headers) as stream:
        assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        text = ""
        while f'"order_id": "{order_id}"' not in text:
            text += await stream.body.get()
        assert "event: changed" in text
    # How old a change was when it was given to the boards is measured from the service's own commit on.
    assert ages
    assert all(0 < age < 30 for age in ages)
    assert platform.board.live.subscribers == 0


async def test_a_board_that_is_away_holds_no_order_up(topology: Topology) -> None:
    """Only its own messages wait, and they are handled when it is there."""
    topology = with_board(topology)
    async with open_services(topology) as services:
        order_id = await services.approved()
        ok(await services.take(order_id))
        await services.shows(services.crm, order_id, "MANUFACTURING_STARTED")
        shard = services.shards.shard_of(int(order_id))
        owed: list[str] = []

        async def only_the_board_waits() -> bool:
            async with services.shards.clusters[shard].write() as session:
                owed[:] = await session.scalars(select(MesOutbox.destination))
            return set(owed) == {"board"}

        await until(only_the_board_waits)
        assert len(owed) >= 4
        async with client_of(build_board(fast_settings(topology), topology)) as client:
            await eventually(
                lambda: client.get(f"/v1/orders/{order_id}"),
                lambda answer: answer.status_code == 200 and answer.json()["operator"] == "Rosa",
            )


@pytest.mark.parametrize("has_board", [True, False])
async def test_no_way_to_open_a_database_hides_an_order_from_the_board(
    topology: Topology, has_board: bool
) -> None:
    """What knows no more than the topology's file announces what it changes, where there is a board."""
    topology = with_board(topology) if has_board else topology
    async with open_cluster(topology, "crm", role="crm", application_name="test") as crm:
        async with crm.write() as session:
            order = CrmOrder(order_id=1, status=Status.SUBMITTED, channel=Channel.B2B, summary="a ring")
            session.add(order)
            await append_event(session, CRM, order, actor="test", now=datetime.now(UTC))
            sent = (await session.scalars(select(CrmOutbox.destination))).all()
        assert sent == (["board"] if has_board else [])


async def test_services_that_cannot_be_asked_are_named(topology: Topology) -> None:
    clients = {name: _away() for name in ("shop", "crm", "mes")}
    actions = Actions(clients, TokenKeys.parse(ACCESS_KEYS), TokenText(None))
    with pytest.raises(ActionUnanswered, match="mes cannot be asked") as unanswered:
        await actions.take(ROSA, 1)
    assert not unanswered.value.in_doubt
    for client in clients.values():
        await client.aclose()


def _away() -> Any:

    return AsyncClient(base_url="http://127.0.0.1:1", trust_env=False)
