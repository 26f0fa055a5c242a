"""A COMMIT whose answer is lost: the client hears what became of it, and a repetition changes nothing."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from httpx import AsyncClient, Response
from sqlalchemy import select
from structlog.testing import capture_logs

from app.crm.application import build as build_crm
from app.messaging.events import OrderApproved
from app.models.crm import CrmOrder, CrmOrderEvent, CrmOutbox
from app.models.status import Channel, Status
from app.orders import CRM, add_order
from app.shop.application import build as build_shop
from readreplica.cluster import Cluster
from readreplica.signing import TOKEN_HEADER
from readreplica.token import CausalToken
from readreplica.wal import UNKNOWN_SYSTEM
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.callers import by_seller
from tests.integration.commit_cutter import Cut, Cutter, cutter_to
from tests.integration.services_rig import START, client_of, fast_settings, new_key, ok, problem, save_map

ORDER_ID = 17
AT = datetime(2026, 3, 1, tzinfo=UTC)
APPROVE = f"/v1/orders/{ORDER_ID}/approve"


@dataclass
class Rig:
    """The Shop and the CRM behind one cutter each, and the CRM's database as it is."""

    shop: AsyncClient
    crm: AsyncClient
    to_shop: Cutter
    to_crm: Cutter
    orders: Cluster

    async def approve(self, actor: str = "Sara") -> Response:
        return await self.crm.post(APPROVE, headers=by_seller(actor))

    async def approvals(self) -> tuple[int, int]:
        """Count the lines of the history and the messages that tell of an approval."""
        approved = CrmOrderEvent.status == Status.MANUFACTURING_APPROVED
        async with self.orders.write() as session:
            lines = await session.scalars(select(CrmOrderEvent).where(approved))
            owed = await session.scalars(select(CrmOutbox).where(CrmOutbox.type == OrderApproved.type))
            return len(lines.all()), len(owed.all())


def behind(topology: Topology, **ports: int) -> Topology:
    """Write a topology in which the primaries of some databases are at other ports."""
    text = topology.path.read_text()
    for name, port in ports.items():
        head, section, rest = text.partition(f"[databases.{name}]")
        real = f"port = {topology.database(name).primary.port}"
        text = head + section + rest.replace(real, f"port = {port}", 1)
    path = topology.path.with_name("behind.toml")
    path.write_text(text)
    return Topology.load(path)


@pytest.fixture
async def rig(topology: Topology) -> AsyncIterator[Rig]:
    await save_map(topology)
    port = topology.database("crm").primary.port
    async with AsyncExitStack() as stack:
        to_shop = await stack.enter_async_context(cutter_to(port))
        to_crm = await stack.enter_async_context(cutter_to(port))
        orders = await stack.enter_async_context(
            open_cluster(topology, "crm", role="crm", application_name="test")
        )
        async with orders.write() as session:
            order = CrmOrder(
                order_id=ORDER_ID, status=Status.PRICE_CALCULATED, channel=Channel.B2B, summary="a ring"
            )
            await add_order(session, CRM, order, actor="test", now=AT)
        cut = behind(topology, shop=to_shop.port, crm=to_crm.port)
        settings = fast_settings(cut)
        shop = await stack.enter_async_context(client_of(build_shop(settings, cut)))
        crm = await stack.enter_async_context(client_of(build_crm(settings, cut)))
        yield Rig(shop, crm, to_shop, to_crm, orders)


async def test_what_was_committed_is_answered_as_done(rig: Rig) -> None:
    rig.to_crm.arm(Cut.AFTER, mark=b"Sara")
    with capture_logs() as logs:
        answer = await rig.approve()
    assert rig.to_crm.cuts == 1
    assert ok(answer)["status"] == "MANUFACTURING_APPROVED"
    assert [log["order_id"] for log in logs if log["event"] == "order_approved"] == [ORDER_ID]
    # A read after it is sure to see it.
    position = CausalToken.decode(answer.headers[TOKEN_HEADER]).positions["crm"]
    assert position.system_identifier != UNKNOWN_SYSTEM
    assert position.lsn > 0
    assert await rig.approvals() == (1, 1)


async def test_what_was_not_committed_is_told_and_may_be_repeated(rig: Rig) -> None:
    rig.to_crm.arm(Cut.BEFORE, mark=b"Sara")
    with capture_logs() as logs:
        answer = await rig.approve()
    assert rig.to_crm.cuts == 1
    assert "order_approved" not in {log["event"] for log in logs}
    refused = problem(answer, 503)
    assert refused["type"].endswith(":commit-lost")
    assert "nothing was written" in refused["detail"]
    assert answer.headers["Retry-After"] == "2"
    assert await rig.approvals() == (0, 0)
    assert ok(await rig.approve("Tom"))["status"] == "MANUFACTURING_APPROVED"
    assert await rig.approvals() == (1, 1)


async def test_what_nobody_can_tell_is_told_so_and_is_not_done_twice(rig: Rig) -> None:
    rig.to_crm.arm(Cut.FOR_GOOD, mark=b"Sara")
    answer = await rig.approve()
    refused = problem(answer, 503)
    assert refused["type"].endswith(":commit-in-doubt")
    assert answer.headers["Retry-After"] == "2"
    # Who looks for it is sent to the primary.
    token = CausalToken.decode(answer.headers[TOKEN_HEADER])
    assert token.positions["crm"].system_identifier == UNKNOWN_SYSTEM
    assert await rig.approvals() == (1, 1)

    rig.to_crm.is_open = True
    assert ok(await rig.approve())["status"] == "MANUFACTURING_APPROVED"
    assert await rig.approvals() == (1, 1)


async def test_an_order_whose_answer_was_lost_is_there_once(rig: Rig) -> None:
    for cut, status in ((Cut.AFTER, 201), (Cut.BEFORE, 503)):
        key = new_key()
        headers = {"Idempotency-Key": key}
        rig.to_shop.arm(cut, mark=key.encode())
        first = await rig.shop.post("/v1/orders", json=START, headers=headers)
        assert first.status_code == status, first.text
        again = await rig.shop.post("/v1/orders", json=START, headers=headers)
        assert again.status_code == (200 if status == 201 else 201)
    assert rig.to_shop.cuts == 2
