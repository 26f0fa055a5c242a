"""Online changes on their way to a database: each step becomes an action of the one executor."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from partitions.actions import Action
from partitions.errors import (
    ActionBlocked,
    ActionFailed,
    ObjectNameTaken,
    OnlineChangeRefused,
    PreconditionFailed,
    TableLocked,
)
from partitions.executor import Executor, RetryPolicy, open_executor, reason_of
from partitions.online.change import Change, ChangeStep, first_unmet, name_is_free, raise_unmet
from partitions.sql import RelationName
from partitions.steps import ExecutionMode, LockTimeouts, SqlStep, render_step

Report = Callable[[ChangeStep], None]

RETRY = RetryPolicy(attempts=20, backoff_seconds=1.0, lock_wait_seconds=600.0)
"""Another change may be long: of two runs at once, the second waits and then finds nothing left to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepAction(Action):
    """One step of an online change, as the executor takes it."""

    step: ChangeStep

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return self.step.summary

    def steps(self) -> tuple[SqlStep, ...]:
        """Return the SQL."""
        mode = ExecutionMode.AUTOCOMMIT if self.step.autocommit else ExecutionMode.TRANSACTION
        return (SqlStep(self.step.statements, mode=mode, done=self.step.done, cleanup=self.step.cleanup),)


def apply(
    engine: Engine, change: Change, *, retry: RetryPolicy = RETRY, report: Report | None = None
) -> list[ChangeStep]:
    """Run the steps of a change that are not done yet.

    Parameters:
        engine: connects as the table's owner, and not through a transaction pooler: it takes a session lock.
        change: what is wanted.
        retry: how long an application's query may be held up, and how often a step may be tried that finds
            its lock taken.
        report: is called with each step that was done.

    Returns:
        the steps that were done; none, when all was done before.

    Raises:
        PreconditionFailed: what must come before has not been done, or what comes after was done already, or
            something is in the way, which the error names.
        ObjectNameTaken: another object has the name that was asked for.
        OnlineChangeRefused: PostgreSQL refused a step.
        TableLocked: a lock was not free in any attempt; the error names who holds it.
        PartitionsBusy: another session changes this database, and did not end in time.
    """
    done = []
    with open_executor(engine, retry) as executor:
        try:
            change = _named(executor, change)
            if all(executor.holds(step.done) for step in change.steps):
                return []
            unmet = first_unmet(executor.value, change.preconditions)
        except DBAPIError as fault:
            raise OnlineChangeRefused(change.table, change.summary, reason_of(fault)) from fault
        if unmet is not None:
            raise PreconditionFailed(change.table, change.summary, unmet)
        for step in change.steps:
            if executor.holds(step.done):
                continue
            _run(executor, change, step)
            if not executor.holds(step.done):
                raise OnlineChangeRefused(
                    change.table, step.summary, "it ran, and the catalogue does not show it"
                )
            done.append(step)
            if report is not None:
                report(step)
    return done


def _named(executor: Executor, change: Change) -> Change:
    """Plan a change for the table that its name finds now, with names that nothing else has.

    Raises:
        ObjectNameTaken: a person chose a name that something else has.
    """
    if change.names is None:
        return change
    table, found = executor.ask(partial(_find, RelationName.of(change.table))), ""
    for number in itertools.count():
        planned = change.names.choose(table, number)
        if planned is None:
            break
        found = str(executor.value(planned.names.taken) or "") if planned.names else ""
        if not found:
            return planned
    raise ObjectNameTaken(change.table, change.summary, found)


def _find(table: RelationName, connection: Connection) -> RelationName:
    """Return a table's name with the schema in which it is found; as it is given when there is none."""
    query = (
        "SELECT relname, nspname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
        f"WHERE pg_class.oid = {table.regclass}"
    )
    found = connection.exec_driver_sql(query).one_or_none()
    return table if found is None else RelationName(found.relname, found.nspname)


def render(change: Change, *, lock_timeout_seconds: float = 3.0) -> str:
    """Return the script that `apply` would run on a table where nothing is done yet, as psql accepts it."""
    timeouts = LockTimeouts(lock_timeout_seconds=lock_timeout_seconds)
    free = [] if change.names is None else [name_is_free(change.names.taken)]
    guards = [raise_unmet(need) for need in (*free, *change.preconditions)]
    parts = [
        *([(f"may {change.summary} begin?", tuple(guards))] if guards else []),
        *((step.summary, _lines(change, step, timeouts)) for step in change.steps),
    ]
    return "\n".join(
        f"-- {change.table}: {title}\n" + "".join(f"{line};\n" for line in lines) for title, lines in parts
    )


def _lines(change: Change, step: ChangeStep, timeouts: LockTimeouts) -> tuple[str, ...]:
    action = _StepAction(table=change.table, why=change.summary, step=step)
    return tuple(line for each in action.steps() for line in render_step(each, timeouts))


def _run(executor: Executor, change: Change, step: ChangeStep) -> None:
    try:
        executor.run(_StepAction(table=change.table, why=change.summary, step=step))
    except ActionBlocked as fault:
        raise TableLocked(
            change.table, step.summary, attempts=fault.attempts, holders=fault.blockers
        ) from fault
    except ActionFailed as fault:
        raise OnlineChangeRefused(change.table, step.summary, fault.reason) from fault
