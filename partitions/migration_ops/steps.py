"""What an operation asks of PostgreSQL, and how alembic runs or prints it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from alembic.operations import Operations
from sqlalchemy import TextClause, text


@dataclass(frozen=True, slots=True)
class Step:
    """One statement.

    Parameters:
        sql: the statement, without a semicolon.
        alone: PostgreSQL refuses it inside a transaction, or its lock must not last as long as one.
        generates: it is a query, whose rows are the statements to run: partitions differ by database.
    """

    sql: str
    alone: bool = False
    generates: bool = False


def run(operations: Operations, steps: Sequence[Step]) -> None:
    """Run the steps in order, or print them when alembic was called with `--sql`."""
    for alone, group in groupby(steps, key=lambda step: step.alone):
        if not alone:
            _run_each(operations, group)
            continue
        with operations.get_context().autocommit_block():
            # A session's setting, for there is no transaction that SET LOCAL could end with. CONCURRENTLY
            # waits for old transactions while nobody queues behind it; cut off, it leaves half an index.
            _execute(operations, "SET lock_timeout = 0")
            _run_each(operations, group)
            _execute(operations, "RESET lock_timeout")


def _run_each(operations: Operations, steps: Iterable[Step]) -> None:
    for step in steps:
        if not step.generates:
            _execute(operations, step.sql)
        elif operations.get_context().as_sql:
            _execute(operations, f"{step.sql}\n\\gexec\n-- runs each row")
        else:
            for statement in operations.get_bind().scalars(_plain(step.sql)).all():
                _execute(operations, statement)


def _execute(operations: Operations, sql: str) -> None:
    operations.execute(_plain(sql))


def _plain(sql: str) -> TextClause:
    # text() takes ":name" for a parameter; these statements have none.
    return text(sql.replace(":", r"\:"))
