"""How far the day is: bars on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.console.demo.census import Census
from app.messaging.routing import ServiceName
from app.models.status import Status

STAGES: Mapping[str, Callable[[Census], int]] = {
    "ordered": lambda census: census.reached(Status.SUBMITTED),
    "priced": lambda census: census.reached(Status.PRICE_CALCULATED),
    "confirmed": lambda census: census.reached(Status.MANUFACTURING_APPROVED),
    "taken": lambda census: census.reached(Status.MANUFACTURING_STARTED),
    "shipped": lambda census: census.reached(Status.SHIPPED),
    "ended": lambda census: census.ended(ServiceName.MES),
}
"""What is counted; a cancelled or rejected order has passed every stage."""

LINE_EVERY_SECONDS = 2.0


class Display(Protocol):
    """Where the progress is shown."""

    def show(self, census: Census) -> None:
        """Show how far the orders are."""

    def say(self, what: str) -> None:
        """Show that something happened."""


class Bars:
    """One bar per stage."""

    def __init__(self, progress: Progress, *, orders: int) -> None:
        self._progress = progress
        self._tasks = {stage: progress.add_task(stage, total=orders) for stage in STAGES}

    def show(self, census: Census) -> None:
        """Move the bars."""
        for stage, task in self._tasks.items():
            self._progress.update(task, completed=STAGES[stage](census))

    def say(self, what: str) -> None:
        """Print above the bars."""
        self._progress.console.print(what)


class Lines:
    """A line when something has changed, and not too often: for log files."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._started = clock()
        self._printed = ""
        self._next = self._started

    def show(self, census: Census) -> None:
        """Print the counts, unless nothing has changed or the last line is too fresh."""
        counts = ", ".join(f"{count(census)} {stage}" for stage, count in STAGES.items())
        if counts != self._printed and self._clock() >= self._next:
            self._printed = counts
            self._next = self._clock() + LINE_EVERY_SECONDS
            self.say(counts)

    def say(self, what: str) -> None:
        """Print a line with the seconds since the start."""
        self._console.print(
            f"{self._clock() - self._started:6.1f} s  {what}", highlight=False, soft_wrap=True
        )


@contextmanager
def open_display(console: Console, *, orders: int) -> Iterator[Display]:
    """Choose bars for a terminal and lines for anything else."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield Bars(progress, orders=orders)
