"""Online changes on their way to a database: each step becomes an action of the one executor."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from partitions.actions import Action
from partitions.errors import ActionBlocked, ActionFailed
from partitions.execute import Executor, Waiting, open_executor, reason_of
from partitions.online.change import Change, Step, first_unmet, name_is_free, refuse_unmet
from partitions.online.errors import NameTaken, OnlineChangeRefused, StepOutOfOrder, TableBusy
from partitions.sql import RelationName
from partitions.steps import Limits, Way, lines_of
from partitions.steps import Step as SqlStep

Report = Callable[[Step], None]

WAITING = Waiting(attempts=20, pause_seconds=1.0, others_seconds=600.0)
"""Another change may be long: of two runs at once, the second waits and then finds nothing left to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeStep(Action):
    """One step of an online change, as the executor takes it."""

    step: Step

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return self.step.summary

    def steps(self) -> tuple[SqlStep, ...]:
        """Give the SQL."""
        way = Way.ALONE if self.step.alone else Way.TRANSACTION
        return (SqlStep(self.step.statements, way=way, done=self.step.done, cleanup=self.step.cleanup),)


def apply(
    engine: Engine, change: Change, *, waiting: Waiting = WAITING, report: Report | None = None
) -> list[Step]:
    """Do what of a change is not done yet.

    Parameters:
        engine: connects as the table's owner, and not through a transaction pooler: it takes a session lock.
        change: what is wanted.
        waiting: how long an application's query may be held up, and how often a step may be tried that finds
            its lock taken.
        report: is told of each step that was done.

    Returns:
        the steps that were done; none, when all was done before.

    Raises:
        StepOutOfOrder: what must come before has not been done, or what comes after was done already, or
            something is in the way, which the error names.
        NameTaken: another object has the name that was asked for.
        OnlineChangeRefused: PostgreSQL refused a step.
        TableBusy: a lock was not free in any attempt; the error names who holds it.
        Occupied: somebody else changes this database, and did not end in time.
    """
    done = []
    with open_executor(engine, waiting) as executor:
        try:
            change = _named(executor, change)
            if all(executor.holds(step.done) for step in change.steps):
                return []
            unmet = first_unmet(executor.value, change.needs)
        except DBAPIError as fault:
            raise OnlineChangeRefused(change.table, change.summary, reason_of(fault)) from fault
        if unmet is not None:
            raise StepOutOfOrder(change.table, change.summary, unmet)
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
        NameTaken: a person chose a name that something else has.
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
    raise NameTaken(change.table, change.summary, found)


def _find(table: RelationName, connection: Connection) -> RelationName:
    """Return a table's name with the schema in which it is found; as it is given when there is none."""
    query = (
        "SELECT relname, nspname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
        f"WHERE pg_class.oid = {table.regclass}"
    )
    found = connection.exec_driver_sql(query).one_or_none()
    return table if found is None else RelationName(found.relname, found.nspname)


def render(change: Change, *, lock_timeout_seconds: float = 3.0) -> str:
    """Give the script that `apply` would run on a table of which nothing is done yet, as psql accepts it."""
    limits = Limits(lock_timeout_seconds=lock_timeout_seconds)
    free = [] if change.names is None else [name_is_free(change.names.taken)]
    guards = [refuse_unmet(need) for need in (*free, *change.needs)]
    parts = [
        *([(f"may {change.summary} begin?", tuple(guards))] if guards else []),
        *((step.summary, _lines(change, step, limits)) for step in change.steps),
    ]
    return "\n".join(
        f"-- {change.table}: {title}\n" + "".join(f"{line};\n" for line in lines) for title, lines in parts
    )


def _lines(change: Change, step: Step, limits: Limits) -> tuple[str, ...]:
    action = ChangeStep(table=change.table, why=change.summary, step=step)
    return tuple(line for each in action.steps() for line in lines_of(each, limits))


def _run(executor: Executor, change: Change, step: Step) -> None:
    try:
        executor.run(ChangeStep(table=change.table, why=change.summary, step=step))
    except ActionBlocked as fault:
        raise TableBusy(
            change.table, step.summary, attempts=fault.attempts, holders=fault.blockers
        ) from fault
    except ActionFailed as fault:
        raise OnlineChangeRefused(change.table, step.summary, fault.reason) from fault
