"""`mesctl init` and `mesctl doctor`: a project from nothing, from a live database, and its faults."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from psycopg import sql
from sqlalchemy import URL

from ops.embedded.postgres import SUPERUSER
from ops.ports import LOOPBACK
from ops.project.project import Project
from partitions.bounds import ValueList
from partitions.catalog import read_catalog
from sharding.topology import Topology
from tests.integration.shards_rig import as_owner
from tests.project import PROJECT, ROOT
from tests.servers import PostgresServers

MESCTL = Path(sys.executable).with_name("mesctl")


OTHER_TREE = """\
[trees.other]
kind = "single"
[databases.other]
tree = "other"
dbname = "o"
primary = { host = "127.0.0.1", port = 1 }
"""
FIRST = "the first revision"
SHARD_KEY = '{"info": {"shard_key": "note_id"}}'


class Ended(NamedTuple):
    """How a process ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def findings(self) -> dict[str, str]:
        """The problems of `doctor --json`, by place."""
        return {each["where"]: each["problem"] for each in json.loads(self.out)}


Run = Callable[..., Ended]
"""`mesctl` in a folder."""


def mesctl(folder: Path, *words: str, program: Path = MESCTL) -> Ended:
    """Run `mesctl` in a folder, as a process: it imports a team's modules."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MES_STORAGE_")}
    done = subprocess.run(
        [program, *words], cwd=folder, env=clean, capture_output=True, text=True, timeout=120, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def warm(warm_mesctl: Path) -> Run:
    """Run `mesctl` without its start, which is the subject of other tests here."""
    return partial(mesctl, program=warm_mesctl)


@pytest.fixture
def started(tmp_path: Path, warm: Run) -> Path:
    """Give a folder in which `mesctl init` was run."""
    assert warm(tmp_path, "init", "--tree", "payments").status == 0
    return tmp_path


def first_revision(folder: Path) -> str:
    """Return the id of the one revision that `mesctl init` has written."""
    [path] = (folder / "migrations" / "payments" / "versions").glob("*_start.py")
    return path.name.removesuffix("_start.py")


def test_two_projects_have_two_first_revisions(tmp_path: Path) -> None:
    """Else the trees of two teams, both called main, could be taken for each other."""
    for name in ("one", "other"):
        assert mesctl(tmp_path, "init", name, "--tree", "payments").status == 0
    assert first_revision(tmp_path / "one") != first_revision(tmp_path / "other")


def test_init_writes_what_works(started: Path) -> None:
    assert sorted(str(path.relative_to(started)) for path in started.rglob("*") if path.is_file()) == [
        "alembic.ini",
        "mes-storage.toml",
        f"migrations/payments/versions/{first_revision(started)}_start.py",
        "payments_models.py",
        "topology.toml",
    ]
    said = mesctl(started, "doctor", "--no-databases")
    assert (said.status, said.out) == (0, "nothing is wrong\n")
    plan = mesctl(started, "migrate", "lint")
    assert (plan.status, plan.out) == (0, "no revision breaks a rule\n"), plan.err


def test_init_touches_nothing_that_is_there(tmp_path: Path, warm: Run) -> None:
    (tmp_path / "alembic.ini").write_text("[mine]\n")
    said = warm(tmp_path, "init", "--json")
    assert json.loads(said.out)["left alone"] == ["alembic.ini"]
    assert "alembic.ini: is there, and was left alone" in said.err
    assert (tmp_path / "alembic.ini").read_text() == "[mine]\n"
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    again = warm(tmp_path, "init")
    assert (again.status, again.out) == (3, "")
    assert "is a project already" in again.err
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_init_dry_run_writes_nothing(tmp_path: Path, warm: Run) -> None:
    said = warm(tmp_path, "init", "--dry-run")
    assert said.status == 0
    assert "[trees.main]" in said.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--tree", "Pay-ments"],
        ["--tree", "über"],
        ["--tree", "_payments"],
        ["--tree", "p" * 58],  # its owner would be PPP_owner, of 64
        ["--from-database", "payments"],
        ["--from-database", "postgresql://payments@127.0.0.1:port/payments"],
    ],
)
def test_init_refuses_what_it_cannot_use(tmp_path: Path, words: list[str], warm: Run) -> None:
    said = warm(tmp_path, "init", *words)
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_longest_name_of_a_tree_makes_a_project(tmp_path: Path, warm: Run) -> None:
    assert warm(tmp_path, "init", "--tree", "p" * 57).status == 0
    assert warm(tmp_path, "doctor", "--no-databases").out == "nothing is wrong\n"


def test_init_that_failed_halfway_goes_on(tmp_path: Path, warm: Run) -> None:
    (tmp_path / "migrations").touch()
    assert warm(tmp_path, "init").status == 1
    (tmp_path / "migrations").unlink()
    again = warm(tmp_path, "init")
    assert again.status == 0, again.err
    assert warm(tmp_path, "doctor", "--no-databases").out == "nothing is wrong\n"


def test_init_drafts_from_a_database_of_any_name(
    postgres: PostgresServers, tmp_path: Path, warm: Run
) -> None:
    dbname = 'pay"ments\\ 50%\nof = üs'
    with postgres.primary.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(dbname)))
    try:
        password = postgres.passwords[SUPERUSER]
        url = URL.create("postgresql", SUPERUSER, password, LOOPBACK, postgres.primary_port, dbname)
        said = warm(tmp_path, "init", "--from-database", url.render_as_string(hide_password=False))
        assert said.status == 0, said.err
    finally:
        with postgres.primary.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(dbname)))
    drafted = tomllib.loads((tmp_path / "topology.toml").read_text())
    assert drafted["databases"]["main"]["dbname"] == dbname


def test_init_drafts_from_a_live_catalogue(topology: Topology, tmp_path: Path, warm: Run) -> None:
    folder = tmp_path / "team"
    folder.mkdir()
    url = topology.url("mes_0", role="mes", direct=True).set(drivername="postgresql")
    said = warm(
        folder, "init", "--tree", "orders", "--from-database", url.render_as_string(hide_password=False)
    )
    assert said.status == 0, said.err
    drafted = tomllib.loads((folder / "topology.toml").read_text())
    database = topology.database("mes_0")
    assert drafted["trees"]["orders"] == {"kind": "single", "owner": "mes_owner", "role": "mes"}
    assert drafted["databases"]["orders"]["dbname"] == database.dbname
    assert drafted["databases"]["orders"]["primary"]["port"] == database.primary.port
    scope: dict[str, object] = {}
    exec((folder / "orders_policies.py").read_text(), scope)
    policies = scope["POLICIES"]
    assert isinstance(policies, tuple)
    [policy] = policies
    with as_owner(topology, "mes_0") as connection:
        standing = read_catalog(connection, ["orders"])["orders"]
    bounds = {each.name: each.bound for each in standing.partitions}
    assert {name: ValueList(values) for name, values in policy.groups.items()} == bounds
    assert (policy.key, policy.row_id) == ("status", ("order_id",))
    assert "orders_archive is PARTITION BY RANGE (order_id)" in (folder / "orders_policies.py").read_text()
    # What a draft cannot know is found by doctor, with its line.
    assert any("trees.orders.metadata" in where for where in warm(folder, "doctor", "--json").findings)


def test_init_from_a_database_that_does_not_answer_writes_nothing(tmp_path: Path, warm: Run) -> None:
    said = warm(tmp_path, "init", "--from-database", "postgresql://u@127.0.0.1:1/x")
    assert said.status == 1
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_our_own_project_has_nothing_wrong(topology: Topology) -> None:
    place = ("--topology", str(topology.path))
    lacking = mesctl(ROOT, "doctor", *place, "--json")
    assert set(lacking.findings) == {"directory"}
    assert mesctl(ROOT, *place, "shards", "init").status == 0
    said = mesctl(ROOT, "doctor", *place)
    assert (said.status, said.out) == (0, "nothing is wrong\n"), said.err


@pytest.mark.parametrize(
    ("path", "change", "where", "problem"),
    [
        (
            "mes-storage.toml",
            ("payments_models:Base.metadata", "payments_models:Bas.metadata"),
            "mes-storage.toml:5 trees.payments.metadata",
            "has no attribute 'Bas'",
        ),
        (
            "mes-storage.toml",
            ("payments_models:Base.metadata", "payments_models:Note"),
            "mes-storage.toml:5 trees.payments.metadata",
            "and no MetaData",
        ),
        (
            "mes-storage.toml",
            ("migrations/payments", "migrations/paymints"),
            "mes-storage.toml:6 trees.payments.revisions",
            "there is no folder",
        ),
        (
            "mes-storage.toml",
            ('# policies = "payments_policies:POLICIES"', 'policies = "payments_models:Note"'),
            "mes-storage.toml:7 trees.payments.policies",
            "and no tuple of policies",
        ),
        (
            "mes-storage.toml",
            ('# archives = "payments_policies:ARCHIVES"', 'archived = "payments_models:say"'),
            "mes-storage.toml:8 trees.payments.archived",
            "say",
        ),
        (
            FIRST,
            ('phase = "pre"', 'phase = "now"'),
            "mes-storage.toml:6 trees.payments.revisions",
            "phase is 'now'",
        ),
        (
            "topology.toml",
            ("[trees.payments]", f"{OTHER_TREE}[trees.payments]"),
            "topology.toml: trees.other",
            "the project does not name this tree",
        ),
        (
            "payments_models.py",
            ('__tablename__ = "notes"', f'__tablename__ = "notes"\n    __table_args__ = ({SHARD_KEY},)'),
            "topology.toml: trees.payments.kind",
            "'single' tree, and notes have shard keys",
        ),
    ],
)
def test_doctor_names_the_line_at_fault(
    started: Path, path: str, change: tuple[str, str], where: str, problem: str, *, warm: Run
) -> None:
    if path == FIRST:
        path = f"migrations/payments/versions/{first_revision(started)}_start.py"
    text = (started / path).read_text()
    assert change[0] in text
    (started / path).write_text(text.replace(*change))
    said = warm(started, "doctor", "--no-databases", "--json")
    assert said.status == 1
    assert problem in said.findings[where]


def test_doctor_finds_a_module_with_the_name_of_a_library(started: Path) -> None:
    (started / "ops").mkdir()  # harms nothing
    (started / "ops" / "__init__.py").write_text("raise RuntimeError('the wrong ops')\n")
    (started / "sharding.py").touch()
    said = mesctl(started, "doctor", "--no-databases", "--json")
    assert {Path(where).name: problem for where, problem in said.findings.items()} == {
        "sharding.py": "has the name of the library 'sharding'",
    }


def test_doctor_names_every_database_that_does_not_answer(started: Path, warm: Run) -> None:
    said = warm(started, "doctor", "--json")
    assert said.status == 1
    assert sorted(said.findings) == ["payments as payments", "payments as payments_owner"]
    assert all("cannot be connected to" in problem for problem in said.findings.values())


def test_every_tree_of_ours_has_revisions_and_models() -> None:
    for tree in PROJECT.trees.values():
        assert tree.metadata.tables
        assert list(tree.revisions.glob("0001_*.py"))
    assert isinstance(PROJECT, Project)


@pytest.mark.long
def test_what_init_writes_goes_all_the_way(started: Path) -> None:
    try:
        assert mesctl(started, "up", "--no-fsync").status == 0
        [row] = json.loads(mesctl(started, "migrate", "status", "--json").out)
        assert (row["database"], row["revision"], row["current"]) == (
            "payments",
            first_revision(started),
            True,
        )
        said = mesctl(started, "doctor")
        assert (said.status, said.out) == (0, "nothing is wrong\n"), said.err
        alembic = subprocess.run(
            [MESCTL.with_name("alembic"), "check"],
            cwd=started,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert alembic.returncode == 0, alembic.stderr
        again = mesctl(started, "up", "--no-fsync")
        assert "payments: runs already" in again.err
    finally:
        assert mesctl(started, "down").status == 0
