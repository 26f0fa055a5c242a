"""How alembic runs an operation, or prints it: a part that must stand alone, then one in its transaction."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from alembic.operations import Operations
from sqlalchemy import CursorResult

from partitions.actions import Action
from partitions.execute import Executor, Waiting
from partitions.sql import literal
from partitions.steps import Limits, Step, lines_of
from partitions.turns import release, take, turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone(Action):
    """Steps that cannot be in a migration's transaction, as the executor takes them."""

    summary: str = ""
    parts: tuple[Step, ...]

    def steps(self) -> tuple[Step, ...]:
        """Give the SQL."""
        return self.parts


def run_alone(operations: Operations, action: Action, limits: Limits) -> None:
    """Run an action in front of the transaction of a migration; see `alone`."""
    with alone(operations, limits) as executor:
        executor.run(action)


@contextmanager
def alone(operations: Operations, limits: Limits) -> Iterator[Executor]:
    """Give the executor, which names who is in the way, in front of the transaction of a migration.

    Whatever the migration did before is committed by that, so that it holds no lock while it waits.

    Raises:
        Occupied: somebody else changes the partitions of this database, and did not end in time.
    """
    with operations.get_context().autocommit_block():
        connection = operations.get_bind()
        # As the executor has it: without parameters, % is a sign like any other.
        connection.execution_options(no_parameters=True)
        waiting = Waiting(limits=limits)
        try:
            with turn(connection, wait_seconds=waiting.others_seconds):
                yield Executor(connection.engine, connection, waiting)
        finally:
            connection.execution_options(no_parameters=False)


def print_alone(operations: Operations, lines: Iterable[str], limits: Limits) -> None:
    """Print lines in front of the transaction."""
    with operations.get_context().autocommit_block():
        for line in (take(limits, until_commit=False), *lines, release()):
            execute(operations, line)


def run_together(operations: Operations, statements: Sequence[str], limits: Limits) -> None:
    """Run statements in the transaction of the migration, or print them."""
    # The guard is that of any other step: half of the time for waiting, half for the work. Not longer for the
    # turn: who has it may be waiting for what this transaction holds.
    in_turn = (take(limits, until_commit=True), *statements)
    _begin, *lines, _commit = lines_of(Step(in_turn), limits)
    for line in lines:
        execute(operations, line)


def script_of(steps: Sequence[Step], limits: Limits) -> Iterator[str]:
    """Render steps for psql, which looks by itself what is left to do."""
    for step in steps:
        statements = (*step.cleanup, *step.statements)
        if step.done is not None:
            statements = tuple(
                generated(f"SELECT {literal(each)} WHERE NOT ({step.done})") for each in statements
            )
        yield from lines_of(Step(statements, way=step.way), limits)


def generated(query: str) -> str:
    """Render a query whose rows psql runs as statements."""
    return f"{query}\n\\gexec\n-- runs each row"


def execute(operations: Operations, sql: str) -> None:
    """Run or print a statement as it is: % and : are signs like any other, in a script too."""
    context = operations.get_context()
    if context.as_sql:
        context.impl.static_output(f"{sql}{context.impl.command_terminator}")
    else:
        ask(operations, sql)


def ask(operations: Operations, sql: str) -> CursorResult[Any]:
    """Run a statement in the transaction of the migration."""
    return operations.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})
