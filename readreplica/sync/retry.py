# Generated from readreplica/retry.py by `make sync`: change that file, not this one.
"""Runs a unit of work, and again after a conflict with a concurrent transaction, or after an outage.

Both end it before anything of it is committed. A unit that has committed by itself is never run again.
"""

import random
from collections.abc import Callable
from typing import Generic, TypeVar

from sqlalchemy.exc import DBAPIError

from readreplica.errors import (
    CommitInDoubt,
    CommitLost,
    RetriesExhausted,
    WritesRefused,
    is_conflict,
    is_outage,
    sqlstate_of,
)
from readreplica.sync.concurrency import sleep
from readreplica.sync.monitor import Monitor
from readreplica.sync.sessions import WriteSession
from readreplica.token import Committed

T = TypeVar("T")

CONFLICT_PAUSE_SECONDS = 0.02
LONGEST_CONFLICT_PAUSE_SECONDS = 1.0
OUTAGE_PAUSE_SECONDS = 0.02
LONGEST_OUTAGE_PAUSE_SECONDS = 0.125
LONGEST_ELECTION_WAIT_SECONDS = 0.5


class Attempt(Generic[T]):
    """One run of a unit of work, in a session of its own."""

    value: T
    """What the work returned; set once it has."""

    has_returned = False
    """Whether the work has returned, so that only COMMIT was left to do."""

    def __init__(self, session: WriteSession) -> None:
        self.session = session

    def run(self, work: Callable[[WriteSession], T]) -> None:
        """Do the work and commit it."""
        with self.session:
            self.value = work(self.session)
            self.has_returned = True

    @property
    def may_repeat(self) -> bool:
        """Whether nothing of it is committed, nor in doubt."""
        return not self.session.has_committed and self.session.in_doubt is None


class UnitOfWork(Generic[T]):
    """A unit of work that is run until it is committed; `Cluster.transact` runs one."""

    def __init__(
        self,
        cluster: str,
        work: Callable[[WriteSession], T],
        *,
        new_session: Callable[[], WriteSession],
        resolve: Callable[[CommitInDoubt, WriteSession], None] | None,
        monitor: Monitor,
        clock: Callable[[], float],
        attempts: int,
        failover_wait_seconds: float,
    ) -> None:
        """Prepare to run a unit of work.

        Parameters:
            cluster: the cluster's name.
            work: called with a fresh write session at each attempt.
            new_session: makes one.
            resolve: returns if a COMMIT in doubt turned out committed, and raises otherwise; None to raise
                `CommitInDoubt` as it is.
            monitor: knows whether a primary answers.
            clock: a monotonic clock, in seconds.
            attempts: how often it is tried at most against concurrent transactions.
            failover_wait_seconds: for how long it is run again after an outage.
        """
        self._cluster = cluster
        self._work = work
        self._new_session = new_session
        self._resolve = resolve
        self._monitor = monitor
        self._clock = clock
        self._attempts = attempts
        self._failover_wait_seconds = failover_wait_seconds
        self._conflicts = 0
        self._outage_pause_seconds = OUTAGE_PAUSE_SECONDS
        self._give_up_at: float | None = None
        self._last: Attempt[T] | None = None

    @property
    def may_repeat(self) -> bool:
        """Whether nothing of its last attempt is committed, nor in doubt."""
        return self._last is None or self._last.may_repeat

    def run(self) -> Committed[T]:
        """Run the unit until it is committed.

        Raises: as `Cluster.transact`.
        """
        while True:
            attempt = self._last = Attempt[T](self._new_session())
            try:
                self._run_once(attempt)
            except (DBAPIError, WritesRefused, CommitLost) as error:
                if not (attempt.may_repeat and self._pause_after(error)):
                    raise
            else:
                return Committed(attempt.value, attempt.session.token)

    def _run_once(self, attempt: Attempt[T]) -> None:
        try:
            attempt.run(self._work)
        except CommitInDoubt as error:
            if self._resolve is None or not attempt.has_returned:
                raise
            self._resolve(error, attempt.session)

    def _pause_after(self, error: Exception) -> bool:
        """Pause before the next attempt; False at once if there is to be none."""
        if is_conflict(error):
            self._pause_after_conflict(error)
            return True
        self._conflicts = 0
        nothing_done = isinstance(error, WritesRefused | CommitLost) or is_outage(error)
        return nothing_done and self._pause_after_outage()

    def _pause_after_conflict(self, error: Exception) -> None:
        self._conflicts += 1
        if self._conflicts >= self._attempts:
            sqlstate = sqlstate_of(error) or "?"
            raise RetriesExhausted(self._cluster, attempts=self._attempts, sqlstate=sqlstate) from error
        longest = CONFLICT_PAUSE_SECONDS * 2 ** min(self._conflicts - 1, 10)
        # Random, or the two that met would meet again.
        sleep(random.uniform(0, min(longest, LONGEST_CONFLICT_PAUSE_SECONDS)))

    def _pause_after_outage(self) -> bool:
        now = self._clock()
        self._give_up_at = self._give_up_at or now + self._failover_wait_seconds
        if now >= self._give_up_at:
            return False
        pause_seconds = self._outage_pause_seconds
        self._outage_pause_seconds = min(2 * pause_seconds, LONGEST_OUTAGE_PAUSE_SECONDS)
        longest = now + LONGEST_ELECTION_WAIT_SECONDS
        sleep(pause_seconds)
        # The monitor finds the primary: cheaper than attempts of every unit, and as quick. Not for ever: its
        # role may lack what the writers' has.
        while not self._monitor.primary_state.answers and self._clock() < longest:
            sleep(OUTAGE_PAUSE_SECONDS)
        return True
