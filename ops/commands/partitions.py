"""`mesctl partitions`: what partitions there are, what is missing, and making it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from ops import partitioning
from ops.advice import command_of
from ops.commands import partition_verbs
from ops.commands.partition_progress import progress_of_rows
from ops.commands.partition_verbs import OnlyTree, describe_action, print_script
from ops.errors import ExitStatus
from ops.fleet import Outcome, raise_failures, results_of
from ops.options import Options, note, options_of, print_json
from ops.partition_metrics import render_metrics, write_atomically
from ops.rows import show_rows
from partitions import RetryPolicy
from partitions.actions import Action
from partitions.bounds import Bound, DefaultBound, Month, ValueList
from partitions.check import PartitionFinding
from partitions.steps import LockTimeouts
from sharding.ids import first_id_at, instant_of
from sharding.topology import Database

app = typer.Typer(help="Show, plan and change the partitions of every database.", no_args_is_help=True)
partition_verbs.register(app)


CLOCKS_DIFFER = timedelta(hours=1)
"""More than any clock drifts that somebody looks after. A wrong one would make months, or detach them."""


def _parse_month(text: str) -> Month:
    try:
        month = Month.parse(text)
        first_id_at(month.start)
    except ValueError as fault:
        raise typer.BadParameter(str(fault)) from fault
    return month


Since = Annotated[
    Month | None,
    typer.Option(
        parser=_parse_month,
        metavar="YYYY-MM",
        help="The earliest month that must stand, when rows are to come before the current one.",
    ),
]


@app.command("list")
def list_(context: typer.Context, tree: OnlyTree = None) -> None:
    """List every partition with its bound, PostgreSQL's estimate of its rows, and its size."""
    options = options_of(context)
    outcomes = partitioning.read_catalogs(options.topology(), options.project(), tree=tree)
    rows = [
        {
            "database": database.name,
            "table": table.name,
            "partition": partition.name,
            "bound": describe_bound(partition.bound),
            "rows": partition.rows,
            "size_bytes": partition.size_bytes,
        }
        for database, catalog in results_of(outcomes)
        for table in catalog.values()
        for partition in table.partitions
    ]
    _show(options, rows, outcomes, empty="no partitions")


@app.command()
def plan(context: typer.Context, since: Since = None, tree: OnlyTree = None) -> None:
    """List what `apply` would do, and why."""
    options = options_of(context)
    planned = partitioning.plan_partitions(
        options.topology(), options.project(), now=datetime.now(UTC), tree=tree, since=since
    )
    rows = [
        describe_action(database, action) for database, actions in results_of(planned) for action in actions
    ]
    _show(options, rows, planned, empty="nothing to do: every partition stands")


@app.command()
def apply(
    context: typer.Context,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the SQL for psql; change nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors: for cron.")] = False,
    metrics_file: Annotated[
        Path | None, typer.Option(help="Write metrics here, for Prometheus' textfile collector (*.prom).")
    ] = None,
    lock_timeout_seconds: Annotated[
        float, typer.Option(min=0.01, help="How long the application may be held up at most.")
    ] = 3.0,
    since: Since = None,
    tree: OnlyTree = None,
) -> None:
    """Make the months that are missing, take away those past their retention, mend what a kill left.

    The application goes on meanwhile. May be called at any time: what stands is left alone. A database that
    is down does not stop the others; the exit status is 1 then, and the next run does the rest.
    """
    options = options_of(context)
    topology, project, now = options.topology(), options.project(), datetime.now(UTC)
    if metrics_file is not None and not metrics_file.parent.is_dir():
        raise typer.BadParameter(f"--metrics-file: there is no folder {metrics_file.parent}")
    if dry_run:
        planned = partitioning.plan_partitions(topology, project, now=now, tree=tree, since=since)
        print_script(topology, results_of(planned))
        raise_failures(planned)
        return

    def say(database: Database, action: Action) -> None:
        if not quiet:
            note(f"{database.name}: {action.table}: {action.summary}")

    waiting = RetryPolicy(timeouts=LockTimeouts(lock_timeout_seconds=lock_timeout_seconds))
    done = partitioning.apply_partitions(
        topology,
        project,
        now=now,
        tree=tree,
        since=since,
        max_clock_difference=CLOCKS_DIFFER,
        retry=waiting,
        report=say,
    )
    if metrics_file is not None:
        _write_metrics(metrics_file, options, tree, results_of(done))
    rows = [describe_action(database, action) for database, actions in results_of(done) for action in actions]
    if options.json:
        print_json(rows)
    elif not quiet and (rows or len(results_of(done)) == len(done)):
        print(f"{len(rows)} actions done" if rows else "nothing to do: every partition stands")
    raise_failures(done)


def _show(
    options: Options, rows: Sequence[Mapping[str, Any]], outcomes: Sequence[Outcome[Any]], *, empty: str
) -> None:
    """Show what came of all databases; that there is nothing is said only when each has answered."""
    if rows or options.json or len(results_of(outcomes)) == len(outcomes):
        show_rows(options, rows, empty=empty)
    raise_failures(outcomes)


def _write_metrics(
    path: Path, options: Options, tree: str | None, done: Sequence[tuple[Database, list[Action]]]
) -> None:
    topology, project = options.topology(), options.project()
    content = render_metrics(
        project,
        partitioning.read_catalogs(topology, project, tree=tree),
        [database.name for database, _ in done],
        now=datetime.now(UTC),
        before=path.read_text() if path.exists() else "",
    )
    write_atomically(path, content)


@app.command()
def check(
    context: typer.Context,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Read every row: misplaced, twice, live and archived, a child without its row."
        ),
    ] = False,
    tree: OnlyTree = None,
) -> None:
    """Compare the partitions with the policies. Exit status 1 if anything differs.

    A deep check reads in short statements, and may run beside the application and the archive job.
    """
    options = options_of(context)
    with progress_of_rows() as report:
        found = partitioning.check_partitions(
            options.topology(), options.project(), now=datetime.now(UTC), tree=tree, deep=deep, report=report
        )
    rows: list[dict[str, Any]] = [
        {"database": database.name, **_facts(finding)}
        for database, findings in results_of(found)
        for finding in findings
    ]
    _show(options, rows, found, empty="every partition is as the policies want it")
    if rows:
        raise typer.Exit(ExitStatus.FAILED)


def _facts(finding: PartitionFinding) -> dict[str, str]:
    command = command_of(finding)
    return {
        "table": finding.table,
        "partition": finding.partition,
        "fault": finding.fault,
        "fix": f"{finding.fix} ({command})" if command else finding.fix,
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
