"""Another team's project: its own trees, version tables and folder; the order system is not in it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from ops.errors import ExitStatus
from tests.integration.mesctl_rig import Mesctl
from tests.integration.migrations_rig import Fleet, run_fleet
from tests.integration.team_rig import Team, run_team
from tests.psql import psql
from tests.servers import PostgresServers

_numbers = count(1)
TABLES = (
    "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
)


def folder(parent: Path) -> Path:
    made = parent / f"team{next(_numbers)}"
    made.mkdir()
    return made


@pytest.fixture
def pair(postgres: PostgresServers, tmp_path: Path) -> Iterator[Team]:
    """Give a project of two trees."""
    with run_team(postgres, folder(tmp_path), "invoices", "payments") as team:
        yield team


@pytest.fixture
def alone(postgres: PostgresServers, tmp_path: Path) -> Iterator[Team]:
    """Give a project of one tree."""
    with run_team(postgres, folder(tmp_path), "payments") as team:
        yield team


@pytest.fixture
def mesctl(pair: Team, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Mesctl:
    """Give `mesctl` in the folder of the project of two trees."""
    monkeypatch.chdir(pair.root)
    return Mesctl(pair.root / "topology.toml", capsys)


def alembic(team: Team, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "alembic", *arguments],
        cwd=cwd or team.root,
        env=os.environ | {"MES_STORAGE_TOPOLOGY": str(team.root / "topology.toml")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_each_tree_has_its_own_version_table_everywhere(pair: Team, mesctl: Mesctl) -> None:
    script = mesctl("migrate", "upgrade", "--dry-run").out
    psql(pair.servers.conninfo(), script)
    assert mesctl("migrate", "upgrade", "--json").status == ExitStatus.DONE
    assert [row["ran"] for row in mesctl("migrate", "upgrade", "--json").json] == ["", ""]
    for tree in pair.trees:
        assert pair.query(tree, TABLES) == [(f"{tree}_version",), ("things",)]
        assert pair.query(tree, f"SELECT obj_description('{tree}_version'::regclass)") == [
            (f"mes-storage tree: {tree}",)
        ]
    frozen = mesctl("migrate", "freeze", "--json")
    assert [(row["tree"], row["revision"], row["changed"]) for row in frozen.json] == [
        ("invoices", "0001", True),
        ("payments", "0001", True),
    ]
    assert "_version" not in (pair.root / "migrations" / "payments" / "schema" / "0001.json").read_text()
    drift = mesctl("migrate", "drift")
    assert (drift.status, drift.out) == (ExitStatus.DONE, "every database is as its migrations make it\n")
    assert alembic(pair, "-n", "payments", "check").returncode == 0
    assert mesctl("migrate", "lint", "--json").json == []


def test_freeze_writes_nothing_dry_and_nothing_of_what_is_behind(pair: Team, mesctl: Mesctl) -> None:
    behind = mesctl("migrate", "freeze")
    assert (behind.status, "invoices is at base, and the head is 0001" in behind.err) == (
        ExitStatus.REFUSED,
        True,
    )
    mesctl("migrate", "upgrade")
    assert mesctl("migrate", "freeze", "--dry-run", "--json").json[0]["changed"] is True
    assert not (pair.root / "migrations" / "payments" / "schema").exists()
    drift = mesctl("migrate", "drift")
    assert drift.status == ExitStatus.FAILED
    assert "payments: was not compared: it is at 0001, of which no schema is frozen" in drift.err


@pytest.mark.parametrize("text", ["", '{"revision": "0001"}', "[]", "<<<<<<< ours\n"])
def test_frozen_schema_that_is_none_is_one_line(pair: Team, mesctl: Mesctl, text: str) -> None:
    mesctl("migrate", "upgrade")
    mesctl("migrate", "freeze")
    (pair.root / "migrations" / "payments" / "schema" / "0001.json").write_text(text)
    drift = mesctl("migrate", "drift")
    assert (drift.status, drift.out) == (ExitStatus.FAILED, "")
    [line] = drift.err.splitlines()
    assert "payments/schema/0001.json: is no frozen schema: " in line


def test_revisions_in_a_folder_that_is_not_there_mark_no_database(pair: Team, mesctl: Mesctl) -> None:
    file = pair.root / "mes-storage.toml"
    file.write_text(file.read_text().replace("migrations/payments/", "migrations/paymints/"))
    ran = mesctl("migrate", "upgrade", "--tree", "payments")
    assert ran.status == ExitStatus.FAILED
    assert "migrations/paymints/versions: there is no such folder of revisions" in ran.err
    assert pair.query("payments", TABLES) == []
    assert mesctl("migrate", "lint").status == ExitStatus.FAILED


def test_databases_of_two_trees_that_were_exchanged_are_refused(pair: Team, mesctl: Mesctl) -> None:
    mesctl("migrate", "upgrade")
    pair.write_topology(invoices="payments", payments="invoices")
    refused = mesctl("migrate", "downgrade", "base", "--tree", "payments", "--yes")
    assert refused.status == ExitStatus.REFUSED
    assert "its table invoices_version says that it is of the tree 'invoices'" in refused.err
    assert pair.query("invoices", "SELECT count(*) FROM things") == [(0,)]


def test_version_table_that_was_renamed_in_the_project_is_refused(pair: Team, mesctl: Mesctl) -> None:
    mesctl("migrate", "upgrade")
    file = pair.root / "mes-storage.toml"
    file.write_text(file.read_text().replace("payments_version", "alembic_version"))
    refused = mesctl("migrate", "upgrade")
    assert refused.status == ExitStatus.REFUSED
    assert "its version table is payments_version, and the project says alembic_version" in refused.err
    assert pair.query("payments", TABLES) == [("payments_version",), ("things",)]


def test_restore_without_comments_is_refused_with_what_mends_it(pair: Team, mesctl: Mesctl) -> None:
    mesctl("migrate", "upgrade")
    pair.query("payments", "CREATE FUNCTION own_body() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    pair.query("payments", "COMMENT ON FUNCTION own_body() IS 'mes-storage: per shard'")
    mesctl("migrate", "freeze")
    pair.query("payments", "COMMENT ON FUNCTION own_body() IS NULL")
    pair.query("payments", "COMMENT ON TABLE payments_version IS NULL")
    assert mesctl("migrate", "upgrade").status == ExitStatus.REFUSED
    shown = mesctl("migrate", "adopt", "--json")
    [row] = shown.json
    assert (shown.status, row["object"]) == (ExitStatus.REFUSED, "function own_body()")
    statement, _, why = row["fix"].partition("; ")
    assert why == "a restore without comments has lost it"
    pair.query("payments", statement)
    assert mesctl("migrate", "upgrade").status == ExitStatus.DONE
    assert pair.query("payments", "SELECT obj_description('payments_version'::regclass)") == [
        ("mes-storage tree: payments",)
    ]


def test_tree_of_the_topology_that_the_project_lacks_is_one_line(pair: Team, mesctl: Mesctl) -> None:
    file = pair.root / "mes-storage.toml"
    invoices, _, _ = file.read_text().partition("[trees.payments]")
    file.write_text(invoices)
    refused = mesctl("migrate", "upgrade")
    assert refused.status == ExitStatus.USAGE
    [line] = refused.err.splitlines()
    assert line.startswith(
        "mesctl: mes-storage.toml: no tree 'payments'; it has invoices. Add [trees.payments]"
    )
    assert pair.query("invoices", TABLES) == []


def test_tree_of_the_project_without_a_database_is_skipped(pair: Team, mesctl: Mesctl) -> None:
    file = pair.root / "topology.toml"
    invoices, _, _ = file.read_text().partition("[trees.payments]")
    file.write_text(invoices)
    ran = mesctl("migrate", "upgrade", "--json")
    assert (ran.status, [row["database"] for row in ran.json]) == (ExitStatus.DONE, ["invoices"])
    assert mesctl("migrate", "drift", "--tree", "payments").out == "the topology has no such database\n"


def test_only_tree_is_alembics_default_from_any_folder(alone: Team, tmp_path: Path) -> None:
    done = alembic(alone, "-c", str(alone.root / "alembic.ini"), "upgrade", "head", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert alone.query("payments", "SELECT * FROM payments_version") == [("0001",)]
    done = alembic(alone, "revision", "-m", "more", "--rev-id", "0002")
    assert done.returncode == 0, done.stderr
    made = alone.root / "migrations" / "payments" / "versions" / "0002_more.py"
    assert 'frozen.run(__file__, "up")' in made.read_text()


def test_packages_of_the_working_directory_are_not_taken_for_the_engine(
    alone: Team, postgres: PostgresServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = tmp_path / "strange"
    for package in ("ops", "migrations", "sharding"):
        (strange / package).mkdir(parents=True)
        (strange / package / "__init__.py").write_text(
            "raise SystemExit('imported from the working directory')"
        )
    done = alembic(alone, "-c", str(alone.root / "alembic.ini"), "upgrade", "head", cwd=strange)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(strange)
    with run_fleet(postgres, tmp_path, prefix=alone.prefix) as fleet:
        fleet_is_migrated(fleet)


def fleet_is_migrated(fleet: Fleet) -> None:
    """Migrate several databases: those behind the first are a child process's."""
    fleet.write("0001", "CREATE TABLE things (id int)")
    assert [outcome.revision for outcome in fleet.migrate()] == ["0001"] * len(fleet.shards)
