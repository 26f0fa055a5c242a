"""`mesctl partitions`: what partitions there are, what is missing, and making it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ops.errors import ExitStatus
from ops.fleet import Outcome, raise_failures, results_of
from ops.options import DryRun, OnlyTree, Options, options_of
from ops.output import note, print_json, show_rows
from ops.partitions import manual, service
from ops.partitions.manual import describe_action, print_script
from ops.partitions.metrics import render_metrics, write_atomically
from ops.partitions.service import ReportRows
from partitions import MonthlyRange, Policy, RetryPolicy
from partitions.actions import Action
from partitions.bounds import Bound, DefaultBound, KeyRange, Month, ValueList
from partitions.check import PartitionFinding
from partitions.row_checks import RowCheckProgress as Rows
from partitions.steps import LockTimeouts
from sharding.topology import Database

app = typer.Typer(help="Show, plan and change the partitions of every database.", no_args_is_help=True)

manual.register(app)

CLOCKS_DIFFER = timedelta(hours=1)
"""More than any clock drifts that somebody looks after. A wrong one would make months, or detach them."""


LINE_EVERY_SECONDS = 5.0

FAR_MONTHS = 24
"""Months that were made by hand are looked for so far beyond those that the policy wants."""


def _parse_month(text: str) -> Month:
    try:
        return Month.parse(text)
    except ValueError as fault:
        raise typer.BadParameter(str(fault)) from fault


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
    project, now = options.project(), datetime.now(UTC)
    outcomes = service.read_catalogs(options.topology(), project, tree=tree)
    rows = [
        {
            "database": database.name,
            "table": table.name,
            "partition": partition.name,
            "bound": describe_bound(partition.bound, policies[table.name], now),
            "rows": partition.rows,
            "size_bytes": partition.size_bytes,
        }
        for database, catalog in results_of(outcomes)
        for policies in [{each.table: each for each in project.tree(database.tree).policies}]
        for table in catalog.values()
        for partition in table.partitions
    ]
    _show(options, rows, outcomes, empty="no partitions")


@app.command()
def plan(context: typer.Context, since: Since = None, tree: OnlyTree = None) -> None:
    """List what `apply` would do, and why."""
    options = options_of(context)
    planned = service.plan_partitions(
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
    dry_run: DryRun = False,
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
        planned = service.plan_partitions(topology, project, now=now, tree=tree, since=since)
        print_script(topology, results_of(planned))
        raise_failures(planned)
        return

    def say(database: Database, action: Action) -> None:
        if not quiet:
            note(f"{database.name}: {action.table}: {action.summary}")

    waiting = RetryPolicy(timeouts=LockTimeouts(lock_timeout_seconds=lock_timeout_seconds))
    done = service.apply_partitions(
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
        service.read_catalogs(topology, project, tree=tree),
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
        found = service.check_partitions(
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


def describe_bound(bound: Bound, policy: Policy, now: datetime) -> str:
    """Return a bound for people: its values, or the months of its keys, as the table's policy has them."""
    match bound:
        case ValueList(values):
            return ", ".join(sorted(values))
        case DefaultBound():
            return "all others"
    months = [_month_of(key, bound, policy, now) for key in (bound.start, bound.end - 1)]
    if None in months:  # there is no month of such a key, but somebody made the partition
        return str(bound)
    return " to ".join(str(month) for month in dict.fromkeys(months))


def _month_of(key: int, bound: KeyRange, policy: Policy, now: datetime) -> Month | None:
    if bound.type.is_time:
        try:
            return Month.of(bound.type.instant(key))
        except (ValueError, OverflowError):
            return None
    if not isinstance(policy, MonthlyRange):
        return None
    return policy.month_at(key, latest=Month.of(now).later(policy.months_ahead + FAR_MONTHS))


def command_of(finding: PartitionFinding) -> str | None:
    """Return the command that mends what `partitions.check` found, if there is one."""
    words = f"{finding.table} {finding.partition}"
    return {
        "apply": "mesctl partitions apply",
        "merge": f"mesctl partitions merge {words} --into PARTITION",
        "detach": f"mesctl partitions detach {words}",
        "attach or drop": f"mesctl partitions attach {words}, or mesctl partitions drop {words}",
        "migrate": "mesctl migrate upgrade",
    }.get(finding.remedy)


@contextmanager
def progress_of_rows() -> Iterator[ReportRows]:
    """Show the progress of several databases at once, on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(database: Database, rows: Rows) -> None:
            name = database.name
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=rows.of_rows, words="")
            speed = bars.tasks[tasks[name]].speed or 0
            bars.update(tasks[name], completed=rows.rows, words=f"{rows.subject}, {speed:.0f} rows/s")

        yield advance


def _lines() -> ReportRows:
    started = time.monotonic()
    said: dict[str, float] = {}

    def report(database: Database, rows: Rows) -> None:
        now = time.monotonic()
        if now - said.get(database.name, started) < LINE_EVERY_SECONDS:
            return
        said[database.name], rate = now, rows.rows / (now - started)
        left = (rows.of_rows - rows.rows) / max(rate, 0.001)
        note(
            f"{database.name}: {rows.subject}: {rows.rows} of about {rows.of_rows} rows, "
            f"{rate:.0f} rows/s, {left:.0f} s left"
        )

    return report
