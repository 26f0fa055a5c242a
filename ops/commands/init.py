"""`mesctl init`: the files that a project begins with."""

import random
import re
import secrets
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from ops.ports import PortPicker
from ops.output import note, print_json
from ops.options import options_of
from ops.project.file import FILE
from ops.project.init import draft_files, refuse_second, start_files

TREE = r"[a-z][a-z0-9_]{0,56}"
"""A tree's name: `NAME_owner` is a role, of at most 63 characters."""


def init(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where the project is to be.")] = Path(),
    tree: Annotated[str, typer.Option(help="The name of its first tree.")] = "main",
    from_database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Draft them from this database; it is only read."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the files; write nothing.")] = False,
) -> None:
    """Write the files that a project begins with.

    A file that is there already is left alone. What was written works at once: `mesctl up` starts the
    database and `mesctl migrate upgrade` makes its tables.
    """
    refuse_second(folder)
    if not re.fullmatch(TREE, tree):
        raise typer.BadParameter(
            f"{tree!r} is no name; use a-z, 0-9 and _, beginning with a letter, 57 of them at most"
        )
    if tree == "alembic":
        raise typer.BadParameter(
            "'alembic' is the section that alembic.ini has already; name the tree otherwise"
        )
    if from_database is None:
        files = start_files(tree, port=PortPicker(random.Random()).pick(), revision=secrets.token_hex(6))
    else:
        try:
            url = make_url(from_database)
        except (ArgumentError, ValueError) as fault:  # the latter for a port that is no number
            raise typer.BadParameter("--from-database takes postgresql://ROLE@HOST:PORT/DATABASE") from fault
        files = draft_files(tree, url)
    if dry_run:
        for name, content in files.items():
            print(f"# {folder / name}\n{content}")
        return
    # The project file last: with it the project is begun, and `init` would not write what is missing.
    names = sorted(files, key=lambda name: name == FILE)
    written = [name for name in names if _write(folder / name, files[name])]
    if options_of(context).json:
        print_json({"written": written, "left alone": sorted(files.keys() - set(written))})
    else:
        print("\n".join(str(folder / name) for name in written))
    note("next: mesctl doctor" if from_database else "next: mesctl up, mesctl migrate upgrade, mesctl doctor")


def _write(path: Path, content: str) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        note(f"{path}: is there, and was left alone")
        return False
    return True
