"""Operators: the list, taking an order, advancing it, and orders that are archived already."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest_asyncio
from httpx import Response
from sqlalchemy import delete, insert, select, text

from app.console.identities import create_all
from app.kit.caller import Role
from app.mes.repository import newest
from app.models.crm import CrmOrder, CrmOutbox
from app.models.mes import (
    MesArchivedOrder,
    MesArchivedOrderEvent,
    MesArchivedOrderItem,
    MesOrder,
    MesOrderEvent,
    MesOrderItem,
)
from app.models.status import Channel, Status
from app.orders import CRM, MES, add_order, append_event
from readreplica.sessions import WriteSession
from readreplica.token import CausalToken
from sharding.engines import open_cluster
from sharding.ids import first_id_at
from sharding.topology import Topology
from tests.callers import by_operator
from tests.integration.messaging_rig import until
from tests.integration.services_rig import Json, Services, eventually, ok, open_services, problem

ROUNDS = 30
MARCH, APRIL = (datetime(2026, month, 1, tzinfo=UTC) for month in (3, 4))


@pytest_asyncio.fixture
async def services(topology: Topology) -> AsyncIterator[Services]:
    async with open_services(topology) as services:
        yield services


async def put_order(services: Services, order_id: int, status: Status) -> CausalToken:
    """Put an order into its shard without the way that leads there."""
    order = MesOrder(order_id=order_id, status=status, channel=Channel.B2B, summary="a ring")
    async with services.shards.write(order_id) as session:
        session.add(order)
        await append_event(session, MES, order, actor="test", now=MARCH)
    return session.token


async def show(services: Services, order_id: object, after: Response) -> Json:
    """Read an order as it is after a write."""
    token = after.headers["Causal-Token"]
    return ok(await services.mes.get(f"/v1/orders/{order_id}", headers={"Causal-Token": token}))


async def test_of_many_operators_one_gets_the_order(services: Services) -> None:
    operators = ["Rosa", "Timo", "Ines"]
    for number in range(ROUNDS):
        order_id = first_id_at(MARCH) + number
        await put_order(services, order_id, Status.MANUFACTURING_APPROVED)
        answers = await asyncio.gather(*(services.take(str(order_id), operator=name) for name in operators))
        [(winner, won)] = [
            (name, answer)
            for name, answer in zip(operators, answers, strict=True)
            if answer.status_code == 200
        ]
        for answer in answers:
            if answer is not won:
                refused = problem(answer, 409)
                assert refused["type"].endswith(":taken-by-another")
                assert refused["operator"] == winner
                assert refused["since"] == ok(won)["changed_at"]
                assert f"taken by {winner}" in refused["detail"]
        history = (await show(services, order_id, won))["history"]
        assert [line["actor"] for line in history] == ["test", winner]


async def test_an_operator_changes_what_he_has_seen_and_nothing_else(
    services: Services, topology: Topology
) -> None:
    await asyncio.to_thread(create_all, topology, {"Olga": Role.OPERATOR})
    await put_order(services, first_id_at(MARCH), Status.MANUFACTURING_APPROVED)
    path, rosa = f"/v1/orders/{first_id_at(MARCH)}", by_operator("Rosa")
    first = (await services.mes.get(path)).headers["etag"]
    taken = await services.mes.post(f"{path}/take", headers={**rosa, "If-Match": first})
    assert taken.headers["etag"] != first
    # Repeated as it was, for its answer may have been lost.
    assert ok(await services.mes.post(f"{path}/take", headers={**rosa, "If-Match": first})) == ok(taken)
    done = {"to": "MANUFACTURING_COMPLETED"}
    steps = {"advance": done, "release": {"reason": "the furnace is broken"}, "hand-over": {"to": "Olga"}}

    async def refused(step: str) -> bool:
        stale = await services.mes.post(
            f"{path}/{step}", json=steps[step], headers={**rosa, "If-Match": first}
        )
        return (stale.status_code, stale.headers.get("etag")) == (412, taken.headers["etag"])

    assert await refused("advance")
    assert await refused("release")
    await until(partial(refused, "hand-over"))  # a process knows a new operator within a second or two
    advanced = await services.mes.post(
        f"{path}/advance", json=done, headers={**rosa, "If-Match": taken.headers["etag"]}
    )
    assert ok(advanced)["status"] == "MANUFACTURING_COMPLETED"
    shown = await services.mes.get(path, headers={"Causal-Token": advanced.headers["Causal-Token"]})
    assert shown.headers["etag"] == advanced.headers["etag"]


async def test_taking_again_changes_nothing(services: Services) -> None:
    await put_order(services, first_id_at(MARCH), Status.MANUFACTURING_APPROVED)
    order_id = str(first_id_at(MARCH))
    first = ok(await services.take(order_id))
    again = await services.take(order_id)
    assert ok(again) == first
    shown = await show(services, order_id, again)
    assert [line["status"] for line in shown["history"]].count("MANUFACTURING_STARTED") == 1


async def test_only_the_holder_advances_an_order(services: Services) -> None:
    await put_order(services, first_id_at(MARCH), Status.MANUFACTURING_APPROVED)
    order_id = str(first_id_at(MARCH))
    refused = problem(await services.advance(order_id, "REJECTED", reason="no gold left"), 409)
    assert "nobody has taken it" in refused["detail"]
    ok(await services.take(order_id, operator="Rosa"))
    refused = problem(await services.advance(order_id, "MANUFACTURING_COMPLETED", operator="Timo"), 409)
    assert (refused["operator"], refused["held_by"]) == ("Timo", "Rosa")
    refused = problem(await services.advance(order_id, "SHIPPED"), 409)
    assert (refused["current"], refused["wanted"]) == ("MANUFACTURING_STARTED", "SHIPPED")
    assert refused["order_id"] == order_id
    ok(await services.advance(order_id, "MANUFACTURING_COMPLETED"))


async def test_list_is_newest_first_over_all_shards(services: Services) -> None:
    ids = [first_id_at(MARCH) + number for number in range(25)]
    token = CausalToken()
    for order_id in ids:
        token = token.merge(await put_order(services, order_id, Status.MANUFACTURING_APPROVED))
    await put_order(services, first_id_at(APRIL), Status.SUBMITTED)
    assert {services.shards.shard_of(order_id) for order_id in ids} == {"mes_0", "mes_1"}
    headers = {"Causal-Token": token.encode()}
    listed: list[int] = []
    query: dict[str, Any] = {"status": "MANUFACTURING_APPROVED", "limit": 10}
    while True:
        page = ok(await services.mes.get("/v1/orders", params=query, headers=headers))
        listed += [int(order["order_id"]) for order in page["orders"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert listed == sorted(ids, reverse=True)


async def test_list_says_which_statuses_it_holds(services: Services) -> None:
    for status in ("CLOSED", "INITIATED"):
        refused = problem(await services.mes.get("/v1/orders", params={"status": status}), 422)
        assert f"{status} is not possible here, but SUBMITTED, PRICE_CALCULATED" in refused["detail"]
    problem(await services.mes.get("/v1/orders", params={"status": "LOST"}), 422)


async def test_the_list_reads_the_partial_index_whatever_the_plan_cache_does(services: Services) -> None:
    await put_order(services, first_id_at(MARCH), Status.SUBMITTED)
    async with services.shards.clusters["mes_0"].write() as session:
        for _ in range(8):  # psycopg prepares after 5, PostgreSQL may go generic after 5 more
            await session.execute(newest(Status.SUBMITTED).limit(50))
        compiled = (
            newest(Status.SUBMITTED)
            .limit(50)
            .compile(session.get_bind(), compile_kwargs={"literal_binds": True, "render_postcompile": True})
        )
        await session.execute(text("SET LOCAL enable_seqscan = off"))
        plan = (await session.scalars(text(f"EXPLAIN {compiled}"))).all()
    assert any("orders_hot_submitted_idx" in line for line in plan), plan


async def archive(session: WriteSession, order_id: int) -> None:
    """Move an order to the archive as the archive job does."""
    for live, archived in (
        (MesOrder, MesArchivedOrder),
        (MesOrderItem, MesArchivedOrderItem),
        (MesOrderEvent, MesArchivedOrderEvent),
    ):
        moved = delete(live).where(live.order_id == order_id).returning(*live.__table__.columns)
        rows = [dict(row) for row in (await session.execute(moved)).mappings()]
        if rows:
            await session.execute(insert(archived), rows)


async def add_month(topology: Topology, shard: str) -> None:
    """Make the archive partitions of March 2026."""
    bounds = f"FROM ({first_id_at(MARCH)}) TO ({first_id_at(APRIL)})"
    async with (
        open_cluster(topology, shard, role="mes_owner", application_name="test") as cluster,
        cluster.write() as session,
    ):
        for table in ("orders_archive", "order_items_archive", "order_events_archive"):
            await session.execute(
                text(f"CREATE TABLE {table}_2026_03 PARTITION OF {table} FOR VALUES {bounds}")
            )


async def archived(services: Services, topology: Topology) -> int:
    """Put a closed order into the archive; give its id."""
    order_id = first_id_at(MARCH) + 1
    await add_month(topology, services.shards.shard_of(order_id))
    await put_order(services, order_id, Status.CLOSED)
    async with services.shards.write(order_id) as session:
        await archive(session, order_id)
    return order_id


async def test_an_archived_order_is_shown_and_refuses_changes(services: Services, topology: Topology) -> None:
    order_id = await archived(services, topology)
    shown = await services.shows(services.mes, str(order_id), "CLOSED")
    assert shown["order_id"] == str(order_id)
    assert [line["status"] for line in shown["history"]] == ["CLOSED"]
    refused = problem(await services.take(str(order_id)), 409)
    assert (refused["current"], refused["wanted"]) == ("CLOSED", "MANUFACTURING_STARTED")


async def test_the_crm_hears_that_an_archived_order_is_not_called_off(
    services: Services, topology: Topology
) -> None:
    order_id = await archived(services, topology)
    await know_in_crm(topology, order_id, Status.MANUFACTURING_APPROVED)
    wish = {"reason": "too slow"}
    ok(await services.crm.post(f"/v1/orders/{order_id}/cancel", json=wish), 202)
    told = await eventually(
        lambda: services.crm.get(f"/v1/orders/{order_id}"),
        lambda answer: answer.json()["cancel_requested_at"] is None,
    )
    assert told["history"][-1]["detail"] == {"cancel_refused": "it is already CLOSED"}
    in_mes = await services.shows(services.mes, str(order_id), "CLOSED")
    assert in_mes["history"][-1]["detail"]["asked_by"] == "Sara"


async def test_a_decision_about_an_archived_order_is_set_aside(
    services: Services, topology: Topology
) -> None:
    order_id = await archived(services, topology)
    await know_in_crm(topology, order_id, Status.SHIPPED)
    ok(await services.crm.post(f"/v1/orders/{order_id}/close"))
    async with open_cluster(topology, "crm", role="crm", application_name="test") as crm:

        async def is_set_aside() -> bool:
            async with crm.read() as session:
                reason = await session.scalar(select(CrmOutbox.set_aside_reason))
            return reason is not None and "is CLOSED and cannot become CLOSED" in reason

        await until(is_set_aside)


async def know_in_crm(topology: Topology, order_id: int, status: Status) -> None:
    """Let the CRM know an order, behind the MES's back."""
    async with (
        open_cluster(topology, "crm", role="crm", application_name="test") as crm,
        crm.write() as session,
    ):
        order = CrmOrder(order_id=order_id, status=status, channel=Channel.B2B, summary="a ring")
        await add_order(session, CRM, order, actor="test", now=MARCH)
