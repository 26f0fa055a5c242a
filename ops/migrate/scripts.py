"""The revisions of a tree, as they stand in its folder."""

import io
import sys
import traceback
import warnings
from collections.abc import Collection
from contextlib import redirect_stdout
from functools import cached_property
from pathlib import Path

from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, MigrationStep, RevisionStep
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection

import partitions.migration_ops  # noqa: F401 (makes op.create_partition and its like exist for revisions)
import sharding.migration_ops  # noqa: F401 (and op.create_shard_guard)
from ops.migrate.errors import RevisionsInvalid, SeveralRevisions, UnknownRevision
from ops.migrate.outcome import Direction, PlannedRevision
from ops.project.project import ProjectTree

SCRIPT_LOCATION = Path(__file__).parent / "script"
"""An env.py that does what a team's does: the engine needs none of theirs."""


def alembic_config(tree: ProjectTree, versions: str | Path, output: io.StringIO | None = None) -> Config:
    """Make alembic's configuration; an installed package has no alembic.ini.

    Parameters:
        tree: the migration tree; env.py finds it in the section's name.
        versions: the folder of its revisions.
        output: where an offline script goes.
    """
    config = Config(ini_section=tree.name, stdout=io.StringIO(), output_buffer=output)
    config.set_main_option("script_location", str(SCRIPT_LOCATION).replace("%", "%%"))
    config.set_main_option("version_locations", str(versions).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes["project"] = tree.project
    return config


class Scripts:
    """The revisions of one tree: a line, oldest to newest."""

    def __init__(self, tree: ProjectTree, versions: str | Path) -> None:
        self.tree = tree
        self._versions = Path(versions)
        self._unread = ScriptDirectory.from_config(alembic_config(tree, versions))

    @cached_property
    def _directory(self) -> ScriptDirectory:
        """The folder, with its revisions imported.

        Raises:
            RevisionsInvalid: it is not there, or one cannot be imported.
        """
        if not self._versions.is_dir():
            raise RevisionsInvalid(self._versions, "there is no such folder of revisions")
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Revision .* is not present")  # it fails as well
                self._unread.get_heads()
        except CommandError:
            raise
        except Exception as fault:  # a revision may raise anything while it is imported
            raise RevisionsInvalid(self._versions, _words_of(fault, self._versions)) from fault
        return self._unread

    @property
    def head(self) -> str | None:
        """The newest revision.

        Raises:
            RevisionsInvalid: the revisions cannot be read.
            CommandError: the line has branches.
        """
        return self._directory.get_current_head()

    def line(self) -> list[Script]:
        """List all revisions, oldest first."""
        return list(reversed(list(self._directory.walk_revisions())))

    @property
    def library_recorder(self) -> str | None:
        """The revision that records the library's schema, of a tree whose own revisions make it.

        Raises:
            RevisionsInvalid: the revisions cannot be read.
        """
        return self._recorded[0]

    @property
    def recorded_version(self) -> int:
        """The version of the library's schema that `library_recorder` records. Raises: as it does."""
        return self._recorded[1]

    @cached_property
    def _recorded(self) -> tuple[str | None, int]:
        found = ((each.revision, getattr(each.module, "library_schema", 0)) for each in self.line())
        return next(((revision, version) for revision, version in found if version), (None, 0))

    def applied(self, current: str | None) -> Collection[str]:
        """List the revisions that a database of revision `current` has had. Raises: as `steps`."""
        if current is None:
            return frozenset()
        return frozenset(
            script.revision for script in self._between(current, "base", lower="base", upper=current)
        )

    def steps(self, current: str | None, target: str, direction: Direction) -> list[PlannedRevision]:
        """List what to run, in order, to take a database from `current` to `target`.

        Raises:
            RevisionsInvalid: the revisions cannot be read.
            UnknownRevision: one of the two is not in the tree.
        """
        if direction == "up":
            return [PlannedRevision(script.revision, "up") for script in self.lacking(current, target)]
        if current is None:
            return []
        scripts = self._between(current, target, lower=target, upper=current, select_for_downgrade=True)
        return [PlannedRevision(script.revision, "down") for script in scripts]

    def lacking(self, current: str | None, target: str = "head") -> list[Script]:
        """List the revisions that lie between `current` and `target`, oldest first. Raises: as `steps`."""
        applied = self.applied(current)
        scripts = self._between(current, target, lower=current or "base", upper=target, implicit_base=True)
        return [script for script in reversed(scripts) if script.revision not in applied]

    def _between(
        self, current: str | None, target: str, *, lower: str, upper: str, **options: bool
    ) -> list[Script]:
        if not self.tree.is_named:  # its revisions, if it has any, are another project's
            return []
        try:
            return list(self._directory.iterate_revisions(upper, lower, **options))
        except RevisionError as fault:
            raise UnknownRevision(
                self.tree.name, current=current, target=target, reason=str(fault)
            ) from fault

    def run(self, connection: Connection, step: PlannedRevision) -> None:
        """Run one revision, in a transaction of its own.

        This does what `alembic` does for one step, but without env.py: that is under way already when
        `alembic -n TREE upgrade` called us, and alembic cannot run it within itself.
        """

        def only_this(_heads: object, _context: object) -> list[RevisionStep]:
            script = self._directory.get_revision(step.revision)
            up, down = MigrationStep.upgrade_from_script, MigrationStep.downgrade_from_script
            make = up if step.direction == "up" else down
            return [make(self._directory.revision_map, script)]

        options = {
            "fn": only_this,
            "script": self._directory,
            "transaction_per_migration": True,
            "version_table": self.tree.version_table,
        }
        context = MigrationContext.configure(connection, opts=options)
        # Results go to stdout, of `mesctl migrate --json` for example; what a revision prints is none.
        with redirect_stdout(sys.stderr), Operations.context(context):
            context.run_migrations()


def _words_of(fault: Exception, folder: Path) -> str:
    """Return why revisions cannot be imported, and where, on one line."""
    frames = traceback.extract_tb(fault.__traceback__)
    places = [
        f"{Path(each.filename).name}:{each.lineno}: "
        for each in frames
        if Path(each.filename).parent == folder
    ]
    if isinstance(fault, KeyError) and not places:  # alembic's own
        return f"no revision {fault}, and another names it as its down_revision"
    return f"{''.join(places[-1:])}{type(fault).__name__}: {fault}"


def read_revision(connection: Connection, tree: ProjectTree) -> str | None:
    """Read the revision of a database; None is one that was never migrated.

    Raises:
        SeveralRevisions: it has more than one, which no tree leaves behind.
    """
    options = {"version_table": tree.version_table}
    heads = MigrationContext.configure(connection, opts=options).get_current_heads()
    if len(heads) > 1:
        raise SeveralRevisions(tree.version_table, sorted(heads))
    return heads[0] if heads else None
