"""The options that every verb of `mesctl` has, and how a verb prints its result."""

import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ops.project.file import ProjectMissing, find_file

if TYPE_CHECKING:
    from ops.project.project import Project
    from sharding.topology import Topology


@dataclass(frozen=True)
class Options:
    """What the person at the terminal chose for all verbs.

    `named_home` is the folder of the embedded platform, `named_topology` the file that describes the platform
    to work on, `named_project` the project file, each None where the person named none; `json` is whether the
    result is for programs.
    """

    json: bool
    named_home: Path | None = None
    named_topology: Path | None = None
    named_project: Path | None = None

    def project(self) -> "Project":
        """Return the project: of the file that was named, or of the nearest one.

        Raises:
            ProjectMissing, ProjectInvalid: there is none, or it is wrong.
        """
        return self._project

    @cached_property
    def _project(self) -> "Project":
        from ops.project.project import Project

        return Project.load(self.named_project) if self.named_project else Project.find(Path())

    @property
    def home(self) -> Path:
        """The folder of the embedded platform: the one that was named, or `.platform` beside the project."""
        return self.named_home or self._beside_project / ".platform"

    @property
    def topology_path(self) -> Path:
        """The topology that was named, or the project's; without one, that of the embedded platform."""
        if self.named_topology is not None:
            return self.named_topology
        return self._project_topology or self.home / "topology.toml"

    @property
    def _project_topology(self) -> Path | None:
        try:
            return self.project().topology_path
        except ProjectMissing:
            return None

    @property
    def _beside_project(self) -> Path:
        try:
            return self.named_project.parent if self.named_project else find_file(Path()).parent
        except ProjectMissing:
            return Path()

    def topology(self) -> "Topology":
        """Read the topology.

        Raises:
            NoPlatform: none was named, and `mesctl up` has made none.
            TopologyError: the file cannot be read or is wrong; one line per fault.
        """
        path = self.topology_path
        if self.named_topology is None and self._project_topology is None and not path.exists():
            raise NoPlatform(self.home)
        from sharding.topology import Topology  # half a second of imports, which `--help` does not need

        return Topology.load(path)


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
