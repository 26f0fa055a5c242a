"""`mesctl partitions` on all shards."""

import re
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops.cli import INTERRUPTED
from ops.errors import ExitStatus
from ops.fleet import open_engine
from ops.partitions import service
from ops.waiting import wait_until
from sharding.topology import Topology
from tests.integration.mesctl_rig import Mesctl
from tests.integration.partitions_rig import insert_order
from tests.platform_topology import write_topology
from tests.pool import DatabasePool
from tests.project import PROJECT
from tests.psql import psql
from tests.servers import PostgresServers, ValkeyServer

MES = ("--tree", "mes")  # the board has a table of orders, too
TREES = ("orders_archive", "order_items_archive", "order_events_archive")


@pytest.fixture
def mesctl(topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    """Give `mesctl` on this test's databases."""
    return Mesctl(topology_path, capsys)


def test_plan_apply_check_list(mesctl: Mesctl, topology: Topology) -> None:
    assert mesctl("partitions", "check").status == ExitStatus.FAILED

    planned = mesctl("partitions", "plan", "--json").json
    assert {(row["database"], row["table"]) for row in planned} == {
        ("board", "orders"),
        *((shard, table) for shard in ("mes_0", "mes_1") for table in ("orders", *TREES)),
    }
    assert len(planned) == 2 * (len(TREES) * (4 + 1) + 1) + 1
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
            "fix": "apply the policies (mesctl partitions apply)",
        }
    ]


def test_database_without_tables_gets_one_clear_line(mesctl: Mesctl) -> None:
    mesctl("migrate", "downgrade", "base", "--tree", "mes", "--yes")
    said = mesctl("partitions", "plan")
    assert said.status == ExitStatus.FAILED
    assert said.err == "".join(
        f"mesctl: {shard}: orders is not a partitioned table here: migrate the database first\n"
        for shard in ("mes_0", "mes_1")
    )


def test_shard_that_is_down_does_not_hold_up_the_other(
    mesctl: Mesctl, topology_path: Path, topology: Topology, postgres: PostgresServers
) -> None:
    dbname = topology.databases["mes_0"].dbname
    psql(postgres.conninfo(), f"ALTER DATABASE {dbname} ALLOW_CONNECTIONS false")
    metrics = topology_path.with_name("partitions.prom")
    said = mesctl("partitions", "apply", "--quiet", "--metrics-file", str(metrics))
    assert (said.status, said.out) == (ExitStatus.FAILED, "")
    assert said.err.startswith("mesctl: mes_0: ")
    assert "not currently accepting connections" in said.err
    written = metrics.read_text()
    assert 'mes_storage_partitions_months_ahead{database="mes_1",table="orders_archive"} 3\n' in written
    assert 'last_success_timestamp_seconds{database="mes_1"}' in written
    assert "mes_0" not in written
    # Of a shard that has not answered nothing is known.
    unknown = mesctl("partitions", "plan")
    assert (unknown.status, unknown.out) == (ExitStatus.FAILED, "")

    psql(postgres.conninfo(), f"ALTER DATABASE {dbname} ALLOW_CONNECTIONS true")
    again = mesctl("partitions", "apply", "--quiet", "--metrics-file", str(metrics))
    assert (again.status, again.out, again.err) == (ExitStatus.DONE, "", "")
    assert 'pending_detaches{database="mes_0",table="orders"} 0\n' in metrics.read_text()
    assert mesctl("partitions", "check").status == ExitStatus.DONE


def test_verbs_and_their_inverses_on_all_shards(
    mesctl: Mesctl, topology: Topology, postgres: PostgresServers
) -> None:
    mesctl("partitions", "apply")
    verbs = [
        ("split", "orders", "orders_hot", "--value", "SHIPPED", "--into", "orders_shipped", *MES),
        ("merge", "orders", "orders_shipped", "--into", "orders_hot", *MES),
        ("index", "orders_archive", "orders_archive_partner_idx", "--columns", "partner"),
        ("index", "orders_archive", "orders_archive_partner_idx", "--drop"),
        ("analyze", "orders", *MES),
    ]
    for words in verbs:
        psql(postgres.conninfo(), mesctl("partitions", *words, "--dry-run").out)
    assert mesctl("partitions", "check").status == ExitStatus.DONE
    for words in verbs:
        said = mesctl("partitions", *words, "--json")
        assert {row["database"] for row in said.json} == {"mes_0", "mes_1"}, said.err
    assert mesctl("partitions", "check", "--deep").status == ExitStatus.DONE


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ("detach", "orders_archiv", "x"),
            "orders_archiv is no table that is partitioned; there are orders, ",
        ),
        (("detach", "orders_archive", "x"), "orders_archive has no x; there are orders_archive_2"),
        (
            ("add", "orders_archive", "x", "--value", "LOST"),
            "partitioned by lists of values; there are orders",
        ),
        (("add", "orders", "orders_hot", "--value", "CLOSED", *MES), "CLOSED is in orders_done already"),
        (("split", "orders", "orders_hot", "--value", "SHIPED", "--into", "x", *MES), "has no value SHIPED"),
        (("split", "orders", "orders_hot", "--value", "SHIPPED", "--into", "A-b", *MES), "'A-b' is no name"),
        (("merge", "orders", "orders_hot", "--into", "orders_hot", *MES), "cannot be merged into itself"),
        (
            ("index", "orders", "orders_pkey", "--columns", "channel", *MES),
            "has an index orders_pkey already",
        ),
    ],
)
def test_slip_of_the_hand_is_refused_before_anything_is_changed(
    words: tuple[str, ...], reason: str, migrated: Mesctl
) -> None:
    said = migrated("partitions", *words)
    assert (said.status, said.out) == (ExitStatus.REFUSED, "")
    assert reason in said.err
    assert migrated("partitions", "check").status == ExitStatus.DONE


@pytest.fixture(scope="module")
def shared_path(
    postgres: PostgresServers,
    valkey_server: ValkeyServer,
    databases: DatabasePool,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """Give the topology of databases that stay as they are."""
    with databases.borrow() as dbnames:
        path = tmp_path_factory.mktemp("refused") / "topology.toml"
        yield write_topology(path, dbnames, postgres, valkey_server)


@pytest.fixture
def migrated(shared_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    """Give `mesctl` on databases with their months."""
    mesctl = Mesctl(shared_path, capsys)
    assert mesctl("partitions", "apply", "--quiet").status == ExitStatus.DONE
    return mesctl


def test_folder_of_the_metrics_that_is_not_there_is_told_before_anything_is_done(migrated: Mesctl) -> None:
    said = migrated("partitions", "apply", "--metrics-file", "/nowhere/partitions.prom")
    assert (said.status, "there is no folder /nowhere" in said.err) == (ExitStatus.USAGE, True)


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """Hear SIGINT, which a shell that started these tests in the background has set to be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_ends_a_wait_for_a_lock_and_the_next_run_goes_on(mesctl: Mesctl, topology: Topology) -> None:
    mesctl("partitions", "apply")
    [month, *_] = partitions_of(mesctl, "orders_archive")
    main = threading.main_thread().ident
    assert main is not None
    with (
        open_engine(topology, topology.databases["mes_0"], role="mes_owner") as engine,
        engine.connect() as old,
    ):
        old.exec_driver_sql("SELECT FROM orders_archive")

        def press() -> None:
            query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%DETACH%%CONCURRENTLY%%' "
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as looking:
                assert wait_until(
                    lambda: looking.exec_driver_sql(
                        f"{query} AND wait_event_type = 'Lock' AND datname = current_database()"
                    ).scalar_one(),
                    timeout_seconds=30,
                )
            signal.pthread_kill(main, signal.SIGINT)

        thread = threading.Thread(target=press)
        thread.start()
        said = mesctl("partitions", "detach", "orders_archive", month)
        thread.join()
        # The reader is still there: it was not waited for.
        assert not old.closed
        assert said.status == INTERRUPTED
    assert mesctl("partitions", "apply").status == ExitStatus.DONE
    assert mesctl("partitions", "check").status == ExitStatus.DONE
    assert month in partitions_of(mesctl, "orders_archive")


def partitions_of(mesctl: Mesctl, table: str) -> list[str]:
    listed = mesctl("partitions", "list", "--json").json
    return sorted(row["partition"] for row in listed if row["table"] == table)


def test_detached_month_is_attached_or_dropped_by_hand(mesctl: Mesctl) -> None:
    mesctl("partitions", "apply")
    [month, *_] = sorted(
        row["partition"]
        for row in mesctl("partitions", "list", "--json").json
        if row["table"] == "orders_archive"
    )
    words = ("orders_archive", month)
    assert mesctl("partitions", "drop", *words).err.count("it is attached; detach it first") == 2
    assert mesctl("partitions", "detach", *words).status == ExitStatus.DONE
    refused = mesctl("partitions", "drop", *words)
    assert refused.status == ExitStatus.REFUSED
    assert "less than 7 days ago" in refused.err
    assert mesctl("partitions", "attach", *words).status == ExitStatus.DONE
    assert mesctl("partitions", "check").status == ExitStatus.DONE
    mesctl("partitions", "detach", *words)
    assert mesctl("partitions", "drop", *words, "--delay-days", "0").status == ExitStatus.DONE
    # The current month is needed: it is made anew.
    assert [row["action"][:15] for row in mesctl("partitions", "plan", "--json").json] == [
        "create + attach"
    ] * 2


def test_deep_check_finds_an_id_in_two_partitions(mesctl: Mesctl, topology: Topology) -> None:
    mesctl("partitions", "apply")
    shard = open_engine(topology, topology.databases["mes_1"], role="mes_owner")
    with shard as engine, engine.begin() as connection:
        insert_order(connection, 7, "SHIPPED")
        insert_order(connection, 7, "CLOSED")
    assert mesctl("partitions", "check").status == ExitStatus.DONE
    [row] = mesctl("partitions", "check", "--deep", "--json").json
    assert (row["database"], row["fault"]) == (
        "mes_1",
        "1 order_id stand in it more than once: 7",
    )


def test_clock_that_is_not_the_servers_makes_and_takes_no_month(topology: Topology) -> None:
    an_hour = timedelta(hours=1)
    for now in (datetime.now(UTC) + timedelta(days=10_000), datetime.now(UTC) - 2 * an_hour):
        for outcome in service.apply_partitions(topology, PROJECT, now=now, max_clock_difference=an_hour):
            assert re.search(
                "it is .* UTC here and .* UTC on the server: nothing was done", outcome.error or ""
            )
    assert all(
        not ("orders_archive" in each.result and each.result["orders_archive"].partitions)
        for each in service.read_catalogs(topology, PROJECT)
        if each.result
    )
