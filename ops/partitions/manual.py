"""The verbs of `mesctl partitions` that a DBA asks for by name; each is done on every database of a tree."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from ops.errors import ChangeRefused, ExitStatus, OpsError
from ops.fleet import Member, connect_line, raise_failures, results_of
from ops.options import DryRun, OnlyTree, Options, options_of
from ops.output import show_rows
from ops.partitions import service
from partitions import manual, read_catalog, render
from partitions.actions import Action, Analyze
from partitions.catalog import PartitionedTable
from partitions.errors import NoSuchTable
from partitions.policy import ListPartitions, Policy
from partitions.sql import canonical
from sharding.topology import Database, Topology

Table = Annotated[str, typer.Argument(help="The partitioned table.")]

Name = Annotated[str, typer.Argument(help="The partition.")]

Into = Annotated[str, typer.Option(help="The partition that takes the rows.")]

Values = Annotated[list[str], typer.Option("--value", help="A value of the partition key; may be repeated.")]

MaxRows = Annotated[int, typer.Option(min=0, help="How many rows may move while everybody waits.")]


Choose = Callable[[Connection, PartitionedTable], list[Action]]


class TableUnclear(OpsError):
    """Several trees have a partitioned table of that name."""

    exit_status = ExitStatus.USAGE

    def __init__(self, table: str, trees: Sequence[str]) -> None:
        self.table = table
        self.trees = tuple(trees)
        super().__init__(
            f"{table} is a partitioned table of the trees {', '.join(trees)}: name one by --tree"
        )


MAX_ROWS = 10_000
"""About a tenth of a second on a laptop."""


def register(app: typer.Typer) -> None:
    """Add the verbs to `mesctl partitions`."""
    for verb in (detach, attach, drop, add, split, merge, index, analyze):
        app.command()(verb)


def detach(
    context: typer.Context, table: Table, partition: Name, tree: OnlyTree = None, dry_run: DryRun = False
) -> None:
    """Detach a partition concurrently; its rows stay in a table of their own. Inverse: attach."""
    now = datetime.now(UTC)
    _target(context, table, tree).run(lambda _, found: manual.detach(found, partition, now), dry_run)


def attach(
    context: typer.Context, table: Table, partition: Name, tree: OnlyTree = None, dry_run: DryRun = False
) -> None:
    """Attach a detached partition again, with the bound that it had. Inverse: detach."""
    now = datetime.now(UTC)
    _target(context, table, tree).run(lambda _, found: manual.attach(found, partition, now), dry_run)


def drop(
    context: typer.Context,
    table: Table,
    partition: Name,
    *,
    delay_days: Annotated[int, typer.Option(min=0, help="How long ago it must have been detached.")] = 7,
    tree: OnlyTree = None,
    dry_run: DryRun = False,
) -> None:
    """Drop a detached partition, with its rows. There is no way back."""
    now, delay = datetime.now(UTC), timedelta(days=delay_days)
    _target(context, table, tree).run(
        lambda _, found: manual.drop(found, partition, now, delay=delay), dry_run
    )


def add(
    context: typer.Context,
    table: Table,
    partition: Name,
    *,
    value: Values,
    tree: OnlyTree = None,
    dry_run: DryRun = False,
) -> None:
    """Let a partition take values that none takes yet, as a new status."""
    target = _target(context, table, tree)
    key = target.list_key()
    target.run(lambda _, found: manual.add(found, partition, value, key=key), dry_run)


def split(
    context: typer.Context,
    table: Table,
    partition: Name,
    *,
    value: Values,
    into: Into,
    max_rows: MaxRows = MAX_ROWS,
    tree: OnlyTree = None,
    dry_run: DryRun = False,
) -> None:
    """Move some values of a partition, with their rows, to a new one. Inverse: merge."""
    target, now = _target(context, table, tree), datetime.now(UTC)
    key = target.list_key()

    def choose(connection: Connection, found: PartitionedTable) -> list[Action]:
        return manual.split(
            connection, found, partition, value, into=into, key=key, max_rows=max_rows, at=now
        )

    target.run(choose, dry_run)


def merge(
    context: typer.Context,
    table: Table,
    partition: Name,
    *,
    into: Into,
    max_rows: MaxRows = MAX_ROWS,
    tree: OnlyTree = None,
    dry_run: DryRun = False,
) -> None:
    """Move all rows and values of a partition to another, and drop the empty one. Inverse: split."""
    target, now = _target(context, table, tree), datetime.now(UTC)
    key = target.list_key()

    def choose(connection: Connection, found: PartitionedTable) -> list[Action]:
        return manual.merge(connection, found, partition, into=into, key=key, max_rows=max_rows, at=now)

    target.run(choose, dry_run)


def index(
    context: typer.Context,
    table: Table,
    name: Annotated[str, typer.Argument(help="The index.")],
    *,
    columns: Annotated[str, typer.Option(help="As in CREATE INDEX: 'partner, created_at DESC'.")] = "",
    drop: Annotated[bool, typer.Option("--drop", help="Drop it instead.")] = False,
    tree: OnlyTree = None,
    dry_run: DryRun = False,
) -> None:
    """Build an index on a table and all its partitions concurrently, or drop one."""
    if drop == bool(columns):
        raise typer.BadParameter("give --columns to build the index, or --drop to drop it")

    def choose(connection: Connection, found: PartitionedTable) -> list[Action]:
        if drop:
            return [manual.drop_index(connection, found, name)]
        return [manual.index(found, name, columns)]

    _target(context, table, tree).run(choose, dry_run)


def analyze(context: typer.Context, table: Table, tree: OnlyTree = None, dry_run: DryRun = False) -> None:
    """Let PostgreSQL know a partitioned table as a whole; autovacuum never does."""
    _target(context, table, tree).run(lambda _, found: [Analyze(table=found.name)], dry_run)


def describe_action(database: Database, action: Action) -> dict[str, Any]:
    """Return an action as a row of a table."""
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


@dataclass(frozen=True)
class _Target:
    """A partitioned table, and the databases that have it."""

    options: Options
    topology: Topology
    policy: Policy
    chosen: Sequence[Member]

    def list_key(self) -> str:
        """Return the partition key of a table that is partitioned by lists of values.

        Raises:
            ChangeRefused: it is not.
        """
        if not isinstance(self.policy, ListPartitions):
            there = [each for each in self.chosen[0].tree.policies if isinstance(each, ListPartitions)]
            names = sorted(each.table for each in there)
            raise ChangeRefused(NoSuchTable(self.policy.table, " by lists of values", names))
        return self.policy.key

    def run(self, choose: Choose, dry_run: bool) -> None:
        """Plan on every database first: what one of them refuses is said before any is changed."""
        table = self.policy.table

        def choose_here(connection: Connection) -> list[Action]:
            return choose(connection, read_catalog(connection, [table])[table])

        planned = service.plan_chosen(self.topology, self.chosen, choose_here)
        if dry_run:
            print_script(self.topology, results_of(planned))
            raise_failures(planned)
            return
        raise_failures(planned)
        done = service.run_chosen(self.topology, self.chosen, choose_here)
        rows = [describe_action(base, action) for base, actions in results_of(done) for action in actions]
        if rows or self.options.json:
            show_rows(self.options, rows, empty="")
        raise_failures(done)


def _target(context: typer.Context, table: str, tree: str | None) -> _Target:
    """Find the tree that has a partitioned table of this name.

    Raises:
        ChangeRefused: none has.
        TableUnclear: several have.
    """
    options = options_of(context)
    topology, project = options.topology(), options.project()
    found = service.partitioned(topology, project, tree=tree, table=table)
    trees = list(dict.fromkeys(each.tree.name for each in found))
    if not trees:
        every = service.partitioned(topology, project, tree=tree)
        names = dict.fromkeys(policy.table for each in every for policy in each.tree.policies)
        raise ChangeRefused(NoSuchTable(table, "", list(names)))
    if len(trees) > 1:
        raise TableUnclear(table, trees)
    [policy] = [each for each in found[0].tree.policies if each.table == canonical(table)]
    return _Target(options, topology, policy, found)
