"""The statements that fence a primary, and those that show whether the fence holds.

`default_transaction_read_only` is a default for transactions that begin: one that had begun writes on, and
may take its id only then. So every transaction that was under way when it came into force has to end. Nor
does it bind those that say READ WRITE themselves, and COMMIT PREPARED is no write to it.
"""

from typing import Any

import psycopg

FENCE = "ALTER SYSTEM SET default_transaction_read_only = on"

UNFENCE = "ALTER SYSTEM RESET default_transaction_read_only"

RELOAD = "SELECT pg_reload_conf()"

# The postmaster signals its children before it starts another: asked over a new connection, `on` means that
# every process was signalled, and each one reads the setting before its next command.
IN_FORCE = "SELECT current_setting('default_transaction_read_only')::boolean"

NOW = "SELECT clock_timestamp()::text"

# One message may hold several transactions (CALL, or a simple query with COMMIT in it), and settings are read
# between messages: so the statement's begin counts beside the transaction's. A session that hides what
# it does (track_activities = off) counts always. Autovacuum's writes are no client's.
UNDER_WAY = """
    SELECT concat('pid ', pid, ' of ', usename, ' (', coalesce(state, backend_type), ' since ',
                  to_char(coalesce(xact_start, query_start), 'HH24:MI:SS'), ')') AS who
    FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND backend_type NOT IN ('autovacuum worker', 'walsender')
    AND (xact_start < {fence} OR (query_start < {fence} AND state <> 'idle')
         OR backend_xid IS NOT NULL OR state = 'disabled')
    UNION ALL
    SELECT concat('prepared transaction ', quote_literal(gid), ' in ', database) FROM pg_prepared_xacts
"""

# Past every id that a finished transaction had. Reading may write WAL too (pruning, hint bits), and has none.
IDS = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"

EXCEPTED = """
    SELECT concat_ws(' in ', rolname, datname)
    FROM pg_db_role_setting
    LEFT JOIN pg_roles ON pg_roles.oid = setrole LEFT JOIN pg_database ON pg_database.oid = setdatabase,
    unnest(setconfig) AS setting
    WHERE setting LIKE 'default_transaction_read_only=%' AND NOT split_part(setting, '=', 2)::boolean
"""
"""Whose own setting outweighs the server's."""

PROMOTE = "SELECT pg_promote(true, 60)"


def query_column(connection: psycopg.Connection, query: str, **values: str) -> list[Any]:
    """Return the first column of the answer to a query, with values at its {names}."""
    text = query.format(**{name: f"%({name})s" for name in values}) if values else query
    return [row[0] for row in connection.execute(text.encode(), values or None).fetchall()]


def query_value(connection: psycopg.Connection, query: str, **values: str) -> Any:
    """Return the one value that a query answers."""
    [value] = query_column(connection, query, **values)
    return value
