"""A unit of work stays on its shard, goes where its bucket has gone, and finds the right database."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import bindparam, delete, func, insert, literal, select, text, tuple_, update
from sqlalchemy.orm import aliased

from app.models.mes import MesOrder, MesOrderItem
from app.models.status import Channel, Status
from readreplica.sessions import WriteSession
from sharding.errors import BucketNotOwned, InvalidShardKey, OtherShard, ShardUnnamed, WrongShard
from sharding.schema import SHARD
from sharding.sessions import ShardedSessions, open_sessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.integration.shards_rig import (
    EVEN,
    as_owner,
    give,
    guarded_sessions,
    key_in,
    moved,
    new_order,
    orders_on,
    save,
    slow_directory,
)
from tests.servers import PostgresServers

OWN, BESIDE, FOREIGN = key_in(3), key_in(3, number=1), key_in(40)
ROW = {"status": Status.SUBMITTED, "channel": Channel.B2C, "summary": "ring", "version": 1}
other = aliased(MesOrder)
SHARD_NAME = SHARD.tables["shard_identity"].c.shard
LINE = tuple_(MesOrderItem.order_id, MesOrderItem.line_no)
Until = Callable[[], bool]


async def until(condition: Until, *, seconds: float = 30.0) -> None:
    """Wait for a condition, which the running loop itself brings about."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (nobody tells of it)
            await asyncio.sleep(0.01)


NAMES_FOREIGN: dict[str, Any] = {
    "equal": select(MesOrder).where(MesOrder.order_id == FOREIGN),
    "in a list": select(MesOrder.status).where(MesOrder.order_id.in_([OWN, FOREIGN])),
    "on the right": select(MesOrder).where(literal(FOREIGN) == MesOrder.order_id),
    "not distinct": select(MesOrder).where(MesOrder.order_id.is_not_distinct_from(FOREIGN)),
    "in a list of expressions": select(MesOrder).where(MesOrder.order_id.in_([literal(OWN), FOREIGN])),
    "in a list of tuples": select(MesOrderItem).where(LINE.in_([(OWN, 1), (FOREIGN, 1)])),
    "second in tuples": delete(MesOrderItem).where(
        tuple_(MesOrderItem.line_no, MesOrderItem.order_id).in_([(1, OWN), (1, FOREIGN)])
    ),
    "in a list of tuples of expressions": select(MesOrderItem).where(
        LINE.in_([(OWN, 1), tuple_(literal(FOREIGN), 1)])
    ),
    "a tuple": update(MesOrderItem).where(LINE == (FOREIGN, 1)).values(material="x"),
    "of an alias": select(other).where(other.order_id == FOREIGN),
    "of the table": select(MesOrder.__table__).where(MesOrder.__table__.c.order_id == FOREIGN),
    "in a subquery": select(MesOrder).where(
        MesOrder.order_id.in_(select(MesOrderItem.order_id).where(MesOrderItem.order_id == FOREIGN))
    ),
    "inserted": insert(MesOrder).values(order_id=FOREIGN, **ROW),
    "inserted with others": insert(MesOrder).values([{"order_id": key, **ROW} for key in (OWN, FOREIGN)]),
    "updated": update(MesOrder).where(MesOrder.order_id == FOREIGN).values(summary="x"),
    "deleted": delete(MesOrder).where(MesOrder.order_id == FOREIGN),
}


async def test_a_statement_that_names_a_key_of_another_shard_is_refused(sessions: ShardedSessions) -> None:
    for what, statement in NAMES_FOREIGN.items():
        # Twice: the second time the compiled form comes from the cache.
        for _ in range(2):
            async with sessions.write(OWN) as session:
                with pytest.raises(OtherShard) as caught:
                    await session.execute(statement)
                assert (caught.value.key, caught.value.shard) == (OWN, "mes_0"), what
                assert (caught.value.other_key, caught.value.other_shard) == (FOREIGN, "mes_1"), what
                await session.rollback()
    for words in (f"key {OWN}", f"{FOREIGN} is on shard mes_1", "second session", "sessions.scatter"):
        assert words in str(caught.value)


async def test_getting_and_flushing_an_object_of_another_shard_is_refused(sessions: ShardedSessions) -> None:
    async with sessions.read(OWN) as reader:
        for get in (reader.get, reader.get_one):
            with pytest.raises(OtherShard):
                await get(MesOrder, FOREIGN)
    with pytest.raises(OtherShard, match="orders"):
        async with sessions.write(OWN) as writer:
            writer.add_all([new_order(OWN), new_order(FOREIGN)])
    with pytest.raises(OtherShard):
        async with sessions.write(OWN) as writer:
            await writer.execute(insert(MesOrder), [{"order_id": key, **ROW} for key in (OWN, FOREIGN)])
    with pytest.raises(InvalidShardKey):
        async with sessions.write(OWN) as writer:
            await writer.execute(select(MesOrder).where(MesOrder.order_id == bindparam("id")), {"id": "1"})


async def test_what_names_no_other_shard_passes(sessions: ShardedSessions) -> None:
    async with sessions.write(OWN) as writer:
        writer.add_all([new_order(OWN), new_order(BESIDE)])
    async with sessions.write(OWN) as session:
        assert await session.get(MesOrder, BESIDE) is not None
        found = await session.scalars(
            select(MesOrder).where(MesOrder.order_id > 0, MesOrder.order_id != FOREIGN)
        )
        assert len(found.all()) == 2
        # 2 as a key would be one of the other shard's; as a line number or a function's argument it is none.
        lines = select(MesOrderItem).where(
            LINE.in_([(OWN, 1), (BESIDE, 2)]), MesOrderItem.order_id != func.abs(2)
        )
        assert sessions.shard_of(2) == "mes_1"
        assert (await session.scalars(lines)).all() == []
        computed = select(MesOrder).where(MesOrder.order_id == func.coalesce(2, OWN))
        assert (await session.scalars(computed)).all() == []
        assert await session.scalar(select(SHARD_NAME)) == "mes_0"
        assert (
            await session.scalar(text("SELECT count(*) FROM orders WHERE order_id = :id"), {"id": FOREIGN})
            == 0
        )
    async with sessions.clusters["mes_0"].read() as free:
        assert await free.get(MesOrder, FOREIGN) is None


def adding(order_id: int) -> Callable[[WriteSession], Any]:
    async def work(session: WriteSession) -> str:
        session.add(new_order(order_id))
        await session.flush()
        return str(await session.scalar(select(SHARD_NAME)))

    return work


async def test_a_refused_unit_is_done_again_on_the_shard_of_the_newer_map(
    sessions: ShardedSessions, topology: Topology
) -> None:
    assert (await sessions.transact(OWN, adding(OWN))).value == "mes_0"
    later = moved(EVEN, 3, "mes_1")
    give(topology, later, "mes_0", "mes_1")
    # The directory is told last; a unit that is refused in between waits for it.
    unit = asyncio.create_task(sessions.transact(BESIDE, adding(BESIDE)))
    await save(topology, later)
    assert (await unit).value == "mes_1"
    assert sessions.shard_map == later
    assert (orders_on(topology, "mes_0"), orders_on(topology, "mes_1")) == ({OWN}, {BESIDE})


async def test_a_second_refusal_is_a_clear_error(sessions: ShardedSessions, topology: Topology) -> None:
    give(topology, moved(EVEN, 3, "mes_1"), "mes_0")
    sessions._map_wait_seconds = 0.1
    runs = []

    async def work(session: WriteSession) -> None:
        runs.append(1)
        session.add(new_order(OWN))

    with pytest.raises(BucketNotOwned, match=f"mes_0 refused key {OWN}: .* does not own bucket 3; .* again"):
        await sessions.transact(OWN, work)
    assert len(runs) == 2


async def test_a_directory_that_does_not_answer_hides_no_refusal(
    sessions: ShardedSessions, topology: Topology
) -> None:
    give(topology, moved(EVEN, 3, "mes_1"), "mes_0")
    sessions._map_wait_seconds = 0.1
    with slow_directory(topology, "shard_map_versions"):
        # Far longer than it takes, and without an end if nobody watched the clock.
        async with asyncio.timeout(20):
            with pytest.raises(BucketNotOwned):
                await sessions.transact(OWN, adding(OWN))


@pytest.mark.parametrize("spoil", ["DELETE FROM", "UPDATE"])
async def test_a_directory_without_a_map_hides_no_refusal(
    sessions: ShardedSessions, topology: Topology, postgres: PostgresServers, spoil: str
) -> None:
    give(topology, moved(EVEN, 3, "mes_1"), "mes_0")
    sessions._map_wait_seconds = 0.1
    change = f"{spoil} shard_map_versions" + (" SET owners = 'a,b,c'" if spoil == "UPDATE" else "")
    with psycopg.connect(postgres.conninfo(topology.database("directory").dbname)) as directory:
        directory.execute(change)
    with pytest.raises(BucketNotOwned):
        await sessions.transact(OWN, adding(OWN))


async def test_a_refused_block_has_the_map_read_again(sessions: ShardedSessions, topology: Topology) -> None:
    later = moved(EVEN, 3, "mes_1")
    give(topology, later, "mes_0", "mes_1")
    old = ShardedSessions(EVEN, sessions.clusters)
    with pytest.raises(BucketNotOwned, match="run the unit of work again"):
        async with old.write(OWN) as session:
            session.add(new_order(OWN))
    assert old.map_wanted.is_set()


async def test_a_new_map_is_heard_of_and_a_session_keeps_its_shard(
    sessions: ShardedSessions, topology: Topology
) -> None:
    await sessions.transact(OWN, adding(OWN))
    async with sessions.read(OWN) as session:
        assert session.node is None
        await save(topology, moved(EVEN, 3, "mes_1"))
        await until(lambda: sessions.shard_map.version == 2)  # long before the next poll
        assert await session.scalar(select(SHARD_NAME)) == "mes_0"
        await session.get(MesOrder, OWN)
    assert sessions.shard_of(OWN) == "mes_1"


async def test_a_map_that_cannot_be_right_is_refused_loudly(
    sessions: ShardedSessions, topology: Topology, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = [
        (ShardMap.even(["mes_0", "mes_7"], 64, version=2), "names the shard 'mes_7'"),
        (ShardMap.even(["mes_0", "mes_1"], 128, version=2), "has 128 buckets"),
        (ShardMap(1, tuple(reversed(EVEN.owners))), "must follow version 1"),
    ]
    for shard_map, why in wrong:
        caplog.clear()
        assert not sessions.use(shard_map)
        assert not sessions.use(shard_map)
        [line] = [record for record in caplog.records if record.levelname == "ERROR"]
        assert why in vars(line)["why"]
    assert sessions.shard_map == EVEN


async def test_without_the_directory_it_goes_on_and_hears_of_what_it_missed(
    topology: Topology, postgres: PostgresServers
) -> None:
    async with guarded_sessions(topology, poll_seconds=0.2) as sessions:
        dbname = topology.database("directory").dbname
        with postgres.primary.connect() as server:
            server.execute(f"ALTER DATABASE {dbname} ALLOW_CONNECTIONS false")
            server.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [dbname]
            )
            await sessions.transact(OWN, adding(OWN))
            server.execute(f"ALTER DATABASE {dbname} ALLOW_CONNECTIONS true")
        with psycopg.connect(postgres.conninfo(dbname), autocommit=True) as directory:
            owners = ",".join(moved(EVEN, 3, "mes_1").owners)
            # Written by hand: nobody is notified, and polling finds it.
            directory.execute(
                "INSERT INTO shard_map_versions (tree, version, owners) VALUES ('mes', 2, %s)", [owners]
            )
        await until(lambda: sessions.shard_map.version == 2)


def with_shards_swapped(path: Path, first: str, second: str) -> Topology:
    text = path.read_text().replace(second, "SECOND").replace(first, second)
    path.write_text(text.replace("SECOND", first))
    return Topology.load(path)


async def test_an_address_that_leads_to_another_shard_is_refused(
    topology: Topology, topology_path: Path
) -> None:
    await save(topology, EVEN)
    names = {shard: topology.database(shard).dbname for shard in ("mes_0", "mes_1")}
    wrong = with_shards_swapped(topology_path, *names.values())
    async with open_sessions(wrong, role="mes", application_name="test") as sessions:
        for ask in (sessions.read(OWN), sessions.write(OWN)):
            with pytest.raises(WrongShard) as caught:
                async with ask as session:
                    await session.get(MesOrder, OWN)
            assert (caught.value.expected, caught.value.found) == ("mes_0", "mes_1")
            assert names["mes_1"] in caught.value.address


async def test_a_shard_that_was_never_named_is_refused(topology: Topology) -> None:
    await save(topology, EVEN)
    with as_owner(topology, "mes_0") as connection:
        connection.execute(text("DELETE FROM shard_identity"))
        connection.commit()
    async with open_sessions(topology, role="mes", application_name="test") as sessions:
        with pytest.raises(ShardUnnamed, match="its shard_identity has no row"):
            async with sessions.write(OWN) as session:
                await session.get(MesOrder, OWN)
