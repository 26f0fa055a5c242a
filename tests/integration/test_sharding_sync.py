"""The sharded sessions for threads; what they share with their source is tested there."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text, update

from app.models.mes import MesOrder
from ops.waiting import wait_until
from readreplica.freshness import PRIMARY
from readreplica.metrics import Reason
from readreplica.sync import ReadSession, WriteSession
from sharding.errors import BucketNotOwned, InvalidShardKey, OtherShard, WrongShard
from sharding.sync import ShardedSessions, open_sessions
from sharding.topology import Topology
from tests.integration.shards_rig import (
    EVEN,
    give,
    key_in,
    moved,
    new_order,
    orders_on,
    put_in_force,
    save,
    slow_directory,
)

OWN, BESIDE, FOREIGN = key_in(3), key_in(3, number=1), key_in(40)
DATABASE = text("SELECT current_database()")


@pytest.fixture
def sessions(topology: Topology) -> Iterator[ShardedSessions]:
    asyncio.run(put_in_force(topology))
    with open_sessions(topology, role="mes", application_name="test", poll_seconds=60.0) as sessions:
        yield sessions
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shard map")]


def adding(order_id: int) -> Callable[[WriteSession], str]:
    def work(session: WriteSession) -> str:
        session.add(new_order(order_id))
        session.flush()
        return str(session.scalar(DATABASE))

    return work


def test_a_key_is_written_and_read_on_its_shard(sessions: ShardedSessions, topology: Topology) -> None:
    for key in (OWN, FOREIGN):
        with sessions.write(key) as writer:
            writer.add(new_order(key))
        assert set(writer.token.positions) == {sessions.shard_of(key)}
        for autocommit in (False, True):
            with sessions.read(key, after=writer.token, autocommit=autocommit) as reader:
                assert reader.get_one(MesOrder, key).order_id == key
                dbname = topology.database(sessions.shard_of(key)).dbname
                assert reader.scalar(DATABASE) == dbname
        with sessions.read(key, freshness=PRIMARY) as reader:
            reader.get_one(MesOrder, key)
        assert reader.reason is Reason.PRIMARY

    def count(session: ReadSession) -> int:
        return len(session.scalars(select(MesOrder).where(MesOrder.order_id == OWN)).all())

    assert sessions.transact_read(OWN, count, freshness=PRIMARY) == 1


def test_what_names_another_shard_is_refused(sessions: ShardedSessions) -> None:
    with sessions.read(OWN) as reader, pytest.raises(OtherShard, match="second session"):
        reader.get(MesOrder, FOREIGN)
    with pytest.raises(OtherShard), sessions.write(OWN) as writer:
        writer.add_all([new_order(OWN), new_order(FOREIGN)])
    with pytest.raises(InvalidShardKey):
        sessions.read("1")  # type: ignore[arg-type]


def test_a_refused_unit_is_done_again_on_the_shard_of_the_newer_map(
    sessions: ShardedSessions, topology: Topology
) -> None:
    later = moved(EVEN, 3, "mes_1")
    give(topology, later, "mes_0", "mes_1")
    found: list[str] = []
    unit = threading.Thread(target=lambda: found.append(sessions.transact(BESIDE, adding(BESIDE)).value))
    unit.start()
    asyncio.run(save(topology, later))
    unit.join(60)
    assert found == [topology.database("mes_1").dbname]
    assert (orders_on(topology, "mes_0"), orders_on(topology, "mes_1")) == (set(), {BESIDE})


def test_an_update_that_finds_no_row_is_refused_once_the_bucket_has_gone(
    sessions: ShardedSessions, topology: Topology
) -> None:
    change = update(MesOrder).where(MesOrder.order_id == OWN).values(summary="bangle")
    with sessions.write(OWN) as writer:
        writer.execute(change)
    give(topology, moved(EVEN, 3, "mes_1"), "mes_0")
    with pytest.raises(BucketNotOwned), sessions.write(OWN) as writer:
        writer.execute(change)


def test_a_second_refusal_is_a_clear_error(sessions: ShardedSessions, topology: Topology) -> None:
    give(topology, moved(EVEN, 3, "mes_1"), "mes_0")
    sessions._map_wait_seconds = 0.1
    with pytest.raises(BucketNotOwned, match=f"mes_0 refused key {OWN}"):
        sessions.transact(OWN, adding(OWN))


def test_a_directory_that_does_not_answer_hides_no_refusal(
    sessions: ShardedSessions, topology: Topology
) -> None:
    give(topology, moved(EVEN, 3, "mes_1"), "mes_0")
    sessions._map_wait_seconds = 0.1
    found: list[BaseException] = []

    def unit() -> None:
        try:
            sessions.transact(OWN, adding(OWN))
        except BaseException as error:
            found.append(error)

    with slow_directory(topology, "shard_map_versions"):
        thread = threading.Thread(target=unit, daemon=True)
        thread.start()
        thread.join(20)
        assert [type(error) for error in found] == [BucketNotOwned]


def test_a_new_map_is_heard_of_and_a_session_keeps_its_shard(
    sessions: ShardedSessions, topology: Topology
) -> None:
    with sessions.read(OWN) as session:
        asyncio.run(save(topology, moved(EVEN, 3, "mes_1")))
        # Long before the next poll.
        assert wait_until(lambda: sessions.shard_map.version == 2, timeout_seconds=60)
        assert session.scalar(DATABASE) == topology.database("mes_0").dbname
    assert sessions.shard_of(OWN) == "mes_1"


def test_an_address_that_leads_to_another_shard_is_refused(topology: Topology, topology_path: Path) -> None:
    asyncio.run(save(topology, EVEN))
    names = [topology.database(shard).dbname for shard in ("mes_0", "mes_1")]
    words = topology_path.read_text().replace(names[1], "SECOND").replace(names[0], names[1])
    topology_path.write_text(words.replace("SECOND", names[0]))
    wrong = Topology.load(topology_path)
    with open_sessions(wrong, role="mes", application_name="test") as sessions:
        for ask in (sessions.read, sessions.write):
            with pytest.raises(WrongShard) as caught, ask(OWN) as session:
                session.get(MesOrder, OWN)
            assert (caught.value.expected, caught.value.found) == ("mes_0", "mes_1")
