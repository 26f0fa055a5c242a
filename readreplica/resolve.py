"""Asks the primary of now what became of a COMMIT whose answer was lost."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from readreplica.concurrency import deadline, pool_wait, sleep
from readreplica.errors import CommitInDoubt
from readreplica.fate import LIFE, Evidence, Fate, judge
from readreplica.faults import is_outage, sqlstate_of
from readreplica.lsn import Lsn
from readreplica.token import Position

_STATUS = text("SELECT pg_xact_status(CAST(CAST(:xid AS text) AS xid8))")
# The position of the end of recovery stays readable on a primary that was promoted, or that crashed.
_SITUATION = text(f"""
    SELECT system_identifier,
           ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint AS timeline,
           pg_current_wal_insert_lsn()::text AS lsn,
           pg_last_wal_replay_lsn()::text AS recovered_at,
           {LIFE} AS server,
           pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS oldest,
           wal_block_size,
           bytes_per_wal_segment
    FROM pg_control_system(), pg_control_init()
""")
# The snapshot's own upper bound will not do: it is the first id after those that have ended.
_NEXT_XID = text("SELECT pg_current_xact_id()::text::bigint")
PAUSE_SECONDS = 0.05
LEAST_SECONDS = 1.0
"""How long one answer may take, even where there is no more time."""

IN_FUTURE = "22023"  # invalid_parameter_value: transaction ID is in the future


async def resolve(
    engine: AsyncEngine,
    doubt: CommitInDoubt,
    *,
    was_standby: Callable[[str], bool],
    timeout_seconds: float,
    clock: Callable[[], float],
) -> tuple[Fate, Position | None]:
    """Ask until the transaction is no longer in progress.

    Parameters:
        engine: a writer engine, which finds the primary of now.
        doubt: what is in doubt.
        was_standby: tells whether a life of a server (`fate.LIFE`) was seen in recovery.
        timeout_seconds: for how long it is asked, and asked once at least. A primary that takes the question
            and does not answer is given up then; one that takes no connection costs the time to find out.
        clock: a monotonic clock, in seconds.

    Returns:
        The fate, and where the primary stood when it told: whoever has replayed that has the transaction.
    """
    before = None
    if doubt.before is not None:
        system_identifier, timeline, lsn = doubt.before
        before = Position(system_identifier, timeline, Lsn(lsn))
    fate, position = Fate.IN_PROGRESS, None
    horizon = _Horizon()
    give_up_at = clock() + timeout_seconds
    while True:
        try:
            left = max(give_up_at - clock(), LEAST_SECONDS)
            seen = await _gather(engine, doubt, horizon, was_standby, timeout_seconds=left)
            fate = judge(xid=doubt.xid, before=before, server=doubt.server, seen=seen)
            position = seen.position
        except PoolTimeout:
            pass  # nobody could be asked; that says nothing about the transaction
        except DBAPIError as error:
            if clock() >= give_up_at or not is_outage(error):
                raise
        if fate is not Fate.IN_PROGRESS or clock() >= give_up_at:
            return fate, position
        await sleep(PAUSE_SECONDS)


@dataclass
class _Horizon:
    """A transaction id that was given out when a server was asked first.

    The transaction in doubt has a lower one, if it is at work there still. Its server process cannot be
    looked for: behind a pooler the number that libpq knows is the pooler's invention.
    """

    server: str = ""
    xid: int = 0


async def _gather(
    engine: AsyncEngine,
    doubt: CommitInDoubt,
    horizon: _Horizon,
    was_standby: Callable[[str], bool],
    *,
    timeout_seconds: float,
) -> Evidence:
    async with AsyncExitStack() as stack:
        async with pool_wait(timeout_seconds=timeout_seconds):
            connection = await stack.enter_async_context(engine.connect())
        made: Any = getattr(connection, "sync_connection", connection)  # the twin's is one
        async with deadline(made.connection.driver_connection, timeout_seconds=timeout_seconds):
            return await _ask(connection, doubt, horizon, was_standby)


async def _ask(
    connection: Any, doubt: CommitInDoubt, horizon: _Horizon, was_standby: Callable[[str], bool]
) -> Evidence:
    found = (await connection.execute(_SITUATION)).one()
    status, is_in_future = None, False
    if doubt.xid is None and horizon.server != found.server:
        horizon.server, horizon.xid = found.server, (await connection.execute(_NEXT_XID)).scalar_one()
    if doubt.xid is not None:
        try:
            status = (await connection.execute(_STATUS, {"xid": str(doubt.xid)})).scalar_one()
        except DBAPIError as error:
            if sqlstate_of(error) != IN_FUTURE:
                raise
            is_in_future = True
    end = Lsn.parse(found.lsn).before_page_header(
        block_bytes=found.wal_block_size, segment_bytes=found.bytes_per_wal_segment
    )
    return Evidence(
        position=Position(found.system_identifier, found.timeline, end),
        server=found.server,
        status=status,
        is_in_future=is_in_future,
        recovered_at=Lsn.parse(found.recovered_at) if found.recovered_at else None,
        was_promoted=was_standby(found.server),
        earlier_are_over=found.oldest >= horizon.xid,
    )
