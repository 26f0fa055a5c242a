"""Migrations reach every database of a tree, one at a time, whole or not at all."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

import partitions
from ops.fleet import open_engine
from ops.migrate import run
from ops.migrate.errors import FleetFailed
from ops.migrate.ledger import read_latest
from ops.waiting import wait_until
from partitions import manual
from sharding.topology import Topology
from tests.integration.mesctl_rig import Mesctl
from tests.integration.partitions_rig import MES, NOW, catalog_of
from tests.integration.partitions_rig import run as run_action
from tests.project import PROJECT
from tests.psql import psql
from tests.servers import PostgresServers

ROOT = Path(__file__).parents[2]


def tables(topology: Topology, name: str) -> set[str]:
    database = topology.databases[name]
    with open_engine(topology, database, role=database.owner) as engine:
        return set(inspect(engine).get_table_names()) - {"alembic_version"}


def execute(topology: Topology, name: str, sql: str, *, role: str) -> None:
    with open_engine(topology, topology.databases[name], role=role) as engine, engine.begin() as connection:
        connection.exec_driver_sql(sql)


def alembic(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "alembic", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_down_to_nothing_and_up_again(topology: Topology) -> None:
    for tree in PROJECT.trees.values():
        names = list(topology.databases_of(tree.name))
        before = [tables(topology, name) for name in names]
        assert run.current(topology, tree) == dict.fromkeys(names, run.head(tree))

        run.downgrade(topology, tree, "base")
        assert run.current(topology, tree) == dict.fromkeys(names)
        assert [tables(topology, name) for name in names] == [set() for _ in names]

        run.upgrade(topology, tree)
        assert [tables(topology, name) for name in names] == before


def test_alembic_reaches_every_shard(topology: Topology, topology_path: Path) -> None:
    run.downgrade(topology, PROJECT.tree("mes"), "base")
    done = alembic("-n", "mes", "upgrade", "head", MES_STORAGE_TOPOLOGY=str(topology_path))
    assert done.returncode == 0, done.stderr
    assert run.current(topology, PROJECT.tree("mes")) == {
        "mes_0": run.head(PROJECT.tree("mes")),
        "mes_1": run.head(PROJECT.tree("mes")),
    }
    assert {name: entry.state for name, entry in read_latest(topology).items() if "mes" in name} == {
        "mes_0": "done",
        "mes_1": "done",
    }


def test_alembic_takes_the_topology_as_an_argument(topology_path: Path) -> None:
    done = alembic(
        "-n", "crm", "-x", f"topology={topology_path}", "check", MES_STORAGE_TOPOLOGY="absent.toml"
    )
    assert done.returncode == 0, done.stderr
    assert "No new upgrade operations detected" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "clue"),
    [
        (["upgrade", "head"], "no tree 'alembic': name one of directory, shop, crm, mes"),
        (["-n", "mes", "upgrade", "head"], "no topology: the project file names none"),
        (["-n", "mes", "-x", "topology=absent.toml", "current"], "absent.toml: cannot be read"),
    ],
)
def test_wrong_use_gets_one_clear_line(arguments: list[str], clue: str) -> None:
    done = alembic(*arguments, MES_STORAGE_TOPOLOGY="")
    assert done.returncode != 0
    assert clue in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_psql_runs_the_offline_script(topology: Topology, postgres: PostgresServers) -> None:
    for tree in PROJECT.trees.values():
        name, database = next(iter(topology.databases_of(tree.name).items()))
        before = tables(topology, name)
        run.downgrade(topology, tree, "base")
        execute(topology, name, "DROP TABLE alembic_version", role=database.owner)
        psql(postgres.conninfo(database.dbname, role=database.owner), run.render_upgrade(tree))
        # What the library has made since is none of the revisions'.
        assert tables(topology, name) == before - {"metric_samples"}
        assert run.current(topology, tree)[name] == run.head(tree)


LATER = {
    *("flow_control", "flow_grants", "flow_overrides"),
    *("identities", "identity_keys", "identities_version"),
    *("webhook_endpoints", "audit_heads", "audit_log", "audit_seals", "identity_subjects", "session_endings"),
}
"""What later revisions of the order system make."""


def test_later_versions_of_the_library_go_and_come_with_the_revision_that_records_it(
    topology: Topology, topology_path: Path, postgres: PostgresServers, capsys: pytest.CaptureFixture[str]
) -> None:
    mesctl, directory = Mesctl(topology_path, capsys), PROJECT.tree("directory")
    before = tables(topology, "directory")
    run.downgrade(topology, directory, "0005")
    assert tables(topology, "directory") == before - LATER - {"metric_samples", "mes_storage_schema"}
    planned = mesctl("migrate", "plan", "--tree", "directory", "--json").json
    assert [row["revision"] for row in planned] == [
        *("0006", "0007", "0008", "0010", "0011", "0013", "0015", "0016"),
        "mes_storage_schema directory 2",
    ]
    script = mesctl("migrate", "upgrade", "--tree", "directory", "--dry-run").out
    psql(postgres.conninfo(topology.databases["directory"].dbname), script)
    assert tables(topology, "directory") == before
    assert mesctl("migrate", "plan").out == "nothing to do: every database is at its head\n"
    assert mesctl("migrate", "drift").out == "every database is as its migrations make it\n"

    run.downgrade(topology, directory, "0005")
    plain = alembic(
        "-n", "directory", "upgrade", "0005:head", "--sql", MES_STORAGE_TOPOLOGY=str(topology_path)
    )
    assert plain.returncode == 0, plain.stderr
    psql(postgres.conninfo(topology.databases["directory"].dbname, role="directory_owner"), plain.stdout)
    assert tables(topology, "directory") == before
    run.downgrade(topology, directory, "0005")
    run.upgrade(topology, directory)
    assert tables(topology, "directory") == before


def test_psql_runs_alembics_own_script_on_a_database_that_went_back(
    topology: Topology, topology_path: Path, postgres: PostgresServers
) -> None:
    run.downgrade(topology, PROJECT.tree("crm"), "base")  # alembic's own table stays, empty
    script = alembic("-n", "crm", "upgrade", "head", "--sql", MES_STORAGE_TOPOLOGY=str(topology_path))
    assert script.returncode == 0, script.stderr
    psql(postgres.conninfo(topology.databases["crm"].dbname, role="crm_owner"), script.stdout)
    assert run.current(topology, PROJECT.tree("crm")) == {"crm": run.head(PROJECT.tree("crm"))}


def test_migration_that_fails_leaves_nothing(topology: Topology) -> None:
    run.downgrade(topology, PROJECT.tree("mes"), "base")
    # The last table that the migration makes is in its way.
    execute(topology, "mes_1", "CREATE TABLE inbox ()", role="mes_owner")
    with pytest.raises(FleetFailed, match='mes_1 failed in 0001: relation "inbox" already exists'):
        run.upgrade(topology, PROJECT.tree("mes"))
    assert tables(topology, "mes_1") == {"inbox"}
    assert run.current(topology, PROJECT.tree("mes")) == {
        "mes_0": run.head(PROJECT.tree("mes")),
        "mes_1": None,
    }


def test_second_migration_waits_for_the_first(topology: Topology, postgres: PostgresServers) -> None:
    run.downgrade(topology, PROJECT.tree("shop"), "base")
    dbname = topology.databases["shop"].dbname
    upgrade = threading.Thread(target=run.upgrade, args=(topology, PROJECT.tree("shop")))
    with psycopg.connect(postgres.conninfo(dbname), autocommit=True) as first:
        first.execute("SELECT pg_advisory_lock(hashtext('mes-storage migrations'))")
        upgrade.start()

        def is_waiting() -> bool:
            waiting = "SELECT FROM pg_stat_activity WHERE starts_with(query, %s) AND datname = %s"
            values = ["SELECT pg_try_advisory_lock", dbname]
            return first.execute(waiting, values).fetchone() is not None

        assert wait_until(is_waiting, timeout_seconds=60)
        assert tables(topology, "shop") == set()
        first.execute("SELECT pg_advisory_unlock(hashtext('mes-storage migrations'))")
    upgrade.join(timeout=60)
    assert run.current(topology, PROJECT.tree("shop")) == {"shop": run.head(PROJECT.tree("shop"))}


def test_services_have_rights_on_data_only(topology: Topology) -> None:
    for name, role, table in (
        ("shop", "shop", "orders"),
        ("crm", "crm", "orders"),
        ("mes_0", "mes", "orders_done"),
        ("mes_1", "mes", "order_events_archive"),
        ("directory", "shop", "node_leases"),
        ("directory", "crm", "node_leases"),
        ("directory", "mes", "shard_map_versions"),
    ):
        execute(topology, name, f"DELETE FROM {table}", role=role)
        for forbidden in (f"TRUNCATE {table}", f"ALTER TABLE {table} ADD COLUMN x int", "CREATE TABLE x ()"):
            with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
                execute(topology, name, forbidden, role=role)


def test_service_takes_a_number_of_the_outbox_without_a_right_on_its_sequence(topology: Topology) -> None:
    insert = (
        "INSERT INTO outbox (order_id, message_id, destination, type, data) "
        "VALUES (1, gen_random_uuid(), 'crm', 'order.closed', '{}')"
    )
    execute(topology, "mes_0", insert, role="mes")


def test_partitions_that_were_away_when_the_guard_came_get_it_and_come_back(topology: Topology) -> None:
    names = ("orders_archive_2026_12", "orders_hot", "orders_done")
    with open_engine(topology, topology.databases["mes_0"], role="mes_owner") as owner:
        # As long as the tables are those of the policies.
        partitions.apply(owner, MES, NOW)
        run.downgrade(topology, PROJECT.tree("mes"), "0001")
        for table, name in zip(("orders_archive", "orders", "orders"), names, strict=True):
            [detach] = manual.detach(catalog_of(owner)[table], name, NOW)
            run_action(owner, detach)
        run.upgrade(topology, PROJECT.tree("mes"), "0014")
        # A column that the parent got meanwhile is added by hand, before it is indexed.
        with owner.begin() as connection:
            for name in names:
                connection.execute(text(f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS reference text"))
        run.upgrade(topology, PROJECT.tree("mes"))
        partitions.apply(owner, MES, NOW)
        for name in names[1:]:
            [attach] = manual.attach(catalog_of(owner)["orders"], name, NOW)
            run_action(owner, attach)
        assert partitions.check(MES, catalog_of(owner), NOW) == []
        with owner.connect() as connection:
            guards = text(
                "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint "
                "WHERE conname = 'shard_owns_check' AND conrelid::regclass::text = ANY (:names)"
            )
            found = {row[0]: row[1] for row in connection.execute(guards, {"names": list(names)})}
    assert found == dict.fromkeys(names, "CHECK (shard_owns(order_id)) NOT VALID")
