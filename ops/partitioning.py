"""Partitions over the fleet: every shard at once, and one that is down does not hold up the others."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Generic, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError

import partitions
from app.models.policies import ARCHIVES, POLICIES
from ops.errors import ExitStatus, OpsError
from ops.fleet import open_engine
from partitions import Waiting
from partitions.actions import Action, DetachPartition
from partitions.catalog import Catalog
from partitions.check import Finding
from partitions.deep import Progress, check_rows
from partitions.errors import ClockDiffers, PartitionError, Refused
from partitions.months import Month
from sharding.topology import Database, Topology

Result = TypeVar("Result")
Report = Callable[[Database, Action], None]
ReportRows = Callable[[Database, Progress], None]
Choose = Callable[[Connection], list[Action]]
"""Looks at a database, and gives what is to be done to it."""

AT_ONCE = 8
"""How many shards are worked on at the same time."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """What came of the work on one database: a result, or an error of one line; `refused` changed nothing."""

    database: Database
    result: Result | None = None
    error: str | None = None
    refused: bool = False


class ShardsFailed(OpsError):
    """Some databases could not be worked on; the others are done, and the same command does the rest."""

    def __init__(self, outcomes: Iterable[Outcome[Result]]) -> None:
        failed = [each for each in outcomes if each.error is not None]
        self.errors = {each.database.name: each.error for each in failed}
        if all(each.refused for each in failed):
            self.exit_status = ExitStatus.REFUSED
        super().__init__("\nmesctl: ".join(f"{name}: {error}" for name, error in self.errors.items()))


class Stopped(OpsError):
    """The person at the terminal has pressed Ctrl-C."""

    def __init__(self) -> None:
        super().__init__("interrupted; the same command again continues")


class Stop:
    """Ends the work on all databases: else Ctrl-C would wait for the longest of their waits for locks."""

    def __init__(self) -> None:
        self._is_called = False
        self._connections: list[psycopg.Connection] = []

    def watch(self, engine: Engine) -> None:
        """Remember an engine's connections, and let them send nothing more once it is called."""
        event.listen(engine, "connect", self._remember)
        event.listen(engine, "before_cursor_execute", self._refuse)

    def __call__(self) -> None:
        """Cancel what is being executed."""
        self._is_called = True
        for connection in self._connections:
            if not connection.closed:
                connection.cancel()

    def _remember(self, connection: psycopg.Connection, _record: object) -> None:
        self._connections.append(connection)

    def _refuse(self, *_facts: object) -> None:
        if self._is_called:
            raise Stopped


def partitioned(topology: Topology) -> list[Database]:
    """List the databases whose tree has partitioned tables, in name order."""
    return [database for tree in POLICIES for database in topology.databases_of(tree).values()]


def on_every(topology: Topology, work: Callable[[Database, Engine], Result]) -> list[Outcome[Result]]:
    """Do something to every partitioned database, as its owner; give what came of it in name order."""
    stop = Stop()
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        try:
            return list(pool.map(partial(_attempt, topology, stop, work), partitioned(topology)))
        except KeyboardInterrupt:
            stop()
            raise


def results_of(outcomes: Iterable[Outcome[Result]]) -> list[tuple[Database, Result]]:
    """Give the results of those that did not fail."""
    return [(each.database, each.result) for each in outcomes if each.result is not None]


def raise_failures(outcomes: Iterable[Outcome[Result]]) -> None:
    """Tell of those that failed.

    Raises:
        ShardsFailed: one line for each.
    """
    failed = [each for each in outcomes if each.error is not None]
    if failed:
        raise ShardsFailed(failed)


def read_catalogs(topology: Topology) -> list[Outcome[Catalog]]:
    """Read the partitioned tables of every database."""
    return on_every(topology, _read_catalog)


def fit(topology: Topology, action: Action) -> Action:
    """Change an action to what the backend can do: Citus refuses DETACH CONCURRENTLY."""
    if topology.backend == "citus" and isinstance(action, DetachPartition):
        return replace(action, concurrently=False)
    return action


def plan_partitions(
    topology: Topology, *, now: datetime, since: Month | None = None
) -> list[Outcome[list[Action]]]:
    """List what `apply_partitions` would do, by database."""

    def plan(database: Database, engine: Engine) -> list[Action]:
        catalog = _read_catalog(database, engine)
        planned = partitions.plan(POLICIES[database.tree], catalog, now, since=since)
        return [fit(topology, action) for action in planned]

    return on_every(topology, plan)


def check_partitions(
    topology: Topology, *, now: datetime, deep: bool = False, report: ReportRows | None = None
) -> list[Outcome[list[Finding]]]:
    """List what differs from the policies, by database.

    Parameters:
        topology: where the databases are.
        now: the current instant, with a time zone.
        deep: read every row too.
        report: is told how far a deep check is, from several threads.
    """

    def check(database: Database, engine: Engine) -> list[Finding]:
        policies = POLICIES[database.tree]
        findings = partitions.check(policies, _read_catalog(database, engine), now)
        if deep:
            tell = None if report is None else partial(report, database)
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                findings += check_rows(connection, policies, ARCHIVES[database.tree], report=tell)
        return findings

    return on_every(topology, check)


def apply_partitions(
    topology: Topology,
    *,
    now: datetime,
    since: Month | None = None,
    max_clock_difference: timedelta | None = None,
    waiting: Waiting | None = None,
    report: Report | None = None,
) -> list[Outcome[list[Action]]]:
    """Make every database equal to its partition policies.

    Parameters:
        topology: where the databases are.
        now: the current instant, with a time zone.
        since: the earliest month that must stand; None is the current one.
        max_clock_difference: a server whose clock differs more from `now` is left alone; None does not ask.
        waiting: how long to wait for locks and for other runs.
        report: is told of each action that was done, from several threads.

    Returns:
        what was done, by database; nothing when all stood already.
    """

    def apply(database: Database, engine: Engine) -> list[Action]:
        if max_clock_difference is not None:
            _compare_clocks(engine, now, max_clock_difference)
        tell = None if report is None else partial(report, database)
        policies, adapt = POLICIES[database.tree], partial(fit, topology)
        return partitions.apply(engine, policies, now, since=since, waiting=waiting, report=tell, adapt=adapt)

    return on_every(topology, apply)


def plan_chosen(topology: Topology, choose: Choose) -> list[Outcome[list[Action]]]:
    """List what was asked for by hand, by database; what cannot be is refused."""

    def plan(_: Database, engine: Engine) -> list[Action]:
        with engine.connect() as connection:
            return [fit(topology, action) for action in choose(connection)]

    return on_every(topology, plan)


def run_chosen(
    topology: Topology, choose: Choose, *, waiting: Waiting | None = None
) -> list[Outcome[list[Action]]]:
    """Do what was asked for by hand, as `plan_chosen` lists it.

    It is planned anew under the lock: another DBA may have had his turn since, and the plan that was shown
    would undo what he did.
    """

    def run(_: Database, engine: Engine) -> list[Action]:
        with partitions.open_executor(engine, waiting) as executor:
            actions = [fit(topology, action) for action in executor.ask(choose)]
            for action in actions:
                executor.run(action)
        return actions

    return on_every(topology, run)


def _compare_clocks(engine: Engine, now: datetime, most: timedelta) -> None:
    with engine.connect() as connection:
        there: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    if abs(there - now) > most:
        raise ClockDiffers(now, there.astimezone(UTC))


def _read_catalog(database: Database, engine: Engine) -> Catalog:
    with engine.connect() as connection:
        return partitions.read_catalog(connection, [policy.table for policy in POLICIES[database.tree]])


def _attempt(
    topology: Topology, stop: Stop, work: Callable[[Database, Engine], Result], database: Database
) -> Outcome[Result]:
    def connected() -> Result:
        with open_engine(topology, database, role=database.owner) as engine:
            stop.watch(engine)
            return work(database, engine)

    return attempt(database, connected)


def attempt(database: Database, work: Callable[[], Result]) -> Outcome[Result]:
    """Do something to one database; what is wrong with it is told, and does not hold up the others."""
    try:
        return Outcome(database, work())
    except PartitionError as error:
        return Outcome(database, error=str(error), refused=isinstance(error, Refused))
    except Stopped as error:
        return Outcome(database, error=str(error))
    except DBAPIError as error:
        return Outcome(database, error=" ".join(str(error.orig).split()))
