"""What is installed: the libraries from a wheel; mesctl and the order system too from an editable install."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = {"partitions", "readreplica", "sharding"}
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


def run(*command: object, cwd: Path) -> str:
    """Run a command without the network; return what it prints."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "UV_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build may see, with what an earlier build has left there."""
    copy = tmp_path_factory.mktemp("source") / "mes-storage"
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "docs")
    shutil.copytree(ROOT, copy, ignore=left_out)
    stale = copy / "build" / "lib" / "app"
    stale.mkdir(parents=True)
    (stale / "__init__.py").touch()
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    run(
        UV, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", "out", ".",
        cwd=source,
    )  # fmt: skip
    (found,) = (source / "out").glob("*.whl")
    return found


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


def places(venv: Path, *modules: str) -> list[Path]:
    """Import modules in an environment; return their files."""
    printed = run(venv / "bin" / "python", "-c", IMPORTS, *modules, cwd=venv)
    return [Path(line) for line in printed.splitlines()]


def test_a_wheel_holds_the_libraries_alone(wheel: Path, source: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    assert {name.partition("/")[0] for name in names - metadata} == LIBRARIES
    wanted = {
        file.relative_to(source).as_posix()
        for library in LIBRARIES
        for file in (source / library).rglob("*")
        if file.is_file()
    }
    assert names - metadata == wanted
    assert {f"{library}/py.typed" for library in LIBRARIES} <= names
    assert not any(name.endswith("entry_points.txt") for name in metadata)


def test_a_wheel_leaves_a_teams_own_app_alone(wheel: Path, venv: Path) -> None:
    packages = packages_of(venv)
    theirs = {packages / name / "__init__.py": f"OF = {name!r}\n" for name in ("app", "ops", "migrations")}
    for file, content in theirs.items():
        file.parent.mkdir()
        file.write_text(content)
    python = venv / "bin" / "python"
    run(UV, "pip", "install", "--python", python, "--no-deps", wheel, cwd=venv)
    found = places(
        venv, "partitions.policy", "readreplica.sync.cluster", "sharding.sessions", "sharding.sync"
    )
    assert all(place.is_relative_to(packages.resolve()) for place in found)
    assert places(venv, "app", "ops", "migrations") == [file.resolve() for file in theirs]
    assert {file: file.read_text() for file in theirs} == theirs
    assert not (venv / "bin" / "mesctl").exists()
    run(UV, "pip", "uninstall", "--python", python, "mes-storage", cwd=venv)
    assert {file: file.read_text() for file in theirs} == theirs
    assert not LIBRARIES & {each.name for each in packages.iterdir()}


@pytest.mark.parametrize("is_prepared", [True, False], ids=["metadata first", "at once"])
def test_an_editable_install_has_mesctl_and_every_package(
    source: Path, venv: Path, tmp_path: Path, is_prepared: bool
) -> None:
    built = run(sys.executable, "-c", BUILD_EDITABLE, tmp_path, int(is_prepared), cwd=source).split()[-1]
    run(UV, "pip", "install", "--python", venv / "bin" / "python", "--no-deps", tmp_path / built, cwd=venv)
    found = places(venv, "app.models.mes", "ops.cli", "partitions", "sharding.sync")
    assert all(place.is_relative_to(source.resolve()) for place in found)
    assert "pgbouncer" in run(venv / "bin" / "mesctl", "--help", cwd=venv)
