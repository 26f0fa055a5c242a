"""How far a deep check is: a bar for each database on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ops.options import note
from ops.partitioning import ReportRows
from partitions.row_checks import RowCheckProgress as Rows
from sharding.topology import Database

LINE_EVERY_SECONDS = 5.0


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

    def tell(database: Database, rows: Rows) -> None:
        now = time.monotonic()
        if now - said.get(database.name, started) < LINE_EVERY_SECONDS:
            return
        said[database.name], rate = now, rows.rows / (now - started)
        left = (rows.of_rows - rows.rows) / max(rate, 0.001)
        note(
            f"{database.name}: {rows.subject}: {rows.rows} of about {rows.of_rows} rows, "
            f"{rate:.0f} rows/s, {left:.0f} s left"
        )

    return tell
