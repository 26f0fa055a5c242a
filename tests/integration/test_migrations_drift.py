"""Drift is found, named and mended: what no migration made, what is gone, and what was changed by hand."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from migrations import run
from migrations.drift import find_drift, load_snapshot
from migrations.snapshot import take_snapshot
from migrations.trees import METADATA
from ops.errors import ExitStatus
from ops.fleet import open_engine
from sharding.topology import Topology
from tests.integration.mesctl_rig import Mesctl
from tests.integration.migrations_rig import make_partitions

NOW = datetime(2026, 11, 23, tzinfo=UTC)

# A change by hand, the object that the report must name, and what must stand in the fix.
CHANGES = {
    "CREATE TABLE stray (id int PRIMARY KEY)": ("table stray", "DROP TABLE stray"),
    "ALTER TABLE inbox ADD COLUMN lane int": ("column lane of inbox", "ALTER TABLE inbox DROP COLUMN lane"),
    "ALTER TABLE inbox ALTER COLUMN type DROP NOT NULL": ("column type of inbox", "change it back"),
    "CREATE INDEX by_hand ON inbox (type)": ("index by_hand of inbox", "DROP INDEX CONCURRENTLY by_hand"),
    "DROP INDEX outbox_message_id_idx": (
        "index outbox_message_id_idx of outbox",
        "make it again: CREATE INDEX outbox_message_id_idx",
    ),
    "ALTER TABLE inbox ADD CONSTRAINT sane CHECK (order_id > 0) NOT VALID": (
        "constraint sane of inbox",
        "ALTER TABLE inbox DROP CONSTRAINT sane",
    ),
    "REVOKE DELETE ON inbox FROM mes": ("grant mes of inbox", "change it back"),
    "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'": (
        "function meddle()",
        "DROP FUNCTION meddle()",
    ),
    "CREATE TRIGGER meddle BEFORE INSERT ON orders_hot FOR EACH ROW EXECUTE FUNCTION meddle()": (
        "trigger meddle of orders_hot",
        "DROP TRIGGER meddle ON orders_hot",
    ),
    "CREATE TYPE mood AS ENUM ('good')": ("type mood", "DROP TYPE mood"),
    "CREATE VIEW recent AS SELECT 1 AS one": ("view recent", "DROP VIEW recent"),
}


def execute(topology: Topology, name: str, *statements: str) -> None:
    database = topology.databases[name]
    with open_engine(topology, database, role="mes_owner") as engine, engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_snapshots_are_what_the_migrations_make(topology: Topology) -> None:
    for tree in METADATA:
        made, frozen = take_snapshot(topology, tree), load_snapshot(tree)
        # When this fails for a new revision: python -m migrations.snapshot .platform/topology.toml
        assert (frozen.revision, set(frozen.facts)) == (made.revision, set(made.facts))


def test_partitions_made_by_policy_are_no_drift(topology: Topology) -> None:
    make_partitions(topology, now=NOW)
    for tree in METADATA:
        assert [each.differences for each in find_drift(topology, tree) if each.differences] == []


def test_every_change_by_hand_is_named_with_its_fix(topology: Topology) -> None:
    execute(topology, "mes_1", *CHANGES)
    mes_0, mes_1 = find_drift(topology, "mes")
    assert mes_0.differences == ()
    assert mes_0.fingerprint != mes_1.fingerprint
    told = {each.object: each.fix for each in mes_1.differences}
    assert {name: clue in told.get(name, "") for name, clue in CHANGES.values()} == dict.fromkeys(
        [name for name, _ in CHANGES.values()], True
    )
    assert set(told) == {name for name, _ in CHANGES.values()}


def test_index_that_was_cut_short_is_told(topology: Topology) -> None:
    name = "outbox_message_id_idx"
    flip = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'outbox_message_id_idx'::regclass"
    with (
        open_engine(topology, topology.databases["mes_0"], role="postgres") as engine,
        engine.begin() as connection,
    ):
        connection.exec_driver_sql(flip)
    [difference] = next(iter(find_drift(topology, "mes"))).differences
    assert difference.fix == f"a concurrent build was cut short: REINDEX INDEX CONCURRENTLY {name}"


def test_shards_behind_the_head_are_compared_with_each_other(topology: Topology) -> None:
    run.downgrade(topology, "mes", "base")
    execute(topology, "mes_1", "CREATE TABLE stray (id int)")
    _, mes_1 = find_drift(topology, "mes")
    assert [each.object for each in mes_1.differences] == ["table stray"]


def test_mesctl_reports_drift(
    topology: Topology, topology_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mesctl = Mesctl(topology_path, capsys)
    assert mesctl("migrate", "drift").status == ExitStatus.DONE
    execute(topology, "mes_1", "CREATE TABLE stray (id int)")
    said = mesctl("migrate", "drift", "--json")
    assert said.status == ExitStatus.FAILED
    assert [(row["database"], row["object"]) for row in said.json] == [("mes_1", "table stray")]
    assert re.search(r"mes_0: at \d{4}, fingerprint", said.err)
