"""What is asked of a database, and what became of it: values that cross from one process to another."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

Direction = Literal["up", "down"]
MigrationState = Literal["done", "failed", "refused", "not started"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Request(_Value):
    """Bring the databases of a tree to a revision.

    `project` is the project file. `target` is as alembic takes it: `head`, `0002`, `+1`, `base`. `versions`
    is the folder of the tree's revisions. `phase` leaves out those of the other phase, None runs both.
    `attempts` is how often a migration is begun that waits too long for a lock.
    """

    project: str
    tree: str
    direction: Direction
    target: str
    versions: str
    phase: Literal["pre", "post"] | None = None
    attempts: int = 8


class MigrationOutcome(_Value):
    """What became of one database.

    `revision` is where it stands now, `ran` the revisions that this run did, `failed_in` the one that failed
    with `error`; without it the run failed before its first revision. `refused` is a database that is not
    one of the tree, in which nothing was changed.
    """

    database: str
    tree: str
    state: MigrationState
    revision: str | None = None
    ran: tuple[str, ...] = ()
    failed_in: str | None = None
    duration_seconds: float = 0.0
    error: str | None = None

    @property
    def done(self) -> bool:
        """Whether the database is where it should be."""
        return self.state == "done"

    @property
    def line(self) -> str:
        """The outcome in one line, for people."""
        match self.state:
            case "not started":
                return f"{self.database} was not started"
            case "refused":
                return str(self.error)
            case "failed":
                return (
                    f"{self.database} failed{f' in {self.failed_in}' if self.failed_in else ''}: {self.error}"
                )
        return f"{self.database} is at {self.revision or 'base'}"


@dataclass(frozen=True)
class PlannedRevision:
    """One revision, to be run in one direction."""

    revision: str
    direction: Direction
