"""What can go wrong with a migration, each fault with its facts."""

from collections.abc import Sequence
from pathlib import Path

from alembic.util import CommandError

from ops.errors import ExitStatus, OpsError
from ops.migrate.outcome import MigrationOutcome
from partitions.errors import Blocker


class MigrationError(OpsError, CommandError):
    """Base of every error that this package raises; `alembic` and `mesctl` print it as one line."""


class LedgerUnreachable(MigrationError):
    """The directory cannot be written, so that what is done would not be recorded."""

    def __init__(self, directory: str, reason: str) -> None:
        self.directory = directory
        self.reason = reason
        super().__init__(
            f"the migration ledger in {directory} cannot be written, nothing was begun: {reason}"
        )


class MigrationsBusy(MigrationError):
    """Another run holds the lock of a database."""

    def __init__(self, database: str, *, waited_seconds: float) -> None:
        self.database = database
        super().__init__(
            f"{database}: another migration still runs after {waited_seconds:g} s; "
            "try again when it has ended (`mesctl migrate status` shows it)"
        )


class LockNotAcquired(MigrationError):
    """A revision waited in vain for a lock, again and again; nothing of its transaction stayed."""

    def __init__(self, revision: str, reason: str, *, attempts: int, blockers: Sequence[Blocker]) -> None:
        self.revision = revision
        self.blockers = tuple(blockers)
        who = "; ".join(map(str, blockers)) or "nobody that was seen"
        super().__init__(
            f"{reason}, {attempts} times. In the way: {who}. Wait for it or end it, and run this again"
        )


class UnknownRevision(MigrationError):
    """No way leads from a revision to another: one of them is not in this version of the project."""

    def __init__(self, tree: str, *, current: str | None, target: str, reason: str) -> None:
        self.current = current
        self.target = target
        super().__init__(
            f"no way from {current or 'base'} to {target} in the tree {tree}: {reason}. "
            "If the database is newer than this project, use the version that migrated it"
        )


class RevisionsInvalid(MigrationError):
    """The folder of a tree's revisions is not there, or what stands in it cannot be imported."""

    def __init__(self, folder: Path, reason: str) -> None:
        self.folder = folder
        self.reason = reason
        super().__init__(f"{folder}: {reason}")


class UnmarkedRevision(MigrationError):
    """A revision does not say whether it runs before or after the deployment."""

    def __init__(self, path: str, found: object) -> None:
        self.path = path
        self.found = found
        super().__init__(
            f'{path}: phase is {found!r}: write `phase = "pre"` if the code that runs now works with what '
            'the revision leaves, `phase = "post"` if it needs the new code'
        )


class PhaseOrder(MigrationError):
    """A phase cannot run, because revisions of the other one stand in front."""

    def __init__(self, *, wanted: str, blocked_by: str, behind: str) -> None:
        self.wanted = wanted
        self.blocked_by = blocked_by
        self.behind = behind
        if wanted == "pre":
            fix = (
                f"{behind} (pre) stands behind {blocked_by} (post) of an earlier release: finish that with "
                "`mesctl migrate upgrade --phase post`; a database that nobody uses needs no phases"
            )
        else:
            fix = (
                f"{blocked_by} (pre) was not run yet: run `mesctl migrate upgrade --phase pre`, "
                "deploy, and then the post phase"
            )
        super().__init__(f"nothing was run: {fix}")


class SquawkMissing(MigrationError):
    """The linter is not installed."""

    def __init__(self) -> None:
        super().__init__("squawk is not installed: pip install 'mesctl[lint]'")


class SeveralRevisions(MigrationError):
    """The version table of a database has several rows; the revisions of a tree are one line."""

    def __init__(self, version_table: str, revisions: Sequence[str]) -> None:
        self.revisions = tuple(revisions)
        super().__init__(
            f"its {version_table} has {len(revisions)} revisions, {', '.join(revisions)}: those of a tree "
            "are one line, so it is another project's"
        )


class SnapshotMissing(MigrationError):
    """No schema is frozen for a revision; `known` is whether the tree has the revision at all."""

    def __init__(self, tree: str, revision: str, *, known: bool) -> None:
        self.revision = revision
        self.known = known
        why = (
            f"of which no schema is frozen: run `mesctl migrate freeze --tree {tree}` on databases that "
            "were migrated from nothing"
            if known
            else f"which is no revision of the tree {tree} in this version of the project"
        )
        super().__init__(f"at {revision}, {why}")


class SnapshotInvalid(MigrationError):
    """The file of a frozen schema is none."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(f"{path}: is no frozen schema: {reason}. Put it back as it was committed")


class NotFreezable(MigrationError):
    """What stands in a database is not what the tree's revisions make."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, database: str, reason: str) -> None:
        self.database = database
        super().__init__(f"nothing was written: {database} {reason}")


class DatabaseRefused(MigrationError):
    """A database is not one of the tree; nothing was changed in it."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, database: str, tree: str, reason: str) -> None:
        self.database = database
        self.tree = tree
        self.reason = reason
        super().__init__(f"{database} is refused as a database of the tree {tree}: {reason}")


class DatabasesRefused(MigrationError):
    """At least one database is not one of its tree; nothing was changed in any."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, refused: Sequence[DatabaseRefused]) -> None:
        self.refused = tuple(refused)
        super().__init__("nothing was changed: " + "; ".join(map(str, refused)))


class LibrarySchemaDiffers(MigrationError):
    """What stands where the library's schema is to be is something else; nothing was changed."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, version: str, differences: str) -> None:
        self.version = version
        self.differences = differences
        super().__init__(
            f"{version} is not applied, for it would find other objects than its own: {differences}. Change "
            "them back or take them away, and run this again"
        )


class AdoptionRefused(MigrationError):
    """Databases differ from what their trees make, and that was not accepted."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, databases: Sequence[str]) -> None:
        self.databases = tuple(databases)
        super().__init__(
            f"nothing was changed: not as the revisions make it: {', '.join(databases)}. Mend what is "
            "listed, or give --accept-differences: later revisions may fail there, and `mesctl migrate "
            "drift` goes on listing it"
        )


class FleetFailed(MigrationError):
    """At least one database of a tree was not brought to where it should be."""

    def __init__(self, outcomes: Sequence[MigrationOutcome]) -> None:
        self.outcomes = tuple(outcomes)
        lines = "; ".join(outcome.line for outcome in outcomes if not outcome.done)
        if not any(outcome.ran or outcome.state == "failed" for outcome in outcomes):
            self.exit_status = ExitStatus.REFUSED
        super().__init__(f"{lines}. The same command again goes on where this one stopped")
