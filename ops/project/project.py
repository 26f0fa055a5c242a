"""The project file: which trees a team has, and where their models, policies and revisions are.

It is `[tool.mes-storage]` in pyproject.toml, or `mes-storage.toml`, searched from a folder upwards:

    [tool.mes-storage]
    topology = "topology.toml"

    [tool.mes-storage.trees.payments]
    metadata = "payments.models:Base.metadata"
    policies = "payments.policies:POLICIES"
    revisions = "migrations/payments/versions"

A reference `module:name` is imported when it is used first. Paths are relative to the folder of the file.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from ops.errors import ExitStatus, OpsError
from ops.project.file import SECTION, ProjectInvalid, ProjectSection, find_section, line_of, read_section
from sharding.topology import Name, Section, Text, Topology, describe

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from partitions.archive_policy import ArchivePolicy
    from partitions.policy import Policy


def _checked(reference: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", reference):
        raise PydanticCustomError("reference", "Input should be a reference, MODULE:NAME")
    return reference


T = TypeVar("T")
Reference = Annotated[str, Field(strict=True), AfterValidator(_checked)]


class TreeEntry(Section):
    """A tree of the project. The topology's section of the same name says what kind it is.

    `revisions` is the folder of alembic's revisions; what they make is frozen beside it, in `../schema`.
    `archived` is called after each batch of the archive job, with the topology, the database's name, the
    policy and the ids that were moved.
    """

    metadata: Reference
    revisions: Text
    policies: Reference | None = None
    archives: Reference | None = None
    archived: Reference | None = None
    # Its primary key has four letters more, and PostgreSQL's names have 63.
    version_table: Annotated[Name, Field(max_length=59)] = "alembic_version"


class CommandEntry(Section):
    """A verb of `mesctl` that the project adds: a function or a `typer.Typer`, and its line in the help."""

    run: Reference
    summary: Text


class ServiceEntry(Section):
    """A service that `mesctl up` starts as `python -m MODULE`.

    With a section `[services.NAME]` in the topology it listens there, and answers `health` with 200 when it
    does its work; without one it is a worker, which works as soon as it is connected to a database.

    `redis` are the rules of its user of the platform's Valkey, in the words of `ACL SETUSER`; `environment`
    is given to this service alone, as `up.environment` is to all of them.
    """

    module: Text
    health: Text = "/healthz"
    redis: tuple[Text, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)


class UpEntry(Section):
    """What `mesctl up` does beside starting servers.

    `template` is a topology whose ports are chosen anew for HOME/topology.toml; `fill` is called with the
    project and the topology when the schemas are there; `preload` are modules that are imported once for all
    services (`ops.embedded.preload`); `environment` is given to services, with `{secret:PURPOSE}` replaced by
    a secret of the platform. `page` is the service whose pages people open: its URL is the last line, with
    `login` behind it, which says how one comes in.
    """

    template: Text | None = None
    fill: Reference | None = None
    preload: tuple[Text, ...] = ()
    page: Text | None = None
    login: Text | None = None
    environment: dict[str, str] = Field(default_factory=dict)


class MonitoringEntry(Section):
    """What the project adds to what is watched of the platform; each key is optional.

    `alerts` is a value with rules, `dashboards` one with dashboards; `samples` and `problems` are functions
    that are called with the topology, and return what they read there.
    """

    alerts: Reference | None = None
    dashboards: Reference | None = None
    samples: Reference | None = None
    problems: Reference | None = None


class PagesEntry(Section):
    """What the project adds to the DBA's pages; each key is optional.

    `panels` is a function that is called with the topology and returns `ops.pages.content.Panel`s; `access`
    one that returns an `ops.pages.sessions.Access`, which decides who may log in; `catalogues` is a folder
    with translations of the panels, CODE.po.
    """

    panels: Reference | None = None
    access: Reference | None = None
    catalogues: Text | None = None


class GatewayEntry(Section):
    """What the gateway lets in: `routes` is a mapping of doors to `ops.gateway.model.GatewayRoute`s."""

    routes: Reference | None = None


class ProjectFile(Section):
    """The keys of a project file."""

    topology: Text | None = None
    trees: dict[Name, TreeEntry]
    commands: dict[Name, CommandEntry] = Field(default_factory=dict)
    services: dict[Name, ServiceEntry] = Field(default_factory=dict)
    up: UpEntry = UpEntry()
    monitoring: MonitoringEntry = MonitoringEntry()
    gateway: GatewayEntry = GatewayEntry()
    pages: PagesEntry = PagesEntry()


class ReferenceBroken(ProjectInvalid):
    """A reference of the project file leads nowhere, or to something else than its key is for."""

    def __init__(self, path: Path, key: str, problem: str) -> None:
        self.key = key
        self.line = line_of(path, key)
        self.problem = problem
        where = f"line {self.line}: " if self.line else ""
        super().__init__(path, [f"{where}{key}: {self.problem}"])


class UnknownProjectTree(OpsError):
    """The project has no tree of this name."""

    exit_status = ExitStatus.USAGE

    def __init__(self, path: Path, name: str, known: Sequence[str]) -> None:
        self.name = name
        super().__init__(
            f"{path.name}: no tree {name!r}; it has {', '.join(known)}. Add [trees.{name}], "
            "or take the tree out of the topology"
        )


@dataclass(frozen=True)
class ProjectTree:
    """A tree of a project, with what its references lead to."""

    name: str
    entry: TreeEntry
    project: "Project"

    @cached_property
    def metadata(self) -> "MetaData":
        """What the models declare; a migrated database must equal it.

        Raises:
            ReferenceBroken: it does not import, or is something else.
        """
        from sqlalchemy import MetaData  # a while of imports, which reading the file does not need

        key, reference = f"trees.{self.name}.metadata", self.entry.metadata
        found = self.project.resolve(key, reference)
        if not isinstance(found, MetaData):
            problem = (
                f"{reference!r} is a {type(found).__name__} and no MetaData, as `module:Base.metadata` is"
            )
            raise ReferenceBroken(self.project.path, key, problem)
        return found

    @cached_property
    def policies(self) -> "tuple[Policy, ...]":
        """How the tree's tables are partitioned."""
        return self._all("policies", self.entry.policies)

    @cached_property
    def archives(self) -> "tuple[ArchivePolicy, ...]":
        """What is archived, and what belongs to it."""
        return self._all("archives", self.entry.archives)

    @cached_property
    def archived(self) -> "Callable[..., None] | None":
        """What is called with the rows that were archived.

        Raises:
            ReferenceBroken: it does not import.
        """
        if self.entry.archived is None:
            return None
        found: Callable[..., None] = self.project.resolve(f"trees.{self.name}.archived", self.entry.archived)
        return found

    @property
    def is_named(self) -> bool:
        """Whether the project names it. Of a directory that it does not name, it knows the library's part."""
        return self.name in self.project.trees

    @property
    def revisions(self) -> Path:
        """The folder of the revisions."""
        return self.project.root / self.entry.revisions

    @property
    def schemas(self) -> Path:
        """The folder in which stands what the revisions make, a file for each frozen revision."""
        return self.revisions.parent / "schema"

    @property
    def version_table(self) -> str:
        """The table in which alembic keeps the revision of a database."""
        return self.entry.version_table

    def _all(self, key: str, reference: str | None) -> tuple[Any, ...]:
        if reference is None:
            return ()
        key = f"trees.{self.name}.{key}"
        found = self.project.resolve(key, reference)
        if not isinstance(found, Iterable):
            problem = f"{reference!r} is a {type(found).__name__} and no tuple of policies"
            raise ReferenceBroken(self.project.path, key, problem)
        return tuple(found)


class Project:
    """A project file that was read, and what it leads to."""

    def __init__(self, path: Path, file: ProjectFile) -> None:
        self.path = path
        self.file = file
        self.trees: Mapping[str, ProjectTree] = {
            name: ProjectTree(name, entry, self) for name, entry in file.trees.items()
        }

    @property
    def root(self) -> Path:
        """The folder of the project file."""
        return self.path.parent

    @property
    def topology_path(self) -> Path | None:
        """The topology that the project names."""
        return self.root / self.file.topology if self.file.topology else None

    @classmethod
    def find(cls, start: Path) -> Self:
        """Find the project file in a folder or the nearest one above it, and read it.

        Raises:
            ProjectMissing: there is none.
            ProjectInvalid: it is wrong.
        """
        return cls.of(find_section(start))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a project file; see `of`.

        Raises:
            ProjectInvalid: it is wrong; one line per fault.
        """
        section = read_section(path)
        if section is None:
            raise ProjectInvalid(path, [f"{SECTION}: missing section; `mesctl init` writes one"])
        return cls.of(section)

    @classmethod
    def of(cls, section: ProjectSection) -> Self:
        """Return the project of a file that was read, and let its modules be imported from its folder.

        Raises:
            ProjectInvalid: the file is wrong; one line per fault.
        """
        try:
            file = ProjectFile.model_validate(section.content)
        except ValidationError as error:
            raise ProjectInvalid(section.path, describe(ProjectFile, error)) from None
        # Behind what is installed: a team's folder must not hide a library.
        if (folder := str(section.path.parent)) not in sys.path:
            sys.path.append(folder)
        return cls(section.path, file)

    def tree(self, name: str) -> ProjectTree:
        """Find a tree.

        Raises:
            UnknownProjectTree: there is none of that name.
        """
        try:
            return self.trees[name]
        except KeyError:
            raise UnknownProjectTree(self.path, name, list(self.trees)) from None

    def tree_in(self, topology: Topology, name: str) -> ProjectTree:
        """Find a tree of a topology.

        A directory that the project does not name has the library's tables, and no revisions.

        Raises:
            UnknownProjectTree: there is none of that name.
        """
        found = topology.trees.get(name)
        if name in self.trees or found is None or found.kind != "directory":
            return self.tree(name)
        from sharding.schema.chain import folder_of  # a while of imports, as SQLAlchemy above

        folder = folder_of("directory")  # of no revisions
        entry = TreeEntry(metadata="sharding.schema:DIRECTORY", revisions=str(folder))
        return ProjectTree(name, entry, self)

    def typed(self, key: str, reference: str | None, kind: type[T], default: T) -> T:
        """Import what a reference leads to, or return a default where the file has none.

        Raises:
            ReferenceBroken: it does not import, or is of another kind.
        """
        if reference is None:
            return default
        found = self.resolve(key, reference)
        if not isinstance(found, kind):
            problem = f"{reference!r} is a {type(found).__name__} and no {kind.__name__}"
            raise ReferenceBroken(self.path, key, problem)
        return found

    def resolve(self, key: str, reference: str) -> Any:
        """Import what a reference of the file leads to.

        Parameters:
            key: where it stands in the file, for the error.
            reference: `module:name`; names may be joined by dots.

        Raises:
            ReferenceBroken: it does not import, or has no such name.
        """
        module, _, names = reference.partition(":")
        try:
            found: Any = import_module(module)
            for name in names.split("."):
                found = getattr(found, name)
        except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
            problem = f"{reference!r} cannot be imported: {type(error).__name__}: {error}"
            if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "ops":
                problem += "; in mesctl `ops` is its own package: import none of yours of that name there"
            raise ReferenceBroken(self.path, key, problem) from error
        return found
