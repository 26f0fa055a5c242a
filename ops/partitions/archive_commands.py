"""`mesctl archive`: move finished rows to their months, and see what waits."""

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

from ops.fleet import Member, attempt, members, raise_failures, results_of
from ops.options import DryRun, OnlyTree, options_of, parse_duration
from ops.output import note, print_json, show_rows
from ops.partitions.archiving import ArchiveState, archive_database, read_state, render_database
from ops.project.project import Project
from partitions.archive import ArchivedBatch, Report
from partitions.archive_policy import ArchivePolicy
from sharding.topology import Database, Topology

app = typer.Typer(help="Move finished rows out of the live tables of every database.", no_args_is_help=True)

Grace = Annotated[
    timedelta | None,
    typer.Option(
        parser=parse_duration,
        metavar="DURATION",
        help="How long a finished row stays live, like 30d or 12h; without it, as its policy says.",
    ),
]


LINE_EVERY_SECONDS = 5.0


@app.command()
def run(
    context: typer.Context,
    grace: Grace = None,
    batch: Annotated[int, typer.Option(min=1, help="Finished rows in one transaction at most.")] = 500,
    tree: OnlyTree = None,
    dry_run: DryRun = False,
) -> None:
    """Move the rows that were finished longer ago than the grace period, with the rows that belong to them.

    A row for which work is still owed stays. Each batch is one transaction: the job may be killed at any
    time, and the next run goes on. A database that is down does not stop the others.
    """
    options = options_of(context)
    topology, now = options.topology(), datetime.now(UTC)
    chosen = _archived(topology, options.project(), tree)

    def render(member: Member) -> str:
        policies = _policies(member, grace)
        return "\n".join(render_database(topology, member, each, now, batch_rows=batch) for each in policies)

    def move(member: Member) -> Mapping[str, int]:
        moved: dict[str, int] = {}
        for policy in _policies(member, grace):
            waiting = read_state(topology, member, policy, now).waiting
            with _progress(member.database, policy, waiting.rows) as report:
                moved |= archive_database(topology, member, policy, now, batch_rows=batch, report=report)
        return moved

    if dry_run:
        scripts = [attempt(member.database, partial(render, member)) for member in chosen]
        for _, text in results_of(scripts):
            print(text)
        raise_failures(scripts)
        return
    outcomes = [attempt(member.database, partial(move, member)) for member in chosen]
    moved = {database.name: dict(rows) for database, rows in results_of(outcomes)}
    if options.json:
        print_json(moved)
    elif moved or not outcomes:
        rows = [
            {"database": name, "table": table, "rows": count}
            for name, tables in moved.items()
            for table, count in tables.items()
        ]
        show_rows(options, rows, empty="no archives")
    raise_failures(outcomes)


@app.command()
def status(context: typer.Context, grace: Grace = None, tree: OnlyTree = None) -> None:
    """Show how many rows wait for each archive, how many are held back, and what is archived by partition."""
    options = options_of(context)
    topology, now = options.topology(), datetime.now(UTC)

    def read(member: Member) -> Mapping[str, ArchiveState]:
        return {
            policy.archive: read_state(topology, member, policy, now) for policy in _policies(member, grace)
        }

    chosen = _archived(topology, options.project(), tree)
    outcomes = [attempt(member.database, partial(read, member)) for member in chosen]
    states = {database.name: found for database, found in results_of(outcomes)}
    if options.json:
        print_json({name: _as_json(found) for name, found in states.items()})
    elif states or not outcomes:
        rows = [row for name, found in states.items() for row in _status_rows(name, found)]
        show_rows(options, rows, empty="no archives")
    raise_failures(outcomes)


def _archived(topology: Topology, project: Project, tree: str | None) -> list[Member]:
    return [member for member in members(topology, project, tree=tree) if member.tree.archives]


def _policies(member: Member, grace: timedelta | None) -> list[ArchivePolicy]:
    if grace is None:
        return list(member.tree.archives)
    return [replace(policy, grace=grace) for policy in member.tree.archives]


def _as_json(found: Mapping[str, ArchiveState]) -> dict[str, Any]:
    return {
        archive: {
            "waiting": state.waiting.rows,
            "held_back": state.waiting.owed,
            "archived": dict(state.archived),
        }
        for archive, state in found.items()
    }


def _status_rows(database: str, found: Mapping[str, ArchiveState]) -> Iterator[dict[str, Any]]:
    for archive, state in found.items():
        facts: dict[str, Any] = {
            "database": database,
            "archive": archive,
            "waiting": state.waiting.rows,
            "held_back": state.waiting.owed,
        }
        for partition, count in state.archived.items() or [("", 0)]:
            yield {**facts, "archived": count, "partition": partition}
            facts = dict.fromkeys(facts, "")  # an archive is named once, beside its first partition


@contextmanager
def _progress(database: Database, policy: ArchivePolicy, rows: int) -> Iterator[Report]:
    """Show how far a database is: a bar on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(database, policy, rows)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=console
    ) as bars:
        task = bars.add_task(f"{database.name}: {policy.live}", total=rows, rate="")

        def advance(batch: ArchivedBatch) -> None:
            bars.advance(task, batch.rows[policy.live])
            bars.update(task, rate=f"{bars.tasks[task].speed or 0:.0f} rows/s")

        yield advance


def _lines(database: Database, policy: ArchivePolicy, rows: int) -> Report:
    started = said = time.monotonic()
    done = 0

    def say(batch: ArchivedBatch) -> None:
        nonlocal said, done
        done += batch.rows[policy.live]
        now = time.monotonic()
        if now - said >= LINE_EVERY_SECONDS or done >= rows:
            said, rate = now, done / max(now - started, 0.001)
            left = max(rows - done, 0) / max(rate, 0.001)
            note(
                f"{database.name}: {policy.live}: {done} of {rows} rows, {rate:.0f} rows/s, {left:.0f} s left"
            )

    return say
