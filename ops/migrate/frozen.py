"""A revision's SQL stands in files beside it, frozen: what ran in production once is what runs everywhere."""

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
    statements = sql.read_text(encoding="utf-8").strip().removesuffix(";")
    # text() takes ":name" for a parameter; frozen SQL has none.
    op.execute(text(statements.replace(":", r"\:")))
