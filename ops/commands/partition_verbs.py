"""The verbs of `mesctl partitions` that a DBA asks for by name; each is done on every shard."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from app.models.policies import POLICIES
from ops import partitioning
from ops.errors import ExitStatus, OpsError
from ops.fleet import connect_line
from ops.options import options_of
from ops.partitioning import raise_failures, results_of
from ops.rows import show_rows
from partitions import byhand, read_catalog, render
from partitions.actions import Action, Analyze
from partitions.catalog import PartitionedTable
from partitions.errors import NoSuchTable
from partitions.policy import ListPartitions
from sharding.topology import Database, Topology

Table = Annotated[str, typer.Argument(help="The partitioned table.")]
Name = Annotated[str, typer.Argument(help="The partition.")]
Into = Annotated[str, typer.Option(help="The partition that takes the rows.")]
Values = Annotated[list[str], typer.Option("--value", help="A value of the partition key; may be repeated.")]
MaxRows = Annotated[int, typer.Option(min=0, help="How many rows may move while everybody waits.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the SQL for psql; change nothing.")]

Choose = Callable[[Connection, PartitionedTable], list[Action]]


class TableRefused(OpsError):
    """The verb is not for that table."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, reason: NoSuchTable) -> None:
        self.table = reason.table
        super().__init__(str(reason))


MAX_ROWS = 10_000
"""About a tenth of a second on a laptop."""


def register(app: typer.Typer) -> None:
    """Add the verbs to `mesctl partitions`."""
    for verb in (detach, attach, drop, add, split, merge, index, analyze):
        app.command()(verb)


def detach(context: typer.Context, table: Table, partition: Name, dry_run: DryRun = False) -> None:
    """Detach a partition concurrently; its rows stay in a table of their own. Inverse: attach."""
    _run(context, table, lambda _, found: byhand.detach(found, partition, datetime.now(UTC)), dry_run)


def attach(context: typer.Context, table: Table, partition: Name, dry_run: DryRun = False) -> None:
    """Attach a detached partition again, with the bound that it had. Inverse: detach."""
    _run(context, table, lambda _, found: byhand.attach(found, partition, datetime.now(UTC)), dry_run)


def drop(
    context: typer.Context,
    table: Table,
    partition: Name,
    delay_days: Annotated[int, typer.Option(min=0, help="How long ago it must have been detached.")] = 7,
    dry_run: DryRun = False,
) -> None:
    """Drop a detached partition, with its rows. There is no way back."""
    now, delay = datetime.now(UTC), timedelta(days=delay_days)
    _run(context, table, lambda _, found: byhand.drop(found, partition, now, delay=delay), dry_run)


def add(
    context: typer.Context, table: Table, partition: Name, value: Values, dry_run: DryRun = False
) -> None:
    """Let a partition take values that none takes yet, as a new status."""
    key = _key_of(table)
    _run(context, table, lambda _, found: byhand.add(found, partition, value, key=key), dry_run)


def split(
    context: typer.Context,
    table: Table,
    partition: Name,
    *,
    value: Values,
    into: Into,
    max_rows: MaxRows = MAX_ROWS,
    dry_run: DryRun = False,
) -> None:
    """Move some values of a partition, with their rows, to a new one. Inverse: merge."""
    key, now = _key_of(table), datetime.now(UTC)

    def choose(connection: Connection, found: PartitionedTable) -> list[Action]:
        return byhand.split(
            connection, found, partition, value, into=into, key=key, max_rows=max_rows, at=now
        )

    _run(context, table, choose, dry_run)


def merge(
    context: typer.Context,
    table: Table,
    partition: Name,
    *,
    into: Into,
    max_rows: MaxRows = MAX_ROWS,
    dry_run: DryRun = False,
) -> None:
    """Move all rows and values of a partition to another, and drop the empty one. Inverse: split."""
    key, now = _key_of(table), datetime.now(UTC)

    def choose(connection: Connection, found: PartitionedTable) -> list[Action]:
        return byhand.merge(connection, found, partition, into=into, key=key, max_rows=max_rows, at=now)

    _run(context, table, choose, dry_run)


def index(
    context: typer.Context,
    table: Table,
    name: Annotated[str, typer.Argument(help="The index.")],
    *,
    columns: Annotated[str, typer.Option(help="As in CREATE INDEX: 'partner, order_id DESC'.")] = "",
    drop: Annotated[bool, typer.Option("--drop", help="Drop it instead.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Build an index on a table and all its partitions concurrently, or drop one."""
    if drop == bool(columns):
        raise typer.BadParameter("give --columns to build the index, or --drop to drop it")

    def choose(connection: Connection, found: PartitionedTable) -> list[Action]:
        if drop:
            return [byhand.drop_index(connection, found, name)]
        return [byhand.index(found, name, columns)]

    _run(context, table, choose, dry_run)


def analyze(context: typer.Context, table: Table, dry_run: DryRun = False) -> None:
    """Let PostgreSQL know a partitioned table as a whole; autovacuum never does."""
    _run(context, table, lambda _, found: [Analyze(table=found.name)], dry_run)


def describe_action(database: Database, action: Action) -> dict[str, Any]:
    """Give an action as a row."""
    return {
        "database": database.name,
        "table": action.table,
        "action": action.summary,
        "why": action.why,
    }


def print_script(topology: Topology, planned: Iterable[tuple[Database, list[Action]]]) -> None:
    """Print what would be run on each database, as psql accepts it."""
    for database, actions in planned:
        print(f"-- {database.name}: {len(actions)} actions")
        if actions:
            print(connect_line(topology, database, role=database.owner), end="")
            print(render(actions))


def _run(context: typer.Context, table: str, choose: Choose, dry_run: bool) -> None:
    """Plan on every shard first: what one of them refuses is told before any is changed."""
    options = options_of(context)
    topology = options.topology()
    _require_table(table)

    def choose_here(connection: Connection) -> list[Action]:
        return choose(connection, read_catalog(connection, [table])[table])

    planned = partitioning.plan_chosen(topology, choose_here)
    if dry_run:
        print_script(topology, results_of(planned))
        raise_failures(planned)
        return
    raise_failures(planned)
    done = partitioning.run_chosen(topology, choose_here)
    rows = [describe_action(database, action) for database, actions in results_of(done) for action in actions]
    if rows or options.json:
        show_rows(options, rows, empty="")
    raise_failures(done)


def _require_table(table: str) -> None:
    tables = [policy.table for policies in POLICIES.values() for policy in policies]
    if table not in tables:
        raise TableRefused(NoSuchTable(table, "", tables))


def _key_of(table: str) -> str:
    lists = {
        policy.table: policy.key
        for policies in POLICIES.values()
        for policy in policies
        if isinstance(policy, ListPartitions)
    }
    if table not in lists:
        raise TableRefused(NoSuchTable(table, " by lists of values", sorted(lists)))
    return lists[table]
