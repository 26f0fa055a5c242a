"""The project file: how it is found, what is read from it, and one clear line for each fault."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData

from ops import cli
from ops.errors import ExitStatus
from ops.project.doctor import check_project
from ops.project.file import ProjectInvalid, ProjectMissing, commands_of, find_section, line_of, read_section
from ops.project.project import MonitoringEntry, Project, ReferenceBroken, UnknownProjectTree
from tests.project import PROJECT, ROOT

GOOD = """\
topology = "topology.toml"

[trees.payments]
metadata = "payments_tables:Base.metadata"
revisions = "migrations/payments/versions"
policies = "payments_tables:POLICIES"

[commands.count]
run = "payments_tables:count"
summary = "Count the payments."
"""
MODULE = """\
from sqlalchemy.orm import DeclarativeBase

class Base(DeclarativeBase):
    pass

POLICIES = []

def count() -> None:
    \"\"\"Count the payments.\"\"\"
    print("3 payments")
"""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MES_STORAGE_PROJECT", "MES_STORAGE_HOME", "MES_STORAGE_TOPOLOGY"):
        monkeypatch.delenv(name, raising=False)


def written(folder: Path, text: str = GOOD, *, name: str = "mes-storage.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Give a team's project, whose module can be imported in this test only."""
    (tmp_path / "payments_tables.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "payments_tables", raising=False)
    return Project.load(written(tmp_path))


def test_it_is_found_from_a_folder_below(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    path = written(tmp_path)
    assert find_section(below).path == path
    nearer = written(tmp_path / "a", "[tool.mes-storage.trees]\n", name="pyproject.toml")
    assert find_section(below).path == nearer


def test_a_pyproject_that_says_nothing_of_it_is_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path)
    inner = tmp_path / "service"
    inner.mkdir()
    written(inner, '[project]\nname = "service"\n', name="pyproject.toml")
    assert find_section(inner).path == path


def test_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(ProjectMissing, match="`mesctl init` writes one"):
        find_section(tmp_path)


def test_what_it_leads_to(project: Project, tmp_path: Path) -> None:
    tree = project.tree("payments")
    assert isinstance(tree.metadata, MetaData)
    assert (tree.policies, tree.archives, tree.version_table) == ((), (), "alembic_version")
    assert tree.revisions == tmp_path / "migrations" / "payments" / "versions"
    assert project.topology_path == tmp_path / "topology.toml"


def test_a_tree_that_it_does_not_name(project: Project) -> None:
    with pytest.raises(UnknownProjectTree, match=r"no tree 'orders'; it has payments. Add \[trees.orders\]"):
        project.tree("orders")


def test_what_it_adds_to_monitoring(project: Project) -> None:
    assert project.file.monitoring == MonitoringEntry()
    section = '[monitoring]\nproblems = "payments_tables:count"\nsamples = "payments_tables:samples"\n'
    changed = Project.load(written(project.root, GOOD + section))
    assert changed.file.monitoring.problems == "payments_tables:count"
    assert changed.file.monitoring.alerts is None
    (project.root / "migrations" / "payments" / "versions").mkdir(parents=True)
    [finding] = (each for each in check_project(changed) if "monitoring" in each.where)
    assert finding.where == "mes-storage.toml:13 monitoring.samples"
    assert "no attribute 'samples'" in finding.problem


def test_a_team_does_not_hide_a_library(project: Project) -> None:
    assert sys.path[-1] == str(project.root)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("metadata =", "metadta ="), "trees.payments.metadta: unknown key; did you mean 'metadata'?"),
        (
            ('revisions = "migrations/payments/versions"\n', ""),
            "trees.payments.revisions: missing key; add it",
        ),
        (
            ("payments_tables:Base.metadata", "payments_tables"),
            "trees.payments.metadata: input should be a reference, MODULE:NAME; "
            "it is 'payments_tables' (str)",
        ),
        (
            ("policies =", f'version_table = "{"v" * 60}"\npolicies ='),
            "trees.payments.version_table: string should have at most 59 characters; "
            f"it is '{'v' * 60}' (str)",
        ),
        (("[trees.payments]", "[tree.payments]"), "tree: unknown key; did you mean 'trees'?"),
    ],
)
def test_a_fault_is_named_with_its_fix(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    with pytest.raises(ProjectInvalid) as caught:
        Project.load(written(tmp_path, GOOD.replace(*change)))
    assert fault in caught.value.faults


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("payments_tbles:Base.metadata", "No module named 'payments_tbles'"),
        ("payments_tables:Bas.metadata", "has no attribute 'Bas'"),
        ("payments_tables:Base.metadta", "has no attribute 'metadta'"),
    ],
)
def test_a_reference_that_does_not_import_is_named_with_its_line(
    project: Project, reference: str, said: str
) -> None:
    changed = GOOD.replace("payments_tables:Base.metadata", reference)
    broken = Project.load(written(project.root, changed))
    with pytest.raises(ReferenceBroken, match=said) as caught:
        _ = broken.tree("payments").metadata
    assert str(caught.value).startswith("mes-storage.toml: line 4: trees.payments.metadata: ")


def test_a_reference_to_something_else_is_named_with_its_line(project: Project) -> None:
    changed = GOOD.replace("Base.metadata", "Base").replace("POLICIES", "count")
    tree = Project.load(written(project.root, changed)).tree("payments")
    with pytest.raises(ReferenceBroken, match=r"line 4: trees\.payments\.metadata: .* and no MetaData"):
        _ = tree.metadata
    with pytest.raises(
        ReferenceBroken, match=r"line 6: trees\.payments\.policies: .* and no tuple of policies"
    ):
        _ = tree.policies


def test_a_module_that_ends_the_process_is_a_broken_reference(project: Project) -> None:
    (project.root / "payments_script.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ReferenceBroken, match="SystemExit: 0"):
        project.resolve("up.fill", "payments_script:fill")


def test_lines_of_keys() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for key, value in (("trees.mes.policies", "policies"), ("up.fill", "fill"), ("commands.demo.run", "run")):
        number = line_of(PROJECT.path, key)
        assert number
        assert lines[number - 1].startswith(f"{value} = ")
    assert line_of(PROJECT.path, "trees.mes.nothing") is None


def test_a_verb_of_the_project(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.root)
    section = read_section(project.path)
    assert section is not None
    assert commands_of(section) == {"count": ("payments_tables:count", "Count the payments.")}
    assert cli.run(["--help"]) == ExitStatus.DONE
    assert "Count the payments." in capsys.readouterr().out
    assert cli.run(["count"]) == ExitStatus.DONE
    assert capsys.readouterr().out == "3 payments\n"


def test_a_run_reads_the_project_file_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the commands that it adds, for the folder of the platform, and for the trees."""
    monkeypatch.chdir(project.root)
    parsed: list[str] = []
    loads = tomllib.loads

    def counted(text: str) -> dict[str, Any]:
        parsed.append(text)
        return loads(text)

    monkeypatch.setattr(tomllib, "loads", counted)
    for arguments in (["count"], ["status"], ["migrate", "lint"]):
        parsed.clear()
        cli.run(arguments)
        assert parsed.count(GOOD) == 1, arguments


def test_an_interrupted_verb_is_one_line(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.root / "payments_tables.py").write_text("def count() -> None:\n    raise KeyboardInterrupt\n")
    assert cli.run(["count", "--project", str(project.path)]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "mesctl: interrupted; the same command again continues\n"


def test_the_project_may_be_named_from_elsewhere(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--project", str(project.path)], [f"--project={project.path}"]):
        assert cli.run(["count", *words]) == ExitStatus.DONE
    assert capsys.readouterr().out == "3 payments\n" * 2


def test_a_verb_of_ours_is_not_hidden(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(project.root, GOOD.replace("commands.count", "commands.doctor"))
    monkeypatch.chdir(project.root)
    assert cli.run(["doctor", "--no-databases", "--json"]) == ExitStatus.FAILED
    assert "mesctl has a verb of this name" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tool]\nmes-storage = "payments"\n', "tool.mes-storage: is 'payments'; make it a table"),
        ("tool = 3\n", "no project file"),
        ("tool.mes-storage.commands = 3\n", "commands: input should be a valid dictionary"),
        ('[tool.mes-storage.commands.count]\nrun = "a:b"\nsummary = 5\n', "commands.count.summary"),
    ],
)
def test_what_is_no_project_at_all_is_told_and_help_is_there(
    tmp_path: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, text, name="pyproject.toml")
    monkeypatch.chdir(tmp_path)
    assert cli.run(["--help"]) == ExitStatus.DONE
    assert "Usage: mesctl" in capsys.readouterr().out
    assert cli.run(["doctor"]) == ExitStatus.USAGE
    assert said in capsys.readouterr().err


def test_a_verb_whose_reference_is_broken_is_one_line(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(project.root, GOOD.replace("payments_tables:count", "payments_tables:cuont"))
    monkeypatch.chdir(project.root)
    assert cli.run(["count"]) == ExitStatus.USAGE
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("mesctl: mes-storage.toml: line 9: commands.count.run: 'payments_tables:cuont'")


def test_without_a_project_help_is_there_and_a_verb_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["--help"]) == ExitStatus.DONE
    assert "Usage: mesctl" in capsys.readouterr().out
    assert cli.run(["doctor"]) == ExitStatus.USAGE
    assert "no project file" in capsys.readouterr().err


def test_without_its_extra_mesctl_says_how_to_get_it() -> None:
    script = (
        "import sys; sys.modules['typer'] = None; sys.argv = ['mesctl']; import runpy;"
        "runpy.run_module('ops', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == ExitStatus.USAGE
    assert done.stderr.count("\n") == 1
    assert "the package 'typer' is missing: pip install mesctl" in done.stderr
