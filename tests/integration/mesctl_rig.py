"""`mesctl` as a person or a script runs it, inside this process."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ops import cli


class Said(NamedTuple):
    """What a run of mesctl gave back."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The result for programs."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Mesctl:
    """`mesctl` on the databases of a topology file, with this project or another."""

    topology_path: Path
    capsys: pytest.CaptureFixture[str]
    project_path: Path | None = None

    def __call__(self, *arguments: str) -> Said:
        """Run a verb."""
        project = ["--project", str(self.project_path)] if self.project_path else []
        status = cli.run(["--topology", str(self.topology_path), *project, *arguments])
        printed = self.capsys.readouterr()
        return Said(status, printed.out, printed.err)
