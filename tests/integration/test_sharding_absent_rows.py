"""An UPDATE that finds no row, and a DELETE: a writer with an old map is refused, and not just told 0."""

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, tuple_, update

from app.models.mes import MesBase, MesOrder, MesOrderItem
from readreplica.sessions import WriteSession
from sharding.errors import BucketNotOwned
from sharding.ownership import Ownership, ownership_statements
from sharding.sessions import ShardedSessions
from sharding.shard_map import ShardMap, bucket_of
from sharding.topology import Topology
from sharding.writes import Decisions
from sharding.writes.errors import UnitRefused
from tests.integration.shards_rig import (
    EVEN,
    as_owner,
    give,
    key_in,
    moved,
    new_order,
    save,
)
from tests.project import GUARDED

ITEMS = MesBase.metadata.tables["order_items"]
LOST = 3
"""The bucket that mes_0 loses."""

OWN, GONE, BESIDE = key_in(5), key_in(LOST), key_in(LOST, number=1)
LINE = tuple_(MesOrderItem.line_no, MesOrderItem.order_id)
REST = {"line_no": 1, "material": "brass", "finish": "matte", "model_key": "k", "model_name": "ring.stl"}
PLACEHOLDER = select(ITEMS).where(ITEMS.c.order_id == GONE)


FINDS_NOTHING: dict[str, Any] = {
    "update": update(MesOrder).where(MesOrder.order_id == GONE).values(summary="x"),
    "update returning": update(MesOrder)
    .where(MesOrder.order_id == GONE)
    .values(summary="x")
    .returning(MesOrder.order_id),
    "delete": delete(MesOrder).where(MesOrder.order_id == GONE),
    "delete of a list": delete(MesOrderItem).where(MesOrderItem.order_id.in_([GONE, BESIDE])),
    "delete of tuples": delete(MesOrderItem).where(LINE.in_([(1, GONE)])),
    "insert of nothing": insert(ITEMS).from_select(ITEMS.columns.keys(), PLACEHOLDER),
    "text": text(f"UPDATE orders SET summary = 'x' WHERE order_id = {GONE}"),
    "text that deletes": text(f"/* hello */ DELETE FROM orders WHERE order_id = {GONE}"),
}


@pytest.mark.parametrize("what", FINDS_NOTHING)
async def test_what_finds_no_row_is_refused_once_the_bucket_has_gone(
    sessions: ShardedSessions, topology: Topology, what: str
) -> None:
    async with sessions.write(GONE) as session:
        await session.execute(FINDS_NOTHING[what])  # it is owned, and there is no row
    later = moved(EVEN, LOST, "mes_1")
    give(topology, later, "mes_0", "mes_1")
    with pytest.raises(BucketNotOwned, match="mes_0 refused key") as caught:
        async with ShardedSessions(EVEN, sessions.clusters).write(GONE) as session:
            await session.execute(FINDS_NOTHING[what])
    assert (caught.value.bucket, caught.value.map_version) == (LOST, 2)


async def test_it_need_not_be_asked(sessions: ShardedSessions, topology: Topology) -> None:
    give(topology, moved(EVEN, LOST, "mes_1"), "mes_0", "mes_1")
    async with ShardedSessions(EVEN, sessions.clusters, verify_missing_rows=False).write(GONE) as session:
        await session.execute(FINDS_NOTHING["delete"])


async def test_of_many_updates_at_once_one_that_finds_no_row_is_refused(
    sessions: ShardedSessions, topology: Topology
) -> None:
    old = ShardedSessions(EVEN, sessions.clusters)
    async with old.write(OWN) as session:
        session.add(new_order(OWN))
    give(topology, moved(EVEN, LOST, "mes_1"), "mes_0", "mes_1")
    table = MesBase.metadata.tables["orders"]
    many = update(table).where(table.c.order_id == bindparam("id")).values(summary="x")
    async with old.write(OWN) as session:
        connection = await session.connection()
        await connection.execute(many, [{"id": OWN}, {"id": OWN}])
        with pytest.raises(BucketNotOwned, match=f"mes_0 refused key {GONE}"):
            await connection.execute(many, [{"id": OWN}, {"id": GONE}])
        await session.rollback()


async def test_an_object_that_is_not_found_any_more_is_refused_and_not_stale(
    sessions: ShardedSessions, topology: Topology
) -> None:
    old = ShardedSessions(EVEN, sessions.clusters)
    async with old.write(GONE) as session:
        order = new_order(GONE)
        session.add(order)
    give(topology, moved(EVEN, LOST, "mes_1"), "mes_0", "mes_1")
    with as_owner(topology, "mes_0") as connection:
        connection.execute(delete(MesOrder))
        connection.commit()
    with pytest.raises(BucketNotOwned):
        async with old.write(GONE) as session:
            (await session.merge(order, load=False)).summary = "bangle"
    with pytest.raises(BucketNotOwned):
        async with old.write(GONE) as session:
            await session.delete(await session.merge(order, load=False))


async def test_a_delete_that_still_finds_its_row_is_refused(
    sessions: ShardedSessions, topology: Topology
) -> None:
    """Or a row that was copied to the other shard already would come back."""
    old = ShardedSessions(EVEN, sessions.clusters)
    async with old.write(GONE) as session:
        session.add(new_order(GONE))
    give(topology, moved(EVEN, LOST, "mes_1"), "mes_0")
    with pytest.raises(BucketNotOwned):
        async with old.write(GONE) as session:
            await session.execute(delete(MesOrder).where(MesOrder.order_id == GONE))
    with as_owner(topology, "mes_0") as connection:
        assert connection.scalar(select(func.count()).select_from(MesOrder)) == 1


async def test_it_is_done_again_on_the_shard_of_the_newer_map(
    sessions: ShardedSessions, topology: Topology
) -> None:
    async def deleted(session: WriteSession) -> int:
        found = await session.execute(delete(MesOrder).where(MesOrder.order_id == GONE))
        return int(found.rowcount)  # type: ignore[attr-defined]

    later = moved(EVEN, LOST, "mes_1")
    give(topology, later, "mes_0", "mes_1")
    async with ShardedSessions(later, sessions.clusters).write(GONE) as session:
        session.add(new_order(GONE))
    unit = asyncio.create_task(sessions.transact(GONE, deleted))
    await save(topology, later)
    assert (await unit).value == 1


async def test_a_snapshot_of_while_the_bucket_was_away_is_refused_when_it_is_back(
    sessions: ShardedSessions, topology: Topology
) -> None:
    away = moved(EVEN, LOST, "mes_1")
    give(topology, away, "mes_0", "mes_1")
    async with ShardedSessions(EVEN, sessions.clusters).write(GONE) as session:
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        assert await session.get(MesOrder, OWN) is None
        give(topology, moved(away, LOST, "mes_0"), "mes_1", "mes_0")
        async with sessions.write(GONE) as other:
            other.add(new_order(GONE))
        with pytest.raises(BucketNotOwned):
            await session.execute(update(MesOrder).where(MesOrder.order_id == GONE).values(summary="x"))
        await session.rollback()


async def test_a_two_phase_unit_is_refused(sessions: ShardedSessions, topology: Topology) -> None:
    give(topology, moved(EVEN, LOST, "mes_1"), "mes_0", "mes_1")
    old = ShardedSessions(EVEN, sessions.clusters, map_wait_seconds=0.1)
    decisions = Decisions(sessions.clusters["mes_0"].primary, "mes")
    with pytest.raises(UnitRefused):
        async with old.two_phase([GONE, key_in(40)], decisions=decisions, label="test") as unit:
            await unit.session(GONE).execute(delete(MesOrder).where(MesOrder.order_id == GONE))


KEYS = [key_in(LOST, number=number) for number in range(6)]


async def test_writers_with_old_maps_find_their_row_or_are_refused(
    sessions: ShardedSessions, topology: Topology
) -> None:
    """The bucket goes away and comes back three times, with its rows."""
    old = ShardedSessions(EVEN, sessions.clusters)
    seen: Counter[str] = Counter()
    written: Counter[int] = Counter()
    stop = asyncio.Event()
    for key in KEYS:
        async with old.write(key) as session:
            await session.execute(insert(ITEMS).values(order_id=key, quantity=1, **REST))

    async def write(key: int) -> None:
        more = update(ITEMS).where(ITEMS.c.order_id == key).values(quantity=ITEMS.c.quantity + 1)
        while not stop.is_set():
            try:
                async with old.write(key) as session:
                    found: Any = await session.execute(more)
                    assert found.rowcount == 1
                written[key] += 1
                async with old.write(key) as session:
                    gone: Any = await session.execute(delete(ITEMS).where(ITEMS.c.order_id == key))
                    assert gone.rowcount == 1
                    again = insert(ITEMS).values(order_id=key, quantity=written[key] + 1, **REST)
                    await session.execute(again)
                seen["done"] += 1
            except BucketNotOwned:
                seen["refused"] += 1

    async def until_more(*names: str) -> None:
        before = seen.copy()
        async with asyncio.timeout(60):
            while any(seen[name] < before[name] + 12 for name in names):  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.01)

    writers = [asyncio.create_task(write(key)) for key in KEYS]
    shard_map = EVEN
    try:
        for _ in range(3):
            await until_more("done")
            for source, target in pairwise(("mes_0", "mes_1", "mes_0")):
                shard_map = moved(shard_map, LOST, target)
                await asyncio.to_thread(hand_over, topology, shard_map, source, target)
                await until_more("refused" if target == "mes_1" else "done")
    finally:
        stop.set()
        await asyncio.gather(*writers)
    with as_owner(topology, "mes_0") as connection:
        rows = connection.execute(select(ITEMS.c.order_id, ITEMS.c.quantity))
        assert {row.order_id: row.quantity for row in rows} == {key: written[key] + 1 for key in KEYS}


def hand_over(topology: Topology, shard_map: ShardMap, source: str, target: str) -> None:
    """Move the bucket. Who gets it is told in the transaction that brings the rows: never the one alone."""
    give(topology, shard_map, source)
    with as_owner(topology, source) as here, as_owner(topology, target) as there:
        rows = [dict(row) for row in here.execute(select(ITEMS)).mappings()]
        rows = [row for row in rows if bucket_of(row["order_id"], 64) == LOST]
        tell_with(there, Ownership.of(shard_map, target), rows)
        here.execute(delete(ITEMS).where(ITEMS.c.order_id.in_([row["order_id"] for row in rows])))
        here.commit()


def tell_with(connection: Connection, told: Ownership, rows: list[dict[str, Any]]) -> None:
    for statement in ownership_statements(told, GUARDED, lock_timeout_ms=10_000):
        connection.exec_driver_sql(statement)
    connection.execute(insert(ITEMS), rows)
    connection.commit()
