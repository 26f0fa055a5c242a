"""What is decided about Citus without one: placement, preflight, health, months at rest, progress."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.models.mes import MesBase
from ops.citus.service import job_line, progress_line
from ops.migrate import run
from ops.migrate.citus import script
from partitions.actions import DetachPartition
from partitions.bounds import KeyRange
from sharding.citus import moving
from sharding.citus.catalog import (
    CitusTable,
    Node,
    ShardRange,
    find_range,
    fresh_index,
    fresh_ranges,
    is_fresh,
)
from sharding.citus.columnar import StoredPartition, refusal
from sharding.citus.distribute import Distribution, coordinator_map, missing
from sharding.citus.health import CitusHealth, judge
from sharding.citus.preflight import (
    ForeignKey,
    SchemaTable,
    UniqueKey,
    check_columnar,
    check_schema,
    check_statements,
)
from sharding.errors import DistributionConflict, MoveRefused, TopologyError, UnknownNode
from sharding.shard_map import bucket_of
from sharding.topology import Topology
from tests.project import MES, PROJECT, TEMPLATE

KEYS = st.integers(-(2**63), 2**63 - 1)

# Placement


@given(key=KEYS, shards=st.integers(1, 200))
def test_a_fresh_table_has_a_key_in_the_range_of_its_index(key: int, shards: int) -> None:
    ranges = [ShardRange(number, *bounds, node="n") for number, bounds in enumerate(fresh_ranges(shards))]
    found = find_range(ranges, key)
    assert found is not None
    assert found.shard_id == fresh_index(key, shards)
    assert is_fresh(ranges)


@given(key=KEYS)
def test_shards_of_citus_are_buckets_where_their_numbers_are_equal(key: int) -> None:
    assert fresh_index(key, 64) == bucket_of(key, 64)


@pytest.mark.parametrize("shards", [1, 3, 32, 48, 64])
def test_fresh_ranges_cover_every_hash_once(shards: int) -> None:
    ranges = fresh_ranges(shards)
    assert (ranges[0][0], ranges[-1][1]) == (-(2**31), 2**31 - 1)
    assert all(before[1] + 1 == after[0] for before, after in pairwise(ranges))


def test_a_split_table_is_not_fresh() -> None:
    whole = [ShardRange(1, -(2**31), 2**31 - 1, "n")]
    split = [ShardRange(2, -(2**31), 5, "n"), ShardRange(3, 6, 2**31 - 1, "n")]
    assert is_fresh(whole)
    assert not is_fresh(split)
    assert not is_fresh([])


# Distribution


def test_every_keyed_table_of_the_models_is_placed_beside_the_orders_or_alone() -> None:
    placements = {placement.table: placement for placement in Distribution.of(MES.metadata).placements()}
    assert placements["orders"].beside == "none"
    assert placements["order_items"].beside == "orders"
    assert placements["model_measurements"].beside == "none"
    declared = placements.keys() | Distribution.of(MES.metadata).local
    partitions = {name for name, table in MesBase.metadata.tables.items() if "partition_of" in table.info}
    assert MesBase.metadata.tables.keys() - partitions <= declared


def test_what_is_placed_is_left_alone_and_what_is_placed_otherwise_is_refused() -> None:
    placed = {"orders": CitusTable("orders", 1, "distributed", "order_id")}
    left = missing(Distribution.of(MES.metadata), present=["orders", "inbox", "materials"], placed=placed)
    assert [placement.table for placement in left] == ["inbox", "materials"]
    wrong = {"orders": CitusTable("orders", 1, "distributed", "status")}
    with pytest.raises(DistributionConflict, match="orders is distributed by status"):
        missing(Distribution.of(MES.metadata), present=["orders"], placed=wrong)


# The topology

TOPOLOGY = """
[trees.mes]
kind = "sharded"
backend = "citus"
buckets = 64
[databases.mes]
tree = "mes"
dbname = "mes"
primary = { host = "127.0.0.1", port = 5432 }
[redis]
url = "redis://127.0.0.1/0"
[files]
url = "file:///tmp/files"
"""


def load(tmp_path: Path, text: str) -> Topology:
    path = tmp_path / "topology.toml"
    path.write_text(text)
    return Topology.load(path)


def test_the_coordinator_owns_every_bucket(tmp_path: Path) -> None:
    topology = load(tmp_path, TOPOLOGY)
    assert coordinator_map(topology, "mes").owners == ("mes",) * 64


def test_a_second_coordinator_and_a_replica_are_refused(tmp_path: Path) -> None:
    section = TOPOLOGY[TOPOLOGY.index("[databases") : TOPOLOGY.index("[redis]")]
    second = TOPOLOGY + section.replace("mes]", "m2]")
    with pytest.raises(TopologyError, match="a tree has one database, the coordinator, and not 2"):
        load(tmp_path, second.replace('dbname = "mes"', 'dbname = "m2"', 1))
    replica = 'tree = "mes"\nreplicas = [{ name = "r", host = "127.0.0.1", port = 5433 }]'
    with pytest.raises(TopologyError, match=r"databases\.mes\.replicas"):
        load(tmp_path, TOPOLOGY.replace('tree = "mes"', replica))


def test_only_citus_has_a_script_behind_the_revisions(tmp_path: Path) -> None:
    topology = load(tmp_path, TOPOLOGY)
    assert run.render_distribution(topology, MES) == script(topology, MES)
    for tree in PROJECT.trees.values():
        assert run.render_distribution(TEMPLATE, tree) == ""
    assert "create_reference_table('materials')" in script(topology, MES)


# The preflight

FINE = SchemaTable("orders", is_partitioned=True, unique=(UniqueKey("pk", ("order_id", "status")),))
HOT = SchemaTable("orders_hot", parent="orders", bound="FOR VALUES IN ('HOT')", unique=FINE.unique)
ITEMS = SchemaTable("order_items", unique=(UniqueKey("pk", ("order_id", "line_no")),))


def rules(*tables: SchemaTable) -> list[tuple[str, str]]:
    found = check_schema({table.name: table for table in tables}, Distribution.of(MES.metadata))
    return [(each.where, each.rule) for each in found]


def test_nothing_is_said_of_a_schema_that_citus_takes() -> None:
    assert rules(FINE, HOT, ITEMS, SchemaTable("shard_identity")) == []


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        (replace(HOT, is_partitioned=True), "two levels"),
        (replace(ITEMS, triggers=("audit",)), "trigger"),
        (replace(HOT, bound="FOR VALUES FROM (MINVALUE) TO ('5')"), "infinite bound"),
        (replace(HOT, bound="FOR VALUES FROM ('5') TO (MAXVALUE)"), "infinite bound"),
        (replace(ITEMS, has_primary_key=False), "no primary key"),
        (
            replace(ITEMS, foreign=(ForeignKey("fk", ("order_id",), "orders", ("order_id",), "CASCADE"),)),
            "on update cascade",
        ),
        (replace(ITEMS, foreign=(ForeignKey("fk", ("line_no",), "orders", ("line_no",)),)), "foreign key"),
        (replace(ITEMS, unique=(UniqueKey("key", ("line_no",)),)), "unique key"),
        (replace(HOT, unique=(UniqueKey("own", ("status",)),)), "unique key"),
        (SchemaTable("notes"), "undeclared"),
    ],
)
def test_each_refusal_is_found_and_named(table: SchemaTable, rule: str) -> None:
    others = [other for other in (FINE, HOT, ITEMS) if other.name != table.name]
    assert rules(*others, table) == [(table.name, rule)]


def test_a_key_of_the_parent_is_told_once_and_a_reference_may_be_pointed_to() -> None:
    wrong = (UniqueKey("key", ("status",)),)
    assert rules(replace(FINE, unique=wrong), replace(HOT, unique=wrong)) == [("orders", "unique key")]
    to_reference = ForeignKey("fk", ("material",), "materials", ("material",))
    assert rules(FINE, replace(ITEMS, foreign=(to_reference,))) == []


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        (
            "ALTER TABLE orders_archive DETACH PARTITION old CONCURRENTLY",
            "detach concurrently",
        ),
        ("SELECT order_id FROM pricing_jobs ORDER BY 1 LIMIT 1 FOR UPDATE SKIP LOCKED", "lock over shards"),
        ("SELECT 1 FROM orders WHERE order_id = ANY ($1) FOR NO KEY UPDATE", "lock over shards"),
        (
            "UPDATE pricing_jobs SET leased_by = $1 WHERE order_id = (SELECT order_id FROM pricing_jobs"
            " ORDER BY lease_expires_at LIMIT 1 FOR UPDATE SKIP LOCKED)",
            "lock over shards",
        ),
        (
            "SELECT 1 FROM orders JOIN order_items ON orders.order_id = order_items.order_id FOR UPDATE",
            "lock over shards",
        ),
        (
            "INSERT INTO order_events (order_id, event_no) VALUES"
            " ($1, (SELECT max(event_no) FROM order_events WHERE order_id = $1) + 1)",
            "subquery in values",
        ),
        ("SET lock_timeout = '3s'", "lock_timeout"),
        ("UPDATE orders SET status = 'X', order_id = 5 WHERE order_id = 4", "key update"),
        ("ALTER TABLE orders DETACH PARTITION a", None),
        ("SELECT 1 FROM orders WHERE order_id = $1 FOR UPDATE", None),
        ("SELECT 1 FROM orders WHERE orders.order_id=%(order_id_1)s::BIGINT FOR UPDATE", None),
        ("SELECT version FROM reference_versions WHERE table_name = $1 FOR UPDATE", None),
        ("INSERT INTO order_events (order_id) VALUES ('(SELECT 1)')", None),
        ("INSERT INTO order_events (order_id, event_no) SELECT $1, max(event_no) FROM order_events", None),
        ("SET LOCAL lock_timeout = '3s'", None),
        ("UPDATE orders SET status = 'X' WHERE order_id = 4", None),
        ("-- FOR UPDATE\nSELECT 1 FROM orders", None),
    ],
)
def test_statements_that_citus_refuses_are_named(statement: str, rule: str | None) -> None:
    assert [each.rule for each in check_statements([statement], Distribution.of(MES.metadata))] == (
        [rule] if rule else []
    )


def test_a_columnar_table_that_is_still_written_is_named() -> None:
    schema = {"inbox": SchemaTable("inbox", access_method="columnar"), "orders": FINE}
    assert [each.rule for each in check_columnar(schema, written=["inbox"])] == ["columnar"]
    assert check_columnar(schema, written=["orders"]) == []


# Health

COORDINATOR = Node(1, 0, "a", 1, True, True, True, "primary", False)
WORKER = Node(2, 1, "b", 2, True, True, True, "primary", True)
WELL = CitusHealth((COORDINATOR, WORKER), {"citus": "13.2-1"}, {"a:1": "13.2", "b:2": "13.2"})


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        (WELL, []),
        (replace(WELL, nodes=(WORKER,)), ["coordinator"]),
        (replace(WELL, nodes=(COORDINATOR, replace(WORKER, should_have_shards=False))), ["nodes"]),
        (replace(WELL, nodes=(COORDINATOR, WORKER, replace(WORKER, node_id=3, active=False))), ["b:2"]),
        (replace(WELL, nodes=(COORDINATOR, replace(WORKER, metadata_synced=False))), ["b:2"]),
        (replace(WELL, versions={"a:1": "13.2", "b:2": "13.1"}), ["versions"]),
        # A node that is down is told once, and not for each that cannot reach it.
        (replace(WELL, versions={"a:1": "13.2", "b:2": None}, broken_links=(("a:1", "b:2"),)), ["b:2"]),
        (replace(WELL, broken_links=(("b:2", "a:1"),)), ["b:2"]),
        (replace(WELL, lost_shards=("orders 102008",)), ["orders 102008"]),
        (replace(WELL, orphans=(("public.orders_102008", "b:2"),)), ["public.orders_102008"]),
        (replace(WELL, in_doubt=2), ["transactions"]),
    ],
)
def test_each_fault_is_found(facts: CitusHealth, what: Iterable[str]) -> None:
    assert [finding.what for finding in judge(facts)] == what


# Moves


def test_statements_are_citus_own_and_name_what_they_move() -> None:
    assert moving.drain_statement(WORKER, "auto") == "SELECT citus_drain_node('b', 2, 'auto')"
    assert (
        moving.undrain_statement(WORKER) == "SELECT citus_set_node_property('b', 2, 'shouldhaveshards', true)"
    )
    moved = moving.move_statement(102008, WORKER, COORDINATOR, "block_writes")
    assert moved == "SELECT citus_move_shard_placement(102008, 2, 1, 'block_writes')"
    isolated = moving.isolate_statement("orders", 7, "auto")
    assert isolated == "SELECT isolate_tenant_to_new_shard('orders', 7::bigint, 'CASCADE', 'auto')"


def test_the_last_node_that_takes_shards_is_not_drained() -> None:
    other = replace(WORKER, node_id=3, port=3)
    assert moving.check_drain([COORDINATOR, WORKER, other], "b:2") is WORKER
    with pytest.raises(MoveRefused, match="no other node may hold shards"):
        moving.check_drain([COORDINATOR, WORKER], "b:2")
    with pytest.raises(UnknownNode, match="it has a:1, b:2"):
        moving.check_drain([COORDINATOR, WORKER], "c:3")


def test_progress_tells_shards_bytes_rate_and_time_left() -> None:
    idle = moving.MoveProgress(0, 0, 0, 0, "")
    assert progress_line(idle, seconds=1) == "waiting for Citus to begin"
    half = moving.MoveProgress(bytes=8 * 2**20, copied=2 * 2**20, done=1, shards=4, doing="Copying Data")
    assert progress_line(half, seconds=2) == (
        "1 of 4 tables' shards, 2.0 of 8.0 MB, 1.0 MB/s, 6 s left (Copying Data)"
    )
    job = moving.RebalanceJob(3, "running", {"done": 1, "running": 1, "blocked": 2}, ())
    assert job_line(job) == "job 3 running, 1 of 4 moves"
    assert not job.has_ended


def test_a_plain_detach_is_one_step_that_waits_shortly() -> None:
    asked = DetachPartition(
        table="orders_archive",
        partition="orders_archive_2026_03",
        bound=KeyRange(1, 2),
        at=datetime(2026, 11, 25, tzinfo=UTC),
        concurrently=False,
    )
    [step] = asked.steps()
    assert step.statements[-1] == "ALTER TABLE orders_archive DETACH PARTITION orders_archive_2026_03"


# Months by column

MARCH = StoredPartition("orders_archive_2026_03", "orders_archive", KeyRange(10, 20), "heap")
ENDED = datetime(2026, 4, 1, tzinfo=UTC)
GRACE = timedelta(days=30)


@pytest.mark.parametrize(
    ("stored", "to", "now", "live", "said"),
    [
        (MARCH, "columnar", ENDED + GRACE, 0, None),
        (MARCH, "columnar", ENDED + GRACE - timedelta(seconds=1), 0, "may still come"),
        (MARCH, "columnar", ENDED + timedelta(days=300), 2, "2 rows of that month are still live"),
        (replace(MARCH, access_method="columnar"), "columnar", ENDED + GRACE, 0, "columnar already"),
        (replace(MARCH, access_method="columnar"), "heap", ENDED, 5, None),
        (MARCH, "heap", ENDED + GRACE, 0, "heap already"),
    ],
)
def test_a_month_is_stored_by_column_only_when_it_is_at_rest(
    stored: StoredPartition, to: str, now: datetime, live: int, said: str | None
) -> None:
    reason = refusal(stored, to=to, ended_at=ENDED, now=now, grace=GRACE, live_orders=live)
    assert (reason is None) == (said is None)
    assert said is None or said in (reason or "")
