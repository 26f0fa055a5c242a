"""`mesctl partitions` on all shards."""

from pathlib import Path

import pytest

from ops.errors import ExitStatus
from ops.fleet import open_engine
from sharding.topology import Topology
from tests.integration.mesctl_rig import Mesctl
from tests.psql import psql
from tests.servers import PostgresServers

TREES = ("orders_archive", "order_items_archive", "order_events_archive")


@pytest.fixture
def mesctl(topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    """Give `mesctl` on this test's databases."""
    return Mesctl(topology_path, capsys)


def test_plan_apply_check_list(mesctl: Mesctl, topology: Topology) -> None:
    assert mesctl("partitions", "check").status == ExitStatus.FAILED

    planned = mesctl("partitions", "plan", "--json").json
    assert {(row["database"], row["table"]) for row in planned} == {
        (shard, table) for shard in ("mes_0", "mes_1") for table in ("orders", *TREES)
    }
    assert len(planned) == 2 * (len(TREES) * (4 + 1) + 1)
    assert {row["why"] for row in planned} == {"current month", "to stand ready", "never analyzed"}
    assert mesctl("partitions", "apply", "--json").json == planned

    said = mesctl("partitions", "check")
    assert (said.status, said.out) == (ExitStatus.DONE, "every partition is as the policies want it\n")
    assert mesctl("partitions", "plan").out == "nothing to do: every partition stands\n"
    listed = mesctl("partitions", "list", "--json").json
    assert {row["bound"] for row in listed if row["partition"] == "orders_done"} == {
        "CANCELLED, CLOSED, REJECTED"
    }
    assert {row["bound"] for row in listed if row["table"] == "orders_archive"} == {
        row["action"].removeprefix("create + attach ") for row in planned if row["action"] != "analyze"
    }


def test_dry_run_changes_nothing_and_psql_runs_what_it_prints(
    mesctl: Mesctl, topology: Topology, postgres: PostgresServers
) -> None:
    planned = mesctl("partitions", "plan", "--json").json
    script = mesctl("partitions", "apply", "--dry-run").out
    assert mesctl("partitions", "plan", "--json").json == planned
    # The script itself connects to each shard.
    psql(postgres.conninfo(), script)
    assert mesctl("partitions", "plan", "--json").json == []


def test_check_names_what_differs_and_the_way_out(mesctl: Mesctl, topology: Topology) -> None:
    mesctl("partitions", "apply")
    shard = open_engine(topology, topology.databases["mes_1"], role="mes_owner")
    with shard as engine, engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX orders_hot_packaging_idx")
    said = mesctl("partitions", "check", "--json")
    assert said.status == ExitStatus.FAILED
    assert said.json == [
        {
            "database": "mes_1",
            "table": "orders",
            "partition": "orders_hot",
            "fault": "the index orders_hot_packaging_idx is missing",
            "fix": "migrate the database",
        }
    ]


def test_database_without_tables_gets_one_clear_line(mesctl: Mesctl) -> None:
    mesctl("migrate", "downgrade", "base", "--tree", "mes", "--yes")
    said = mesctl("partitions", "plan")
    assert said.status == ExitStatus.FAILED
    assert said.err == "mesctl: orders is not a partitioned table here: migrate the database first\n"
