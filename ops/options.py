"""The options that all commands of `mesctl` share, and durations as they are typed."""

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.errors import OpsError
from ops.project.file import ProjectMissing, ProjectSection, find_section
from ops.tracing import VERB

if TYPE_CHECKING:
    from ops.project.project import Project
    from sharding.topology import Topology


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_TEXT = re.compile(r"(\d{1,6})([smhdw])")


OnlyTree = Annotated[str | None, typer.Option("--tree", help="Only the databases of this tree.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the SQL for psql; change nothing.")]


class NoPlatform(OpsError):
    """No platform was ever made in this folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        super().__init__(f"there is no platform in {home}: `mesctl up` makes one")


@dataclass(frozen=True)
class Options:
    """What the person at the terminal chose for all verbs.

    `named_home` is the folder of the embedded platform, `named_topology` the file that describes the platform
    to work on, `named_project` the project file, each None where the person named none; `json` is whether the
    result is for programs. `section` is the project file, where it was read already.
    """

    json: bool
    named_home: Path | None = None
    named_topology: Path | None = None
    named_project: Path | None = None
    section: ProjectSection | None = None

    def project(self) -> "Project":
        """Return the project: of the file that was named, or of the nearest one.

        Raises:
            ProjectMissing, ProjectInvalid: there is none, or it is wrong.
        """
        return self._project

    @cached_property
    def _project(self) -> "Project":
        from ops.project.project import Project  # pydantic takes a while, and `--help` does not need it

        if self.section is not None:
            return Project.of(self.section)
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
        if self.named_project:
            return self.named_project.parent
        try:
            return (self.section or find_section(Path())).path.parent
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
    """Return the options of this run of `mesctl`, in any of its verbs."""
    VERB.set(context.command_path)
    found: Options = context.find_root().obj
    return found


def parse_duration(text: str) -> timedelta:
    """Read `30d`, `12h`, `90m` or `0s`.

    Raises:
        BadParameter: the text is no duration.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration: write it like 30d, 12h, 90m or 0s")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def format_duration(duration: timedelta) -> str:
    """Write a duration so that `parse_duration` reads it back; parts of a second are dropped."""
    seconds = int(duration.total_seconds())
    for unit, size in (("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
