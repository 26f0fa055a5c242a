"""What is installed: three wheels, each with its own packages; everything from an editable install."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import pytest

from tests.once import made_once
from tools.wheels.staging import WHEELS

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "mes-storage": {"partitions", "readreplica", "sharding"},
    "mesctl": {"ops", "mesctl.py"},
    "mes-order-system": {"app", "migrations"},
}
UV = Path(sys.executable).with_name("uv")
BUILD_EDITABLE = """
import importlib, sys, tomllib
with open("pyproject.toml", "rb") as file:
    system = tomllib.load(file)["build-system"]
sys.path[:0] = system.get("backend-path", [])
hooks, out = importlib.import_module(system["build-backend"]), sys.argv[1]
# As pip does it, or as uv does.
prepared = f"{out}/{hooks.prepare_metadata_for_build_editable(out)}" if sys.argv[2] == "1" else None
print(hooks.build_editable(out, metadata_directory=prepared))
"""
IMPORTS = """
import importlib, pathlib, sys
for name in sys.argv[1:]:
    print(pathlib.Path(importlib.import_module(name).__file__).resolve())
"""
THEIRS = {
    "app/__init__.py": "OF = 'app'\n",
    "app/models.py": """\
from sqlalchemy import BigInteger, MetaData, Table, Column

from app import OF

metadata = MetaData()
Table("notes", metadata, Column("note_id", BigInteger, primary_key=True))
""",
    "ops/__init__.py": "OF = 'ops'\n",
    "ops/deploy.py": "TO = 'production'\n",
    "migrations/__init__.py": "OF = 'migrations'\n",
}
"""Packages of a team, with the names that ours have."""

PROJECT = """\
[trees.notes]
metadata = "app.models:metadata"
revisions = "migrations/versions"
"""
REVISION = """\
import sqlalchemy as sa
from alembic import op

revision = "0001_notes"
down_revision = None
phase = "pre"


def upgrade() -> None:
    op.create_table("notes", sa.Column("note_id", sa.BigInteger, primary_key=True))


def downgrade() -> None:
    op.drop_table("notes")
"""


def done(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command without the network."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "UV_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command without the network; return what it prints."""
    ended = done(*command, cwd=cwd, **environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build may see, with what an earlier build has left there."""
    return copy_source(tmp_path_factory.mktemp("source"))


def copy_source(folder: Path) -> Path:
    copy = folder / "mes-storage"
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "docs")
    shutil.copytree(ROOT, copy, ignore=left_out)
    stale = copy / "build" / "lib" / "app"
    stale.mkdir(parents=True)
    (stale / "__init__.py").touch()
    (copy / "sharding" / "__pycache__").mkdir()
    (copy / "sharding" / "__pycache__" / "old.pyc").touch()
    return copy


@dataclass(frozen=True)
class Built:
    """A wheel, and what is in it."""

    file: Path
    names: frozenset[str]
    metadata: Message
    entry_points: str

    @property
    def content(self) -> frozenset[str]:
        return frozenset(name for name in self.names if ".dist-info/" not in name)


def read(file: Path) -> Built:
    with ZipFile(file) as archive:
        names = archive.namelist()
        [folder] = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
        points = f"{folder}/entry_points.txt"
        entry_points = archive.read(points).decode() if points in names else ""
    assert len({*names}) == len(names)
    return Built(file, frozenset(names), metadata, entry_points)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Built]:
    out = made_once(tmp_path_factory, "built-wheels", build_wheels)
    built = [read(file) for file in sorted(out.glob("*.whl"))]
    return {str(each.metadata["Name"]): each for each in built}


def build_wheels(out: Path) -> None:
    with TemporaryDirectory(dir=out.parent) as folder:
        command = (sys.executable, "-m", "tools.wheels", "--out", out)
        printed = run(*command, cwd=copy_source(Path(folder))).splitlines()
    assert sorted(out.iterdir()) == sorted(map(Path, printed))


@pytest.fixture
def venv(tmp_path: Path) -> Iterator[Path]:
    """An environment that has the libraries' dependencies, and none of them."""
    folder = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=tmp_path)
    # Python reads no .pth files there, and so finds no editable install.
    (packages_of(folder) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    yield folder
    shutil.rmtree(folder)


def packages_of(venv: Path) -> Path:
    (found,) = venv.glob("lib/python*/site-packages")
    return found


def install(venv: Path, *wheels: Built) -> None:
    files = [each.file for each in wheels]
    run(UV, "pip", "install", "--python", venv / "bin" / "python", "--no-deps", *files, cwd=venv)


def uninstall(venv: Path, *names: str) -> None:
    run(UV, "pip", "uninstall", "--python", venv / "bin" / "python", *names, cwd=venv)


def places(venv: Path, *modules: str) -> list[Path]:
    """Import modules in an environment; return their files."""
    printed = run(venv / "bin" / "python", "-c", IMPORTS, *modules, cwd=venv)
    return [Path(line) for line in printed.splitlines()]


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def kept(folder: Path) -> dict[str, str]:
    """What of the team's files is there, and what is in it."""
    return {name: (folder / name).read_text() for name in THEIRS if (folder / name).exists()}


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """A project of a team, whose packages have the names of ours."""
    folder = tmp_path / "team"
    write(folder, {**THEIRS, "mes-storage.toml": PROJECT, "migrations/versions/0001_notes.py": REVISION})
    return folder


def test_a_wheel_holds_its_packages_alone(wheels: Mapping[str, Built], source: Path) -> None:
    assert {*wheels} == {*PACKAGES} == {each.name for each in WHEELS}
    for name, built in wheels.items():
        assert {each.partition("/")[0] for each in built.content} == PACKAGES[name]
    wanted = {
        file.relative_to(source).as_posix()
        for package in set.union(*PACKAGES.values()) - {"mesctl.py"}
        for file in (source / package).rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    assert sorted(name for built in wheels.values() for name in built.content) == sorted(
        wanted - {"ops/__init__.py"} | {"mesctl.py"}
    )
    typed = PACKAGES["mes-storage"] | {"ops", "app"}
    assert {f"{package}/py.typed" for package in typed} <= {*wanted}
    assert {Path(name).suffix for name in wheels["mes-order-system"].content} >= {".sql", ".json", ".toml"}
    assert "ops/migrate/script/script.py.mako" in wheels["mesctl"].content


def test_the_metadata_of_the_wheels(wheels: Mapping[str, Built]) -> None:
    for built in wheels.values():
        assert built.metadata["Version"] == "0.1.0"
        assert built.metadata["License-Expression"] == "Apache-2.0"
        assert built.metadata["License-File"] == "LICENSE"
        assert built.metadata["Requires-Python"] == ">=3.11"
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in built.names)
        assert str(built.metadata.get_payload()).startswith(f"# {built.metadata['Name']}\n")
    extras = {name: built.metadata.get_all("Provides-Extra", []) for name, built in wheels.items()}
    assert {name: sorted(found) for name, found in extras.items()} == {
        "mes-storage": ["alembic", "asgi", "redis", "srv"],
        "mesctl": ["embedded", "lint", "pages"],
        "mes-order-system": [],
    }
    points = {name: built.entry_points for name, built in wheels.items()}
    assert points["mesctl"] == "[console_scripts]\nmesctl = mesctl:main\n"
    assert points["mes-storage"] == points["mes-order-system"] == ""


def test_a_wheel_needs_what_it_imports_and_the_other_wheels(wheels: Mapping[str, Built]) -> None:
    needed = {name: built.metadata.get_all("Requires-Dist", []) for name, built in wheels.items()}
    named = {name: {re.split(r"[^\w-]", each)[0] for each in found} for name, found in needed.items()}
    assert {each for each in needed["mes-storage"] if "extra" not in each} == {
        "sqlalchemy[asyncio]<2.2,>=2.1",
        "psycopg[binary]<4,>=3.3",
        "pydantic<3,>=2.12",
        "tenacity>=9",
        "opentelemetry-api>=1.30",
    }
    assert "mes-storage[alembic]==0.1.0" in needed["mesctl"]
    assert {"mes-storage[asgi,redis]==0.1.0", "mesctl[embedded,pages]==0.1.0"} <= {
        *needed["mes-order-system"]
    }
    assert {"structlog", "fastapi"} <= named["mes-order-system"]
    assert not {"structlog", "fastapi"} & (named["mes-storage"] | named["mesctl"])


def test_the_wheels_leave_a_teams_own_packages_alone(wheels: Mapping[str, Built], venv: Path) -> None:
    packages = packages_of(venv)
    write(packages, THEIRS)
    install(venv, wheels["mes-storage"], wheels["mesctl"])
    found = places(
        venv, "partitions.policy", "readreplica.sync.cluster", "sharding.sessions", "sharding.sync"
    )
    assert all(place.is_relative_to(packages.resolve()) for place in found)
    theirs = [packages / name / "__init__.py" for name in ("app", "ops", "migrations")]
    assert places(venv, "app", "ops", "migrations") == [file.resolve() for file in theirs]
    assert kept(packages) == THEIRS
    assert "pgbouncer" in run(venv / "bin" / "mesctl", "--help", cwd=venv)
    uninstall(venv, "mesctl")
    assert not (venv / "bin" / "mesctl").exists()
    assert kept(packages) == THEIRS
    assert {each.name for each in packages.iterdir()} >= PACKAGES["mes-storage"]
    uninstall(venv, "mes-storage")
    assert kept(packages) == THEIRS
    left = {file.relative_to(packages).as_posix() for file in packages.rglob("*.py")}
    assert left == {*THEIRS}
    assert not PACKAGES["mes-storage"] & {each.name for each in packages.iterdir()}


@pytest.mark.parametrize("path", ["", "."], ids=["alone", "with PYTHONPATH"])
@pytest.mark.parametrize("is_package", [True, False], ids=["packages", "plain folders"])
def test_mesctl_runs_in_a_project_with_packages_of_the_same_names(
    wheels: Mapping[str, Built], venv: Path, team: Path, path: str, is_package: bool
) -> None:
    install(venv, wheels["mes-storage"], wheels["mesctl"])
    if not is_package:
        (team / "ops" / "__init__.py").unlink()
        write(team, {"ops/cli.py": "raise RuntimeError('of the team')\n"})
    python = venv / "bin" / "python"
    for command in ([venv / "bin" / "mesctl"], [python, "-m", "mesctl"]):
        said = done(*command, "doctor", "--no-databases", "--json", cwd=team, PYTHONPATH=path)
        assert json.loads(said.stdout) == [], said.stderr
        said = done(*command, "migrate", "lint", cwd=team, PYTHONPATH=path)
        assert said.stderr.endswith("pip install 'mesctl[lint]'\n") or said.returncode == 0, said.stderr
    # As the process of a fleet of databases begins.
    begin = (
        f"import runpy; runpy.run_path({str(packages_of(venv) / 'ops' / '__main__.py')!r})['own_package']()"
    )
    code = f"{begin}; import ops.migrate.fleet; print(ops.migrate.fleet.__file__)"
    printed = run(python, "-P", "-c", code, cwd=team, PYTHONPATH=path)
    assert Path(printed.strip()).is_relative_to(packages_of(venv))
    theirs = "from ops import deploy; print(deploy.TO)"
    assert run(python, "-c", theirs, cwd=team, PYTHONPATH=".") == "production\n"


def test_models_that_import_a_teams_own_ops_are_one_clear_line(
    wheels: Mapping[str, Built], venv: Path, team: Path
) -> None:
    install(venv, wheels["mes-storage"], wheels["mesctl"])
    with (team / "app" / "models.py").open("a") as models:
        models.write("from ops.deploy import TO\n")
    said = done(venv / "bin" / "mesctl", "migrate", "lint", cwd=team)
    doctor = done(venv / "bin" / "mesctl", "doctor", "--no-databases", cwd=team)
    assert "in mesctl `ops` is its own package" in doctor.stdout + said.stderr
    assert "Traceback" not in doctor.stderr + said.stderr


def test_the_order_system_is_installed_with_the_other_two(wheels: Mapping[str, Built], venv: Path) -> None:
    install(venv, *wheels.values())
    found = places(venv, "app.serve", "app.console.orders", "ops.cli", "readreplica.redis", "sharding")
    assert all(place.is_relative_to(packages_of(venv).resolve()) for place in found)
    assert (packages_of(venv) / "migrations" / "mes" / "versions").is_dir()
    uninstall(venv, *wheels)
    assert not set.union(*PACKAGES.values()) & {each.name for each in packages_of(venv).iterdir()}


def test_the_repository_itself_is_no_wheel(source: Path) -> None:
    asked = "sys.path.insert(0, 'tools'); import build_backend; build_backend.build_wheel('out')"
    said = done(sys.executable, "-c", f"import sys; {asked}", cwd=source)
    assert said.returncode == 1
    assert "python -m tools.wheels" in said.stderr


@pytest.mark.parametrize("is_prepared", [True, False], ids=["metadata first", "at once"])
def test_an_editable_install_has_mesctl_and_every_package(
    source: Path, venv: Path, tmp_path: Path, is_prepared: bool
) -> None:
    built = run(sys.executable, "-c", BUILD_EDITABLE, tmp_path, int(is_prepared), cwd=source).split()[-1]
    run(UV, "pip", "install", "--python", venv / "bin" / "python", "--no-deps", tmp_path / built, cwd=venv)
    found = places(venv, "app.models.mes", "ops.cli", "partitions", "sharding.sync")
    assert all(place.is_relative_to(source.resolve()) for place in found)
    assert "pgbouncer" in run(venv / "bin" / "mesctl", "--help", cwd=venv)
