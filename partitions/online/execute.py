"""Online changes on their way to a database: each step becomes an action of the one executor."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from partitions.actions import Action
from partitions.errors import ActionBlocked, ActionFailed
from partitions.execute import Executor, Waiting, open_executor
from partitions.online.change import Change, Step
from partitions.online.errors import OnlineChangeRefused, StepOutOfOrder, TableBusy
from partitions.steps import Limits, Way, block, lines_of, refuse_if
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
        StepOutOfOrder: what must come before has not been done, or what comes after was done already.
        OnlineChangeRefused: PostgreSQL refused a step.
        TableBusy: a lock was not free in any attempt; the error names who holds it.
        Occupied: somebody else changes this database, and did not end in time.
    """
    done = []
    with open_executor(engine, waiting) as executor:
        if all(executor.holds(step.done) for step in change.steps):
            return []
        for need in change.needs:
            if not executor.holds(need.query):
                raise StepOutOfOrder(change.table, change.summary, need.otherwise)
        for step in change.steps:
            if executor.holds(step.done):
                continue
            _run(executor, change, step)
            done.append(step)
            if report is not None:
                report(step)
    return done


def render(change: Change, *, lock_timeout_seconds: float = 3.0) -> str:
    """Give the script that `apply` would run on a table of which nothing is done yet, as psql accepts it."""
    limits = Limits(lock_timeout_seconds=lock_timeout_seconds)
    guards = [block(refuse_if(f"NOT ({need.query})", need.otherwise)) for need in change.needs]
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
