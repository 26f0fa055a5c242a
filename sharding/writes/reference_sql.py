"""The SQL of reference tables. Everything is computed on the server, so that all shards compute alike."""

from collections.abc import Iterable

from sqlalchemy import Table, Text, TextClause, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql import bindparam

_QUOTE = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]

NEWEST = text("""
    SELECT version, CAST(rows AS text) AS rows, checksum FROM reference_contents
    WHERE tree = :tree AND table_name = :table ORDER BY version DESC LIMIT 1
""")
PUBLISH = text("""
    INSERT INTO reference_contents (tree, table_name, version, rows, checksum)
    VALUES (:tree, :table, :version, CAST(:rows AS jsonb), :checksum)
""").bindparams(bindparam("tree", type_=Text), bindparam("table", type_=Text), bindparam("rows", type_=Text))

# One shard's row is written by one run at a time; a run with an older version finds the newer one.
TAKE_VERSION = text("""
    INSERT INTO reference_versions (table_name, version, checksum) VALUES (:table, 0, '')
    ON CONFLICT (table_name) DO NOTHING
""").bindparams(bindparam("table", type_=Text))
READ_VERSION = text("SELECT version FROM reference_versions WHERE table_name = :table FOR UPDATE")
NOTE_VERSION = text("""
    UPDATE reference_versions SET version = :version, checksum = :checksum, applied_at = clock_timestamp()
    WHERE table_name = :table
""").bindparams(bindparam("table", type_=Text))

# to_jsonb writes a moment in the session's time zone.
STEADY = text("SET LOCAL timezone = 'UTC'")


def quoted(names: Iterable[str], prefix: str = "") -> str:
    """Give column names for a statement, separated by commas."""
    return ", ".join(prefix + _QUOTE.quote(name) for name in names)


def keys_of(table: Table) -> list[str]:
    """Name the columns of the primary key."""
    return [column.name for column in table.primary_key.columns]


def others_of(table: Table) -> list[str]:
    """Name the columns beside the primary key."""
    return [column.name for column in table.c if not column.primary_key]


def _given(table: Table) -> str:
    return f"jsonb_populate_recordset(NULL::{_QUOTE.format_table(table)}, CAST(:rows AS jsonb))"


def _text(statement: str) -> TextClause:
    return text(statement).bindparams(bindparam("rows", type_=Text))


def canonical(table: Table) -> TextClause:
    """Show rows as the table would: numbers with its scale, moments in UTC; and their checksum."""
    shown = f"(SELECT to_jsonb(given) AS row FROM {_given(table)} AS given) AS shown"
    rows = "CAST(coalesce(jsonb_agg(row), '[]') AS text) AS rows"
    return _text(f"SELECT {rows}, {_CHECKSUM} AS checksum FROM {shown}")


# The order of the rows does not count: the hashes are put in an order of their own, by their bytes.
_HASH = "encode(sha256(convert_to(row::text, 'UTF8')), 'hex')"
_CHECKSUM = f"""encode(sha256(convert_to(
    coalesce(string_agg({_HASH}, '' ORDER BY {_HASH} COLLATE "C"), ''), 'UTF8')), 'hex')"""


def checksum(table: Table) -> TextClause:
    """Count the rows that are there, and give their checksum."""
    shown = f"(SELECT to_jsonb(held) AS row FROM {_QUOTE.format_table(table)} AS held) AS shown"
    return text(f"SELECT count(*) AS rows, {_CHECKSUM} AS checksum FROM {shown}")


def upsert(table: Table) -> TextClause:
    """Insert the rows that are missing, and correct those that differ; equal ones are not touched."""
    name, keys, others = _QUOTE.format_table(table), quoted(keys_of(table)), others_of(table)
    columns = quoted(column.name for column in table.c)
    change = "NOTHING"
    if others:
        values = ", ".join(f"{quoted([each])} = {quoted([each], 'excluded.')}" for each in others)
        held, new = (quoted(others, prefix) for prefix in (f"{name}.", "excluded."))
        change = f"UPDATE SET {values} WHERE ({held}) IS DISTINCT FROM ({new})"
    return _text(
        f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {_given(table)} "
        f"ON CONFLICT ({keys}) DO {change}"
    )


def remove_others(table: Table) -> TextClause:
    """Delete the rows that are not among the given ones."""
    same = " AND ".join(f"{quoted([key], 'given.')} = {quoted([key], 'held.')}" for key in keys_of(table))
    return _text(
        f"DELETE FROM {_QUOTE.format_table(table)} AS held "
        f"WHERE NOT EXISTS (SELECT FROM {_given(table)} AS given WHERE {same})"
    )


def differences(table: Table) -> TextClause:
    """Compare row by row with the given rows."""
    key = f"jsonb_build_array({quoted(keys_of(table), 'each.')})"
    name = _QUOTE.format_table(table)
    return _text(f"""
        SELECT CAST(key AS text), CAST(wanted.row AS text) AS wanted, CAST(found.row AS text) AS found
        FROM (SELECT {key} AS key, to_jsonb(each) AS row FROM {_given(table)} AS each) AS wanted
        FULL JOIN (SELECT {key} AS key, to_jsonb(each) AS row FROM {name} AS each) AS found USING (key)
        WHERE wanted.row IS DISTINCT FROM found.row ORDER BY key LIMIT :limit
    """).bindparams(bindparam("limit"))
