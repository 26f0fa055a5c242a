"""The board's rows: whatever comes late, twice or out of order, they are as the services say."""

from collections.abc import AsyncIterator, Iterable
from itertools import count
from typing import Any

import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import func, select, update

from app.board.notices import NoticeSender, open_port
from app.board.projection import BoardChange, apply_snapshots
from app.board.repository import find_order, search
from app.models.board import BoardHistory, BoardNotice, BoardOrder, BoardSource
from app.models.status import Status
from readreplica.cluster import Cluster
from sharding.topology import Topology
from tests.callers import KEYS
from tests.integration.board_rig import CRM, LIFE, MES, SHOP, Said, life_of, open_board, shuffled
from tests.integration.services_rig import fast_settings
from tests.integration.webhook_receiver import receiving, status

_ids = count(1)


@pytest_asyncio.fixture(scope="module")
async def board(module_topology: Topology) -> AsyncIterator[Cluster]:
    async with open_board(module_topology) as cluster:
        yield cluster


async def show(board: Cluster, said: Iterable[Said], *, is_read: bool = False) -> int:
    order_id = next(_ids)
    for service, snapshot in said:
        async with board.write() as session:
            await apply_snapshots(session, service, {order_id: snapshot}, is_read=is_read)
    return order_id


async def rows(board: Cluster, order_id: int) -> list[list[dict[str, Any]]]:
    """Give all that stands there of an order, but for its id."""
    found = []
    async with board.write() as session:
        for model in (BoardOrder, BoardSource, BoardHistory):
            table: Any = model.__table__
            query = select(table).where(table.c.order_id == order_id).order_by(*table.primary_key.columns)
            lines = [dict(row._mapping) for row in await session.execute(query)]
            for line in lines:
                line.pop("order_id"), line.pop("words", None)
            found.append(lines)
    return found


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, len(LIFE)), refused=st.booleans())
async def test_any_order_of_snapshots_makes_the_same_rows(
    board: Cluster, seed: int, steps: int, refused: bool
) -> None:
    said = life_of(steps=steps, refused=refused)
    in_order, mixed = await show(board, said), await show(board, shuffled(said, seed=seed))
    expected = await rows(board, in_order)
    assert len(expected[0]) == 1
    assert await rows(board, mixed) == expected


async def test_the_mes_says_the_status_once_it_has_the_order(board: Cluster) -> None:
    order_id = await show(board, [each for each in life_of(steps=5) if each[0] is not MES])
    shown = (await rows(board, order_id))[0][0]
    assert (shown["status"], shown["mes_status"]) == (Status.MANUFACTURING_APPROVED, None)
    async with board.write() as session:
        late = next(snapshot for service, snapshot in life_of(steps=3) if service is MES)
        changes = await apply_snapshots(session, MES, {order_id: late})
    assert changes == {order_id: BoardChange(order_id, Status.MANUFACTURING_APPROVED, Status.SUBMITTED)}


async def test_what_is_known_changes_nothing(board: Cluster) -> None:
    said = life_of(steps=4)
    order_id = await show(board, said)
    async with board.write() as session:
        for service, snapshot in (said[0], said[-1]):
            assert await apply_snapshots(session, service, {order_id: snapshot}) == {}


async def test_what_was_read_mends_a_row_of_the_same_version(board: Cluster) -> None:
    said = life_of(steps=6)
    order_id = await show(board, said)
    expected = await rows(board, order_id)
    async with board.write() as session:
        order = await session.get_one(BoardOrder, order_id)
        order.operator, order.price = "Mallory", None
        source = await session.get_one(BoardSource, (order_id, MES.value))
        source.snapshot = {**source.snapshot, "operator": "Mallory"}
    newest = dict(said)
    for service in (SHOP, CRM, MES):
        async with board.write() as session:
            await apply_snapshots(session, service, {order_id: newest[service]}, is_read=True)
    assert await rows(board, order_id) == expected


async def test_an_order_has_one_time_line(board: Cluster) -> None:
    order_id = await show(board, shuffled(life_of(refused=True), seed=3))
    async with board.read() as session:
        found = await find_order(session, order_id)
    assert [entry.status for entry in found.timeline if entry.waited is not None] == list(LIFE[1:])
    submitted = found.timeline[2]
    assert (submitted.status, submitted.services) == (Status.SUBMITTED, (MES, CRM, SHOP))
    assert {entry.waited.total_seconds() for entry in found.timeline if entry.waited} == {3600.0}
    assert found.order.operator == "Rosa"
    assert found.order.shipped_at is not None
    assert found.order.cancel_refused_at is not None
    assert found.lines[0].model_name == "ring.stl"


async def test_an_order_is_found_by_the_beginning_of_its_words(board: Cluster) -> None:
    order_id = await show(board, life_of(steps=3))
    async with board.write() as session:
        for text in ("byr ada", "EXAMPLE.org", f"{order_id} ring", "ada@exam"):
            assert order_id in [each.order_id for each in (await search(session, text)).orders], text
        assert (await search(session, "byron zeppelin")).orders == []
        assert (await search(session, " '; & !")).orders == ()


async def test_a_program_of_ours_is_told_of_a_notice_until_it_takes_it(
    board: Cluster, module_topology: Topology
) -> None:
    order_id = next(_ids)
    async with receiving() as hook:
        async with board.write() as session:
            for service, snapshot in life_of(steps=4):
                await apply_snapshots(session, service, {order_id: snapshot}, is_written=True)
            # What is older than two days is sent no more.
            await session.execute(update(BoardNotice).values(at=func.now()))
        settings = fast_settings(module_topology).model_copy(update={"notice_url": SecretStr(hook.url())})
        async with open_port(settings) as port:
            assert port is not None
            sender = NoticeSender(
                orders=board, port=port, tokens=KEYS, link_base="https://w.test", language="ru"
            )
            hook.answer = status(503)
            assert await sender.send_next()
            # What is refused rests half a minute.
            assert not await sender.send_next()
            await board.transact(
                lambda session: session.execute(update(BoardNotice).values(next_at=func.now()))
            )
            hook.answer = status(202)
            assert await sender.send_next()
            assert not await sender.send_next()
    refused, taken = hook.received
    assert refused.headers["idempotency-key"] == taken.headers["idempotency-key"] == f"{order_id}-mes-2"
    assert refused.content == taken.content
    assert taken.content["text"].startswith("Цена вашего заказа: 412,50\xa0€")
    said = {name: taken.content[name] for name in ("kind", "order_id", "email", "name")}
    assert said == {
        "kind": "priced",
        "order_id": str(order_id),
        "email": "ada@example.org",
        "name": "Ada Byron",
    }
    assert f"https://w.test/my/{order_id}#ey" in taken.content["text"]
