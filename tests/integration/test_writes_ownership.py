"""Buckets change their shard in the middle of a write over shards: nothing is misplaced, and nothing lost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, text

from app.models.mes import MesBase, MesOrder, MesOrderItem
from ops.shard_guard import check_shards
from sharding.engines import open_cluster
from sharding.errors import OtherShard
from sharding.sessions import ShardedSessions, open_sessions
from sharding.shard_map import ShardMap, bucket_of
from sharding.topology import Topology
from sharding.writes import BulkReport, Decisions, Mode
from sharding.writes.errors import UnitRefused
from tests.integration.shards_rig import (
    EVEN,
    FIRST,
    as_owner,
    give,
    key_in,
    moved,
    new_order,
    orders_on,
    save,
)
from tests.project import MES

ITEMS = MesBase.metadata.tables["order_items"]
LOST = 3
"""The bucket that mes_0 loses."""

KEYS = [FIRST + (index << 12) for index in range(400)]
OTHERS = [key for key in KEYS if bucket_of(key, 64) != LOST][:200]
STRAY = key_in(LOST)


def item(order_id: int, quantity: int = 1) -> dict[str, Any]:
    rest = {"line_no": 1, "material": "brass", "finish": "matte", "model_key": "k", "model_name": "ring.stl"}
    return {"order_id": order_id, "quantity": quantity, **rest}


def held(topology: Topology) -> dict[str, dict[int, int]]:
    """The items of each shard: quantities by key."""
    found = {}
    for shard in topology.databases_of("mes"):
        with as_owner(topology, shard) as connection:
            rows = connection.execute(select(ITEMS.c.order_id, ITEMS.c.quantity))
            found[shard] = {row.order_id: row.quantity for row in rows}
    return found


def carry(topology: Topology, bucket: int, source: str, target: str) -> None:
    """Bring the items of a bucket to the shard that owns it now."""
    with as_owner(topology, source) as here, as_owner(topology, target) as there:
        every = map(dict, here.execute(select(ITEMS)).mappings())
        rows = [row for row in every if bucket_of(row["order_id"], 64) == bucket]
        if rows:
            there.execute(insert(ITEMS), rows)
            there.commit()
            here.execute(delete(ITEMS).where(ITEMS.c.order_id.in_([row["order_id"] for row in rows])))
            here.commit()


def assert_in_place(topology: Topology, shard_map: ShardMap, quantities: Mapping[int, int]) -> None:
    """Every row is there, once, on the shard that owns it; and `mesctl shards check` says so too."""
    expected: dict[str, dict[int, int]] = {shard: {} for shard in topology.databases_of("mes")}
    for key, quantity in quantities.items():
        expected[shard_map.shard_of(key)][key] = quantity
    assert held(topology) == expected
    checked = check_shards(topology, MES, shard_map)
    assert (checked.findings, checked.rows) == ((), len(quantities))


def assert_adds_up(report: BulkReport, given_rows: int) -> None:
    for told in report.shards.values():
        assert told.given == told.written + told.skipped + told.failed + told.in_doubt + told.not_tried
        assert 0 <= told.rerouted <= told.given
    assert sum(told.given for told in report.shards.values()) == given_rows


@pytest.fixture
def sessions(sessions: ShardedSessions) -> ShardedSessions:
    """Sessions that hear of a newer map only when they ask for it."""
    return ShardedSessions(EVEN, sessions.clusters, directory=sessions._directory, map_wait_seconds=60.0)


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_stale_map_sends_only_the_refused_chunk_on_and_once(
    sessions: ShardedSessions, topology: Topology, mode: Mode
) -> None:
    keys = [*OTHERS[:100], STRAY, *OTHERS[100:]]
    if mode is Mode.UPDATE:
        await sessions.bulk(MesOrderItem, map(item, keys))
    later = moved(EVEN, LOST, "mes_1")
    give(topology, later, "mes_0", "mes_1")
    carry(topology, LOST, "mes_0", "mes_1")
    await save(topology, later)
    rows = [item(key, quantity=7) for key in keys]
    report = await sessions.bulk(MesOrderItem, rows, mode=mode, chunk_rows=10)
    assert report.is_complete
    assert report.written == len(keys)
    assert {shard: told.rerouted for shard, told in report.shards.items()} == {"mes_0": 0, "mes_1": 1}
    chunks = Counter(EVEN.shard_of(key) for key in keys)
    assert sum(told.chunks for told in report.shards.values()) == 1 + sum(
        -(-count // 10) for count in chunks.values()
    )
    assert_adds_up(report, len(keys))
    assert_in_place(topology, later, dict.fromkeys(keys, 7))


async def test_a_newer_map_in_the_middle_does_not_let_a_keys_later_rows_overtake(
    sessions: ShardedSessions, topology: Topology
) -> None:
    await sessions.bulk(MesOrderItem, [item(STRAY)])
    later = moved(EVEN, LOST, "mes_1")
    give(topology, later, "mes_0", "mes_1")
    carry(topology, LOST, "mes_0", "mes_1")
    await save(topology, later)

    async def rows() -> AsyncIterator[dict[str, Any]]:
        for quantity in range(1, 21):
            if quantity == 11:
                assert await sessions.refresh() == later
            yield item(STRAY, quantity)

    report = await sessions.bulk(MesOrderItem, rows(), mode=Mode.UPDATE, chunk_rows=10)
    assert (report.is_complete, report.written, report.shards["mes_1"].rerouted) == (True, 20, 20)
    assert_adds_up(report, 20)
    assert_in_place(topology, later, {STRAY: 20})


@dataclass(frozen=True)
class Change:
    """A bucket goes to the other shard, when so many rows have been read."""

    at_row: int
    bucket: int


CHANGES = st.lists(st.builds(Change, at_row=st.integers(0, 119), bucket=st.integers(0, 63)), max_size=4)


class Moving:
    """Rows of a bulk write, in the middle of which buckets change their shard."""

    def __init__(self, topology: Topology, shard_map: ShardMap, changes: Sequence[Change]) -> None:
        self.shard_map = shard_map
        self._topology = topology
        self._changes = sorted(changes, key=lambda change: change.at_row)
        self._rest: asyncio.Task[None] | None = None

    async def rows(self, rows: Sequence[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        for number, row in enumerate(rows):
            while self._changes and self._changes[0].at_row <= number:
                await self._change(self._changes.pop(0).bucket)
            yield row
        await self.end()

    async def _change(self, bucket: int) -> None:
        """Take a bucket from its shard; what else there is to do goes on beside the write."""
        await self.end()
        loser = self.shard_map.owners[bucket]
        self.shard_map = moved(self.shard_map, bucket, "mes_1" if loser == "mes_0" else "mes_0")
        await asyncio.to_thread(give, self._topology, self.shard_map, loser)
        self._rest = asyncio.create_task(self._finish(bucket, loser, self.shard_map))

    async def _finish(self, bucket: int, loser: str, shard_map: ShardMap) -> None:
        winner = shard_map.owners[bucket]
        await asyncio.to_thread(give, self._topology, shard_map, winner)
        await asyncio.to_thread(carry, self._topology, bucket, loser, winner)
        await save(self._topology, shard_map)

    async def end(self) -> None:
        if self._rest is not None:
            await self._rest


class Fleet:
    """The shards of the examples, one after another: the map only ever gets newer."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.shard_map = EVEN
        asyncio.run(save(topology, EVEN))
        give(topology, EVEN, "mes_0", "mes_1")

    def clear(self) -> None:
        for shard in ("mes_0", "mes_1"):
            with as_owner(self.topology, shard) as connection:
                connection.execute(text("TRUNCATE order_items"))
                connection.commit()


@pytest.fixture(scope="module")
def fleet(module_topology: Topology) -> Fleet:
    return Fleet(module_topology)


# An example is a second of real servers, and no two runs are alike: shrinking would find nothing.
@settings(
    deadline=None,
    max_examples=8,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    mode=st.sampled_from(list(Mode)),
    keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=120, unique=True),
    changes=CHANGES,
    chunk_rows=st.integers(3, 40),
)
def test_whatever_moves_meanwhile_every_row_is_accounted_for_and_in_its_place(
    fleet: Fleet, mode: Mode, keys: list[int], changes: list[Change], chunk_rows: int
) -> None:
    fleet.clear()
    asyncio.run(_write_while_moving(fleet, mode, keys, changes, chunk_rows))


async def _write_while_moving(
    fleet: Fleet, mode: Mode, keys: list[int], changes: list[Change], chunk_rows: int
) -> None:
    topology, rows, left = fleet.topology, [item(key, quantity=7) for key in keys], list[Mapping[str, Any]]()
    moving = Moving(topology, fleet.shard_map, changes)
    async with open_sessions(topology, role="mes", application_name="test") as sessions:
        if mode is Mode.UPDATE:
            await sessions.bulk(MesOrderItem, map(item, keys))
        try:
            report = await sessions.bulk(
                MesOrderItem,
                moving.rows(rows),
                mode=mode,
                chunk_rows=chunk_rows,
                on_failure="go-on",
                unwritten=lambda _shard, chunk: left.extend(chunk),
            )
        finally:
            await moving.end()
            fleet.shard_map = moving.shard_map
        assert_adds_up(report, len(keys))
        assert sum(told.unwritten for told in report.shards.values()) == len(left)
        # A chunk whose bucket moved on once more was given back; nothing of it is there.
        again = await sessions.bulk(MesOrderItem, left, mode=mode)
    assert again.is_complete
    assert report.written + again.written == len(keys)
    assert_in_place(topology, fleet.shard_map, dict.fromkeys(keys, 7))


@pytest.fixture
async def decisions(topology: Topology) -> AsyncIterator[Decisions]:
    async with open_cluster(topology, "directory", role="mes", application_name="test") as cluster:
        yield Decisions(cluster.primary, "mes")


async def test_a_refused_unit_ends_on_every_shard_and_can_be_run_again(
    sessions: ShardedSessions, topology: Topology, decisions: Decisions
) -> None:
    keys = [STRAY, key_in(LOST + 1), key_in(40)]
    later = moved(EVEN, LOST, "mes_1")

    async def unit() -> tuple[str, ...]:
        async with sessions.two_phase(keys, decisions=decisions, label="merge") as unit:
            for key in keys:
                unit.session(key).add(new_order(key))
        return unit.shards

    give(topology, later, "mes_0", "mes_1")
    await save(topology, later)
    with pytest.raises(UnitRefused, match=f"mes_0 no longer owns bucket 3, of key {STRAY}.*run it again"):
        await unit()
    assert (orders_on(topology, "mes_0"), orders_on(topology, "mes_1")) == (set(), set())
    assert await unit() == ("mes_0", "mes_1")
    assert (orders_on(topology, "mes_0"), orders_on(topology, "mes_1")) == ({keys[1]}, {keys[0], keys[2]})
    assert check_shards(topology, MES, later).findings == ()


async def test_a_session_of_a_unit_stays_on_its_shard(
    sessions: ShardedSessions, decisions: Decisions
) -> None:
    with pytest.raises(OtherShard):
        async with sessions.two_phase([STRAY, key_in(40)], decisions=decisions, label="x") as unit:
            await unit.session(STRAY).get(MesOrder, key_in(40))
