"""A step: SQL that is run at once, how it waits for locks, and how an attempt that was cut off is mended."""

from dataclasses import dataclass
from enum import Enum, auto

from partitions.sql import dollar_quoted, literal


class ExecutionMode(Enum):
    """How the statements of a step are run."""

    TRANSACTION = auto()
    """In one transaction. Its locks are held for moments, or block no query."""

    EXCLUSIVE = auto()
    """One statement under ACCESS EXCLUSIVE, bounded as a whole: its waiting and its work."""

    AUTOCOMMIT = auto()
    """Refused in a transaction (CONCURRENTLY). It waits long for older transactions and blocks no query."""


@dataclass(frozen=True, slots=True)
class SqlStep:
    """A part of an action that is done wholly or not at all; CONCURRENTLY alone can be cut off midway.

    Parameters:
        statements: the SQL.
        mode: how it is run.
        done: a query that returns whether nothing is left to do; None where the statements find out.
        cleanup: statements that remove, or complete, what an attempt left that was cut off.
    """

    statements: tuple[str, ...]
    mode: ExecutionMode = ExecutionMode.TRANSACTION
    done: str | None = None
    cleanup: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LockTimeouts:
    """How long a step may wait.

    Parameters:
        lock_timeout_seconds: how long an application's query may be held up at most.
        concurrent_lock_timeout_seconds: how long a step may wait that blocks no query.
    """

    lock_timeout_seconds: float = 3.0
    concurrent_lock_timeout_seconds: float = 60.0


SHORTEST_PAUSE_SECONDS = 3.0


def render_step(step: SqlStep, timeouts: LockTimeouts) -> tuple[str, ...]:
    """Return the statements that are sent to the server, which a dry run prints."""
    if step.mode is ExecutionMode.AUTOCOMMIT:
        return render_autocommit(step.statements, timeouts)
    # Later sessions queue behind this one from the moment it queues, and while it works: half for each.
    guard = [
        f"SET LOCAL lock_timeout = {_milliseconds(timeouts.lock_timeout_seconds / 2)}",
        # Between two statements no other timeout counts: a client that is stopped there, or whose machine
        # is gone, would hold its locks for as long as it likes.
        f"SET LOCAL idle_in_transaction_session_timeout = {_milliseconds(_longest_pause(timeouts))}",
    ]
    if step.mode is ExecutionMode.EXCLUSIVE:
        guard.append(f"SET LOCAL statement_timeout = {_milliseconds(timeouts.lock_timeout_seconds)}")
    return ("BEGIN", *guard, *step.statements, "COMMIT")


def render_autocommit(statements: tuple[str, ...], timeouts: LockTimeouts) -> tuple[str, ...]:
    """Return statements, each its own transaction, with the lock_timeout of those that block no query."""
    if not statements:
        return ()
    patience = _milliseconds(timeouts.concurrent_lock_timeout_seconds)
    return (f"SET lock_timeout = {patience}", *statements, "RESET lock_timeout")


def do_block(*statements: str) -> str:
    """Make one statement of several, so that one statement_timeout bounds them all."""
    body = "".join(f"    {statement};\n" for statement in statements)
    return "DO " + dollar_quoted(f" BEGIN\n{body}END ", "block")


def raise_if(condition: str, message: str, *, detail: str | None = None) -> str:
    """Render a statement for `do_block` that ends everything with an error when a condition holds.

    Parameters:
        condition: what must not be.
        message: what is wrong.
        detail: a query that returns the end of the message.
    """
    text = literal(message) if detail is None else f"concat({literal(message)}, ({detail}))"
    return f"IF {condition} THEN\n        RAISE EXCEPTION USING MESSAGE = {text};\n    END IF"


def _longest_pause(timeouts: LockTimeouts) -> float:
    # A client is not frozen because its machine is busy.
    return max(SHORTEST_PAUSE_SECONDS, timeouts.lock_timeout_seconds)


def _milliseconds(seconds: float) -> str:
    return literal(f"{max(1, round(seconds * 1000))}ms")
