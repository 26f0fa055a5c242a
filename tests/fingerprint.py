"""Whether a database's catalogs are as they were, read in a few milliseconds.

Every change of a row gives it a transaction number that is higher than all before it, and a row that is
gone is missed by the count: number of rows and highest `xmin` of each catalog tell whether it was changed.
What VACUUM and ANALYZE write in place escapes that, and is read beside it.
"""

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

Fingerprint = Mapping[str, Any]

_CATALOGS = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared ORDER BY relname"""

_ROWS = "SELECT {name}, count(*), max(xmin::text::bigint) FROM pg_catalog.{catalog}"
# What autovacuum finds out about the catalogs themselves is nobody's doing.
_ONLY = {"pg_statistic": " WHERE starelid >= 16384"}

# TRUNCATE resets it for tables; a parent has no rows of its own and keeps what ANALYZE found.
_PARENTS = """
    SELECT coalesce(string_agg(oid || ':' || reltuples, ' ' ORDER BY oid), '') FROM pg_class
    WHERE relkind = 'p' AND oid >= 16384"""

_SHARED = """
    SELECT d.datdba, d.datistemplate, d.datallowconn, d.datconnlimit, d.dattablespace, d.datacl::text,
        (SELECT coalesce(string_agg(setrole || setconfig::text, ' ' ORDER BY setrole), '')
            FROM pg_db_role_setting WHERE setdatabase = d.oid),
        (SELECT count(*) FROM pg_prepared_xacts WHERE database = d.datname),
        (SELECT count(*) FROM pg_replication_slots WHERE database = d.datname),
        (SELECT count(*) FROM pg_subscription WHERE subdbid = d.oid),
        (SELECT coalesce(string_agg(description, ' '), '') FROM pg_shdescription
            WHERE objoid = d.oid AND classoid = 'pg_database'::regclass),
        (SELECT coalesce(string_agg(label, ' '), '') FROM pg_shseclabel
            WHERE objoid = d.oid AND classoid = 'pg_database'::regclass)
    FROM pg_database AS d WHERE d.oid = %s"""


def read_local(connection: psycopg.Connection[Any]) -> Fingerprint:
    """Read what stands in the catalogs of the database itself."""
    names = [name for (name,) in connection.execute(_CATALOGS)]
    each = [
        sql.SQL(_ROWS + _ONLY.get(name, "")).format(name=sql.Literal(name), catalog=sql.Identifier(name))
        for name in names
    ]
    found: dict[str, Any] = {
        name: (rows, newest) for name, rows, newest in connection.execute(sql.SQL(" UNION ALL ").join(each))
    }
    [found["analyzed parents"]] = connection.execute(_PARENTS).fetchone() or [None]
    return found


def read_shared(server: psycopg.Connection[Any], oid: int) -> tuple[Any, ...] | None:
    """Read what the server's shared catalogs say about a database; None when there is no such database."""
    return server.execute(_SHARED, [oid]).fetchone()


def differences(before: Fingerprint, after: Fingerprint) -> list[str]:
    """Name the catalogs that differ."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
