"""What `mesctl` prints: results on stdout, as a table or as JSON, and progress on stderr."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from ops.options import Options


def print_json(value: Any) -> None:
    """Print a result for programs; what JSON does not know is printed as text."""
    print(json.dumps(value, indent=2, default=str))


def note(line: str) -> None:
    """Report progress on stderr: stdout is for the result."""
    # One write: several threads report at the same time.
    sys.stderr.write(f"{line}\n")


def report(options: Options, facts: Mapping[str, Any], line: str) -> None:
    """Print what was done: its facts for programs, or a line for a person."""
    if options.json:
        print_json(dict(facts))
    else:
        print(line)


def literal_of(value: str | float) -> str:
    """Return a value as SQL has it, for statements that are shown and not executed."""
    return str(value) if isinstance(value, float) else "'" + value.replace("'", "''") + "'"


def show_rows(options: Options, rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """Print rows on stdout.

    Parameters:
        options: whether the result is for programs.
        rows: what to show; all have the same keys, which head the columns.
        empty: what to say to a person when there are none.
    """
    if options.json:
        print_json(rows)
    elif not rows:
        print(empty)
    else:
        print_table([name.replace("_", " ") for name in rows[0]], [list(row.values()) for row in rows])


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table that hides nothing: a terminal's long words are folded, a pipe gets whole lines."""
    table = Table(*(Column(header, overflow="fold") for header in headers), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    console = Console()
    if not console.is_terminal:
        console.width = 1000
    console.print(table)


def show_written(folder: Path, changed: Mapping[str, Sequence[str]], *, dry_run: bool) -> None:
    """Print to a person which files of a folder were written, or how they would differ.

    Parameters:
        folder: where they are.
        changed: the difference of each, by its name.
        dry_run: whether nothing was written.
    """
    if not changed:
        print("nothing to write: every file stands")
    elif dry_run:
        print("\n".join(line for lines in changed.values() for line in lines))
    else:
        print("\n".join(f"wrote {folder / name}" for name in sorted(changed)))
