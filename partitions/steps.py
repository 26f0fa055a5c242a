"""A step: SQL that is run at once, how it waits for locks, and how an attempt that was cut off is mended."""

from dataclasses import dataclass
from enum import Enum, auto

from partitions.sql import dollar_quoted, literal


class Way(Enum):
    """How the statements of a step are run."""

    TRANSACTION = auto()
    """In one transaction. Its locks are held for moments, or nobody notices them."""

    EXCLUSIVE = auto()
    """One statement that stops everybody, and so is bounded as a whole: its waiting and its work."""

    ALONE = auto()
    """Refused in a transaction (CONCURRENTLY). It waits long for older transactions and holds up nobody."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of an action that is done wholly or not at all; CONCURRENTLY alone can be cut off midway.

    Parameters:
        statements: the SQL.
        way: how it is run.
        done: a query that tells whether nothing is left to do; None where the statements tell themselves.
        cleanup: statements that remove, or complete, what an attempt left that was cut off.
    """

    statements: tuple[str, ...]
    way: Way = Way.TRANSACTION
    done: str | None = None
    cleanup: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a step may wait.

    Parameters:
        lock_timeout_seconds: how long an application's query may be held up at most.
        patience_seconds: how long a step may wait that holds up nobody.
    """

    lock_timeout_seconds: float = 3.0
    patience_seconds: float = 60.0


SHORTEST_PAUSE_SECONDS = 3.0


def lines_of(step: Step, limits: Limits) -> tuple[str, ...]:
    """Give what is sent to the server, which is what a dry run prints."""
    if step.way is Way.ALONE:
        return alone(step.statements, limits)
    # Whoever comes later queues behind us from the moment we queue, and while we work: half for each.
    guard = [
        f"SET LOCAL lock_timeout = {_milliseconds(limits.lock_timeout_seconds / 2)}",
        # Between two statements no other timeout counts: a client that is stopped there, or whose machine
        # is gone, would hold its locks for as long as it likes.
        f"SET LOCAL idle_in_transaction_session_timeout = {_milliseconds(_longest_pause(limits))}",
    ]
    if step.way is Way.EXCLUSIVE:
        guard.append(f"SET LOCAL statement_timeout = {_milliseconds(limits.lock_timeout_seconds)}")
    return ("BEGIN", *guard, *step.statements, "COMMIT")


def alone(statements: tuple[str, ...], limits: Limits) -> tuple[str, ...]:
    """Give statements, each its own transaction, with the long lock_timeout of those that hold up nobody."""
    if not statements:
        return ()
    patience = _milliseconds(limits.patience_seconds)
    return (f"SET lock_timeout = {patience}", *statements, "RESET lock_timeout")


def block(*statements: str) -> str:
    """Make one statement of several, so that one statement_timeout bounds them all."""
    body = "".join(f"    {statement};\n" for statement in statements)
    return "DO " + dollar_quoted(f" BEGIN\n{body}END ", "block")


def refuse_if(condition: str, message: str, *, detail: str | None = None) -> str:
    """Render a statement for `block` that ends everything with an error when a condition holds.

    Parameters:
        condition: what must not be.
        message: what is wrong.
        detail: a query that gives the end of the message.
    """
    text = literal(message) if detail is None else f"concat({literal(message)}, ({detail}))"
    return f"IF {condition} THEN\n        RAISE EXCEPTION USING MESSAGE = {text};\n    END IF"


def _longest_pause(limits: Limits) -> float:
    # A client is not frozen because its machine is busy.
    return max(SHORTEST_PAUSE_SECONDS, limits.lock_timeout_seconds)


def _milliseconds(seconds: float) -> str:
    return literal(f"{max(1, round(seconds * 1000))}ms")
