"""`mesctl migrate` on all databases."""

import io
from pathlib import Path

import pytest

from ops.errors import ExitStatus
from ops.fleet import open_engine
from sharding.topology import Topology
from tests.integration.mesctl_rig import Mesctl
from tests.integration.migrations_rig import NOWHERE
from tests.psql import psql
from tests.servers import PostgresServers

NAMES = {"shop", "crm", "mes_0", "mes_1", "directory", "board"}


@pytest.fixture
def mesctl(topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    """Give `mesctl` on this test's databases."""
    return Mesctl(topology_path, capsys)


def current(mesctl: Mesctl) -> set[str]:
    return {row["database"] for row in mesctl("migrate", "status", "--json").json if row["current"]}


def execute(topology: Topology, statement: str) -> None:
    owner = open_engine(topology, topology.databases["mes_1"], role="mes_owner")
    with owner as engine, engine.begin() as mes_1:
        mes_1.exec_driver_sql(statement)


def test_down_and_up_again(mesctl: Mesctl) -> None:
    assert current(mesctl) == NAMES
    assert mesctl("migrate", "plan").out == "nothing to do: every database is at its head\n"

    assert mesctl("migrate", "downgrade", "base", "--tree", "mes", "--yes").status == ExitStatus.DONE
    assert current(mesctl) == NAMES - {"mes_0", "mes_1"}
    planned = mesctl("migrate", "plan", "--json").json
    first = {(row["database"], row["revision"]) for row in planned if row["revision"] == "0001"}
    assert first == {("mes_0", "0001"), ("mes_1", "0001")}
    assert {row["database"] for row in planned} == {"mes_0", "mes_1"}

    assert mesctl("migrate", "upgrade").status == ExitStatus.DONE
    assert current(mesctl) == NAMES


def test_failure_after_the_canary_is_told_and_the_next_run_goes_on(
    mesctl: Mesctl, topology: Topology
) -> None:
    mesctl("migrate", "downgrade", "base", "--tree", "mes", "--yes")
    execute(topology, "CREATE TABLE inbox ()")

    failed = mesctl("migrate", "upgrade", "--json")
    assert failed.status == ExitStatus.FAILED
    assert {row["database"]: row["state"] for row in failed.json} == dict.fromkeys(NAMES, "done") | {
        "mes_1": "failed"
    }
    assert 'mesctl: mes_1 failed in 0001: relation "inbox" already exists' in failed.err
    [told] = [row for row in mesctl("migrate", "status", "--json").json if row["database"] == "mes_1"]
    assert told["last_run"].startswith("0001 up failed: relation")

    execute(topology, "DROP TABLE inbox")
    again = mesctl("migrate", "upgrade", "--json")
    assert again.status == ExitStatus.DONE
    ran = {row["database"]: row["ran"] for row in again.json if row["ran"]}
    assert set(ran) == {"mes_1"}
    assert ran["mes_1"].startswith("0001")


def test_dry_runs_change_nothing_and_psql_runs_what_they_print(
    mesctl: Mesctl, postgres: PostgresServers
) -> None:
    down = mesctl("migrate", "downgrade", "base", "--tree", "crm", "--dry-run").out
    assert current(mesctl) == NAMES
    psql(postgres.conninfo(), down)
    assert current(mesctl) == NAMES - {"crm"}
    up = mesctl("migrate", "upgrade", "--dry-run").out
    assert current(mesctl) == NAMES - {"crm"}
    psql(postgres.conninfo(), up)
    assert current(mesctl) == NAMES


def test_shard_that_is_down_hides_no_other(
    topology: Topology, tmp_path: Path, capsys: pytest.CaptureFixture[str], topology_path: Path
) -> None:
    Mesctl(topology_path, capsys)("migrate", "downgrade", "base", "--tree", "mes", "--yes")
    path = tmp_path / "one_is_down.toml"
    port = topology.databases["mes_1"].primary.port
    before, name, after = topology_path.read_text().partition("[databases.mes_1]")
    path.write_text(before + name + after.replace(f"port = {port}", f"port = {NOWHERE}", 1))
    mesctl = Mesctl(path, capsys)
    dry = mesctl("migrate", "upgrade", "--dry-run", "--tree", "mes")
    assert dry.status == ExitStatus.FAILED
    assert dry.out.count("CREATE TABLE orders (") == 1
    planned = mesctl("migrate", "plan", "--tree", "mes", "--json")
    assert (planned.status, {row["database"] for row in planned.json}) == (ExitStatus.FAILED, {"mes_0"})
    ran = mesctl("migrate", "upgrade", "--tree", "mes", "--json")
    assert ran.status == ExitStatus.FAILED
    assert {row["database"]: row["state"] for row in ran.json} == {"mes_0": "done", "mes_1": "failed"}
    drift = mesctl("migrate", "drift", "--tree", "mes", "--json")
    assert (drift.status, [row["database"] for row in drift.json]) == (ExitStatus.FAILED, ["mes_1"])
    assert "mes_1: did not answer: connection failed" in drift.err
    again = Mesctl(topology_path, capsys)("migrate", "upgrade", "--tree", "mes", "--json")
    ran_again = {row["database"]: row["ran"] for row in again.json}
    assert (ran_again["mes_0"], ran_again["mes_1"][:4]) == ("", "0001")


def test_downgrade_asks_first(mesctl: Mesctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    said = mesctl("migrate", "downgrade", "base", "--tree", "shop")
    assert said.status == ExitStatus.REFUSED
    assert "not confirmed: nothing was changed" in said.err
    assert current(mesctl) == NAMES


@pytest.mark.parametrize(
    ("arguments", "clue"),
    [
        (["status", "--tree", "mex"], "no tree 'mex'; it has directory, shop, crm, mes"),
        (["downgrade", "base"], "Missing option '--tree'"),
        (["downgrade", "--tree", "mes"], "Missing argument 'revision'"),
    ],
)
def test_wrong_usage_is_2(mesctl: Mesctl, arguments: list[str], clue: str) -> None:
    said = mesctl("migrate", *arguments)
    assert said.status == ExitStatus.USAGE
    assert clue in said.err


def test_unknown_revision_is_named(mesctl: Mesctl) -> None:
    said = mesctl("migrate", "downgrade", "0999", "--tree", "shop", "--yes")
    assert said.status == ExitStatus.FAILED
    assert "0999" in said.err
