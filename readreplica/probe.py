"""The question that the monitor asks a node, and the reading of its answer. Shared by both twins."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from sqlalchemy import URL

from readreplica.fate import LIFE, STARTED
from readreplica.health import Observation
from readreplica.lsn import Lsn
from readreplica.token import Position

CONNECT_TIMEOUT_SECONDS = 3
WAITS_FOR_LSN = 190000
"""The server version from which `WAIT FOR LSN` is there."""

TIMELINE = "('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint"
"""The SQL that tells which timeline a primary writes on; a standby raises."""

# CASE keeps each function from where it raises: a primary has no replay to pause, a standby writes nowhere.
# In recovery the control file tells that of the last restartpoint: it may be late, and is never ahead.
_SEEN = f"""
    SELECT in_recovery,
           system_identifier,
           CASE WHEN in_recovery
                THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                              (SELECT min_recovery_end_timeline FROM pg_control_recovery()))
                ELSE {TIMELINE}
           END,
           CASE WHEN in_recovery THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END,
           wal_block_size,
           bytes_per_wal_segment,
           (SELECT received_tli FROM pg_stat_wal_receiver),
           EXISTS (SELECT FROM pg_stat_wal_receiver),
           CASE WHEN in_recovery THEN pg_get_wal_replay_pause_state() <> 'not paused' ELSE false END,
           ({STARTED})::text,
           {LIFE}
    FROM pg_control_system(), pg_control_init(), (SELECT pg_is_in_recovery() AS in_recovery) AS role
"""


def seen(*, timeout_seconds: float) -> str:
    """Give the question, as one simple query that sets its own time limit.

    SET LOCAL in a transaction works through a pooler in transaction mode, where an option of the connection
    is refused and a plain SET leaks to others.
    """
    milliseconds = max(1, int(timeout_seconds * 1000))
    return f"BEGIN READ ONLY; SET LOCAL statement_timeout = {milliseconds}; {_SEEN}; COMMIT"


def wait_statement(server_version: int, lsn: Lsn, *, timeout_seconds: float) -> str | None:
    """Give the statement that waits in the server until a position is replayed; None before PostgreSQL 19.

    It looks at the LSN alone and not at the timeline (src/backend/commands/wait.c), so the question must be
    asked after it all the same. It stands by itself, outside of a transaction with a snapshot.
    """
    if server_version < WAITS_FOR_LSN:
        return None
    milliseconds = max(1, int(timeout_seconds * 1000))
    return f"WAIT FOR LSN '{lsn}' WITH (MODE 'standby_replay', TIMEOUT '{milliseconds}ms', NO_THROW)"


def read_answer(row: Sequence[Any], *, at: float, server_version: int) -> Observation:
    """Read a row of the question's answer.

    Parameters:
        row: the row.
        at: when it was asked, by the monotonic clock.
        server_version: the server's version, as libpq tells it.
    """
    in_recovery, system, timeline, lsn, block, segment, received, has_receiver, paused, server, life = row
    position = None
    if lsn is not None:
        found = Lsn.parse(lsn)
        if not in_recovery:
            found = found.before_page_header(block_bytes=block, segment_bytes=segment)
        position = Position(system, timeline, found)
    return Observation(
        at=at,
        in_recovery=in_recovery,
        position=position,
        received_timeline=received,
        has_receiver=has_receiver,
        replay_paused=paused,
        server=server,
        life=life,
        server_version=server_version,
    )


def life_of(connection: Any) -> str | None:
    """Ask a new connection of a pool which server it leads to, and in which life: `Observation.life`.

    One round trip, and nothing that a role may be denied by default. None where it is not told.

    Parameters:
        connection: the driver's, or SQLAlchemy's around an asynchronous one.
    """
    try:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"SELECT {LIFE}")
        found: str = cursor.fetchone()[0]
        cursor.close()
        connection.autocommit = False
    except (psycopg.ProgrammingError, psycopg.NotSupportedError):
        connection.autocommit = False
        return None
    except BaseException:
        connection.close()  # nobody else has it yet
        raise
    return found


def connect_arguments(url: URL, *, application_name: str) -> Mapping[str, Any]:
    """Give psycopg's words for a connection of the monitor's own to the server of a URL."""
    return {
        **url.translate_connect_args(username="user", database="dbname"),
        **url.query,
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "autocommit": True,
        "prepare_threshold": None,
    }
