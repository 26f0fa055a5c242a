"""A revision's SQL stands in files beside it, frozen: what ran in production once is what runs everywhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from alembic import op
from sqlalchemy import text


def run(revision_file: str, direction: Literal["up", "down"]) -> None:
    """Run `TREE/sql/REVISION.DIRECTION.sql` of the revision `TREE/versions/REVISION.py`.

    Parameters:
        revision_file: the revision's `__file__`.
        direction: which of the two files.
    """
    revision = Path(revision_file)
    sql = revision.parent.parent / "sql" / f"{revision.stem}.{direction}.sql"
    # One at a time: Citus sends some commands to the workers as the whole text in which they stand, and as a
    # prepared statement, which takes no two.
    for statement in split(sql.read_text(encoding="utf-8")):
        # text() takes ":name" for a parameter; frozen SQL has none.
        op.execute(text(statement.replace(":", r"\:")))


_COMMENT = r"--[^\n]*|/\*.*?\*/"
_PIECE = re.compile(rf"""{_COMMENT}|'[^']*'|"[^"]*"|(\$\w*\$).*?\1|[^;'"$/-]+|.""", re.DOTALL)


def split(sql: str) -> Iterator[str]:
    """Split a text into its statements, each with the comments before it and without its semicolon.

    It knows strings, quoted names, dollar quotes and comments; neither E'...' nor BEGIN ATOMIC.
    """
    pieces: list[str] = []
    for found in _PIECE.finditer(f"{sql};"):
        if found[0] != ";":
            pieces.append(found[0])
            continue
        statement = "".join(pieces).strip()
        if re.sub(_COMMENT, "", statement, flags=re.DOTALL).strip():
            yield statement
        pieces.clear()
