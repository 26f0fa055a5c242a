"""How alembic runs an operation, or prints it: in autocommit, or in the transaction of the migration."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from alembic.operations import Operations
from sqlalchemy import CursorResult

from partitions.actions import Action
from partitions.advisory_lock import acquire_sql, hold, release_sql
from partitions.executor import Executor, RetryPolicy
from partitions.sql import literal
from partitions.steps import LockTimeouts, SqlStep, render_step


@dataclass(frozen=True, slots=True, kw_only=True)
class AutocommitAction(Action):
    """Steps that cannot be in a migration's transaction, as the executor takes them."""

    summary: str = ""
    parts: tuple[SqlStep, ...]

    def steps(self) -> tuple[SqlStep, ...]:
        """Return the SQL."""
        return self.parts


def run_in_autocommit(operations: Operations, action: Action, timeouts: LockTimeouts) -> None:
    """Run an action in front of the transaction of a migration; see `autocommit`."""
    with autocommit(operations, timeouts) as executor:
        executor.run(action)


@contextmanager
def autocommit(operations: Operations, timeouts: LockTimeouts) -> Iterator[Executor]:
    """Return the executor, which names who is in the way, in front of the transaction of a migration.

    What the migration did before is committed by that, so that it holds no lock while it waits.

    Raises:
        PartitionsBusy: another session changes the partitions of this database, and did not end in time.
    """
    with operations.get_context().autocommit_block():
        connection = operations.get_bind()
        # As the executor has it: without parameters, % is a sign like any other.
        connection.execution_options(no_parameters=True)
        retry = RetryPolicy(timeouts=timeouts)
        try:
            with hold(connection, wait_seconds=retry.lock_wait_seconds):
                yield Executor(connection.engine, connection, retry)
        finally:
            connection.execution_options(no_parameters=False)


def print_in_autocommit(operations: Operations, lines: Iterable[str], timeouts: LockTimeouts) -> None:
    """Print lines in front of the transaction."""
    with operations.get_context().autocommit_block():
        for line in (acquire_sql(timeouts, until_commit=False), *lines, release_sql()):
            execute(operations, line)


def run_in_transaction(operations: Operations, statements: Sequence[str], timeouts: LockTimeouts) -> None:
    """Run statements in the transaction of the migration, or print them."""
    # The timeouts are those of any other step: half of the time for waiting, half for the work. The advisory
    # lock is not waited for longer: its holder may be waiting for what this transaction has locked.
    statements = (acquire_sql(timeouts, until_commit=True), *statements)
    _begin, *lines, _commit = render_step(SqlStep(statements), timeouts)
    for line in lines:
        execute(operations, line)


def script_of(steps: Sequence[SqlStep], timeouts: LockTimeouts) -> Iterator[str]:
    """Render steps for psql, which looks by itself what is left to do."""
    for step in steps:
        statements = (*step.cleanup, *step.statements)
        if step.done is not None:
            statements = tuple(
                gexec(f"SELECT {literal(each)} WHERE NOT ({step.done})") for each in statements
            )
        yield from render_step(SqlStep(statements, mode=step.mode), timeouts)


def gexec(query: str) -> str:
    """Render a query whose rows psql runs as statements."""
    return f"{query}\n\\gexec\n-- runs each row"


def execute(operations: Operations, sql: str) -> None:
    """Run or print a statement as it is: % and : are signs like any other, in a script too."""
    context = operations.get_context()
    if context.as_sql:
        context.impl.static_output(f"{sql}{context.impl.command_terminator}")
    else:
        fetch(operations, sql)


def fetch(operations: Operations, sql: str) -> CursorResult[Any]:
    """Run a statement in the transaction of the migration."""
    return operations.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})
