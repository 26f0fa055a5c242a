"""`mesctl shards citus` on plain shards: the preflight works there, everything else says what is missing."""

from pathlib import Path

import pytest

from sharding.topology import Topology
from tests.integration.mesctl_rig import Mesctl
from tests.integration.shards_rig import as_owner


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
