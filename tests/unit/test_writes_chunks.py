"""Whatever the rows are: every one is in one chunk, of its shard, in its order, within the bounds."""

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, MetaData, Table

from app.models.mes import MesOrder, MesOrderItem
from app.models.status import Channel, Status
from sharding.keys import reference_table, shard_key
from sharding.shard_map import ShardMap, bucket_of
from sharding.writes.chunks import Chunk, Chunker, regroup
from sharding.writes.errors import RowRefused, TargetRefused
from sharding.writes.rows import Mode, Row, read_row, target_of

INT8 = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(st.tuples(INT8, st.integers(0, 300)), max_size=80).map(
    lambda drawn: [
        Row(number, key, ("order_id",), (key,), size) for number, (key, size) in enumerate(drawn, start=1)
    ]
)
SHARDS = st.sampled_from([("mes_0",), ("mes_0", "mes_1"), ("mes_0", "mes_1", "mes_2", "mes_3")])


@given(rows=ROWS, shards=SHARDS, max_rows=st.integers(1, 20), max_bytes=st.integers(1, 500))
def test_chunks_are_the_rows_of_each_shard_in_order_and_bounded(
    rows: list[Row], shards: tuple[str, ...], max_rows: int, max_bytes: int
) -> None:
    shard_map, chunker = ShardMap.even(shards, 64), Chunker(max_rows, max_bytes)
    chunks: list[Chunk] = []
    for taken, row in enumerate(rows, start=1):
        if full := chunker.add(shard_map.shard_of(row.key), row):
            chunks.append(full)
        held = taken - sum(len(chunk.rows) for chunk in chunks)
        assert held <= len(shards) * max_rows
    chunks += chunker.rest()
    by_shard: dict[str, list[Row]] = defaultdict(list)
    for chunk in chunks:
        assert 1 <= len(chunk.rows) <= max_rows
        assert len(chunk.rows) == 1 or sum(row.size_bytes for row in chunk.rows) <= max_bytes
        keys = [row.key for row in chunk.rows]
        assert chunk.keys == (min(keys), max(keys))
        by_shard[chunk.shard] += chunk.rows
    for shard in shards:
        assert by_shard[shard] == [
            row for row in rows if shards[bucket_of(row.key, 64) * len(shards) // 64] == shard
        ]
    assert list(chunker.rest()) == []


@given(rows=ROWS.filter(bool), shards=SHARDS)
def test_a_refused_chunk_is_cut_by_the_new_map_and_loses_nothing(
    rows: list[Row], shards: tuple[str, ...]
) -> None:
    shard_map = ShardMap.even(shards, 64)
    parts = list(regroup(Chunk("mes_9", rows), shard_map.shard_of))
    assert sorted(row.number for part in parts for row in part.rows) == [row.number for row in rows]
    for part in parts:
        assert {shard_map.shard_of(row.key) for row in part.rows} == {part.shard}
        assert [row.number for row in part.rows] == sorted(row.number for row in part.rows)


def test_a_mapped_class_tells_its_key_its_identity_and_its_version() -> None:
    orders, items = target_of(MesOrder), target_of(MesOrderItem)
    assert (orders.key, orders.identity, orders.version) == ("order_id", ("order_id",), "version")
    assert (orders.primary_key, orders.is_narrow) == (("order_id", "status"), True)
    assert (items.identity, items.version, items.is_narrow) == (("order_id", "line_no"), None, False)
    assert target_of(MesOrderItem.metadata.tables["order_items"]).identity == ("order_id", "line_no")


def parcels(**info: Any) -> Table:
    """A table whose first column is not what places its rows."""
    columns = [Column(name, BigInteger, primary_key=True) for name in ("parcel_no", "order_id")]
    return Table("parcels", MetaData(), *columns, **info)


def test_a_row_is_placed_by_the_declared_key_wherever_that_stands() -> None:
    declared = parcels(info=shard_key("order_id"))
    assert target_of(declared).key == "order_id"
    assert target_of(declared, key="order_id").key == "order_id"
    assert target_of(parcels(), key="order_id").key == "order_id"


@pytest.mark.parametrize(
    ("table", "key", "fault"),
    [
        (
            parcels(),
            None,
            r"table parcels .* declares no shard key: give key=, or declare it with info=shard",
        ),
        (parcels(), "x", "table parcels .* it has no column 'x'"),
        (
            parcels(info=shard_key("order_id")),
            "parcel_no",
            "table parcels .* declares the shard key 'order_id', and key='parcel_no' would place rows",
        ),
        (parcels(info=reference_table()), None, "table parcels .* every shard has a whole copy of it"),
        (parcels(info=reference_table()), "order_id", "every shard has a whole copy of it"),
    ],
)
def test_a_table_whose_rows_have_no_certain_place_is_refused(
    table: Table, key: str | None, fault: str
) -> None:
    with pytest.raises(TargetRefused, match=fault):
        target_of(table, key=key)


def test_an_object_gives_what_was_set_and_the_first_version() -> None:
    order = MesOrder(order_id=5, status=Status.SUBMITTED, channel=Channel.B2C, summary="ring")
    row = read_row(target_of(MesOrder), Mode.INSERT, 1, order)
    assert dict(zip(row.columns, row.values, strict=True)) == {
        "order_id": 5,
        "status": Status.SUBMITTED,
        "channel": Channel.B2C,
        "summary": "ring",
        "version": 1,
    }
    assert row.size_bytes >= len("ring")


@pytest.mark.parametrize(
    ("mode", "given_row", "fault"),
    [
        (Mode.INSERT, {"order_id": 5}, "row 7 cannot be written: it has no status"),
        (Mode.INSERT, {"order_id": None, "status": "CLOSED"}, "it has no order_id"),
        (Mode.UPDATE, {"order_id": 5}, "it sets nothing beside its key"),
        (Mode.UPDATE, {"status": "CLOSED"}, "it has no order_id"),
    ],
)
def test_a_row_without_what_its_mode_needs_is_refused(
    mode: Mode, given_row: dict[str, object], fault: str
) -> None:
    with pytest.raises(RowRefused, match=fault):
        read_row(target_of(MesOrder), mode, 7, given_row)
