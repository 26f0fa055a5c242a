# Generated from readreplica/resolve.py by `make twins`: change that file, not this one.
"""Asks the primary of now what became of a COMMIT whose answer was lost."""

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from readreplica.errors import CommitInDoubt
from readreplica.fate import Evidence, Fate, judge
from readreplica.faults import is_outage, sqlstate_of
from readreplica.lsn import Lsn
from readreplica.sync.concurrency import sleep
from readreplica.sync.connections import WriterConnection
from readreplica.token import Position

_STATUS = text("SELECT pg_xact_status(CAST(CAST(:xid AS text) AS xid8))")
# The position of the end of recovery stays readable on a primary that was promoted, until it is restarted.
_SITUATION = text("""
    SELECT pg_last_wal_replay_lsn()::text,
           EXISTS (SELECT FROM pg_stat_activity WHERE pid = :pid AND pid <> pg_backend_pid())
""")
PAUSE_SECONDS = 0.05
IN_FUTURE = "22023"  # invalid_parameter_value: transaction ID is in the future


def resolve(engine: Engine, doubt: CommitInDoubt, *, attempts: int) -> Fate:
    """Ask until the transaction is no longer in progress.

    Parameters:
        engine: a writer engine, which finds the primary of now.
        doubt: what is in doubt.
        attempts: how often it is asked at most, a twentieth of a second apart. A primary that is away costs
            an attempt as well.
    """
    before = None
    if doubt.before is not None:
        system_identifier, timeline, lsn = doubt.before
        before = Position(system_identifier, timeline, Lsn(lsn))
    fate = Fate.IN_PROGRESS
    for attempt in range(attempts):
        if attempt:
            sleep(PAUSE_SECONDS)
        try:
            fate = judge(xid=doubt.xid, before=before, server=doubt.server, seen=_gather(engine, doubt))
        except DBAPIError as error:
            if attempt + 1 == attempts or not is_outage(error):
                raise
            continue
        if fate is not Fate.IN_PROGRESS:
            break
    return fate


def _gather(engine: Engine, doubt: CommitInDoubt) -> Evidence:
    with engine.connect() as connection:
        assert connection is not None
        driver = connection.connection.driver_connection
        assert isinstance(driver, WriterConnection)
        parameters = {"pid": doubt.backend_pid}
        forked_at, backend_is_there = (connection.execute(_SITUATION, parameters)).one()
        status, is_in_future = None, False
        if doubt.xid is not None:
            try:
                status = (connection.execute(_STATUS, {"xid": str(doubt.xid)})).scalar_one()
            except DBAPIError as error:
                if sqlstate_of(error) != IN_FUTURE:
                    raise
                is_in_future = True
    return Evidence(
        position=driver.position,
        server=driver.server.started,
        status=status,
        is_in_future=is_in_future,
        forked_at=Lsn.parse(forked_at) if forked_at else None,
        backend_is_there=backend_is_there,
    )
