"""`mesctl shards citus` on plain shards: the preflight works there, everything else says what is missing."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops.citus import check_store, written_tables
from partitions import Month
from sharding.errors import CitusMissing, ColumnarRefused
from sharding.ids import first_id_at
from sharding.topology import Topology
from tests.integration.mesctl_rig import Mesctl
from tests.integration.shards_rig import as_owner
from tests.project import MES, PROJECT


@pytest.fixture
def mesctl(topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    return Mesctl(topology_path, capsys)


@pytest.mark.parametrize("verb", ["health", "placements", "plan", "tables", "rebalance"])
def test_what_needs_citus_is_refused_on_plain_shards(mesctl: Mesctl, verb: str) -> None:
    said = mesctl("shards", "citus", verb)
    assert said.status == 3
    assert "backend is 'postgresql'" in said.err


def test_the_preflight_objects_to_nothing_of_ours_and_to_what_a_hand_has_made(
    mesctl: Mesctl, topology: Topology, tmp_path: Path
) -> None:
    assert mesctl("shards", "citus", "preflight", "--json").json == []
    with as_owner(topology, "mes_1") as connection:
        for statement in (
            "CREATE TABLE notes (id bigint, note text)",
            "CREATE UNIQUE INDEX order_items_model_key ON order_items (model_key)",
            "ALTER TABLE inbox DROP CONSTRAINT inbox_pkey",
            "CREATE TABLE orders_archive_past PARTITION OF orders_archive FOR VALUES FROM (MINVALUE) TO (5)",
            "ALTER TABLE order_events ADD FOREIGN KEY (order_id, event_no) REFERENCES order_items"
            " ON UPDATE CASCADE",
            "CREATE TRIGGER t BEFORE UPDATE ON pricing_jobs FOR EACH ROW"
            " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        ):
            connection.exec_driver_sql(statement)
        connection.commit()
    file = tmp_path / "application.sql"
    file.write_text("SELECT 1 FROM orders FOR UPDATE SKIP LOCKED;\nSELECT 2;\n")
    said = mesctl("shards", "citus", "preflight", "--statements", str(file), "--json")
    assert said.status == 1
    found = {(each["database"], each["where"], each["rule"]) for each in said.json}
    assert found == {
        ("mes_1", "notes", "undeclared"),
        ("mes_1", "order_items", "unique key"),
        ("mes_1", "inbox", "no primary key"),
        ("mes_1", "orders_archive_past", "infinite bound"),
        ("mes_1", "order_events", "on update cascade"),
        ("mes_1", "pricing_jobs", "trigger"),
        ("application.sql", "SELECT 1 FROM orders FOR UPDATE SKIP LOCKED", "lock over shards"),
    }


def test_a_file_of_statements_is_looked_through_without_a_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "application.sql"
    file.write_text(
        "SELECT 1 FROM orders WHERE order_id = $1 FOR UPDATE;\nSELECT 1 FROM orders FOR UPDATE;\n"
    )
    mesctl = Mesctl(tmp_path / "none.toml", capsys, PROJECT.path)
    preflight = ("shards", "citus", "preflight", "--offline", "--json")
    said = mesctl(*preflight, "--tree", "mes", "--statements", str(file))
    assert said.status == 1
    [found] = said.json
    assert (found["where"], found["rule"]) == ("SELECT 1 FROM orders FOR UPDATE", "lock over shards")
    assert mesctl(*preflight, "--tree", "mes").status == 2


def test_which_month_may_be_stored_by_column_follows_from_the_archives(topology: Topology) -> None:
    now, month = datetime.now(UTC), Month.of(datetime.now(UTC)).previous
    partition = f"orders_archive_{month}".replace("-", "_")
    keys = month.keys(first_id_at)
    with as_owner(topology, "mes_0") as connection:
        bound = f"FOR VALUES FROM ({keys.start}) TO ({keys.end})"
        connection.exec_driver_sql(f"CREATE TABLE {partition} PARTITION OF orders_archive {bound}")
        connection.exec_driver_sql("CREATE TABLE others (id bigint) PARTITION BY RANGE (id)")
        connection.exec_driver_sql("CREATE TABLE others_1 PARTITION OF others FOR VALUES FROM (0) TO (9)")
        connection.commit()
        for name, fault, words in (
            ("orders_hot", ColumnarRefused, "it is no month of an archive"),
            ("others_1", ColumnarRefused, "others is no table that the archive job fills"),
            (partition, CitusMissing, "citus_columnar"),
        ):
            with pytest.raises(fault, match=words):
                check_store(connection.engine, MES, name, to="columnar", now=now)


def test_archives_are_not_among_the_tables_that_change_at_any_time() -> None:
    written = written_tables(MES)
    assert {"orders", "order_items", "order_events", "pricing_jobs", "outbox", "inbox"} <= set(written)
    assert not {"orders_archive", "order_items_archive", "order_events_archive"} & set(written)
