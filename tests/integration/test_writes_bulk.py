"""Bulk writes over three shards: what is written, what is reported, and what is left when a shard fails."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table
from sqlalchemy.pool import NullPool

from app.models.mes import MesOrder, MesOrderEvent, MesOrderItem
from app.models.status import Channel, Status
from readreplica.cluster import Cluster
from readreplica.context import causality, follow_causality
from readreplica.engines import reader_engine, writer_engine
from readreplica.token import CausalToken
from readreplica.wal import UNKNOWN_SYSTEM
from sharding.ids import first_id_at
from sharding.keys import shard_key
from sharding.sessions import ShardedSessions
from sharding.shard_map import ShardMap
from sharding.writes import BulkReport, Mode, bulk
from sharding.writes.bulk import BulkFailed
from sharding.writes.errors import RowRefused, TargetRefused
from tests.integration.writes_rig import OWN, SHARDS, Wide

FIRST = first_id_at(datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def sessions(wide_sessions: ShardedSessions) -> ShardedSessions:
    return wide_sessions


def item(order_id: int, line_no: int = 1, **more: Any) -> dict[str, Any]:
    rest = {"material": "brass", "finish": "matte", "quantity": 1, "model_key": "k", "model_name": "ring.stl"}
    return {"order_id": order_id, "line_no": line_no, **rest, **more}


def items(number: int) -> Iterator[dict[str, Any]]:
    for index in range(number):
        yield item(FIRST + (index << 12))


def belongs(sessions: ShardedSessions, keys: list[int]) -> dict[str, list[int]]:
    return {shard: [key for key in keys if sessions.shard_of(key) == shard] for shard in SHARDS}


KEYS = [FIRST + (index << 12) for index in range(300)]


async def test_rows_come_to_the_shards_of_their_keys_and_are_counted(
    sessions: ShardedSessions, wide: Wide
) -> None:
    seen: list[int] = []
    report = await bulk(
        sessions, MesOrderItem, items(300), chunk_rows=40, progress=lambda told: seen.append(told.written)
    )
    assert wide.keys("order_items") == belongs(sessions, KEYS)
    for shard, keys in belongs(sessions, KEYS).items():
        told = report.shards[shard]
        assert (told.given, told.written, told.unwritten, told.skipped) == (len(keys), len(keys), 0, 0)
        assert told.chunks == -(-len(keys) // 40)
        assert told.seconds > 0
    assert report.is_complete
    assert seen[-1] == report.written == 300
    assert set(report.token.positions) == set(SHARDS)
    async with sessions.read(KEYS[0], after=report.token) as session:
        assert await session.get(MesOrderItem, (KEYS[0], 1)) is not None


async def test_objects_enums_json_and_defaults_go_through_copy(sessions: ShardedSessions, wide: Wide) -> None:
    async def objects() -> AsyncIterator[MesOrder]:
        for key in KEYS[:20]:
            yield MesOrder(
                order_id=key, status=Status.SUBMITTED, channel=Channel.B2C, summary='a "ring"\t\\N\nx'
            )

    await bulk(sessions, MesOrder, objects())
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    events = [
        MesOrderEvent(
            order_id=key, event_no=1, status=Status.SUBMITTED, at=at, actor="x", detail={"a": [1, None]}
        )
        for key in KEYS[:20]
    ]
    await bulk(sessions, MesOrderEvent, events)
    for key in KEYS[:20]:
        async with sessions.write(key) as session:
            order = await session.get_one(MesOrder, key)
            assert (order.status, order.channel, order.summary) == (
                Status.SUBMITTED,
                Channel.B2C,
                'a "ring"\t\\N\nx',
            )
            assert (order.version, order.price, order.created_at.year > 2000) == (1, None, True)
            event = await session.get_one(MesOrderEvent, (key, 1))
            assert (event.detail, event.at) == ({"a": [1, None]}, at)


async def test_the_same_again_writes_only_what_is_missing(sessions: ShardedSessions, wide: Wide) -> None:
    await bulk(sessions, MesOrderItem, items(100))
    report = await bulk(sessions, MesOrderItem, items(150), mode=Mode.INSERT_IGNORE, chunk_rows=30)
    assert (report.written, sum(each.skipped for each in report.shards.values())) == (50, 100)
    assert wide.keys("order_items") == belongs(sessions, KEYS[:150])


async def test_an_order_that_has_moved_on_is_not_inserted_again(
    sessions: ShardedSessions, wide: Wide
) -> None:
    orders = [
        {"order_id": key, "status": Status.SUBMITTED, "channel": Channel.B2B, "summary": "x"}
        for key in KEYS[:30]
    ]
    await bulk(sessions, MesOrder, orders)
    closed = [{"order_id": key, "status": Status.CLOSED} for key in KEYS[:10]]
    report = await bulk(sessions, MesOrder, closed, mode=Mode.UPDATE)
    assert report.written == 10
    report = await bulk(sessions, MesOrder, orders, mode=Mode.INSERT_IGNORE)
    assert (report.written, wide.keys("orders")) == (0, belongs(sessions, KEYS[:30]))
    found = wide.query("SELECT order_id, status, version FROM orders WHERE status = 'CLOSED'")
    # The optimistic lock has counted: whoever read the order before is refused.
    assert sorted(row for rows in found.values() for row in rows) == [(key, "CLOSED", 2) for key in KEYS[:10]]


async def test_an_update_sets_what_is_given_and_skips_what_is_not_there(sessions: ShardedSessions) -> None:
    await bulk(sessions, MesOrderItem, items(60))
    changes: list[dict[str, Any]] = [
        {"order_id": key, "line_no": 1, "quantity": 7}
        if index % 2
        else {"order_id": key, "line_no": 1, "material": "gold_18k", "quantity": 8}
        for index, key in enumerate(KEYS[:90])
    ]
    report = await bulk(sessions, MesOrderItem, changes, mode=Mode.UPDATE)
    assert (report.written, sum(each.skipped for each in report.shards.values())) == (60, 30)
    async with sessions.read(KEYS[0], after=report.token) as session:
        changed = await session.get_one(MesOrderItem, (KEYS[0], 1))
        assert (changed.material, changed.quantity, changed.finish) == ("gold_18k", 8, "matte")


async def test_rows_of_one_key_are_written_in_their_order_whatever_their_columns(
    sessions: ShardedSessions, wide: Wide
) -> None:
    key = KEYS[0]

    def quantities() -> list[tuple[Any, ...]]:
        return wide.query("SELECT quantity FROM order_items")[sessions.shard_of(key)]

    rows = [item(key, quantity=1), item(key, quantity=2, unit_price=5)]
    for given in (rows, rows[::-1]):  # one of them is against the order of the columns' names
        wide.run(sessions.shard_of(key), "TRUNCATE order_items")
        await bulk(sessions, MesOrderItem, given, mode=Mode.INSERT_IGNORE)
        assert quantities() == [(given[0]["quantity"],)]
    changes: list[dict[str, Any]] = [
        {"order_id": key, "line_no": 1, "quantity": 7},
        {"order_id": key, "line_no": 1, "material": "gold_18k", "quantity": 8},
    ]
    for given in (changes, changes[::-1]):
        await bulk(sessions, MesOrderItem, given, mode=Mode.UPDATE)
        assert quantities() == [(given[-1]["quantity"],)]


async def test_a_chunk_is_written_whole_or_not_at_all(sessions: ShardedSessions, wide: Wide) -> None:
    taken = next(key for key in KEYS[150:] if sessions.shard_of(key) == "mes_1")
    await bulk(sessions, MesOrderItem, [item(taken)])
    left: list[tuple[str, int]] = []
    report = await bulk(
        sessions,
        MesOrderItem,
        items(300),
        chunk_rows=25,
        on_failure="go-on",
        unwritten=lambda shard, rows: left.extend((shard, row["order_id"]) for row in rows),
    )
    told, own_keys = report.shards["mes_1"], belongs(sessions, KEYS)["mes_1"]
    (index,) = [number for number, key in enumerate(own_keys) if key == taken]
    failed = own_keys[index // 25 * 25 :][:25]
    assert (told.failed, told.written, told.unwritten_keys) == (
        25,
        len(own_keys) - 25,
        (failed[0], failed[-1]),
    )
    assert "order_items_pkey" in (told.first_error or "")
    assert left == [("mes_1", key) for key in failed]
    assert wide.keys("order_items")["mes_1"] == [key for key in own_keys if key not in failed or key == taken]
    again = await bulk(sessions, MesOrderItem, items(300), mode=Mode.INSERT_IGNORE)
    assert (again.written, wide.keys("order_items")) == (24, belongs(sessions, KEYS))


async def test_the_first_failure_stops_everything_and_the_error_has_the_report(
    sessions: ShardedSessions, wide: Wide
) -> None:
    await bulk(sessions, MesOrderItem, [item(KEYS[50])])
    read: list[int] = []

    def endless() -> Iterator[dict[str, Any]]:
        for index in count():
            read.append(index)
            yield item(FIRST + (index << 12))

    with pytest.raises(BulkFailed, match="insert-ignore") as caught:
        await bulk(sessions, MesOrderItem, endless(), chunk_rows=20)
    told = caught.value.report
    assert caught.value.__cause__ is not None
    assert sum(each.given for each in told.shards.values()) == len(read) - 1
    for each in told.shards.values():
        assert each.given == each.written + each.failed + each.not_tried
    assert told.written + 1 == sum(map(len, wide.keys("order_items").values()))


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"line_no": 1}, "it has no order_id"),
        ({"order_id": 5}, "it has no line_no"),
        ({"order_id": "5", "line_no": 1}, "'5' is no shard key"),
        ({"order_id": True, "line_no": 1}, "True is no shard key"),
        ({"order_id": 5, "line_no": 1, "colour": "red"}, "order_items has no column 'colour'"),
        (7, "it is a int, neither a mapping nor an object of order_items"),
        (MesOrder(order_id=5), "it is a MesOrder, neither a mapping nor an object of order_items"),
    ],
)
async def test_a_row_that_cannot_be_routed_is_refused(
    sessions: ShardedSessions, row: Any, fault: str
) -> None:
    with pytest.raises(BulkFailed) as caught:
        await bulk(sessions, MesOrderItem, [row])
    assert isinstance(caught.value.__cause__, RowRefused)
    assert fault in str(caught.value.__cause__)
    report = await bulk(sessions, MesOrderItem, [row, *items(3)], on_failure="go-on")
    assert (report.refused, report.written, report.is_complete) == (1, 3, False)


async def test_what_is_no_table_is_refused(sessions: ShardedSessions) -> None:
    for entity in (int, Status):
        with pytest.raises(TargetRefused):
            await bulk(sessions, entity, [])
    with pytest.raises(TargetRefused, match="declares the shard key 'order_id'"):
        await bulk(sessions, MesOrderItem, [], key="line_no")


@pytest.fixture
def parcels(wide: Wide) -> Iterator[None]:
    """A table without the guard, which would refuse what stands on a wrong shard."""
    columns = "parcel_no bigint, order_id bigint, weight int, PRIMARY KEY (parcel_no, order_id)"
    for shard in SHARDS:
        wide.run(shard, f"CREATE TABLE parcels ({columns}); GRANT ALL ON parcels TO mes")
    yield
    for shard in SHARDS:
        wide.run(shard, "DROP TABLE parcels")


@pytest.mark.usefixtures("parcels")
async def test_a_declared_key_places_the_rows_though_another_column_comes_first(
    sessions: ShardedSessions, wide: Wide
) -> None:
    keys = [Column(name, BigInteger, primary_key=True) for name in ("parcel_no", "order_id")]
    table = Table("parcels", MetaData(), *keys, Column("weight", Integer), info=shard_key("order_id"))
    rows = [{"parcel_no": number, "order_id": key} for number, key in enumerate(KEYS[:200])]
    assert (await bulk(sessions, table, rows)).written == 200
    assert wide.keys("parcels") == belongs(sessions, KEYS[:200])
    heavier = await bulk(sessions, table, [{**row, "weight": 7} for row in rows], mode=Mode.UPDATE)
    assert heavier.written == 200


async def test_an_update_that_sets_nothing_is_refused(sessions: ShardedSessions) -> None:
    with pytest.raises(BulkFailed) as caught:
        await bulk(sessions, MesOrderItem, [{"order_id": 5, "line_no": 1}], mode=Mode.UPDATE)
    assert "it sets nothing beside its key" in str(caught.value.__cause__)


async def test_a_value_of_a_wrong_type_fails_its_chunk_alone(sessions: ShardedSessions, wide: Wide) -> None:
    bad = item(KEYS[0], quantity="many")
    for mode in (Mode.INSERT, Mode.INSERT_IGNORE):
        report = await bulk(
            sessions, MesOrderItem, [bad, *list(items(20))[1:]], mode=mode, chunk_rows=1, on_failure="go-on"
        )
        assert sum(each.failed for each in report.shards.values()) == 1


async def test_an_input_that_breaks_is_the_callers_error(sessions: ShardedSessions, wide: Wide) -> None:
    def breaking() -> Iterator[dict[str, Any]]:
        yield from items(90)
        raise LookupError("the file ends here")

    with pytest.raises(LookupError, match="the file ends here"):
        await bulk(sessions, MesOrderItem, breaking(), chunk_rows=10)
    written = wide.keys("order_items")
    # What was handed over before is whole: chunks of ten, each there or not.
    assert all(len(keys) % 10 == 0 for keys in written.values())


async def test_memory_is_bounded_however_long_the_input(sessions: ShardedSessions) -> None:
    read = 0
    most = 0

    def many() -> Iterator[dict[str, Any]]:
        nonlocal read
        for row in items(3000):
            read += 1
            yield row

    def see(report: BulkReport) -> None:
        nonlocal most
        most = max(most, read - report.written)

    await bulk(sessions, MesOrderItem, many(), chunk_rows=50, progress=see)
    # Three chunks of each shard, and the row in hand.
    assert 0 < most <= 3 * 3 * 50 + 1


async def test_a_frozen_shard_is_named_and_the_others_finish(sessions: ShardedSessions, wide: Wide) -> None:
    await bulk(sessions, MesOrderItem, [item(key, 2) for key in KEYS])  # every shard is connected
    with wide.own.frozen():
        async with asyncio.timeout(30):
            report = await bulk(
                sessions,
                MesOrderItem,
                items(300),
                chunk_rows=20,
                chunk_timeout_seconds=3.0,
                on_failure="go-on",
            )
    told, expected = report.shards[OWN], belongs(sessions, KEYS)
    assert (told.written, told.is_out, told.unwritten) == (0, True, len(expected[OWN]))
    assert told.unwritten_keys == (expected[OWN][0], expected[OWN][-1])
    assert "did not answer within 3 s" in (told.first_error or "")
    for shard in ("mes_0", "mes_1"):
        assert report.shards[shard].written == len(expected[shard])
    ones = "(SELECT order_id FROM order_items WHERE line_no = 1) AS ones"
    assert wide.keys(ones)[OWN] == []  # awake again, and nothing half
    again = await bulk(sessions, MesOrderItem, items(300), mode=Mode.INSERT_IGNORE)
    assert (again.written, wide.keys(ones)) == (len(expected[OWN]), expected)


async def test_a_shard_that_is_stopped_midway_is_whole_chunks_and_the_rest_is_reported(
    sessions: ShardedSessions, wide: Wide
) -> None:
    stopped = False

    def stop(report: BulkReport) -> None:
        nonlocal stopped
        if not stopped and OWN in report.shards and report.shards[OWN].written >= 40:
            stopped = True
            wide.own.cluster.stop()

    report = await bulk(sessions, MesOrderItem, items(600), chunk_rows=20, on_failure="go-on", progress=stop)
    assert stopped
    told = report.shards[OWN]
    assert told.is_out
    assert told.given == told.written + told.unwritten
    wide.own.start()
    found = wide.keys("order_items")
    assert len(found[OWN]) in {told.written, told.written + told.in_doubt}
    for shard in ("mes_0", "mes_1"):
        assert len(found[shard]) == report.shards[shard].written == report.shards[shard].given
    again = await bulk(sessions, MesOrderItem, items(600), mode=Mode.INSERT_IGNORE)
    assert again.is_complete
    assert sum(map(len, wide.keys("order_items").values())) == 600


GUARD = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF hashint8(NEW.order_id) >= 0 THEN
            RAISE 'not mine' USING ERRCODE = 'MS001';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON order_items FOR EACH ROW EXECUTE FUNCTION refuse()
"""


@pytest.fixture
def guarded(wide: Wide) -> Iterator[Wide]:
    """The shard mes_0 refuses the upper half of the keys, in words of its own; the others refuse nothing."""
    with wide.own_everything():
        wide.run("mes_0", GUARD)
        yield wide
    wide.run("mes_0", "DROP FUNCTION refuse CASCADE")


class Moving:
    """Sessions whose map is old until it is loaded again: the upper half has moved from mes_0 to mes_1."""

    def __init__(self, sessions: ShardedSessions, *, after: tuple[str, ...]) -> None:
        self.clusters = sessions.clusters
        self.refreshed = 0
        self._map = ShardMap(1, ("mes_0",) * 64)
        self._after = ShardMap(2, after)

    @property
    def shard_map(self) -> ShardMap:
        return self._map

    def shard_of(self, key: int) -> str:
        return self._map.shard_of(key)

    async def refresh(self, _version: int) -> None:
        self.refreshed += 1
        self._map = self._after


@pytest.mark.parametrize("mode", [Mode.INSERT, Mode.INSERT_IGNORE])
async def test_what_a_shard_no_longer_owns_is_cut_anew_once(
    sessions: ShardedSessions, guarded: Wide, mode: Mode
) -> None:
    moving = Moving(sessions, after=("mes_0",) * 32 + ("mes_1",) * 32)
    report = await bulk(moving, MesOrderItem, items(200), mode=mode, chunk_rows=50, refresh=moving.refresh)
    expected = Counter(moving.shard_of(key) for key in KEYS[:200])
    assert {shard: len(keys) for shard, keys in guarded.keys("order_items").items()} == {
        "mes_0": expected["mes_0"],
        "mes_1": expected["mes_1"],
        "mes_2": 0,
    }
    assert moving.refreshed >= 1
    assert report.is_complete
    assert report.shards["mes_1"].rerouted > 0
    for shard in ("mes_0", "mes_1"):
        assert report.shards[shard].given == report.shards[shard].written == expected[shard]


async def test_a_shard_that_refuses_again_after_the_map_was_loaded_is_a_failure(
    sessions: ShardedSessions, guarded: Wide
) -> None:
    moving = Moving(sessions, after=("mes_0",) * 64)
    report = await bulk(
        moving, MesOrderItem, items(20), chunk_rows=50, refresh=moving.refresh, on_failure="go-on"
    )
    told = report.shards["mes_0"]
    assert (moving.refreshed, told.failed) == (1, 20)
    assert "not mine" in (told.first_error or "")


async def test_units_that_meet_are_repeated(sessions: ShardedSessions) -> None:
    """Two bulk updates of the same rows in opposite order deadlock now and then; both end."""
    await bulk(sessions, MesOrderItem, items(100))
    ahead = [{"order_id": key, "line_no": 1, "quantity": 2} for key in KEYS[:100]]
    reports = await asyncio.gather(
        *(bulk(sessions, MesOrderItem, rows, mode=Mode.UPDATE) for rows in (ahead, ahead[::-1], ahead))
    )
    assert [report.written for report in reports] == [100, 100, 100]


def test_report_for_programs_keeps_keys_as_text() -> None:
    report = BulkReport()
    report.of("mes_0").widen((2**62, 2**62 + 1))
    facts: Mapping[str, Any] = report.of("mes_0").as_facts()
    assert facts["unwritten_keys"] == [str(2**62), str(2**62 + 1)]


class Line:
    """A line to a shard that loses the answers to its first COMMITs."""

    def __init__(self, port: int, *, losses: int) -> None:
        self.losses = losses
        self._port = port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self._port)
        answers = asyncio.create_task(self._answer(upstream, writer))
        while data := await reader.read(65536):
            is_lost = b"COMMIT" in data and self.losses > 0
            if is_lost:
                self.losses -= 1
                answers.cancel()
                await asyncio.wait([answers])
            downstream.write(data)
            if is_lost:
                # The server has committed when it says so; nobody hears it.
                while b"COMMIT" not in await upstream.read(65536):
                    pass
                break
        answers.cancel()
        for end in (writer, downstream):
            end.close()

    async def _answer(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await upstream.read(65536):
            writer.write(data)


@pytest.mark.parametrize(
    ("mode", "losses", "expected"),
    [
        (Mode.INSERT, 1, {"written": 0, "in_doubt": 20}),
        (Mode.INSERT_IGNORE, 1, {"skipped": 20, "in_doubt": 0}),
        (Mode.INSERT_IGNORE, 2, {"written": 0, "in_doubt": 20, "failed": 0}),
    ],
)
async def test_a_commit_whose_answer_was_lost_is_repeated_or_in_doubt(
    wide: Wide, mode: Mode, losses: int, expected: dict[str, int]
) -> None:
    line = Line(wide.servers.primary_port, losses=losses)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    url = wide.topology.url("mes_0", role="mes").set(port=server.sockets[0].getsockname()[1])
    pool: dict[str, Any] = {"application_name": "test", "poolclass": NullPool}
    cluster = Cluster(
        "mes_0", primary=writer_engine(url, **pool), primary_reader=reader_engine(url, **pool), replicas={}
    )
    follow_causality(cluster)
    with wide.own_everything(), causality(CausalToken()) as here:
        async with server:
            try:
                report = await bulk(Alone(cluster), MesOrderItem, items(20), mode=mode, on_failure="go-on")
            finally:
                await cluster.close()
    told = report.shards["mes_0"]
    assert {name: getattr(told, name) for name in expected} == expected
    assert told.given == told.written + told.skipped + told.unwritten == 20
    assert len(wide.keys()["mes_0"]) == 20  # for the server had committed
    # Rows in doubt are looked for on the primary.
    is_known = here.gained.positions["mes_0"].system_identifier != UNKNOWN_SYSTEM
    assert is_known is (told.in_doubt == 0)


class Alone:
    """Sessions over one shard."""

    def __init__(self, cluster: Cluster) -> None:
        self.clusters = {"mes_0": cluster}
        self.shard_map = ShardMap(1, ("mes_0",))

    def shard_of(self, key: int) -> str:
        return "mes_0"
