"""examples/payments as its team has it: a folder of its own, and a venv with the built wheels.

Beside the wheels stand packages of the team's with the names of ours: `app`, `ops` and `migrations`.
"""

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from ops.embedded.platform import Platform
from ops.ports import PortPicker
from ops.project.project import Project
from sharding.topology import Topology
from tests.acceptance.test_wheel import ROOT, THEIRS, UV, packages_of, run, write
from tests.warm_mesctl import start_warm_mesctl
from tools.wheels.__main__ import build
from tools.wheels.staging import WHEELS

EXAMPLE = ROOT / "examples" / "payments"
NAMES = ("mes-storage", "mesctl")
"""The wheels that a team installs; the third one is the order system."""

PATIENT = "\n[replicas]\nreplay_wait_seconds = 10\n"
"""However busy the machine is, a read with a token waits for the replica."""

_PORT = re.compile(r"\b56\d\d\b")


@dataclass(frozen=True)
class PaymentsTeam:
    """The example in a folder, with the wheels in a venv."""

    root: Path
    venv: Path
    program: Path
    """`mesctl` of the wheel."""

    @property
    def python(self) -> Path:
        """Python of the venv."""
        return self.venv / "bin" / "python"

    @property
    def topology(self) -> Topology:
        """Where the databases are."""
        return Topology.load(self.root / "topology.toml")

    def run(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the team's folder."""
        # Modules are compiled once: many processes are started.
        left_out = ("MES_STORAGE_", "PYTHONDONTWRITEBYTECODE")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        clean |= {"PATH": f"{self.venv / 'bin'}:{clean['PATH']}", **environment}
        return subprocess.run(
            [str(word) for word in words],
            cwd=self.root,
            env=clean,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def mesctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `mesctl` of the wheel."""
        return self.run(self.program, *words)

    @contextmanager
    def warm(self) -> Iterator["PaymentsTeam"]:
        """Give the team with a `mesctl` that starts in a tenth of the time."""
        folder = self.root.with_name("warm")
        folder.mkdir()
        ops = packages_of(self.venv) / "ops"
        with start_warm_mesctl(folder, python=self.python, ops=ops) as program:
            yield replace(self, program=program)

    def alembic(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run alembic as its script does, which puts no folder in front of what is installed."""
        return self.run(
            self.python, "-P", "-m", "alembic", *words, MES_STORAGE_TOPOLOGY=str(self.root / "topology.toml")
        )

    def script(self, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the team's."""
        return self.run(self.python, "-c", text, *arguments)

    def query(self, database: str, statement: str, *, role: str = "treasurer") -> list[tuple[Any, ...]]:
        """Run a statement in a database and return its rows."""
        url = self.topology.url(database, role=role).set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def files(self) -> dict[str, bytes]:
        """Return what is in the team's files, but for what runs and what Python has compiled."""
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and not {".platform", "__pycache__", ".mypy_cache"} & {*path.parts}
        }

    def uninstall(self) -> None:
        """Take the wheels away."""
        run(UV, "pip", "uninstall", "--python", self.python, *NAMES, cwd=self.root)


def build_wheels(out: Path) -> list[Path]:
    """Build what a team installs into a folder; return the files."""
    return build([wheel for wheel in WHEELS if wheel.name in NAMES], root=ROOT, out=out)


@contextmanager
def payments_team(folder: Path, wheels: Sequence[Path]) -> Iterator[PaymentsTeam]:
    """Install the wheels beside packages of the team, and copy the example; stop what it runs.

    Parameters:
        folder: an empty one.
        wheels: what `build_wheels` has built.
    """
    team = PaymentsTeam(folder / "team", folder / "venv", folder / "venv" / "bin" / "mesctl")
    run(sys.executable, "-m", "venv", "--without-pip", team.venv, cwd=folder)
    packages = packages_of(team.venv)
    # Python reads no .pth files in there, and so finds no editable install.
    dependencies = Path(psycopg.__file__).parents[1]
    (packages / "dependencies.pth").write_text(str(dependencies))
    write(packages, THEIRS)
    run(UV, "pip", "install", "--python", team.python, "--no-deps", *wheels, cwd=folder)
    for program in ("squawk",):  # it is looked for beside Python
        (team.venv / "bin" / program).symlink_to(Path(sys.executable).with_name(program))
    shutil.copytree(EXAMPLE, team.root, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    write(team.root, {name: text for name, text in THEIRS.items() if not name.startswith("migrations/")})
    editable = ("--no-deps", "--no-build-isolation", "--editable", team.root)
    run(UV, "pip", "install", "--python", team.python, *editable, cwd=folder)
    topology = team.root / "topology.toml"
    topology.write_text(with_free_ports(topology.read_text()) + PATIENT)
    try:
        yield team
    finally:
        Platform(team.root / ".platform", Project.load(team.root / "mes-storage.toml")).delete()
        shutil.rmtree(team.venv)


def with_free_ports(text: str) -> str:
    """Return a topology with other ports, for those of the example may be taken."""
    picker = PortPicker(random.Random())
    ports = {port: str(picker.pick()) for port in sorted(set(_PORT.findall(text)))}
    return _PORT.sub(lambda found: ports[found[0]], text)
