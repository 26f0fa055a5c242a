"""The one place where partitions are changed: actions become SQL, step by step, under bounded waits."""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from partitions.actions import Action
from partitions.blockers import Watch, watching
from partitions.catalog import Catalog, read_catalog
from partitions.errors import ActionBlocked, ActionFailed
from partitions.months import Month
from partitions.plan import plan
from partitions.policy import Policy
from partitions.steps import Limits, Step, alone, lines_of
from partitions.turns import take_turn

Report = Callable[[Action], None]
Answer = TypeVar("Answer")

BUSY = frozenset({"55P03", "40P01", "57014"})
"""No lock in time, a deadlock, longer than statement_timeout: another attempt may do."""


PATIENT = ("SET statement_timeout = 0", "SET idle_session_timeout = 0")
"""Else a bound of the role or database would end each build of a large index, and each pause for a lock."""


DISK_FULL = "53100"


@dataclass(frozen=True)
class Waiting:
    """How long the executor waits, and how often it tries.

    Parameters:
        limits: the waits of one attempt.
        attempts: how often a step is tried.
        pause_seconds: the pause after the first attempt; it doubles with each one.
        max_pause_seconds: no pause is longer.
        others_seconds: how long to wait for another run on the same database.
        sleep: waits so many seconds.
        jitter: gives a number from 0 to 1, by which a pause is multiplied.
    """

    limits: Limits = field(default_factory=Limits)
    attempts: int = 8
    pause_seconds: float = 0.5
    max_pause_seconds: float = 15.0
    others_seconds: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random

    def pause(self, attempt: int) -> float:
        """Give the pause after an attempt, from 1: full jitter, so that two runs do not meet again."""
        longest = min(self.max_pause_seconds, self.pause_seconds * 2.0 ** (attempt - 1))
        return longest * self.jitter()


class Executor:
    """Runs actions on one database, whose partitions nobody else changes meanwhile; see `open_executor`."""

    def __init__(self, engine: Engine, connection: Connection, waiting: Waiting) -> None:
        self._engine = engine
        self._connection = connection
        self._waiting = waiting
        self._pid: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()

    def catalog(self, tables: Iterable[str]) -> Catalog:
        """Read what stands."""
        patience = round(self._waiting.limits.patience_seconds * 1000)
        self._send((f"SET lock_timeout = {patience}",))
        catalog = read_catalog(self._connection, tables)
        self._send(("RESET lock_timeout",))
        return catalog

    def run(self, action: Action) -> None:
        """Do an action, step by step.

        Raises:
            ActionBlocked: a lock was not free in any of the attempts.
            ActionFailed: PostgreSQL refused a step.
        """
        for step in action.steps():
            self._run_step(f"{action.table}: {action.summary}", step)

    def ask(self, question: Callable[[Connection], Answer]) -> Answer:
        """Let a question be asked, whose answer holds until the next action."""
        return question(self._connection)

    def holds(self, query: str) -> bool:
        """Ask the database a question whose answer is yes or no."""
        return bool(self.value(query))

    def value(self, query: str) -> object:
        """Return the one value of a query; None when it gives no row."""
        return self._connection.exec_driver_sql(query).scalar()

    def _run_step(self, name: str, step: Step) -> None:
        watch = Watch()
        retrying = Retrying(
            stop=stop_after_attempt(self._waiting.attempts),
            wait=self._pause,
            sleep=self._waiting.sleep,
            retry=retry_if_exception(is_busy),
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt, watching(self._engine, self._pid) as watch:
                    self._attempt(step)
        except DBAPIError as fault:
            reason = reason_of(fault)
            if not is_busy(fault):
                raise ActionFailed(name, reason) from fault
            attempts = self._waiting.attempts
            raise ActionBlocked(name, reason, attempts=attempts, blockers=watch.seen) from fault

    def _pause(self, state: RetryCallState) -> float:
        return self._waiting.pause(state.attempt_number)

    def _attempt(self, step: Step) -> None:
        limits = self._waiting.limits
        try:
            if self._is_done(step):
                return
            if step.cleanup:
                self._send(alone(step.cleanup, limits))
                if self._is_done(step):
                    return
            self._send(lines_of(step, limits))
        except DBAPIError as fault:
            if not fault.connection_invalidated:
                self._send(("ROLLBACK", "RESET lock_timeout"))
            raise

    def _is_done(self, step: Step) -> bool:
        return step.done is not None and self.holds(step.done)

    def _send(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._connection.exec_driver_sql(line)


@contextmanager
def open_executor(engine: Engine, waiting: Waiting | None = None) -> Iterator[Executor]:
    """Take the database's advisory lock and give the executor; another run waits, or is told who holds it.

    Parameters:
        engine: connects as the tables' owner, and not through a transaction pooler: the lock is a session's.
        waiting: how long to wait, and how often to try.

    Raises:
        Occupied: another run held the lock for too long.
    """
    waiting = waiting or Waiting()
    with engine.connect() as connection:
        # BEGIN and COMMIT are sent as a dry run prints them; without parameters, % is a sign like any other.
        connection.execution_options(isolation_level="AUTOCOMMIT", no_parameters=True)
        # Closed afterwards, not pooled: that is what releases the lock, come what may.
        connection.detach()
        for line in PATIENT:
            connection.exec_driver_sql(line)
        take_turn(connection, wait_seconds=waiting.others_seconds)
        yield Executor(engine, connection, waiting)


def apply(
    engine: Engine,
    policies: Iterable[Policy],
    now: datetime,
    *,
    since: Month | None = None,
    waiting: Waiting | None = None,
    report: Report | None = None,
    adapt: Callable[[Action], Action] | None = None,
) -> list[Action]:
    """Make a database equal to its policies, also after a run that was killed.

    Parameters:
        engine: connects as the tables' owner, and not through a transaction pooler: it takes a session lock.
        policies: what is wanted.
        now: the current instant, with a time zone.
        since: the earliest month that must stand, when rows wait for one before the current.
        waiting: how long to wait for locks and for other runs, and how often to try.
        report: is told of each action that was done.
        adapt: changes an action to what this database can do.

    Returns:
        what was done; nothing, when all stood already.

    Raises:
        Occupied: another run is at work on this database.
        ActionFailed: PostgreSQL refused an action. The actions before it stay done.
    """
    wanted = tuple(policies)
    with open_executor(engine, waiting) as executor:
        actions = plan(wanted, executor.catalog([policy.table for policy in wanted]), now, since=since)
        actions = [adapt(action) for action in actions] if adapt else actions
        for action in actions:
            executor.run(action)
            if report is not None:
                report(action)
    return actions


def render(actions: Iterable[Action], *, limits: Limits | None = None) -> str:
    """Give the script that the executor would run, as psql accepts it."""
    scripts = [_script(action, limits or Limits()) for action in actions]
    return "\n".join(["".join(f"{line};\n" for line in PATIENT), *scripts]) if scripts else ""


def reason_of(fault: DBAPIError) -> str:
    """Give in one line what PostgreSQL says, without the statement; what libpq says when it is silent."""
    said = getattr(fault.orig, "diag", None)
    words = [] if said is None else [said.message_primary, said.message_detail, said.message_hint]
    told = " ".join("; ".join(word for word in words if word).split()) or " ".join(str(fault.orig).split())
    # PostgreSQL names a file, by numbers.
    return f"the disk is full: {told}" if getattr(fault.orig, "sqlstate", None) == DISK_FULL else told


def is_busy(fault: BaseException) -> bool:
    """Tell whether another attempt may do."""
    return isinstance(fault, DBAPIError) and getattr(fault.orig, "sqlstate", None) in BUSY


def _script(action: Action, limits: Limits) -> str:
    body = "".join(f"{line};\n" for step in action.steps() for line in lines_of(step, limits))
    return f"-- {action.table}: {action.summary} ({action.why})\n{body}"
