# Generated from readreplica/commit_resolution.py by `make sync`: change that file, not this one.
"""Asks the present primary for the status of a transaction whose COMMIT got no answer."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from readreplica.errors import CommitInDoubt, is_outage, sqlstate_of
from readreplica.sync.concurrency import deadline, pool_wait, sleep
from readreplica.transaction_status import Evidence, TransactionStatus, judge
from readreplica.wal import SELECT_NEXT_XID, SELECT_RECOVERY_END, SELECT_XACT_STATUS, Lsn, Position

_STATUS = text(SELECT_XACT_STATUS)
_RECOVERY_END = text(SELECT_RECOVERY_END)
_NEXT_XID = text(SELECT_NEXT_XID)

PAUSE_SECONDS = 0.05
LEAST_SECONDS = 1.0
"""How long one answer may take, even where there is no more time."""

IN_FUTURE = "22023"  # invalid_parameter_value: transaction ID is in the future


def resolve(
    engine: Engine,
    in_doubt: CommitInDoubt,
    *,
    was_standby: Callable[[str], bool],
    timeout_seconds: float,
    clock: Callable[[], float],
) -> tuple[TransactionStatus, Position | None]:
    """Ask until the transaction is no longer in progress.

    Parameters:
        engine: a writer engine, which finds the present primary.
        in_doubt: the error with the transaction.
        was_standby: returns whether an incarnation of a server (`wal.INCARNATION`) was seen in recovery.
        timeout_seconds: for how long it is asked, and asked once at least. A primary that takes the question
            and does not answer is given up then; one that takes no connection costs its timeout beside that.
        clock: a monotonic clock, in seconds.

    Returns:
        The status, and where the primary stood when it answered: what has replayed that has the transaction.

    Raises:
        sqlalchemy.exc.DBAPIError: the primary refused the question, or was away to the end.
    """
    before = None
    if in_doubt.before is not None:
        system_identifier, timeline, lsn = in_doubt.before
        before = Position(system_identifier, timeline, Lsn(lsn))
    status, position = TransactionStatus.IN_PROGRESS, None
    horizon = _Horizon()
    give_up_at = clock() + timeout_seconds
    while True:
        try:
            left = max(give_up_at - clock(), LEAST_SECONDS)
            seen = _gather(engine, in_doubt, horizon, was_standby, timeout_seconds=left)
            status = judge(xid=in_doubt.xid, before=before, server=in_doubt.server, seen=seen)
            position = seen.position
        except PoolTimeout:
            pass  # no server could be asked; that says nothing about the transaction
        except DBAPIError as error:
            if clock() >= give_up_at or not is_outage(error):
                raise
        if status is not TransactionStatus.IN_PROGRESS or clock() >= give_up_at:
            return status, position
        sleep(PAUSE_SECONDS)


@dataclass
class _Horizon:
    """A transaction id that a server had given out at the first question.

    The transaction in doubt has a lower one, if it is still in progress there. Its server process cannot be
    looked for: behind a pooler the number that libpq knows is the pooler's own.
    """

    server: str = ""
    xid: int = 0


def _gather(
    engine: Engine,
    in_doubt: CommitInDoubt,
    horizon: _Horizon,
    was_standby: Callable[[str], bool],
    *,
    timeout_seconds: float,
) -> Evidence:
    with ExitStack() as stack:
        with pool_wait(timeout_seconds=timeout_seconds):
            connection = stack.enter_context(engine.connect())
        made: Any = getattr(connection, "sync_connection", connection)  # for threads it is one
        with deadline(made.connection.driver_connection, timeout_seconds=timeout_seconds):
            return _ask(connection, in_doubt, horizon, was_standby)


def _ask(
    connection: Any, in_doubt: CommitInDoubt, horizon: _Horizon, was_standby: Callable[[str], bool]
) -> Evidence:
    found = (connection.execute(_RECOVERY_END)).one()
    status, is_in_future = None, False
    if in_doubt.xid is None and horizon.server != found.incarnation:
        horizon.server, horizon.xid = found.incarnation, (connection.execute(_NEXT_XID)).scalar_one()
    if in_doubt.xid is not None:
        try:
            status = (connection.execute(_STATUS, {"xid": str(in_doubt.xid)})).scalar_one()
        except DBAPIError as error:
            if sqlstate_of(error) != IN_FUTURE:
                raise
            is_in_future = True
    end = Lsn.parse(found.lsn).before_page_header(
        block_bytes=found.wal_block_size, segment_bytes=found.bytes_per_wal_segment
    )
    return Evidence(
        position=Position(found.system_identifier, found.timeline, end),
        server=found.incarnation,
        status=status,
        is_in_future=is_in_future,
        recovered_at=Lsn.parse(found.recovered_at) if found.recovered_at else None,
        was_promoted=was_standby(found.incarnation),
        earlier_are_over=found.oldest_xid >= horizon.xid,
    )
