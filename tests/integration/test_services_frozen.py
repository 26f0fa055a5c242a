"""A database that does not answer: requests end in time, and say what became of them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from httpx import AsyncClient, Response
from sqlalchemy import select

from app.crm.application import build as build_crm
from app.models.crm import CrmOrder, CrmOrderEvent
from app.models.status import Channel, Status
from app.orders import CRM, add_order
from app.settings import Settings
from readreplica.cluster import Cluster
from readreplica.signing import TOKEN_HEADER
from readreplica.token import CausalToken
from readreplica.wal import UNKNOWN_SYSTEM
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.callers import caller_of
from tests.integration.commit_cutter import Cut, cutter_to
from tests.integration.replicas_rig import frozen
from tests.integration.services_rig import client_of, eventually, fast_settings, ok, open_services, problem
from tests.integration.test_services_in_doubt import behind
from tests.servers import PostgresServers

pytestmark = pytest.mark.field
ORDER_ID = 17
APPROVE = f"/v1/orders/{ORDER_ID}/approve"
AT = datetime(2026, 3, 1, tzinfo=UTC)
QUICK: dict[str, Any] = {"request_seconds": 2.0, "statement_seconds": 1.0, "queue_seconds": 0.5}
IN_TIME = 6.0


def quick(topology: Topology) -> Settings:
    return fast_settings(topology).model_copy(update=QUICK)


@pytest_asyncio.fixture
async def orders(topology: Topology) -> AsyncIterator[Cluster]:
    """The CRM's database with an order that waits for approval."""
    async with open_cluster(topology, "crm", role="crm", application_name="test") as orders:
        async with orders.write() as session:
            order = CrmOrder(
                order_id=ORDER_ID, status=Status.PRICE_CALCULATED, channel=Channel.B2B, summary="a ring"
            )
            await add_order(session, CRM, order, actor="test", now=AT)
        yield orders


async def approvals(orders: Cluster) -> int:
    async with orders.write() as session:
        approved = CrmOrderEvent.status == Status.MANUFACTURING_APPROVED
        return len((await session.scalars(select(CrmOrderEvent).where(approved))).all())


async def approve(crm: AsyncClient) -> Response:
    return await crm.post(APPROVE)


async def test_a_frozen_primary_holds_up_no_request(
    topology: Topology, orders: Cluster, postgres: PostgresServers
) -> None:
    async with client_of(build_crm(quick(topology), topology)) as crm:
        ok(await crm.get(f"/v1/orders/{ORDER_ID}"))
        with frozen(postgres.primary):
            for _ in range(2):
                async with asyncio.timeout(2 * IN_TIME):
                    # More than the pool has connections.
                    answers = await asyncio.gather(
                        *(approve(crm) for _ in range(15)),
                        *(crm.get(f"/v1/orders/{ORDER_ID}") for _ in range(15)),
                    )
                for answer in answers:
                    refused = problem(answer, 503)
                    assert int(answer.headers["Retry-After"]) > 0
                    assert "nothing" in refused["detail"], refused
        await eventually(lambda: approve(crm), lambda answer: answer.status_code == 200)
    assert await approvals(orders) == 1


async def test_a_commit_that_is_not_answered_is_in_doubt_and_not_done_twice(
    topology: Topology, orders: Cluster
) -> None:
    async with cutter_to(topology.database("crm").primary.port) as cutter:
        cut = behind(topology, crm=cutter.port)
        async with client_of(build_crm(quick(cut), cut), auth=caller_of("crm")) as crm:
            cutter.arm(Cut.SILENT, mark=b"Sara")
            async with asyncio.timeout(IN_TIME):
                answer = await approve(crm)
            assert cutter.cuts == 1
            refused = problem(answer, 503)
            assert refused["type"].endswith(":commit-in-doubt")
            assert answer.headers["Retry-After"] == "2"
            token = CausalToken.decode(answer.headers[TOKEN_HEADER])
            assert token.positions["crm"].system_identifier == UNKNOWN_SYSTEM
            assert await approvals(orders) == 1
            assert ok(await approve(crm))["status"] == "MANUFACTURING_APPROVED"
    assert await approvals(orders) == 1


async def test_a_lock_that_another_holds_is_not_waited_for_long(topology: Topology, orders: Cluster) -> None:
    settings = quick(topology).model_copy(update={"request_seconds": IN_TIME})
    async with client_of(build_crm(settings, topology)) as crm:
        async with orders.write() as session:
            await session.execute(select(CrmOrder).where(CrmOrder.order_id == ORDER_ID).with_for_update())
            async with asyncio.timeout(2 * IN_TIME):
                answers = await asyncio.gather(*(approve(crm) for _ in range(15)))
            kinds = {problem(answer, 503)["title"] for answer in answers}
            assert kinds == {"Temporarily unavailable", "Overloaded"}
        assert ok(await approve(crm))["status"] == "MANUFACTURING_APPROVED"
    assert await approvals(orders) == 1


async def test_connections_that_are_all_taken_are_waited_for_a_moment(
    topology: Topology, orders: Cluster
) -> None:
    settings = quick(topology).model_copy(update={"statement_seconds": 30.0, "request_seconds": 30.0})
    async with client_of(build_crm(settings, topology)) as crm:
        async with orders.write() as session:
            await session.execute(select(CrmOrder).where(CrmOrder.order_id == ORDER_ID).with_for_update())
            waiting = [asyncio.create_task(approve(crm)) for _ in range(20)]
            done, rest = await asyncio.wait(waiting, timeout=IN_TIME)
            for answered in done:
                refused = problem(answered.result(), 503)
                assert refused["title"] == "Overloaded"
                assert int(answered.result().headers["Retry-After"]) > 0
            # The pool has ten, of which the relay may have one.
            assert 8 <= len(rest) <= 10
        for answered in rest:
            ok(await answered)
    assert await approvals(orders) == 1


async def test_one_request_too_many_is_refused_at_once(topology: Topology, orders: Cluster) -> None:
    patient = {"statement_seconds": 30.0, "request_seconds": 30.0, "queue_seconds": 30.0, "max_requests": 5}
    settings = fast_settings(topology).model_copy(update=patient)
    async with client_of(build_crm(settings, topology)) as crm:
        async with orders.write() as session:
            await session.execute(select(CrmOrder).where(CrmOrder.order_id == ORDER_ID).with_for_update())
            waiting = [asyncio.create_task(approve(crm)) for _ in range(30)]
            done, rest = await asyncio.wait(waiting, timeout=2.0)
            assert len(done) == 25
            for answered in done:
                assert problem(answered.result(), 503)["title"] == "Overloaded"
                assert answered.result().headers["Retry-After"] == "2"
            ok(await crm.get("/readyz"))
        for answered in rest:
            ok(await answered)
        ok(await crm.get(f"/v1/orders/{ORDER_ID}"))
    assert await approvals(orders) == 1


async def test_a_slow_upload_is_no_slow_request(topology: Topology) -> None:
    async with open_services(topology, request_seconds=0.5) as services:
        order_id = ok(await services.start(), 201)["order_id"]
        answer = await services.shop.put(
            f"/v1/orders/{order_id}/model",
            content=slowly(),
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
        assert ok(answer)["status"] == "FILE_UPLOADED"


async def slowly() -> AsyncIterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="ring.stl"\r\n\r\n'
    for _ in range(10):
        await asyncio.sleep(0.1)
        yield b"solid"
    yield b"\r\n--b--\r\n"
