"""Migrations for programs: what `alembic -n TREE ...` does for a topology, and where its databases stand."""

import io
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from sqlalchemy.exc import SQLAlchemyError

from ops.migrate import citus, library
from ops.migrate.adoption import Examination, examine, refuse_others
from ops.migrate.connect import is_being_migrated, open_owner
from ops.migrate.errors import FleetFailed
from ops.migrate.fleet import PARALLEL, migrate_tree
from ops.migrate.ledger import Entry, read_latest
from ops.migrate.outcome import Direction, MigrationOutcome, Request
from ops.migrate.phases import Phase, PhasedRevision, in_phase, read_phases
from ops.migrate.scripts import Scripts, alembic_config, read_revision
from ops.migrate.single import Report
from ops.project.project import Project, ProjectTree
from readreplica.errors import one_line
from sharding.schema import Part
from sharding.topology import Topology


def trees_of(project: Project, topology: Topology, name: str | None = None) -> list[ProjectTree]:
    """List the trees to migrate: directories first, which have the ledger, then in the order of the project.

    A tree of the project without a database in the topology is left out. A directory need not be in the
    project.

    Parameters:
        project: the project file.
        topology: where the databases are.
        name: only this tree.

    Raises:
        UnknownProjectTree: the project has no tree of that name, or lacks one of the topology.
    """
    if name is not None:
        return [project.tree_in(topology, name)]
    found = {wanted: project.tree_in(topology, wanted) for wanted in topology.trees}
    directories = topology.names_of_kind("directory")
    order = {name: place for place, name in enumerate(project.trees)}
    return sorted(found.values(), key=lambda tree: (tree.name not in directories, order.get(tree.name, -1)))


def upgrade(topology: Topology, tree: ProjectTree, revision: str = "head") -> None:
    """Bring every database of a tree up to a revision, one transaction for each migration.

    Parameters:
        topology: where the databases are.
        tree: the migration tree.
        revision: as alembic takes it: `head`, `0002`, `+1`.

    Raises:
        FleetFailed: at least one database is not there; the same call again goes on.
    """
    migrate(topology, tree, "up", revision)


def downgrade(topology: Topology, tree: ProjectTree, revision: str) -> None:
    """Take every database of a tree back to a revision; `base` drops everything. Raises: as `upgrade`."""
    migrate(topology, tree, "down", revision)


def migrate(
    topology: Topology,
    tree: ProjectTree,
    direction: Direction,
    target: str,
    *,
    versions: Path | None = None,
    phase: Phase | None = None,
    parallel: int = PARALLEL,
    report: Report = lambda _line: None,
) -> list[MigrationOutcome]:
    """Bring every database of a tree to a revision: the canary first, then several at once.

    Parameters:
        topology: where the databases are.
        tree: the migration tree.
        direction: which way.
        target: the revision, as alembic takes it.
        versions: the folder of the revisions; without it, the project's own.
        phase: only the revisions of this phase of a deployment; upwards alone.
        parallel: how many databases at once, after the canary.
        report: is called with progress, a line each.

    Returns:
        an outcome for each database.

    Raises:
        DatabasesRefused: at least one is not of the tree; nothing was changed.
        FleetFailed: at least one database is not there; the error has all outcomes.
    """
    refuse_others(topology, [tree])
    request = _request(tree, direction, target, versions=versions, phase=phase)
    outcomes = migrate_tree(topology, request, parallel=parallel, report=report)
    return _all_done(outcomes)


def upgrade_all(
    topology: Topology,
    trees: Iterable[ProjectTree],
    *,
    phase: Phase | None = None,
    parallel: int = PARALLEL,
    report: Report = lambda _line: None,
) -> list[MigrationOutcome]:
    """Bring every database of several trees to its newest revision, one tree after another.

    If the canary of a tree fails, the trees behind it are not touched. Parameters, result and errors are
    those of `migrate`.
    """
    trees = list(trees)
    refuse_others(topology, trees)
    outcomes: list[MigrationOutcome] = []
    for tree in trees:
        request = _request(tree, "up", "head", phase=phase)
        found = migrate_tree(topology, request, parallel=parallel, report=report)
        outcomes += found
        if found and not found[0].done:  # the canary: what is wrong may be wrong everywhere
            break
    return _all_done(outcomes)


def _request(
    tree: ProjectTree,
    direction: Direction,
    target: str,
    *,
    versions: Path | None = None,
    phase: Phase | None = None,
) -> Request:
    return Request(
        project=str(tree.project.path),
        tree=tree.name,
        direction=direction,
        target=target,
        versions=str(versions or tree.revisions),
        phase=phase,
    )


def _all_done(outcomes: list[MigrationOutcome]) -> list[MigrationOutcome]:
    if not all(outcome.done for outcome in outcomes):
        raise FleetFailed(outcomes)
    return outcomes


def render_upgrade(tree: ProjectTree, revision: str = "head", *, start: str | None = None) -> str:
    """Return the script that `upgrade` would run, as psql accepts it.

    Parameters:
        tree: the migration tree.
        revision: where to end.
        start: the revision of the database; None is one that was never migrated.
    """
    script = io.StringIO()
    config = alembic_config(tree, tree.revisions, script)
    command.upgrade(config, f"{start or 'base'}:{revision}", sql=True)
    return script.getvalue()


def pending_library(topology: Topology, state: "DatabaseState") -> list[PhasedRevision]:
    """List the versions of the library's schema that a database lacks, and that come before its revisions."""
    part = library.part_of(topology, state.tree.name)
    if part is None or state.found is None:
        return []
    scripts = Scripts(state.tree, state.tree.revisions)
    lacking = library.lacking(part, scripts, at=state.revision, version=state.library_version)
    return _phased(part, lacking)


def following_library(
    topology: Topology, state: "DatabaseState", revisions: Collection[str]
) -> list[PhasedRevision]:
    """List the versions of the library's schema that come behind these revisions of a database."""
    part = library.part_of(topology, state.tree.name)
    if part is None:
        return []
    return _phased(part, library.following(part, Scripts(state.tree, state.tree.revisions), revisions))


def _phased(part: Part, versions: Iterable[int]) -> list[PhasedRevision]:
    return [PhasedRevision(library.name_of(part, each), "pre", "The library's schema.") for each in versions]


def render_library(topology: Topology, state: "DatabaseState") -> str:
    """Return the script that brings the library's schema of a database up, before its revisions."""
    part = library.part_of(topology, state.tree.name)
    if part is None or state.found is None:
        return ""
    scripts = Scripts(state.tree, state.tree.revisions)
    lacking = library.lacking(part, scripts, at=state.revision, version=state.library_version)
    return _render_library(topology, state, part, lacking)


def render_following(topology: Topology, state: "DatabaseState", revisions: Collection[str]) -> str:
    """Return the script of the versions of the library's schema that come behind these revisions."""
    part = library.part_of(topology, state.tree.name)
    if part is None:
        return ""
    following = library.following(part, Scripts(state.tree, state.tree.revisions), revisions)
    return _render_library(topology, state, part, following)


def _render_library(topology: Topology, state: "DatabaseState", part: Part, versions: range) -> str:
    grantees = library.grantees_of(topology, state.database)
    return library.render(part, versions, grantees if versions else None)


def render_distribution(topology: Topology, tree: ProjectTree) -> str:
    """Return the script of what comes after an upgrade where Citus keeps the shards; elsewhere, none."""
    return citus.script(topology, tree) if citus.is_on_citus(topology, tree.name) else ""


def render_downgrade(tree: ProjectTree, revision: str, *, start: str) -> str:
    """Return the script that `downgrade` would run on a database of revision `start`, as psql accepts it."""
    script = io.StringIO()
    config = alembic_config(tree, tree.revisions, script)
    command.downgrade(config, f"{start}:{revision}", sql=True)
    return script.getvalue()


def current(topology: Topology, tree: ProjectTree) -> Mapping[str, str | None]:
    """Read the revision of every database of a tree; None is a database that was never migrated."""
    found: dict[str, str | None] = {}
    for name in topology.databases_of(tree.name):
        with open_owner(topology, name) as engine, engine.connect() as connection:
            found[name] = read_revision(connection, tree)
    return found


def head(tree: ProjectTree) -> str | None:
    """Return the newest revision of a tree."""
    return Scripts(tree, tree.revisions).head


def pending(tree: ProjectTree, start: str | None, *, phase: Phase | None = None) -> list[PhasedRevision]:
    """List the revisions that a database of revision `start` lacks, oldest first.

    Parameters:
        tree: the migration tree.
        start: the revision of the database.
        phase: only those that this phase of a deployment would run.

    Raises:
        PhaseOrder: the phase cannot run.
    """
    lacking = read_phases(Scripts(tree, tree.revisions).lacking(start))
    return lacking if phase is None else in_phase(lacking, phase)


@dataclass(frozen=True)
class DatabaseState:
    """What was found in a database, or why it could not be read; `busy` is whether a run holds its lock."""

    database: str
    tree: ProjectTree
    found: Examination | None = None
    busy: bool = False
    unreachable: str | None = None

    @property
    def library_version(self) -> int:
        """The version of the library's schema; 0 where there is none."""
        return self.found.library_version if self.found else 0

    @property
    def revision(self) -> str | None:
        """The database's revision; None at base, and where it could not be read."""
        return self.found.revision if self.found else None


def read_states(topology: Topology, tree: ProjectTree) -> Iterator[DatabaseState]:
    """Examine every database of a tree; one that is down does not hide the others."""
    for name in topology.databases_of(tree.name):
        try:
            with open_owner(topology, name) as engine, engine.connect() as connection:
                found = examine(connection, topology, tree, name)
                connection.rollback()
                yield DatabaseState(name, tree, found, is_being_migrated(connection))
        except SQLAlchemyError as fault:
            yield DatabaseState(name, tree, unreachable=one_line(fault))


def read_ledger(topology: Topology) -> Mapping[str, Entry]:
    """Read the latest entry of every database, as far as the directory can be reached."""
    try:
        return read_latest(topology)
    except SQLAlchemyError:
        return {}


def last_run(entry: Entry | None, state: DatabaseState) -> str | None:
    """Return how the latest run on a database ended; None where there was none."""
    if entry is None:
        return None
    what = f"{entry.revision} {entry.direction}"
    if entry.state == "running":
        return f"{what} runs" if state.busy else f"{what} was killed; the next run settles it"
    return f"{what} failed: {entry.error}" if entry.state == "failed" else f"{what} {entry.state}"
