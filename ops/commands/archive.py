"""`mesctl archive`: move finished orders to their months, and see what waits."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.models.policies import ARCHIVE
from ops.archiving import ArchiveState, archive_shard, read_state, render_shard
from ops.durations import format_duration, parse_duration
from ops.options import note, options_of, print_json
from ops.partitioning import attempt, raise_failures, results_of
from ops.rows import print_table
from partitions.archive.mover import Batch, Report
from sharding.topology import Database

app = typer.Typer(
    help="Move finished orders out of the live tables of every MES shard.", no_args_is_help=True
)

Grace = Annotated[
    timedelta,
    typer.Option(
        parser=parse_duration,
        metavar="DURATION",
        help="How long a finished order stays live, like 30d or 12h.",
    ),
]
# As text: typer parses a default like any other value.
DEFAULT_GRACE: Any = format_duration(ARCHIVE.grace)

LINE_EVERY_SECONDS = 5.0


@app.command()
def run(
    context: typer.Context,
    grace: Grace = DEFAULT_GRACE,
    batch: Annotated[int, typer.Option(min=1, help="Orders in one transaction at most.")] = 500,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the SQL for psql; change nothing.")
    ] = False,
) -> None:
    """Move the orders that ended longer ago than the grace period, with their items and events.

    An order that still owes a message or waits for a price stays. Each batch is one transaction: the job may
    be killed at any time, and the next run goes on. A shard that is down does not hold up the others.
    """
    options = options_of(context)
    topology, now, policy = options.topology(), datetime.now(UTC), replace(ARCHIVE, grace=grace)
    shards = topology.databases_of("mes").values()
    if dry_run:
        for database in shards:
            print(render_shard(topology, database, policy, now, batch_rows=batch))
        return

    def move(database: Database) -> Mapping[str, int]:
        waiting = read_state(topology, database, policy, now).waiting
        with _progress(database, waiting.rows) as report:
            return archive_shard(topology, database, policy, now, batch_rows=batch, report=report)

    outcomes = [attempt(database, partial(move, database)) for database in shards]
    moved = {database.name: dict(rows) for database, rows in results_of(outcomes)}
    if options.json:
        print_json(moved)
    else:
        headers = ["database", *(f"{live} rows" for live in ARCHIVE.moves)]
        print_table(headers, [[name, *rows.values()] for name, rows in moved.items()])
    raise_failures(outcomes)


@app.command()
def status(context: typer.Context, grace: Grace = DEFAULT_GRACE) -> None:
    """Show how many orders wait for the archive, how many are held back, and what is archived by month."""
    options = options_of(context)
    topology, now, policy = options.topology(), datetime.now(UTC), replace(ARCHIVE, grace=grace)
    states = {
        name: read_state(topology, database, policy, now)
        for name, database in topology.databases_of("mes").items()
    }
    if options.json:
        print_json({name: _as_json(state) for name, state in states.items()})
    else:
        _print_states(states)


def _as_json(state: ArchiveState) -> dict[str, Any]:
    return {"waiting": state.waiting.rows, "held_back": state.waiting.owed, "archived": dict(state.archived)}


def _print_states(states: dict[str, ArchiveState]) -> None:
    rows: list[list[Any]] = []
    for name, state in states.items():
        of_shard = [name, state.waiting.rows, state.waiting.owed]
        for partition, count in state.archived.items() or [("", 0)]:
            rows.append([*of_shard, count, partition])
            of_shard = ["", "", ""]  # a shard is named once, beside its first month
    print_table(["database", "waiting", "held back", "archived", "partition"], rows)


@contextmanager
def _progress(database: Database, rows: int) -> Iterator[Report]:
    """Show how far a shard is: a bar on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(database, rows)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=console
    ) as bars:
        task = bars.add_task(database.name, total=rows, rate="")

        def advance(batch: Batch) -> None:
            bars.advance(task, batch.rows[ARCHIVE.live])
            bars.update(task, rate=f"{bars.tasks[task].speed or 0:.0f} orders/s")

        yield advance


def _lines(database: Database, rows: int) -> Report:
    started = said = time.monotonic()
    done = 0

    def tell(batch: Batch) -> None:
        nonlocal said, done
        done += batch.rows[ARCHIVE.live]
        now = time.monotonic()
        if now - said >= LINE_EVERY_SECONDS or done >= rows:
            said, rate = now, done / max(now - started, 0.001)
            left = max(rows - done, 0) / max(rate, 0.001)
            note(f"{database.name}: {done} of {rows} orders, {rate:.0f} orders/s, {left:.0f} s left")

    return tell
