"""`mesctl archive` on all shards."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops.errors import ExitStatus
from partitions import Month
from sharding.topology import Topology
from tests.integration.archive_rig import add_orders, assert_whole, order_ids, rows, shard
from tests.integration.mesctl_rig import Mesctl
from tests.psql import psql
from tests.servers import PostgresServers

# Long before the months that stand ready: the job must make theirs.
MADE = datetime.now(UTC) - timedelta(days=100)
ENDED = datetime.now(UTC) - timedelta(days=10)
MONTH = f"orders_archive_{str(Month.of(MADE)).replace('-', '_')}"
IDS = order_ids(12, made=Month.of(MADE).start + timedelta(days=3))


@pytest.fixture
def mesctl(topology_path: Path, topology: Topology, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    """Give `mesctl` on this test's databases; seven orders of one shard and five of the other ended."""
    for name, ids in (("mes_0", IDS[:7]), ("mes_1", IDS[7:])):
        with shard(topology, name) as engine, engine.begin() as connection:
            add_orders(connection, ids, changed_at=ENDED)
    return Mesctl(topology_path, capsys)


def test_orders_past_the_grace_period_go_from_every_shard(mesctl: Mesctl, topology: Topology) -> None:
    assert mesctl("archive", "run", "--json").json["mes_0"]["orders_done"] == 0  # they ended 10 days ago
    waiting = mesctl("archive", "status", "--grace", "5d", "--json").json
    assert waiting["mes_0"] == {"orders_archive": {"waiting": 7, "held_back": 0, "archived": {}}}

    said = mesctl("archive", "run", "--grace", "5d", "--batch", "3", "--json")

    assert said.status == ExitStatus.DONE
    assert said.json == {
        "mes_0": {"orders_done": 7, "order_items": 14, "order_events": 21},
        "mes_1": {"orders_done": 5, "order_items": 10, "order_events": 15},
    }
    assert "mes_0: orders_done: 7 of 7 rows" in said.err
    assert mesctl("archive", "status", "--json").json == {
        "mes_0": {"orders_archive": {"waiting": 0, "held_back": 0, "archived": {MONTH: 7}}},
        "mes_1": {"orders_archive": {"waiting": 0, "held_back": 0, "archived": {MONTH: 5}}},
    }
    for name, ids in (("mes_0", IDS[:7]), ("mes_1", IDS[7:])):
        with shard(topology, name) as engine:
            assert rows(engine, "orders") == Counter()
            assert_whole(engine, ids)


def test_order_that_is_held_back_is_counted(mesctl: Mesctl, topology: Topology) -> None:
    with shard(topology) as engine, engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO pricing_jobs (order_id) VALUES ({IDS[0]})")
    mesctl("archive", "run", "--grace", "5d")
    found = mesctl("archive", "status", "--grace", "5d", "--json").json["mes_0"]["orders_archive"]
    assert (found["waiting"], found["held_back"]) == (0, 1)


def test_dry_run_changes_nothing_and_psql_runs_what_it_prints(
    mesctl: Mesctl, topology: Topology, postgres: PostgresServers
) -> None:
    script = mesctl("archive", "run", "--grace", "5d", "--dry-run").out
    with shard(topology) as engine:
        assert rows(engine, "orders") == Counter(IDS[:7])
        psql(postgres.conninfo(), script)
        assert rows(engine, "orders") == Counter()
        assert_whole(engine, IDS[:7])


def test_wrong_grace_is_wrong_usage(mesctl: Mesctl) -> None:
    said = mesctl("archive", "run", "--grace", "soon")
    assert said.status == ExitStatus.USAGE
    assert "'soon' is no duration: write it like 30d" in said.err


def test_shard_that_is_down_does_not_hold_up_the_archive_of_the_other(
    mesctl: Mesctl, topology: Topology, postgres: PostgresServers
) -> None:
    dbname = topology.databases["mes_0"].dbname
    psql(postgres.conninfo(), f"ALTER DATABASE {dbname} ALLOW_CONNECTIONS false")
    said = mesctl("archive", "run", "--grace", "5d", "--json")
    assert said.status == ExitStatus.FAILED
    assert "mesctl: mes_0: connection failed" in said.err
    assert {name: moved["orders_done"] for name, moved in said.json.items()} == {"mes_1": 5}

    for words in (("status",), ("run", "--dry-run")):
        said = mesctl("archive", *words, "--grace", "5d")
        assert said.status == ExitStatus.FAILED
        assert "mesctl: mes_0: connection failed" in said.err
        assert "mes_1" in said.out
    psql(postgres.conninfo(), f"ALTER DATABASE {dbname} ALLOW_CONNECTIONS true")
    again = mesctl("archive", "run", "--grace", "5d", "--json")
    assert again.status == ExitStatus.DONE
    assert {name: moved["orders_done"] for name, moved in again.json.items()} == {"mes_0": 7, "mes_1": 0}
