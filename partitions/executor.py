"""The executor, which alone changes partitions: it runs actions step by step, under bounded waits."""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from psycopg.errors import DeadlockDetected, DiskFull, LockNotAvailable, QueryCanceled
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from partitions.actions import Action
from partitions.advisory_lock import SESSIONS, acquire, read_blockers
from partitions.bounds import Month
from partitions.catalog import Catalog, read_catalog
from partitions.errors import ActionBlocked, ActionFailed, Blocker
from partitions.plan import plan
from partitions.policy import Policy
from partitions.steps import LockTimeouts, SqlStep, render_autocommit, render_step

_BLOCKING = text(f"{SESSIONS} WHERE pid = ANY (pg_blocking_pids(:pid)) ORDER BY seconds DESC")

FIRST_LOOK_SECONDS = 0.1

Report = Callable[[Action], None]
Answer = TypeVar("Answer")

RETRYABLE = (LockNotAvailable, DeadlockDetected, QueryCanceled)
"""No lock in time, a deadlock, longer than statement_timeout: another attempt may do."""

SESSION_SETTINGS = ("SET statement_timeout = 0", "SET idle_session_timeout = 0")
"""Else a bound of the role or database would end each build of a large index, and each pause for a lock."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long the executor waits, and how often it tries.

    Parameters:
        timeouts: the waits of one attempt.
        attempts: how often a step is tried.
        backoff_seconds: the pause after the first attempt; it doubles with each one.
        max_backoff_seconds: no pause is longer.
        lock_wait_seconds: how long to wait for another run on the same database.
        sleep: waits so many seconds.
        jitter: returns a number from 0 to 1, by which a pause is multiplied.
    """

    timeouts: LockTimeouts = field(default_factory=LockTimeouts)
    attempts: int = 8
    backoff_seconds: float = 0.5
    max_backoff_seconds: float = 15.0
    lock_wait_seconds: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random

    def backoff(self, attempt: int) -> float:
        """Return the pause after an attempt, from 1: full jitter, so that two runs do not meet again."""
        longest = min(self.max_backoff_seconds, self.backoff_seconds * 2.0 ** (attempt - 1))
        return longest * self.jitter()


class Executor:
    """Runs actions on one database, whose advisory lock it holds; see `open_executor`."""

    def __init__(self, engine: Engine, connection: Connection, retry: RetryPolicy) -> None:
        self._engine = engine
        self._connection = connection
        self._retry = retry
        self._pid: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()

    def catalog(self, tables: Iterable[str]) -> Catalog:
        """Read the partitioned tables, with a bound on the wait for locks."""
        milliseconds = round(self._retry.timeouts.concurrent_lock_timeout_seconds * 1000)
        self._send((f"SET lock_timeout = {milliseconds}",))
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
        """Return what a function reads from the database; it stays true until the next action."""
        return question(self._connection)

    def holds(self, query: str) -> bool:
        """Return whether a query returns true."""
        return bool(self.value(query))

    def value(self, query: str) -> object:
        """Return the one value of a query; None when it returns no row."""
        return self._connection.exec_driver_sql(query).scalar()

    def _run_step(self, name: str, step: SqlStep) -> None:
        watch = BlockerWatch()
        retrying = Retrying(
            stop=stop_after_attempt(self._retry.attempts),
            wait=self._pause,
            sleep=self._retry.sleep,
            retry=retry_if_exception(is_retryable),
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt, watch_blockers(self._engine, self._pid) as watch:
                    self._attempt(step)
        except DBAPIError as fault:
            reason = reason_of(fault)
            if not is_retryable(fault):
                raise ActionFailed(name, reason) from fault
            attempts = self._retry.attempts
            raise ActionBlocked(name, reason, attempts=attempts, blockers=watch.seen) from fault

    def _pause(self, state: RetryCallState) -> float:
        return self._retry.backoff(state.attempt_number)

    def _attempt(self, step: SqlStep) -> None:
        timeouts = self._retry.timeouts
        try:
            if self._is_done(step):
                return
            if step.cleanup:
                self._send(render_autocommit(step.cleanup, timeouts))
                if self._is_done(step):
                    return
            self._send(render_step(step, timeouts))
        except DBAPIError as fault:
            if not fault.connection_invalidated:
                self._send(("ROLLBACK", "RESET lock_timeout"))
            raise

    def _is_done(self, step: SqlStep) -> bool:
        return step.done is not None and self.holds(step.done)

    def _send(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._connection.exec_driver_sql(line)


@contextmanager
def open_executor(engine: Engine, retry: RetryPolicy | None = None) -> Iterator[Executor]:
    """Take the advisory lock of the database and return the executor; another run waits for it.

    Parameters:
        engine: connects as the tables' owner, and not through a transaction pooler: the lock is a session's.
        retry: how long to wait, and how often to try.

    Raises:
        PartitionsBusy: another run held the lock for too long.
    """
    retry = retry or RetryPolicy()
    with engine.connect() as connection:
        # BEGIN and COMMIT are sent as a dry run prints them; without parameters, % is a sign like any other.
        connection.execution_options(isolation_level="AUTOCOMMIT", no_parameters=True)
        # Closed afterwards, not pooled: that is what releases the lock, come what may.
        connection.detach()
        for line in SESSION_SETTINGS:
            connection.exec_driver_sql(line)
        acquire(connection, wait_seconds=retry.lock_wait_seconds)
        yield Executor(engine, connection, retry)


def apply(
    engine: Engine,
    policies: Iterable[Policy],
    now: datetime,
    *,
    since: Month | None = None,
    retry: RetryPolicy | None = None,
    report: Report | None = None,
    adapt: Callable[[Action], Action] | None = None,
) -> list[Action]:
    """Make a database equal to its policies, also after a run that was killed.

    Parameters:
        engine: connects as the tables' owner, and not through a transaction pooler: it takes a session lock.
        policies: what is wanted.
        now: the current instant, with a time zone.
        since: the earliest month that must stand, when rows wait for one before the current.
        retry: how long to wait for locks and for other runs, and how often to try.
        report: is called with each action that was done.
        adapt: changes an action to what this database can do.

    Returns:
        what was done; nothing, when all stood already.

    Raises:
        PartitionsBusy: another run is at work on this database.
        ActionFailed: PostgreSQL refused an action. The actions before it stay done.
    """
    wanted = tuple(policies)
    with open_executor(engine, retry) as executor:
        actions = plan(wanted, executor.catalog([policy.table for policy in wanted]), now, since=since)
        actions = [adapt(action) for action in actions] if adapt else actions
        for action in actions:
            executor.run(action)
            if report is not None:
                report(action)
    return actions


def render(actions: Iterable[Action], *, timeouts: LockTimeouts | None = None) -> str:
    """Return the script that the executor would run, as psql accepts it."""
    scripts = [_script(action, timeouts or LockTimeouts()) for action in actions]
    return "\n".join(["".join(f"{line};\n" for line in SESSION_SETTINGS), *scripts]) if scripts else ""


def reason_of(fault: DBAPIError) -> str:
    """Return the error of PostgreSQL, or of libpq, on one line and without the statement."""
    names = ("message_primary", "message_detail", "message_hint")
    diagnostics = [getattr(getattr(fault.orig, "diag", None), name, None) for name in names]
    message = "; ".join(filter(None, diagnostics)) or str(fault.orig)
    line = " ".join(message.split())
    # PostgreSQL names a file, by numbers.
    return f"the disk is full: {line}" if isinstance(fault.orig, DiskFull) else line


def is_retryable(fault: BaseException) -> bool:
    """Return whether another attempt may succeed."""
    return isinstance(fault, DBAPIError) and isinstance(fault.orig, RETRYABLE)


def _script(action: Action, timeouts: LockTimeouts) -> str:
    body = "".join(f"{line};\n" for step in action.steps() for line in render_step(step, timeouts))
    return f"-- {action.table}: {action.summary} ({action.why})\n{body}"


class BlockerWatch:
    """Remembers who blocked a session, as it was last seen."""

    def __init__(self) -> None:
        self.seen: Sequence[Blocker] = ()


@contextmanager
def watch_blockers(engine: Engine, pid: int) -> Iterator[BlockerWatch]:
    """Look for who blocks a session, from another one, until the block ends.

    PostgreSQL knows it only while the session waits. The first look comes late: most statements wait for no
    lock, and cost no connection.
    """
    watch, over = BlockerWatch(), threading.Event()
    thread = threading.Thread(target=_look, args=(engine, pid, watch, over), daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


def _look(engine: Engine, pid: int, watch: BlockerWatch, over: threading.Event) -> None:
    if over.wait(FIRST_LOOK_SECONDS):
        return
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not over.is_set():
                watch.seen = read_blockers(connection, _BLOCKING, pid=pid) or watch.seen
                over.wait(FIRST_LOOK_SECONDS)
    except Exception:
        return
