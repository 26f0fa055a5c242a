"""Partitions over the fleet: several databases at once, and one that is down does not hold up the others."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

import psycopg
from sqlalchemy import Connection, Engine, event

import partitions
from ops.errors import OpsError
from ops.fleet import Member, Outcome, attempt, members, open_engine
from ops.project.project import Project
from partitions import RetryPolicy
from partitions.actions import Action, DetachPartition
from partitions.archive_policy import check_retention
from partitions.bounds import Month
from partitions.catalog import Catalog
from partitions.check import PartitionFinding
from partitions.errors import ClockDiffers
from partitions.row_checks import RowCheckProgress, check_rows
from partitions.sql import canonical
from sharding.topology import Database, Topology

Result = TypeVar("Result")

Report = Callable[[Database, Action], None]

ReportRows = Callable[[Database, RowCheckProgress], None]

Choose = Callable[[Connection], list[Action]]
"""Looks at a database, and gives what is to be done to it."""

CANCEL_SECONDS = 2.0

AT_ONCE = 8
"""How many databases are worked on at the same time."""


class Interrupted(OpsError):
    """The person at the terminal has pressed Ctrl-C."""

    def __init__(self) -> None:
        super().__init__("interrupted; the same command again continues")


class Interrupter:
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
                with suppress(psycopg.Error):  # it does not answer; its watch cuts it
                    connection.cancel_safe(timeout=CANCEL_SECONDS)

    def _remember(self, connection: psycopg.Connection, _record: object) -> None:
        self._connections.append(connection)

    def _refuse(self, *_facts: object) -> None:
        if self._is_called:
            raise Interrupted


def partitioned(
    topology: Topology, project: Project, *, tree: str | None = None, table: str | None = None
) -> list[Member]:
    """List the databases whose tree has partitioned tables, tree by tree and in name order.

    Parameters:
        topology: where the databases are.
        project: says how the tables of its trees are partitioned.
        tree: only the databases of this tree.
        table: only those that have this partitioned table.

    Raises:
        UnknownProjectTree: the project has no such tree.
    """
    wanted = None if table is None else canonical(table)
    return [
        each
        for each in members(topology, project, tree=tree)
        if any(wanted in (None, policy.table) for policy in each.tree.policies)
    ]


def run_on_each(
    topology: Topology, chosen: Sequence[Member], work: Callable[[Member, Engine], Result]
) -> list[Outcome[Result]]:
    """Do something to some databases, as their owners; return what came of it in the same order."""
    stop = Interrupter()
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        try:
            return list(pool.map(partial(_attempt, topology, stop, work), chosen))
        except KeyboardInterrupt:
            stop()
            raise


def read_catalogs(topology: Topology, project: Project, *, tree: str | None = None) -> list[Outcome[Catalog]]:
    """Read the partitioned tables of every database, or of those of one tree."""
    return run_on_each(topology, partitioned(topology, project, tree=tree), _read_catalog)


def adapt_action(database: Database, action: Action) -> Action:
    """Change an action to what the backend can do: Citus refuses DETACH CONCURRENTLY."""
    if database.is_coordinator and isinstance(action, DetachPartition):
        return replace(action, concurrently=False)
    return action


def plan_partitions(
    topology: Topology,
    project: Project,
    *,
    now: datetime,
    tree: str | None = None,
    since: Month | None = None,
) -> list[Outcome[list[Action]]]:
    """List what `apply_partitions` would do, by database."""

    def plan(member: Member, engine: Engine) -> list[Action]:
        check_retention(member.tree.policies, member.tree.archives)
        planned = partitions.plan(member.tree.policies, _read_catalog(member, engine), now, since=since)
        return [adapt_action(member.database, action) for action in planned]

    return run_on_each(topology, partitioned(topology, project, tree=tree), plan)


def check_partitions(
    topology: Topology,
    project: Project,
    *,
    now: datetime,
    tree: str | None = None,
    deep: bool = False,
    report: ReportRows | None = None,
) -> list[Outcome[list[PartitionFinding]]]:
    """List what differs from the policies, by database.

    Parameters:
        topology: where the databases are.
        project: has the policies.
        now: the current instant, with a time zone.
        tree: only the databases of this tree.
        deep: read every row too.
        report: is called with how far a deep check is, from several threads.
    """

    def check(member: Member, engine: Engine) -> list[PartitionFinding]:
        policies, archives = member.tree.policies, member.tree.archives
        findings = partitions.check(policies, _read_catalog(member, engine), now)
        if deep:
            progress = None if report is None else partial(report, member.database)
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                findings += check_rows(connection, policies, archives, report=progress)
        return findings

    return run_on_each(topology, partitioned(topology, project, tree=tree), check)


def apply_partitions(
    topology: Topology,
    project: Project,
    *,
    now: datetime,
    tree: str | None = None,
    since: Month | None = None,
    max_clock_difference: timedelta | None = None,
    retry: RetryPolicy | None = None,
    report: Report | None = None,
) -> list[Outcome[list[Action]]]:
    """Make every database equal to its partition policies.

    Parameters:
        topology: where the databases are.
        project: has the policies.
        now: the current instant, with a time zone.
        tree: only the databases of this tree.
        since: the earliest month that must stand; None is the current one.
        max_clock_difference: a server whose clock differs more from `now` is left alone; None does not ask.
        retry: how long to wait for locks and for other runs.
        report: is called with each action that was done, from several threads.

    Returns:
        what was done, by database; nothing when all stood already.
    """

    def apply(member: Member, engine: Engine) -> list[Action]:
        if max_clock_difference is not None:
            _compare_clocks(engine, now, max_clock_difference)
        done = None if report is None else partial(report, member.database)
        check_retention(member.tree.policies, member.tree.archives)
        policies, adapt = member.tree.policies, partial(adapt_action, member.database)
        return partitions.apply(engine, policies, now, since=since, retry=retry, report=done, adapt=adapt)

    return run_on_each(topology, partitioned(topology, project, tree=tree), apply)


def plan_chosen(topology: Topology, chosen: Sequence[Member], choose: Choose) -> list[Outcome[list[Action]]]:
    """List what was asked for by hand, by database; what cannot be is refused."""

    def plan(member: Member, engine: Engine) -> list[Action]:
        with engine.connect() as connection:
            return [adapt_action(member.database, action) for action in choose(connection)]

    return run_on_each(topology, chosen, plan)


def run_chosen(
    topology: Topology, chosen: Sequence[Member], choose: Choose, *, retry: RetryPolicy | None = None
) -> list[Outcome[list[Action]]]:
    """Do what was asked for by hand, as `plan_chosen` lists it.

    It is planned anew under the lock: another DBA may have had his turn since, and the plan that was shown
    would undo what he did.
    """

    def run(member: Member, engine: Engine) -> list[Action]:
        with partitions.open_executor(engine, retry) as executor:
            actions = [adapt_action(member.database, action) for action in executor.ask(choose)]
            for action in actions:
                executor.run(action)
        return actions

    return run_on_each(topology, chosen, run)


def _compare_clocks(engine: Engine, now: datetime, most: timedelta) -> None:
    with engine.connect() as connection:
        there: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    if abs(there - now) > most:
        raise ClockDiffers(now, there.astimezone(UTC))


def _read_catalog(member: Member, engine: Engine) -> Catalog:
    with engine.connect() as connection:
        return partitions.read_catalog(connection, [policy.table for policy in member.tree.policies])


def _attempt(
    topology: Topology, stop: Interrupter, work: Callable[[Member, Engine], Result], member: Member
) -> Outcome[Result]:
    def connected() -> Result:
        with open_engine(topology, member.database, role=member.database.owner) as engine:
            stop.watch(engine)
            return work(member, engine)

    return attempt(member.database, connected)
