"""The options that every verb of `mesctl` has, and how a verb prints its result."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ops.project import Project
    from sharding.topology import Topology


@dataclass(frozen=True)
class Options:
    """What the person at the terminal chose for all verbs.

    `home` is the folder of the embedded platform, `topology_path` the file that describes the platform to
    work on, and `json` whether the result is for programs.
    """

    home: Path
    topology_path: Path
    json: bool
    project_path: Path | None = None

    def topology(self) -> "Topology":
        """Read the topology.

        Raises:
            TopologyError: the file cannot be read or is wrong; one line per fault.
        """
        from sharding.topology import Topology  # half a second of imports, which `--help` does not need

        return Topology.load(self.topology_path)

    def project(self) -> "Project":
        """Read the project file.

        Raises:
            ProjectMissing, ProjectInvalid: there is none, or it is wrong.
        """
        from ops.project import Project

        return Project.find(self.project_path or Path())


def options_of(context: typer.Context) -> Options:
    """Give the options of this run of `mesctl`, in any of its verbs."""
    found: Options = context.find_root().obj
    return found


def print_json(value: Any) -> None:
    """Print a result for programs; what JSON does not know is printed as text."""
    print(json.dumps(value, indent=2, default=str))


def note(line: str) -> None:
    """Tell the person of progress, on stderr: stdout is for the result."""
    # One write: several threads report at the same time.
    sys.stderr.write(f"{line}\n")
