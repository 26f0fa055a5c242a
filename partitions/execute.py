"""The one place where partitions are changed: actions become SQL, one transaction each."""

from collections.abc import Callable, Iterable
from datetime import datetime

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from partitions.actions import Action
from partitions.catalog import read_catalog
from partitions.errors import ActionFailed
from partitions.months import Month
from partitions.plan import plan
from partitions.policy import Policy

# Of two runs at once, the second waits and then finds nothing left to do.
_LOCK = text("SELECT pg_advisory_lock(hashtext('mes-storage partitions'))")

Report = Callable[[Action], None]


def apply(
    engine: Engine,
    policies: Iterable[Policy],
    now: datetime,
    *,
    since: Month | None = None,
    lock_timeout_seconds: float = 3.0,
    report: Report | None = None,
) -> list[Action]:
    """Make a database equal to its policies.

    Parameters:
        engine: connects as the tables' owner, and not through a transaction pooler: it takes a session lock.
        policies: what is wanted.
        now: the current instant, with a time zone.
        since: the earliest month that must stand, when rows wait for one before the current.
        lock_timeout_seconds: how long an action may queue for a table lock, and others behind it.
        report: is told of each action that was done.

    Returns:
        what was done; nothing, when all stood already.

    Raises:
        ActionFailed: PostgreSQL refused an action. The actions before it stay done.
    """
    wanted = tuple(policies)
    with engine.connect() as connection:
        _wait_for_others(connection)
        catalog = read_catalog(connection, [policy.table for policy in wanted])
        connection.rollback()
        actions = plan(wanted, catalog, now, since=since)
        for action in actions:
            _run(connection, action, lock_timeout_seconds)
            if report is not None:
                report(action)
    return actions


def render(actions: Iterable[Action], *, lock_timeout_seconds: float = 3.0) -> str:
    """Give the script that `apply` would run, as psql accepts it."""
    return "\n".join(_script(action, lock_timeout_seconds) for action in actions)


def _wait_for_others(connection: Connection) -> None:
    connection.detach()  # it is closed afterwards, not pooled: that is what releases the lock, come what may
    connection.execute(_LOCK)
    connection.commit()


def _run(connection: Connection, action: Action, lock_timeout_seconds: float) -> None:
    try:
        with connection.begin():
            for statement in _guarded(action, lock_timeout_seconds):
                connection.exec_driver_sql(statement)
    except DBAPIError as fault:
        raise ActionFailed(f"{action.table}: {action.summary}", str(fault.orig).strip()) from fault


def _guarded(action: Action, lock_timeout_seconds: float) -> tuple[str, ...]:
    # A short wait: whoever comes after a waiting DDL statement queues behind it.
    return (f"SET LOCAL lock_timeout = '{round(lock_timeout_seconds * 1000)}ms'", *action.statements())


def _script(action: Action, lock_timeout_seconds: float) -> str:
    body = "".join(f"{statement};\n" for statement in _guarded(action, lock_timeout_seconds))
    return f"-- {action.table}: {action.summary} ({action.why})\nBEGIN;\n{body}COMMIT;\n"
