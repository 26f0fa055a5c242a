"""One database: its lock, the revisions that it lacks, each in a transaction, each noted in the ledger.

alembic's `op` is one for the process: two databases at once need two processes (`ops.migrate.fleet`).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from ops.migrate import library
from ops.migrate.adoption import claim
from ops.migrate.citus import distribute, is_on_citus
from ops.migrate.connect import open_owner, take_lock
from ops.migrate.errors import DatabaseRefused, LibrarySchemaDiffers, LockNotAcquired
from ops.migrate.ledger import Ledger, open_ledger
from ops.migrate.outcome import MigrationOutcome, MigrationState, PlannedRevision, Request
from ops.migrate.phases import in_phase, read_phases
from ops.migrate.scripts import Scripts, read_revision
from ops.project.project import Project
from partitions.executor import BlockerWatch, watch_blockers
from readreplica.errors import one_line
from sharding.schema import read_version
from sharding.topology import Topology

Report = Callable[[str], None]


def migrate_database(
    topology: Topology, database: str, request: Request, *, report: Report
) -> MigrationOutcome:
    """Bring one database to the requested revision.

    Parameters:
        topology: where the databases are.
        database: one of them.
        request: what to bring it to.
        report: is called with a line about each revision.

    Returns:
        the outcome; an error is in it.
    """
    run = _Run(topology, database, request, lambda line: report(f"{database}: {line}"))
    started = time.monotonic()
    error: str | None = None
    state: MigrationState = "done"
    try:
        with (
            open_ledger(topology, database) as ledger,
            open_owner(topology, database) as engine,
            engine.connect() as connection,
        ):
            run.all_steps(connection, topology, ledger)
            if request.direction == "up" and is_on_citus(topology, request.tree):
                run.distribute(connection, topology)
    except (DatabaseRefused, LibrarySchemaDiffers) as refusal:
        state, error = "refused", str(refusal)
    except Exception as fault:  # whatever a revision raises is the outcome of this database, not of the fleet
        state, error = "failed", one_line(fault)
        report(f"{database}: {run.doing or 'start'}: failed: {error}")
    return MigrationOutcome(
        database=database,
        tree=request.tree,
        state=state,
        revision=run.at,
        ran=tuple(run.ran),
        failed_in=run.doing if error else None,
        duration_seconds=round(time.monotonic() - started, 3),
        error=error,
    )


class _Run:
    def __init__(self, topology: Topology, database: str, request: Request, report: Report) -> None:
        self.at: str | None = None
        self.ran: list[str] = []
        self.doing: str | None = None
        self._database = database
        self._request = request
        self._report = report
        self._part = library.part_of(topology, request.tree)
        self._grantees = library.grantees_of(topology, database)
        self._tree = Project.load(Path(request.project)).tree_in(topology, request.tree)
        self._scripts = Scripts(self._tree, request.versions)

    def all_steps(self, connection: Connection, topology: Topology, ledger: Ledger) -> None:
        """Run what the database lacks, if it is one of the tree."""
        self._scripts.line()  # revisions that cannot be read mark no database
        take_lock(connection, self._database)
        self.at = claim(connection, topology, self._tree, self._database)
        for line in ledger.close_killed(self._applied(connection)):
            self._report(line)
        steps = self._steps()
        self._bring_library(connection, ledger)
        for step in steps:
            self.doing = step.revision
            self._noted(connection, ledger, step, partial(self._scripts.run, connection, step))
            self.at = read_revision(connection, self._tree)
            connection.rollback()
            self.ran.append(step.revision)
            self.doing = None
            if step.revision == self._scripts.library_recorder:
                self._bring_library(connection, ledger)
        self._grant(connection)

    def _applied(self, connection: Connection) -> set[str]:
        """Return what the database has had, by the names that the ledger has for it."""
        found = set(self._scripts.applied(self.at))
        if self._part is not None:
            version = read_version(connection, self._part)
            found |= {library.name_of(self._part, each) for each in range(1, version + 1)}
            connection.rollback()
        return found

    def _bring_library(self, connection: Connection, ledger: Ledger) -> None:
        """Bring the library's schema to its newest version, on the way up."""
        part = self._part
        if part is None or self._request.direction == "down":
            return
        version = read_version(connection, part)
        connection.rollback()
        for each in library.lacking(part, self._scripts, at=self.at, version=version):
            step = PlannedRevision(library.name_of(part, each), "up")
            self.doing = step.revision
            self._noted(connection, ledger, step, partial(library.apply_version, connection, part, each))
            self.doing = None

    def _grant(self, connection: Connection) -> None:
        """Grant the services their rights on the library's tables, where they lack."""
        if self._part is None or not read_version(connection, self._part):
            connection.rollback()
            return
        for grant in library.missing_grants(connection, self._part, self._grantees):
            connection.exec_driver_sql(grant.statement)
            self._report(grant.statement)
        connection.commit()

    def distribute(self, connection: Connection, topology: Topology) -> None:
        """Distribute the tables that the revisions have made."""
        self.doing = "distribution"
        distribute(connection, topology, self._tree, report=self._report)
        self.doing = None

    def _steps(self) -> list[PlannedRevision]:
        request = self._request
        if request.phase is None:
            return self._scripts.steps(self.at, request.target, request.direction)
        lacking = read_phases(self._scripts.lacking(self.at, request.target))
        return [PlannedRevision(each.revision, "up") for each in in_phase(lacking, request.phase)]

    def _noted(
        self, connection: Connection, ledger: Ledger, step: PlannedRevision, work: Callable[[], None]
    ) -> None:
        entry_id = ledger.begin(step)
        started = time.monotonic()
        try:
            self._with_retries(connection, step, work)
        except BaseException as fault:  # Ctrl-C too must not leave an entry that still runs
            self._end(ledger, entry_id, step, started, error=one_line(fault))
            raise
        self._report(f"{step.revision} {step.direction}: done in {time.monotonic() - started:.1f} s")
        self._end(ledger, entry_id, step, started, error=None)

    def _end(
        self, ledger: Ledger, entry_id: int | None, step: PlannedRevision, started: float, error: str | None
    ) -> None:
        try:
            ledger.end(entry_id, step, seconds=time.monotonic() - started, error=error)
        except SQLAlchemyError as fault:
            # The migration stands as it is; the entry that still says `running` is settled by the next run.
            self._report(f"{step.revision}: its end is not in the ledger: {one_line(fault)}")

    def _with_retries(self, connection: Connection, step: PlannedRevision, work: Callable[[], None]) -> None:
        """Run a revision anew, the whole transaction, as long as it waits in vain for a lock."""
        attempts, seen = self._request.attempts, BlockerWatch()

        def again(state: RetryCallState) -> None:
            fault = state.outcome and state.outcome.exception()
            pause = state.next_action.sleep if state.next_action else 0.0
            self._report(f"{step.revision}: {one_line(fault) if fault else ''}; again in {pause:.1f} s")

        try:
            # The pause lets those go on who queue behind us; it is random, or two runs would meet again.
            for attempt in Retrying(
                retry=retry_if_exception(is_lock_failure),
                stop=stop_after_attempt(attempts),
                wait=wait_random_exponential(multiplier=0.5, max=10),
                before_sleep=again,
                reraise=True,
            ):
                # Watched from the second attempt on: a revision that had its locks may run for hours.
                is_late = attempt.retry_state.attempt_number > 1
                with attempt, _watched(connection) if is_late else nullcontext(seen) as seen:
                    work()
        except DBAPIError as fault:
            if not is_lock_failure(fault):
                raise
            reason = one_line(fault)
            raise LockNotAcquired(step.revision, reason, attempts=attempts, blockers=seen.seen) from fault


@contextmanager
def _watched(connection: Connection) -> Iterator[BlockerWatch]:
    """Look from another session for who holds up this one."""
    connection.rollback()  # what the attempt before has left
    pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    connection.rollback()
    with watch_blockers(connection.engine, pid) as watch:
        yield watch


def is_lock_failure(fault: BaseException) -> bool:
    """Whether an error is a lock that was not had in time: the same again may well succeed."""
    return isinstance(fault, DBAPIError) and isinstance(fault.orig, LockNotAvailable | DeadlockDetected)
