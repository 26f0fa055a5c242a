"""`mesctl partitions`: what partitions there are, what is missing, and making it."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

import partitions
from ops import fleet
from ops.errors import ExitStatus
from ops.options import note, options_of, print_json
from ops.rows import show_rows
from partitions.actions import Action
from partitions.catalog import Bound, DefaultBound, ValueList
from partitions.months import Month
from sharding.ids import instant_of
from sharding.topology import Database, Topology

app = typer.Typer(help="Show, plan and make the partitions of every MES shard.", no_args_is_help=True)


@app.command("list")
def list_(context: typer.Context) -> None:
    """List every partition with its bound, PostgreSQL's estimate of its rows, and its size."""
    options = options_of(context)
    rows = [
        {
            "database": database.name,
            "table": table.name,
            "partition": partition.name,
            "bound": describe_bound(partition.bound),
            "rows": partition.rows,
            "size_bytes": partition.size_bytes,
        }
        for database, catalog in fleet.read_catalogs(options.topology())
        for table in catalog.values()
        for partition in table.partitions
    ]
    show_rows(options, rows, empty="no partitions")


@app.command()
def plan(context: typer.Context) -> None:
    """List what `apply` would do, and why."""
    options = options_of(context)
    planned = fleet.plan_partitions(options.topology(), now=datetime.now(UTC))
    rows = [describe_action(database, action) for database, actions in planned for action in actions]
    show_rows(options, rows, empty="nothing to do: every partition stands")


@app.command()
def apply(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the SQL for psql; change nothing.")
    ] = False,
) -> None:
    """Make the months that are missing; nobody who uses the tables is held up.

    Each partition is a transaction of its own. May be called at any time: what stands is left alone.
    """
    options = options_of(context)
    topology, now = options.topology(), datetime.now(UTC)
    if dry_run:
        _print_script(topology, now)
        return
    rows: list[dict[str, Any]] = []

    def tell(database: Database, action: Action) -> None:
        rows.append(describe_action(database, action))
        note(f"{database.name}: {action.table}: {action.summary}")

    fleet.apply_partitions(topology, now=now, report=tell)
    if options.json:
        print_json(rows)
    else:
        print(f"{len(rows)} partitions made" if rows else "nothing to do: every partition stands")


def _print_script(topology: Topology, now: datetime) -> None:
    for database, actions in fleet.plan_partitions(topology, now=now):
        print(f"-- {database.name}: {len(actions)} partitions to make")
        if actions:
            print(fleet.connect_line(topology, database, role=fleet.owner_of(database)), end="")
            print(partitions.render(actions))


@app.command()
def check(context: typer.Context) -> None:
    """Compare the partitions with the policies. Exit status 1 if anything differs."""
    options = options_of(context)
    found = fleet.check_partitions(options.topology(), now=datetime.now(UTC))
    rows = [
        {"database": database.name, **asdict(finding)} for database, findings in found for finding in findings
    ]
    show_rows(options, rows, empty="every partition is as the policies want it")
    if rows:
        raise typer.Exit(ExitStatus.FAILED)


def describe_action(database: Database, action: Action) -> dict[str, Any]:
    """Give an action as a row of `plan`."""
    return {
        "database": database.name,
        "table": action.table,
        "action": action.summary,
        "why": action.why,
    }


def describe_bound(bound: Bound) -> str:
    """Give a bound as a person reads it: values, or the months of the ids."""
    match bound:
        case ValueList(values):
            return ", ".join(sorted(values))
        case DefaultBound():
            return "all others"
    try:
        first, last = Month.of(instant_of(bound.start)), Month.of(instant_of(bound.end - 1))
    except ValueError:  # no id is that small or large, but somebody made the partition
        return f"{bound.start} to {bound.end}"
    return str(first) if first == last else f"{first} to {last}"
