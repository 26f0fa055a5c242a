"""Positions in the write-ahead log, and all SQL that asks a server for them.

A position is an LSN in the history that it belongs to: the cluster's system identifier and its timeline. What
is asked here differs by moment: behind COMMIT, before it, at a poll of the monitor, before a read.
"""

import re
from typing import NamedTuple, Self

from readreplica.errors import LsnMalformed

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class Lsn(int):
    """An LSN: a number of 64 bits that PostgreSQL writes as `X/Y`; later positions are greater."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read PostgreSQL's notation.

        Raises:
            LsnMalformed: the text is not `X/Y` in hexadecimal.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise LsnMalformed(text)
        return cls(int(found[1], 16) << 32 | int(found[2], 16))

    def before_page_header(self, *, block_bytes: int, segment_bytes: int) -> Self:
        """Return the end of the last record, if this is the insert position.

        When a record ends exactly with its page, the insert position already stands behind the header of
        the next page (24 bytes; 40 on the first page of a segment; src/include/access/xlog_internal.h).
        A replica's replay position does not, and would seem to be behind for as long as nothing is written.
        """
        header_bytes = 40 if self % segment_bytes < block_bytes else 24
        return type(self)(self - header_bytes) if self % block_bytes == header_bytes else self

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn('{self}')"


class Position(NamedTuple):
    """A place in the history of one cluster."""

    system_identifier: int
    timeline: int
    lsn: Lsn

    def covers(self, wanted: "Position") -> bool:
        """Return whether a node that stands here has everything that `wanted` asks for.

        A node on a newer timeline has all that survived of the older one, whatever its LSN: a token of an
        older timeline asks for nothing more there. What it named beyond the fork was lost in the failover,
        and waiting would not bring it back. A node on an older timeline may have the same LSN with other
        content, so it covers nothing.
        """
        if self.system_identifier != wanted.system_identifier or self.timeline < wanted.timeline:
            return False
        return self.timeline > wanted.timeline or self.lsn >= wanted.lsn


UNKNOWN_SYSTEM = 0
"""The system of a position whose server could not be asked: a read after it goes to the primary."""

UNKNOWN_POSITION = Position(UNKNOWN_SYSTEM, 0, Lsn(0))
"""The position of a commit of which nothing else is known."""


def merge_positions(one: Position, other: Position) -> Position:
    """Return the position that asks for what two of one cluster ask for; see `CausalToken.merge`."""
    if one.system_identifier == other.system_identifier:
        return max(one, other)
    return one if one.system_identifier == UNKNOWN_SYSTEM else other


class ServerIdentity(NamedTuple):
    """What never changes while a server runs: it is read once."""

    system_identifier: int
    wal_block_bytes: int
    wal_segment_bytes: int
    started: str
    """When its postmaster started."""

    def position(self, lsn: str, *, file: str) -> Position:
        """Return the position of an insert LSN, in the history that this server writes.

        Parameters:
            lsn: as PostgreSQL writes it.
            file: the name of the WAL file that is written, which begins with the timeline.
        """
        insert = Lsn.parse(lsn)
        end = insert.before_page_header(
            block_bytes=self.wal_block_bytes, segment_bytes=self.wal_segment_bytes
        )
        return Position(self.system_identifier, int(file[:8], 16), end)


# A postmaster that restarts its processes after a crash keeps its start; the statistics begin anew then
# (src/backend/access/transam/xlog.c: pgstat_discard_stats). Resetting them by hand looks the same.
# As numbers, for the text of a time depends on the session's settings.
_STARTED = "(date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint"
_STATS_RESET = "(date_part('epoch', pg_stat_get_bgwriter_stat_reset_time()) * 1000000)::bigint"
INCARNATION = f"{_STARTED} || '.' || coalesce({_STATS_RESET}, 0)"
"""The SQL expression that differs after each start of a server, and after each recovery from a crash."""

_TIMELINE = "('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint"

SELECT_TIMELINE = f"SELECT {_TIMELINE}"
"""The timeline that a primary writes on; a standby raises."""

SELECT_IN_RECOVERY = "SELECT pg_is_in_recovery()"
SELECT_LSN = """
    SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END
"""
"""What a standby has replayed, or where a primary writes."""

# The name of a WAL file begins with the timeline that the server writes on now; pg_control_checkpoint would
# return that of the last checkpoint, which after a promotion is still the old one. The start of its
# postmaster tells one server from another, behind a pooler, for a fraction of what reading the control file
# takes; as a number, for the text of a time depends on the session's settings.
# It is planned anew with each COMMIT: with names to look up in the search path, and the timeline cut out
# here, it would take as long again as COMMIT itself.
_INSERT_POSITION = """
    SELECT pg_catalog.pg_current_wal_insert_lsn() AS lsn,
           pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) AS file,
           pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()) AS started
"""

# A simple query may hold several statements: COMMIT ends the transaction, and what follows it runs in one of
# its own. The LSN must be read after COMMIT; before it, it is too early.
COMMIT_WITH_POSITION = f"COMMIT; {_INSERT_POSITION}".encode()
"""Its second answer has LSN, WAL file and the start of the postmaster."""

IDENTIFY_SERVER = f"""
    SELECT system_identifier, wal_block_size, bytes_per_wal_segment, lsn, file, started::text
    FROM pg_control_system(), pg_control_init(), ({_INSERT_POSITION}) AS position
"""
"""The fields of `ServerIdentity`, but for LSN and WAL file before the last one."""

# Everything is asked anew: behind a pooler the server may be another one than at connect.
IDENTIFY_TRANSACTION = f"""
    SELECT pg_current_xact_id_if_assigned()::text::bigint,
           pg_current_wal_insert_lsn(),
           pg_walfile_name(pg_current_wal_insert_lsn()),
           {INCARNATION},
           (pg_control_system()).system_identifier
"""
"""The transaction's id (NULL where it has written nothing) with LSN, WAL file, incarnation and system."""

SELECT_XACT_STATUS = "SELECT pg_xact_status(CAST(CAST(:xid AS text) AS xid8))"
# The snapshot's own upper bound will not do: it is the first id after those that have ended.
SELECT_NEXT_XID = "SELECT pg_current_xact_id()::text::bigint"

# The position of the end of recovery stays readable on a primary that was promoted, or that crashed.
SELECT_RECOVERY_END = f"""
    SELECT system_identifier,
           {_TIMELINE} AS timeline,
           pg_current_wal_insert_lsn()::text AS lsn,
           pg_last_wal_replay_lsn()::text AS recovered_at,
           {INCARNATION} AS incarnation,
           pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS oldest_xid,
           wal_block_size,
           bytes_per_wal_segment
    FROM pg_control_system(), pg_control_init()
"""
"""Where a primary stands, where its last recovery ended, and its oldest transaction in progress."""

# CASE keeps each function from where it raises: a primary has no replay to pause, a standby writes nowhere.
# In recovery the control file has the timeline of the last restartpoint: it may be late, and is never ahead.
_POLL = f"""
    SELECT in_recovery,
           system_identifier,
           CASE WHEN in_recovery
                THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                              (SELECT min_recovery_end_timeline FROM pg_control_recovery()))
                ELSE {_TIMELINE}
           END,
           CASE WHEN in_recovery THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END,
           wal_block_size,
           bytes_per_wal_segment,
           (SELECT received_tli FROM pg_stat_wal_receiver),
           EXISTS (SELECT FROM pg_stat_wal_receiver),
           CASE WHEN in_recovery THEN pg_get_wal_replay_pause_state() <> 'not paused' ELSE false END,
           ({_STARTED})::text,
           {INCARNATION}
    FROM pg_control_system(), pg_control_init(), (SELECT pg_is_in_recovery() AS in_recovery) AS role
"""

# Where a record ends with its page, the insert position stands behind the header of the next page, and replay
# does not; see `Lsn.before_page_header`. A commit may be as short as that: nothing else is subtracted.
SELECT_RECORD_END = """
    SELECT insert_lsn - CASE WHEN (insert_lsn - '0/0') % segment_bytes = 40 THEN 40
                             WHEN (insert_lsn - '0/0') % block_bytes = 24 THEN 24 ELSE 0 END
    FROM (SELECT pg_current_wal_insert_lsn() AS insert_lsn,
                 current_setting('wal_block_size')::numeric AS block_bytes,
                 pg_size_bytes(current_setting('wal_segment_size'))::numeric AS segment_bytes) AS server
"""
"""The end of the last record that a primary has written, which a standby can have replayed."""

SELECT_HAS_REPLAYED = "SELECT pg_last_wal_replay_lsn() >= {position}::pg_lsn"
"""Whether a standby has replayed up to an LSN, to be put at `position` as a parameter or a literal."""

SELECT_SLOTS = """
SELECT slot_name::text AS name, active AS is_active, coalesce(wal_status, '') = 'lost' AS is_lost,
       coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                                     ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint AS wal_bytes
FROM pg_replication_slots WHERE database IS NULL OR database = current_database()
"""
"""The slots of the database, and the physical ones, which are the whole server's, with the WAL they hold."""

SELECT_REPLICATION = """
    SELECT application_name, state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint
    FROM pg_stat_replication
"""
"""The standbys that a primary sends to: name, state, and the bytes that each has not replayed."""

SELECT_SLOT_WAL = """
    SELECT slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) AS bytes
    FROM pg_replication_slots WHERE restart_lsn IS NOT NULL AND NOT pg_is_in_recovery()
    ORDER BY bytes DESC, slot_name LIMIT :most
"""
"""The slots of a primary that hold most WAL back, and the bytes; for SQLAlchemy's `text`."""

WAIT_FOR_LSN_VERSION = 190000
"""The server version from which `WAIT FOR LSN` is there."""


def poll_statement(*, timeout_seconds: float) -> str:
    """Return what the monitor asks a node, as one simple query that sets its own time limit.

    SET LOCAL in a transaction works through a pooler in transaction mode, where an option of the connection
    is refused and a plain SET leaks to others. `readreplica.health.read_observation` reads the answer.
    """
    milliseconds = max(1, int(timeout_seconds * 1000))
    return f"BEGIN READ ONLY; SET LOCAL statement_timeout = {milliseconds}; {_POLL}; COMMIT"


def wait_statement(server_version: int, lsn: Lsn, *, timeout_seconds: float) -> str | None:
    """Return the statement that waits in the server until an LSN is replayed; None before PostgreSQL 19.

    It looks at the LSN alone and not at the timeline (src/backend/commands/wait.c), so the node must be
    polled after it all the same. It stands by itself, outside of a transaction with a snapshot.

    Parameters:
        server_version: as libpq returns it, such as 180001.
        lsn: what is to be replayed.
        timeout_seconds: how long it waits at most.
    """
    if server_version < WAIT_FOR_LSN_VERSION:
        return None
    milliseconds = max(1, int(timeout_seconds * 1000))
    return f"WAIT FOR LSN '{lsn}' WITH (MODE 'standby_replay', TIMEOUT '{milliseconds}ms', NO_THROW)"
