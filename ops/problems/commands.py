"""`mesctl problems`: what is wrong at this moment, worst first, each with the command that helps."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from ops.errors import ExitStatus
from ops.options import Options, options_of
from ops.output import print_json, print_table
from ops.problems.service import OpenProblem, age_of, ranked
from ops.problems.sources import DEADLINE_SECONDS, find_problems

COLOURS = {"page": "bold red", "ticket": "yellow", "note": "dim"}
HEADERS = ("severity", "object", "what", "since", "command")


def problems(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    every_seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="With --watch: the pause between two looks.")
    ] = 5.0,
    count: Annotated[int, typer.Option(min=0, help="With --watch: end after so many looks; 0: never.")] = 0,
    timeout_seconds: Annotated[
        float,
        typer.Option(
            min=1,
            max=600,
            envvar="MES_STORAGE_PROBLEMS_TIMEOUT_SECONDS",
            help="What has not answered by then is a problem itself.",
        ),
    ] = DEADLINE_SECONDS,
) -> None:
    """Show what is wrong at this moment, worst first, each with since when and the command that helps.

    It looks at databases, replicas, shards, partitions, units in doubt, ids, locks, slots, the processes of
    the embedded platform, and what the project adds. A server that does not answer is a problem itself, and
    hides none of the others: all is shown within 10 s, or as --timeout-seconds says. Nothing is changed. Exit
    status 1 if anything is wrong; a note alone is no fault.
    """
    options = options_of(context)
    if watch:
        _watch(options, every_seconds, count, timeout_seconds)
        return
    found = ranked(find_problems(options, deadline_seconds=timeout_seconds))
    if options.json:
        print_json([asdict(each) for each in found])
    elif found:
        now = datetime.now(UTC)
        print_table(HEADERS, [_cells(each, now) for each in found])
    else:
        print("nothing is wrong")
    if any(each.severity != "note" for each in found):
        raise typer.Exit(ExitStatus.FAILED)


def _watch(options: Options, every_seconds: float, count: int, timeout_seconds: float) -> None:
    """Redraw on a terminal; elsewhere print a line for each problem that begins or ends."""
    done = 0
    with (
        Live(Text("looking"), auto_refresh=False) if _redraws(options.json) else _Lines(options.json) as shown
    ):
        while True:
            found = ranked(find_problems(options, deadline_seconds=timeout_seconds))
            if isinstance(shown, Live):
                shown.update(_page(found), refresh=True)
            else:
                shown.update(found)
            done += 1
            if done == count:
                return
            time.sleep(every_seconds)


def _redraws(as_json: bool) -> bool:
    return not as_json and Console().is_terminal and sys.stdout.isatty()


class _Lines:
    """Prints what has changed since the last look: for a pipe, or as one JSON object a line."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._standing: dict[tuple[str, str], OpenProblem] = {}

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""

    def update(self, found: Sequence[OpenProblem]) -> None:
        """Print the problems that are new, and those that have gone."""
        now = {(each.object, each.what.partition(":")[0]): each for each in found}
        for key in now.keys() - self._standing.keys():
            self._print("begins", now[key])
        for key in self._standing.keys() - now.keys():
            self._print("ends", self._standing[key])
        self._standing = now

    def _print(self, change: str, problem: OpenProblem) -> None:
        if self._as_json:
            print_json({"change": change, "at": datetime.now(UTC), **asdict(problem)})
            return
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = f"{at} {change} {problem.severity} {problem.object}: {problem.what} ({problem.command})"
        print(line, flush=True)


def _page(found: Sequence[OpenProblem]) -> Group:
    now = datetime.now(UTC)
    table = Table(*(Column(header, overflow="fold") for header in HEADERS), box=None, pad_edge=False)
    for each in found:
        table.add_row(*_cells(each, now), style=COLOURS[each.severity])
    last = f"{now:%H:%M:%S} UTC, {len(found)} problem{'' if len(found) == 1 else 's'}"
    return Group(*([table] if found else []), Text(last if found else f"{last}: nothing is wrong"))


def _cells(problem: OpenProblem, now: datetime) -> tuple[str, ...]:
    return problem.severity, problem.object, problem.what, age_of(problem.since, now), problem.command
