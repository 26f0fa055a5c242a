"""A database bears the name of its tree; one that bears none, or another's, is left alone."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

import pytest

from ops.errors import ExitStatus
from ops.fleet import open_engine
from ops.migrate import run
from ops.migrate.errors import DatabasesRefused
from ops.migrate.outcome import Request
from sharding.topology import Topology
from tests.integration.mesctl_rig import Mesctl
from tests.integration.migrations_rig import Fleet, run_fleet
from tests.project import MES, PROJECT, ROOT
from tests.psql import psql
from tests.servers import PostgresServers

_numbers = count(1)

FOREIGN = (
    "DROP TABLE alembic_version",
    "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
    "INSERT INTO alembic_version VALUES ('0001')",
    "CREATE TABLE customers (id int PRIMARY KEY)",
)
UNMARK = "COMMENT ON TABLE alembic_version IS NULL"
MARK = "SELECT obj_description(to_regclass('alembic_version'))"


@pytest.fixture
def mesctl(topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    """Give `mesctl` on this test's databases."""
    return Mesctl(topology_path, capsys)


def execute(topology: Topology, name: str, *statements: str) -> None:
    database = topology.databases[name]
    with open_engine(topology, database, role=database.owner) as engine, engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def scalar(topology: Topology, name: str, query: str) -> object:
    database = topology.databases[name]
    with open_engine(topology, database, role=database.owner) as engine, engine.connect() as connection:
        return connection.exec_driver_sql(query).scalar()


def marks(topology: Topology) -> Mapping[str, object]:
    return {name: scalar(topology, name, MARK) for name in topology.databases}


def all_marked(topology: Topology) -> Mapping[str, object]:
    return {name: f"mes-storage tree: {base.tree}" for name, base in topology.databases.items()}


@pytest.fixture
def foreign(topology: Topology) -> Topology:
    """Give a fleet whose second shard is another project's database, with a revision 0001 of its own."""
    run.downgrade(topology, MES, "base")
    execute(topology, "mes_1", *FOREIGN)
    return topology


def what_stands(topology: Topology) -> list[object]:
    tables = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r'"
    version = "SELECT string_agg(version_num, ' ') FROM alembic_version"
    return [
        [marks(topology)],
        [scalar(topology, name, tables) for name in topology.databases],
        [scalar(topology, name, version) for name in topology.databases],
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan"],
        ["upgrade"],
        ["upgrade", "--tree", "mes"],
        ["upgrade", "--dry-run"],
        ["upgrade", "--phase", "pre"],
        ["downgrade", "base", "--tree", "mes", "--yes"],
        ["downgrade", "base", "--tree", "mes", "--dry-run"],
        ["freeze"],
    ],
    ids=" ".join,
)
def test_foreign_database_is_refused_before_anything_is_changed(
    foreign: Topology, mesctl: Mesctl, arguments: list[str]
) -> None:
    before = what_stands(foreign)
    refused = mesctl("migrate", *arguments)
    assert (refused.status, refused.out) == (ExitStatus.REFUSED, "")
    assert refused.err.startswith(
        "mesctl: nothing was changed: mes_1 is refused as a database of the tree mes: "
    )
    assert "table customers: no migration made it" in refused.err
    assert "`mesctl migrate adopt --tree mes --database mes_1` lists what differs" in refused.err
    assert what_stands(foreign) == before


@pytest.mark.parametrize(
    "arguments", [["upgrade", "head"], ["downgrade", "base"], ["stamp", "head"]], ids=" ".join
)
def test_plain_alembic_refuses_it_too(
    foreign: Topology, topology_path: Path, warm_mesctl: Path, arguments: list[str]
) -> None:
    if arguments[0] == "stamp":  # alembic's own, one database after another
        execute(foreign, "mes_0", "DROP TABLE alembic_version", *FOREIGN[1:])
    before = what_stands(foreign)
    done = subprocess.run(
        [warm_mesctl.with_name("alembic"), "-n", "mes", *arguments],
        cwd=ROOT,
        env=os.environ | {"MES_STORAGE_TOPOLOGY": str(topology_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert "is refused as a database of the tree mes" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert what_stands(foreign) == before


def test_status_shows_what_each_database_is(foreign: Topology, mesctl: Mesctl) -> None:
    execute(foreign, "crm", UNMARK)
    status = mesctl("migrate", "status", "--json")
    found = {row["database"]: (row["mark"], row["current"]) for row in status.json}
    assert found["mes_0"] == ("marked", False)
    assert found["mes_1"] == ("unmarked", False)
    assert found["crm"] == ("as frozen", True)
    assert "mes_1 is refused" in status.err


def test_database_of_another_tree_is_refused(topology: Topology, mesctl: Mesctl) -> None:
    execute(topology, "mes_1", "COMMENT ON TABLE alembic_version IS 'mes-storage tree: payments'")
    before = what_stands(topology)
    for arguments in (["upgrade"], ["downgrade", "base", "--tree", "mes", "--yes"], ["adopt", "--yes"]):
        refused = mesctl("migrate", *arguments)
        assert refused.status == ExitStatus.REFUSED
        assert "its table alembic_version says that it is of the tree 'payments'" in refused.err
    assert what_stands(topology) == before


def test_databases_from_before_there_were_marks_adopt_themselves(topology: Topology, mesctl: Mesctl) -> None:
    run.downgrade(topology, MES, "0002")
    run.downgrade(topology, PROJECT.tree("directory"), "0003")
    for name in topology.databases:
        execute(topology, name, UNMARK)
    assert mesctl("migrate", "upgrade").status == ExitStatus.DONE
    assert marks(topology) == all_marked(topology)
    assert run.current(topology, MES) == dict.fromkeys(["mes_0", "mes_1"], run.head(MES))


def test_dry_run_of_such_a_database_marks_it_in_psql(
    topology: Topology, mesctl: Mesctl, postgres: PostgresServers
) -> None:
    for name in topology.databases:
        execute(topology, name, UNMARK)
    psql(postgres.conninfo(), mesctl("migrate", "upgrade", "--dry-run").out)
    assert marks(topology) == all_marked(topology)


def test_one_with_drift_is_refused_and_adopted_by_hand(
    topology: Topology, mesctl: Mesctl, postgres: PostgresServers
) -> None:
    run.downgrade(topology, MES, "0002")
    execute(topology, "mes_1", UNMARK, "CREATE TABLE stray (id int)")
    refused = mesctl("migrate", "upgrade")
    assert refused.status == ExitStatus.REFUSED
    assert (
        "mes_1 is refused as a database of the tree mes: it bears no tree's name, and differs" in refused.err
    )
    assert "table stray: no migration made it" in refused.err

    shown = mesctl("migrate", "adopt", "--json")
    assert shown.status == ExitStatus.REFUSED
    assert [(row["database"], row["revision"], row["object"]) for row in shown.json] == [
        ("mes_1", "0002", "table stray")
    ]
    assert marks(topology)["mes_1"] is None
    accept = ("adopt", "--database", "mes_1", "--accept-differences")
    dry = mesctl("migrate", *accept, "--dry-run")
    assert "mes_1: table stray: no migration made it" in dry.err
    script = dry.out
    assert marks(topology)["mes_1"] is None
    adopted = mesctl("migrate", *accept, "--yes", "--json")
    assert (adopted.status, adopted.json[0]["state"], adopted.json[0]["differences"]) == (0, "adopted", 1)
    assert marks(topology) == all_marked(topology)

    undone = mesctl("migrate", "adopt", "--undo", "--tree", "mes", "--yes", "--json")
    assert [row["state"] for row in undone.json] == ["disowned", "disowned"]
    assert (marks(topology)["mes_0"], marks(topology)["mes_1"]) == (None, None)
    psql(postgres.conninfo(), script)
    assert mesctl("migrate", "upgrade").status == ExitStatus.DONE
    assert marks(topology) == all_marked(topology)


def test_adopt_asks_first_and_refuses_what_is_no_revision_of_the_tree(
    topology: Topology, mesctl: Mesctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    execute(topology, "crm", UNMARK)
    answer = tmp_path / "answer"
    answer.write_text("n\n")
    with answer.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert mesctl("migrate", "adopt").status == ExitStatus.REFUSED
    assert marks(topology)["crm"] is None
    execute(topology, "crm", "UPDATE alembic_version SET version_num = '0999'")
    for accept in ([], ["--accept-differences"]):
        refused = mesctl("migrate", "adopt", "--yes", *accept)
        assert refused.status == ExitStatus.REFUSED
        assert "at 0999, which is no revision of the tree crm" in refused.err
    execute(topology, "crm", "INSERT INTO alembic_version VALUES ('0998')")
    refused = mesctl("migrate", "upgrade")
    assert refused.status == ExitStatus.REFUSED
    assert "its alembic_version has 2 revisions, 0998, 0999" in refused.err
    unknown = mesctl("migrate", "adopt", "--database", "crn")
    assert (unknown.status, "no database 'crn'" in unknown.err) == (ExitStatus.USAGE, True)


@pytest.fixture
def fleet(postgres: PostgresServers, tmp_path: Path) -> Iterator[Fleet]:
    """Give two empty shards and a migrated directory."""
    with run_fleet(postgres, tmp_path, prefix=f"marks{next(_numbers)}", shards=2) as made:
        yield made


def test_upgrade_that_was_killed_before_its_first_revision_goes_on(fleet: Fleet) -> None:
    fleet.write("0001", "CREATE TABLE things (id int)")
    path = fleet.versions / "0001.py"
    whole = path.read_text()
    die = "def upgrade() -> None:\n    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    path.write_text(whole.replace("def upgrade() -> None:\n", die))
    request = Request(
        project=str(PROJECT.path), tree="mes", direction="up", target="head", versions=str(fleet.versions)
    )
    command = [sys.executable, "-P", "-m", "ops.migrate.fleet", request.model_dump_json()]
    killed = subprocess.run(
        [*command, str(fleet.topology.path), "1", "mes_0"], capture_output=True, text=True, check=True
    )
    assert "ended with status -9" in killed.stdout
    assert fleet.query("mes_0", MARK) == [("mes-storage tree: mes",)]
    assert fleet.query("mes_0", "SELECT * FROM alembic_version") == []
    assert fleet.query("mes_1", MARK) == [(None,)]
    path.write_text(whole)
    assert [outcome.revision for outcome in fleet.migrate()] == ["0001", "0001"]


def test_database_that_is_not_empty_is_no_new_one(fleet: Fleet) -> None:
    fleet.write("0001", "CREATE TABLE things (id int)")
    for made in (
        "CREATE TABLE a (id int)",
        "CREATE VIEW a AS SELECT 1",
        "CREATE SEQUENCE a",
        "CREATE FUNCTION a() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TYPE a AS (one int)",
        "CREATE TYPE a AS RANGE (subtype = int)",
        "CREATE SCHEMA a CREATE TABLE b (id int)",
    ):
        fleet.query("mes_1", made)
        with pytest.raises(DatabasesRefused, match="mes_1 is refused"):
            fleet.migrate()
        fleet.query("mes_1", f"DROP {made.split()[1]} a CASCADE")
    assert [outcome.revision for outcome in fleet.migrate()] == ["0001", "0001"]
