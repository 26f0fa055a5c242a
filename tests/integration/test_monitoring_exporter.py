"""The exporter on real databases: what it reads, what a dead or frozen one costs, and how it is served."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, event

from app.console.monitoring.samples import _kinds, read_samples
from app.messaging.routing import ServiceName
from app.models.status import Status
from ops.embedded.pgpass import ensure_passwords
from ops.embedded.postgres import SUPERUSER, UNSAFE, PostgresCluster, access_line
from ops.embedded.programs import PostgresTools
from ops.fleet import Member
from ops.monitoring import databases
from ops.monitoring.databases import DatabaseReader, DatabaseReading, open_limited
from ops.monitoring.exporter import Exporter
from ops.partitions.metrics import Sample
from ops.ports import LOOPBACK, PortPicker
from ops.waiting import wait_until
from partitions.bounds import DefaultBound
from partitions.catalog import Partition, PartitionedTable
from sharding.topology import Database, Topology
from tests.integration.mesctl_rig import Mesctl
from tests.project import DATABASES, PROJECT
from tests.servers import PostgresServers

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 12, 2, 12, tzinfo=UTC)

OF_EVERY_NODE = {"up", "transaction_age_seconds", "locks_waiting", "connections", "connections_max"}
OF_EVERY_DISK = {"disk_free_bytes", "disk_bytes"}
OF_EVERY_DATABASE = {
    *("database_bytes", "xid_age", "transactions_total", "in_doubt_units", "in_doubt_oldest_seconds"),
    *("rows", "live_rows", "dead_rows", "exporter_errors_total", "exporter_last_success_timestamp_seconds"),
}
OF_SHARDS = {"shard_rows", "shard_bytes", "partitions_months_ahead", "archive_waiting_rows"}
OF_PARTITIONED = {
    *("replica_lag_seconds", "replica_lag_bytes", "partition_rows", "partition_bytes"),
    "partitions_pending_detaches",
}
"""Of the board, too, which has partitions and a replica."""


def exporter_of(topology: Topology, lines: list[str] | None = None, **options: object) -> Exporter:
    """Make an exporter of all databases of a topology."""
    members = [Member(base, PROJECT.tree(base.tree)) for base in topology.databases.values()]
    report = ([] if lines is None else lines).append
    return Exporter(topology, DatabaseReader(topology, members), report=report, **options)  # type: ignore[arg-type]


def places(samples: Sequence[Sample]) -> dict[str, set[str]]:
    """Return the databases (or nodes) of each metric."""
    found: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        labels = sample.labels
        found[sample.name.removeprefix("mes_storage_")].add(
            labels.get("database") or labels.get("shard") or ""
        )
    return found


def value(samples: Sequence[Sample], name: str, **labels: str) -> float:
    """Return the only value of a metric with these labels."""
    [found] = [each.value for each in samples if each.name == name and labels.items() <= each.labels.items()]
    return found


@pytest.fixture
def monitors(postgres: PostgresServers) -> Iterator[None]:
    """Let the owners see what a platform of `mesctl up` lets them see."""
    owners = ", ".join({shape.owner for shape in DATABASES})
    with postgres.primary.connect() as connection:
        connection.execute(f"GRANT pg_monitor TO {owners}".encode())
        yield
        connection.execute(f"REVOKE pg_monitor FROM {owners}".encode())


@pytest.mark.usefixtures("monitors")
def test_every_metric_is_read_from_every_database(topology: Topology) -> None:
    exporter, names = exporter_of(topology), set(topology.databases)

    def is_proven() -> bool:
        exporter.collect(NOW)
        return places(exporter.samples)["replica_lag_seconds"] == {"board", "mes_0", "mes_1"}

    # What a replica lacks at the first look has no age yet.
    assert wait_until(is_proven, timeout_seconds=30)
    found = places(exporter.samples)
    for name in OF_EVERY_NODE | OF_EVERY_DISK | OF_EVERY_DATABASE:
        assert found[name] == names, name
    shards = {"mes_0", "mes_1"}
    for name in OF_SHARDS:
        assert found[name] == shards, name
    for name in OF_PARTITIONED:
        assert found[name] == shards | {"board"}, name
    nodes = [sample for sample in exporter.samples if sample.name == "mes_storage_up"]
    assert len(nodes) == len(names) + len({"board", *shards})
    assert {sample.value for sample in nodes} == {1}
    assert value(nodes, "mes_storage_up", node="mes_0_replica", role="replica") == 1
    assert value(exporter.samples, "mes_storage_connections_max", database="shop") == 197
    assert not {sample for sample in exporter.samples if "queryid" in sample.labels}


def test_rights_that_lack_are_named_once_and_cost_their_metrics_only(topology: Topology) -> None:
    lines: list[str] = []
    exporter = exporter_of(topology, lines)
    exporter.collect(NOW)
    exporter.collect(NOW)
    found = places(exporter.samples)
    assert not (OF_EVERY_DISK | {"transaction_age_seconds"}) & found.keys()
    assert found["locks_waiting"] == set(topology.databases)
    assert len(lines) == len(topology.databases)
    assert "its owner lacks pg_read_all_stats" in lines[0]
    assert value(exporter.samples, "mes_storage_exporter_errors_total", database="shop") == 0


@pytest.mark.usefixtures("monitors")
def test_waits_and_old_transactions_are_seen(topology: Topology, postgres: PostgresServers) -> None:
    conninfo = postgres.conninfo(topology.database("crm").dbname)
    with psycopg.connect(conninfo) as first, psycopg.connect(conninfo, autocommit=True) as second:
        first.execute("LOCK TABLE inbox")
        with psycopg.connect(conninfo) as third, ThreadPoolExecutor() as pool:
            third.execute("SET lock_timeout = '60s'")
            blocked = pool.submit(third.execute, "LOCK TABLE inbox")
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
            pid = [third.info.backend_pid]
            assert wait_until(lambda: second.execute(waiting, pid).fetchone() == (1,), timeout_seconds=20)
            exporter = exporter_of(topology)
            exporter.collect(NOW)
            third.cancel_safe()
            assert isinstance(blocked.exception(), psycopg.errors.QueryCanceled)
    assert value(exporter.samples, "mes_storage_locks_waiting", database="crm") == 1
    assert value(exporter.samples, "mes_storage_transaction_age_seconds", database="crm") > 0
    assert value(exporter.samples, "mes_storage_locks_waiting", database="shop") == 0


def test_table_that_is_locked_costs_what_is_read_of_its_partitions(
    topology: Topology, postgres: PostgresServers
) -> None:
    lines: list[str] = []
    exporter = exporter_of(topology, lines)
    with psycopg.connect(postgres.conninfo(topology.database("mes_0").dbname)) as holder:
        holder.execute("LOCK TABLE orders_hot")
        exporter.collect(NOW)
    found = places(exporter.samples)
    assert found["partition_rows"] == {"board", "mes_1"}
    assert found["live_rows"] == set(topology.databases)
    assert any(
        line.startswith("mes_0: ") and "lock timeout" in line for line in "\n".join(lines).splitlines()
    )
    assert value(exporter.samples, "mes_storage_exporter_errors_total", database="mes_0") >= 1
    exporter.collect(NOW)
    assert places(exporter.samples)["partition_rows"] == {"board", "mes_0", "mes_1"}


def test_node_that_is_frozen_or_gone_costs_its_own_metrics_only(topology: Topology, tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as frozen:  # its kernel takes connections, and no one answers
        gone, text = PortPicker(random.Random()).pick(), topology.path.read_text()
        for name, port in (("crm", gone), ("mes_1", frozen.getsockname()[1])):
            head, table, rest = text.partition(f"[databases.{name}]")
            rest = rest.replace(f"port = {topology.database(name).primary.port} }}", f"port = {port} }}", 1)
            text = head + table + rest
        path = tmp_path / "other.toml"
        path.write_text(text)
        lines: list[str] = []
        exporter = exporter_of(Topology.load(path), lines)
        exporter.collect(NOW)
    ups = {
        (each.labels["database"], each.labels["node"]): each.value
        for each in exporter.samples
        if each.name == "mes_storage_up"
    }
    assert {place for place, is_up in ups.items() if not is_up} == {("crm", "primary"), ("mes_1", "primary")}
    found = places(exporter.samples)
    assert found["database_bytes"] == {"board", "shop", "directory", "mes_0"}
    assert found["connections"] == {"board", "shop", "directory", "mes_0", "mes_1"}
    assert found["exporter_last_success_timestamp_seconds"] == {"board", "shop", "directory", "mes_0"}
    assert {line.partition(":")[0] for line in "\n".join(lines).splitlines()} >= {"crm", "mes_1"}


def test_round_ends_in_time_and_what_is_late_is_not_asked_again(topology: Topology) -> None:
    calls: list[datetime] = []
    with closing(socket.create_server((LOOPBACK, 0))) as late:

        def wait_for_client(_: Topology) -> list[Sample]:
            calls.append(NOW)
            late.accept()[0].close()
            return [Sample("app_things", {}, 1)]

        exporter = exporter_of(topology, read_project=wait_for_client, round_seconds=2.0)
        exporter.collect(NOW)
        exporter.collect(NOW)
        assert len(calls) == 1
        assert places(exporter.samples)["database_bytes"] == set(topology.databases)
        assert value(exporter.samples, "mes_storage_exporter_errors_total", database="project") == 2
        socket.create_connection(late.getsockname()).close()


def test_project_that_raises_costs_its_own_samples_only(topology: Topology) -> None:
    def fail(_: Topology) -> list[Sample]:
        raise LookupError("no such table")

    lines: list[str] = []
    exporter = exporter_of(topology, lines, read_project=fail)
    exporter.collect(NOW)
    assert "project: LookupError: no such table" in lines
    assert places(exporter.samples)["database_bytes"] == set(topology.databases)


def test_samples_that_cannot_be_written_do_not_end_the_rounds(topology: Topology) -> None:
    lines: list[str] = []
    strange = Sample("app_strange", {"database": b"mes_0"}, 1.0)  # type: ignore[dict-item]
    given = [[strange], []]
    exporter = exporter_of(topology, lines, read_project=lambda _: given.pop(0))
    exporter.collect(NOW)
    exporter.write(NOW)
    assert [line for line in lines if "the table of samples was not written: " in line]
    later = NOW + timedelta(minutes=1)
    exporter.collect(later)
    exporter.write(later)
    with open_limited(topology, topology.database("directory")) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM metric_samples").scalar_one() > 0


def test_labels_are_bounded(topology: Topology, postgres: PostgresServers) -> None:
    with psycopg.connect(postgres.conninfo(topology.database("crm").dbname)) as connection:
        for number in range(30):
            connection.execute(f"CREATE TABLE more_{number} (id int)".encode())
            connection.execute(f"INSERT INTO more_{number} SELECT 1".encode())
    exporter = exporter_of(topology)

    def tables() -> dict[str, float]:
        exporter.collect(NOW)
        return {
            each.labels["table"]: each.value
            for each in exporter.samples
            if each.name == "mes_storage_live_rows" and each.labels["database"] == "crm"
        }

    # Its numbers come a moment late.
    assert wait_until(lambda: sum(tables().values()) >= 30, timeout_seconds=30)
    found = tables()
    assert len(found) == databases.TABLES_NAMED + 1
    assert found[databases.OTHER] >= 10


def test_partitions_beyond_the_largest_are_one() -> None:
    parts = [
        Partition(f"p_{number}", DefaultBound(), number, number * 8192, frozenset(), frozenset())
        for number in range(100)
    ]
    table = PartitionedTable.__new__(PartitionedTable)
    for name, what in (("name", "p"), ("partitions", tuple(parts))):
        object.__setattr__(table, name, what)
    reading = DatabaseReading("mes_0")
    databases.add_partitions(table, reading)
    rows = {each.labels["partition"]: each.value for each in reading.samples if each.name.endswith("_rows")}
    assert len(rows) == databases.PARTITIONS_NAMED + 1
    assert rows["p_99"] == 99
    assert rows[databases.OTHER] == sum(range(70))
    assert sum(rows.values()) == sum(range(100))


TOPOLOGY = """
passfile = "pgpass"
[trees.shop]
kind = "single"
owner = "postgres"
[databases.shop]
tree = "shop"
dbname = "postgres"
primary = { host = "127.0.0.1", port = PORT }
"""


@pytest.fixture
def with_statements(tmp_path: Path) -> Iterator[Topology]:
    """Give a server of its own that counts statements; others cannot, for it is loaded at the start."""
    port, passfile = PortPicker(random.Random()).pick(), tmp_path / "pgpass"
    passwords = ensure_passwords(passfile, [SUPERUSER])
    cluster = PostgresCluster(
        "own", tools=PostgresTools(), data=tmp_path / "own", log=tmp_path / "own.log", passfile=passfile
    )
    cluster.create(superuser_password=passwords[SUPERUSER], safe=False)
    settings = {**UNSAFE, "shared_preload_libraries": databases.EXTENSION}
    cluster.configure(port=port, access=[access_line("all", (SUPERUSER,))], settings=settings)
    try:
        cluster.start(port=port)
        path = tmp_path / "topology.toml"
        path.write_text(TOPOLOGY.replace("PORT", str(port)))
        yield Topology.load(path)
    finally:
        cluster.stop()
        shutil.rmtree(cluster.data)  # its owner is who PostgreSQL ran as


def test_statements_that_took_most_are_counted_where_that_is_installed(with_statements: Topology) -> None:
    exporter = exporter_of(with_statements)
    exporter.collect(NOW)
    missing = {"database": "shop", "what": "pg_stat_statements"}
    assert value(exporter.samples, "mes_storage_exporter_missing", **missing) == 1
    shop = with_statements.database("shop")
    with open_limited(with_statements, shop, read_only=False) as connection:
        connection.exec_driver_sql("CREATE EXTENSION pg_stat_statements")
        for number in range(40):
            connection.exec_driver_sql(f"SELECT {', '.join('1' * (number + 1))}")
    exporter.collect(NOW)
    found = [each for each in exporter.samples if each.name == "mes_storage_statement_seconds_total"]
    assert len(found) == databases.STATEMENTS_NAMED
    assert all(each.labels["queryid"].lstrip("-").isdigit() and each.value > 0 for each in found)
    assert not places(exporter.samples)["exporter_missing"]
    assert value(exporter.samples, "mes_storage_exporter_errors_total", database="shop") == 0


def test_extension_that_was_not_loaded_is_no_fault(topology: Topology, postgres: PostgresServers) -> None:
    insert(postgres, topology.database("shop").dbname, ["CREATE EXTENSION pg_stat_statements"])
    exporter = exporter_of(topology)
    exporter.collect(NOW)
    assert value(exporter.samples, "mes_storage_exporter_errors_total", database="shop") == 0


STATEMENTS_OF_A_ROUND = 16
"""What a round sends to the nodes of a database at most, beside the poll of each."""


def test_round_has_few_statements(topology: Topology) -> None:
    sent: dict[str, int] = defaultdict(int)

    def count(connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent[connection.engine.url.database] += 1  # type: ignore[attr-defined]

    event.listen(Engine, "before_cursor_execute", count)
    try:
        exporter_of(topology).collect(NOW)
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    assert max(sent.values()) <= STATEMENTS_OF_A_ROUND, dict(sent)


def test_connection_is_limited_and_reads_only(topology: Topology) -> None:
    with open_limited(topology, topology.database("shop")) as connection:
        shown = connection.exec_driver_sql(
            "SELECT current_setting('statement_timeout'), current_setting('transaction_read_only')"
        ).one()
    assert shown == ("2s", "on")


def insert(postgres: PostgresServers, dbname: str, statements: Sequence[str]) -> None:
    with psycopg.connect(postgres.conninfo(dbname)) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_order_system_counts_orders_messages_and_jobs(topology: Topology, postgres: PostgresServers) -> None:
    columns = "order_id, status, channel, summary, version, changed_at"
    old = "now() - interval '1 hour'"
    insert(
        postgres,
        topology.database("mes_0").dbname,
        [
            "CREATE OR REPLACE FUNCTION shard_owns(shard_key bigint) RETURNS boolean"
            " LANGUAGE sql IMMUTABLE RETURN true",
            f"INSERT INTO orders ({columns})"
            f" SELECT n, 'SUBMITTED', 'B2B', '', 1, {old} FROM generate_series(1, 4) AS n",
            f"INSERT INTO orders ({columns}) VALUES (9, 'CLOSED', 'B2B', '', 1, now())",
            "INSERT INTO pricing_jobs (order_id) VALUES (1), (2)",
            "INSERT INTO pricing_jobs VALUES (3, 1, 'worker', now() + interval '1 minute')",
            "INSERT INTO pricing_jobs VALUES (4, 1, NULL, now() + interval '1 minute')",
            "INSERT INTO outbox (order_id, message_id, destination, type, data, created_at)"
            f" VALUES (1, gen_random_uuid(), 'crm', 'x', '{{}}', {old})",
            "INSERT INTO outbox (order_id, message_id, destination, type, data, set_aside_at)"
            f" VALUES (2, gen_random_uuid(), 'shop', 'x', '{{}}', {old})",
        ],
    )
    samples = read_samples(topology)
    here = {"database": "mes_0"}
    assert value(samples, "app_orders", status="SUBMITTED", **here) == 4
    assert value(samples, "app_orders", status="CLOSED", **here) == 1
    assert value(samples, "app_orders_oldest_seconds", status="SUBMITTED", **here) >= 3600
    assert value(samples, "app_pricing_jobs", state="waiting", **here) == 2
    assert value(samples, "app_pricing_jobs", state="held", **here) == 1
    assert value(samples, "app_pricing_jobs", state="resting", **here) == 1
    assert value(samples, "app_pricing_jobs_oldest_seconds", state="waiting", **here) >= 3600
    assert value(samples, "app_outbox_messages", destination="crm", **here) == 1
    assert value(samples, "app_dead_letters", destination="shop", **here) == 1
    assert value(samples, "app_dead_letters_oldest_seconds", destination="shop", **here) >= 3600
    orders = [each for each in samples if each.name == "app_orders"]
    assert len(orders) == 4 * len(Status)
    assert {each.labels["status"] for each in orders} == {status.value for status in Status}


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_process_serves_writes_and_ends_at_sigterm(topology: Topology) -> None:
    port = PortPicker(random.Random()).pick()
    environment = os.environ | {"MES_STORAGE_TOPOLOGY": str(topology.path)}
    command = [sys.executable, "-m", "ops", "monitoring", "exporter", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert wait_until(lambda: get(port, "/readyz")[0] == 200, timeout_seconds=60)
            assert get(port, "/livez") == (200, "alive\n")
            assert get(port, "/other")[0] == 404
            status, text = get(port, "/metrics")
            families = {family.name: family for family in text_string_to_metric_families(text)}
            assert status == 200
            assert {sample.value for sample in families["mes_storage_up"].samples} == {1}
            assert families["app_orders"].type == "gauge"
            assert families["mes_storage_transactions"].type == "counter"

            def rows() -> bool:
                with open_limited(topology, topology.database("directory")) as connection:
                    return bool(
                        connection.exec_driver_sql("SELECT count(*) FROM metric_samples").scalar_one()
                    )

            assert wait_until(rows, timeout_seconds=30)
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert "Traceback" not in said


def test_once_prints_a_round(topology: Topology, capsys: pytest.CaptureFixture[str]) -> None:
    mesctl = Mesctl(topology.path, capsys)
    said = mesctl("monitoring", "exporter", "--once")
    assert said.status == 0
    names = {family.name for family in text_string_to_metric_families(said.out)}
    assert {"mes_storage_up", "app_orders"} <= names
    rows = mesctl("monitoring", "exporter", "--once", "--json").json
    assert {
        "name": "mes_storage_up",
        "labels": {"database": "shop", "node": "primary", "role": "primary"},
        "value": 1,
    } in rows
    refused = mesctl("monitoring", "exporter")
    assert (refused.status, "[monitoring] port = 9187" in refused.err) == (2, True)


COLUMNS = {
    "shop": "customer_name, customer_email, material, finish, quantity, idempotency_key",
    "crm": "customer_name",
}
VALUES = {"shop": "'Ada', 'a' || n, 'brass', 'matte', 1, n", "crm": "'Ada'"}


def add_orders(postgres: PostgresServers, database: Database, order_ids: range, status: str) -> None:
    service = database.tree
    insert(
        postgres,
        database.dbname,
        [
            f"INSERT INTO orders (order_id, status, channel, summary, version, {COLUMNS[service]})"
            f" SELECT n, {status}, 'B2C', repeat('a ring ', 25), 1, {VALUES[service]}"
            f" FROM generate_series({order_ids[0]}, {order_ids[-1]}) AS n"
        ],
    )


def vacuumed(postgres: PostgresServers, dbname: str) -> None:
    with psycopg.connect(postgres.conninfo(dbname), autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) orders")


def pages_read(topology: Topology, service: str, kind: str) -> int:
    """Return how many pages the statements of a reading touch, by EXPLAIN through the same driver."""
    pages = 0
    with open_limited(topology, topology.database(service)) as connection:

        def explain(_1: object, cursor: Any, statement: str, parameters: Any, *_: object) -> None:
            nonlocal pages
            if statement.lstrip().startswith(("SELECT", "WITH")):
                explained = connection.connection.cursor()
                explained.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
                [[[plan]]] = explained.fetchall()
                pages += plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]

        event.listen(connection.engine, "before_cursor_execute", explain)
        assert list(_kinds(ServiceName(service))[kind](service, connection))
    return pages


@pytest.mark.parametrize("service", ["shop", "crm"])
def test_counts_of_orders_read_no_more_pages_the_more_have_ended(
    topology: Topology, postgres: PostgresServers, service: str
) -> None:
    database = topology.database(service)
    add_orders(postgres, database, range(500), "'SHIPPED'")
    add_orders(postgres, database, range(1_000, 51_000), "'CLOSED'")
    vacuumed(postgres, database.dbname)
    few = {kind: pages_read(topology, service, kind) for kind in ("open", "ended")}
    mixed = "CASE WHEN n % 10 = 0 THEN 'REJECTED' ELSE 'CLOSED' END"
    add_orders(postgres, database, range(100_000, 150_000), mixed)
    vacuumed(postgres, database.dbname)
    many = {kind: pages_read(topology, service, kind) for kind in ("open", "ended")}
    with psycopg.connect(postgres.conninfo(database.dbname)) as connection:
        [[size]] = connection.execute("SELECT pg_relation_size('orders') / 8192").fetchall()
    assert size > 1_500
    assert many["open"] <= few["open"] + 5 < 60
    assert many["ended"] <= few["ended"] + 5 < 200
    samples = read_samples(topology)
    assert value(samples, "app_orders", database=service, status="SHIPPED") == 500
    # Of a sample of 30,000 rows: a share of 5 % is known to about a tenth of it.
    assert value(samples, "app_orders", database=service, status="REJECTED") == pytest.approx(5_000, rel=0.2)
    assert value(samples, "app_orders", database=service, status="CLOSED") == pytest.approx(95_000, rel=0.02)


def test_help_of_a_metric_says_what_is_counted_and_what_is_estimated(
    topology_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = Mesctl(topology_path, capsys, PROJECT.path)("monitoring", "exporter", "--once")
    [line] = [each for each in said.out.splitlines() if each.startswith("# HELP app_orders ")]
    assert "Open ones are counted" in line
    assert "estimate" in line
