"""Reference tables: small tables of which every shard has a full copy, written by version.

The content of a version is published in the directory, whole and once; then each shard is brought to it in a
transaction of its own. A shard that is down, or a run that is killed, is behind and is caught up by the next
run: there is nothing in between. docs/adr/016-reference-tables-by-version.md has the reasons. Everything is
computed on the server, so that all shards compute alike.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Column, Numeric, Table, Text, TextClause, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql import bindparam

from sharding.shard_call import cut_after
from sharding.writes.errors import ReferenceAhead, ReferenceConflict, ReferenceInvalid, ReferenceMismatch

_QUOTE = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]

_NEWEST = text("""
    SELECT version, CAST(rows AS text) AS rows, checksum FROM reference_contents
    WHERE tree = :tree AND table_name = :table ORDER BY version DESC LIMIT 1
""")
PUBLISH = text("""
    INSERT INTO reference_contents (tree, table_name, version, rows, checksum)
    VALUES (:tree, :table, :version, CAST(:rows AS jsonb), :checksum)
""").bindparams(bindparam("tree", type_=Text), bindparam("table", type_=Text), bindparam("rows", type_=Text))

# One shard's row is written by one run at a time; a run with an older version finds the newer one.
LOCK_VERSION = text("""
    INSERT INTO reference_versions (table_name, version, checksum) VALUES (:table, 0, '')
    ON CONFLICT (table_name) DO NOTHING
""").bindparams(bindparam("table", type_=Text))
_READ_VERSION = text("SELECT version FROM reference_versions WHERE table_name = :table FOR UPDATE")
RECORD_VERSION = text("""
    UPDATE reference_versions SET version = :version, checksum = :checksum, applied_at = clock_timestamp()
    WHERE table_name = :table
""").bindparams(bindparam("table", type_=Text))

# to_jsonb writes a moment in the session's time zone.
_IN_UTC = text("SET LOCAL timezone = 'UTC'")


def _quoted(names: Iterable[str], prefix: str = "") -> str:
    """Return column names for a statement, separated by commas."""
    return ", ".join(prefix + _QUOTE.quote(name) for name in names)


def _keys_of(table: Table) -> list[str]:
    """Name the columns of the primary key."""
    return [column.name for column in table.primary_key.columns]


def _others_of(table: Table) -> list[str]:
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


def select_checksum(table: Table) -> TextClause:
    """Count the rows that are there, and give their checksum."""
    shown = f"(SELECT to_jsonb(held) AS row FROM {_QUOTE.format_table(table)} AS held) AS shown"
    return text(f"SELECT count(*) AS rows, {_CHECKSUM} AS checksum FROM {shown}")


def upsert(table: Table) -> TextClause:
    """Insert the rows that are missing, and correct those that differ; equal ones are not touched."""
    name, keys, others = _QUOTE.format_table(table), _quoted(_keys_of(table)), _others_of(table)
    columns = _quoted(column.name for column in table.c)
    change = "NOTHING"
    if others:
        values = ", ".join(f"{_quoted([each])} = {_quoted([each], 'excluded.')}" for each in others)
        held, new = (_quoted(others, prefix) for prefix in (f"{name}.", "excluded."))
        change = f"UPDATE SET {values} WHERE ({held}) IS DISTINCT FROM ({new})"
    return _text(
        f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {_given(table)} "
        f"ON CONFLICT ({keys}) DO {change}"
    )


def remove_others(table: Table) -> TextClause:
    """Delete the rows that are not among the given ones."""
    same = " AND ".join(f"{_quoted([key], 'given.')} = {_quoted([key], 'held.')}" for key in _keys_of(table))
    return _text(
        f"DELETE FROM {_QUOTE.format_table(table)} AS held "
        f"WHERE NOT EXISTS (SELECT FROM {_given(table)} AS given WHERE {same})"
    )


def differences(table: Table) -> TextClause:
    """Compare row by row with the given rows."""
    key = f"jsonb_build_array({_quoted(_keys_of(table), 'each.')})"
    name = _QUOTE.format_table(table)
    return _text(f"""
        SELECT CAST(key AS text), CAST(wanted.row AS text) AS wanted, CAST(found.row AS text) AS found
        FROM (SELECT {key} AS key, to_jsonb(each) AS row FROM {_given(table)} AS each) AS wanted
        FULL JOIN (SELECT {key} AS key, to_jsonb(each) AS row FROM {name} AS each) AS found USING (key)
        WHERE wanted.row IS DISTINCT FROM found.row ORDER BY key LIMIT :limit
    """).bindparams(bindparam("limit"))


Row = Mapping[str, Any]
DIRECTORY = "directory"


_BOUNDS = "bounds"


@dataclass(frozen=True)
class NumberBounds:
    """What a number of a reference table may be: finite, at least `least` and below `below`."""

    least: Decimal
    below: Decimal

    def as_info(self) -> dict[str, "NumberBounds"]:
        """Return the entry of `Column.info` that declares the bounds of a column."""
        return {_BOUNDS: self}

    def as_check(self, column: str) -> str:
        """Return the CHECK of a column. PostgreSQL has NaN above all numbers: the upper bound refuses it."""
        return f"{column} >= {self.least} AND {column} < {self.below}"

    def fault(self, number: Decimal) -> str | None:
        """Return what is wrong with a number; None if nothing is."""
        if not number.is_finite():
            return f"is {number}, and must be a number"
        if not self.least <= number < self.below:
            return f"is {number}, and must be at least {self.least} and below {self.below}"
        return None


def fault_of_number(column: Column[Any], value: object) -> str | None:
    """Return what is wrong with a number that is to be written to a column with bounds; None if nothing is.

    A value that is no number yet is for PostgreSQL to judge, which knows the column's type.
    """
    bounds: NumberBounds | None = column.info.get(_BOUNDS)
    if bounds is None or value is None:
        return None
    if isinstance(value, bool):
        return f"is {str(value).lower()}, and must be a number"
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        return None
    scale = column.type.scale if isinstance(column.type, Numeric) else None
    if (fault := bounds.fault(number)) is None and scale is not None and round(number, scale) != number:
        return f"is {number}, and is kept with {scale} decimals only"
    return fault


@dataclass(frozen=True)
class Content:
    """A version of a reference table.

    `rows_json` are its rows as a shard shows them. They stay text on their way: JSON's numbers are exact in
    PostgreSQL, and would be floats here.
    """

    table: str
    version: int
    rows_json: str
    checksum: str

    @property
    def rows(self) -> Sequence[Row]:
        """The rows; numbers are Decimal."""
        rows: Sequence[Row] = _loads(self.rows_json)
        return rows


@dataclass(frozen=True)
class ReferenceCopy:
    """What a shard holds: the version that it was given, and the checksum of the rows that are there now."""

    shard: str
    table: str
    version: int
    noted_checksum: str | None
    checksum: str
    rows: int


@dataclass(frozen=True)
class Difference:
    """A row that differs: as it should be, and as it is; None where there is none."""

    key: Sequence[Any]
    wanted: Row | None
    found: Row | None


class References:
    """The published contents of a tree's tables, in the directory behind `engine`."""

    def __init__(self, engine: AsyncEngine, tree: str, *, timeout_seconds: float = 10.0) -> None:
        self.tree = tree
        self._engine = engine
        self._timeout_seconds = timeout_seconds

    async def newest(self, table: str) -> Content | None:
        """Read the newest version of a reference table; None if none was published yet."""
        async with (
            self._engine.connect() as connection,
            cut_after(connection, shard=DIRECTORY, seconds=self._timeout_seconds),
        ):
            row = (await connection.execute(_NEWEST, {"tree": self.tree, "table": table})).one_or_none()
        return None if row is None else Content(table, row.version, row.rows, row.checksum)

    async def publish(self, content: Content) -> None:
        """Publish a version.

        Raises:
            ReferenceConflict: another run has published this version.
        """
        values = {
            "tree": self.tree,
            "table": content.table,
            "version": content.version,
            "rows": content.rows_json,
            "checksum": content.checksum,
        }
        try:
            async with (
                self._engine.connect() as connection,
                cut_after(connection, shard=DIRECTORY, seconds=self._timeout_seconds),
            ):
                await connection.execute(PUBLISH, values)
                await connection.commit()  # within the time limit
        except IntegrityError as error:
            raise ReferenceConflict(content.table, version=content.version) from error


async def shape(engine: AsyncEngine, table: Table, rows: Sequence[Row], *, version: int) -> Content:
    """Return rows in the form in which every shard will show them, as one computes it; nothing is written.

    Parameters:
        engine: of any shard.
        table: the reference table.
        rows: all its rows; every column is given, None where there is no value.
        version: the version that they are to be.

    Raises:
        ReferenceInvalid: a row has other columns, no key, a key twice, or there is no row.
        DBAPIError: a value is not of its column's type.
    """
    _check(table, rows)
    async with engine.connect() as connection:
        await connection.execute(_IN_UTC)
        shown = (await connection.execute(canonical(table), {"rows": _as_json(rows)})).one()
    # A table's name is a word of SQLAlchemy's own, and what becomes of it is for JSON and SQL.
    content = Content(str(table.name), version, shown.rows, shown.checksum)
    _refuse_twice(table, content.rows)
    return content


async def apply(engine: AsyncEngine, table: Table, content: Content, *, shard: str, seconds: float) -> bool:
    """Bring a shard to a version, in one transaction. Readers see the version before, or this one.

    Parameters:
        engine: writes to the shard.
        table: the reference table.
        content: the version.
        shard: the shard's name.
        seconds: how long the shard may take.

    Returns:
        False if the shard has a later version already, because another run was faster.

    Raises:
        ReferenceMismatch: the shard does not hold the rows as given; it was rolled back.
        DBAPIError: the shard refused, or cannot be reached.
        ShardTimedOut: it did not answer.
    """
    async with engine.connect() as connection, cut_after(connection, shard=shard, seconds=seconds):
        name = {"table": table.name}
        await connection.execute(LOCK_VERSION, name)
        if (await connection.execute(_READ_VERSION, name)).scalar_one() > content.version:
            return False
        rows = {"rows": content.rows_json}
        # Deleted first: a row may have left its unique value to another one.
        await connection.execute(remove_others(table), rows)
        await connection.execute(upsert(table), rows)
        _, checksum = await _checksum(connection, table)
        if checksum != content.checksum:
            raise ReferenceMismatch(table.name, shard, version=content.version)
        noted = {**name, "version": content.version, "checksum": checksum}
        await connection.execute(RECORD_VERSION, noted)
        await connection.commit()  # within the time limit
    return True


async def read_copy(engine: AsyncEngine, table: Table, *, shard: str, seconds: float) -> ReferenceCopy:
    """Read what a shard holds; the rows are added up anew, so that a change by hand is seen."""
    async with engine.connect() as connection, cut_after(connection, shard=shard, seconds=seconds):
        held = text("SELECT version, checksum FROM reference_versions WHERE table_name = :table")
        noted = (await connection.execute(held, {"table": table.name})).one_or_none()
        rows, checksum = await _checksum(connection, table)
    return ReferenceCopy(
        shard=shard,
        table=table.name,
        version=noted.version if noted else 0,
        noted_checksum=noted.checksum if noted else None,
        checksum=checksum,
        rows=rows,
    )


async def read_differences(
    engine: AsyncEngine, table: Table, content: Content, *, shard: str, seconds: float, limit: int
) -> list[Difference]:
    """Compare a shard's rows with a version, one by one; return `limit` differences at most."""
    async with engine.connect() as connection, cut_after(connection, shard=shard, seconds=seconds):
        await connection.execute(_IN_UTC)
        values = {"rows": content.rows_json, "limit": limit}
        found = (await connection.execute(differences(table), values)).all()
    return [Difference(*map(_loads, row)) for row in found]


def next_version(newest: Content | None, copies: Iterable[ReferenceCopy]) -> int:
    """Return the version that comes next: beyond the directory's, and beyond every shard's. Pure."""
    return max([newest.version if newest else 0, *(copy.version for copy in copies)]) + 1


def fault_of(copy: ReferenceCopy, content: Content | None) -> str | None:
    """Return what is wrong with a shard's copy; None if it is as published. Pure.

    Raises:
        ReferenceAhead: the shard has a version that the directory does not know.
    """
    if content is None:
        return "nothing was published, and the shard has rows" if copy.rows or copy.version else None
    if copy.version > content.version:
        raise ReferenceAhead(copy.table, copy.shard, shard_version=copy.version, version=content.version)
    if copy.version < content.version:
        return f"version {copy.version}, and {content.version} is published"
    if copy.checksum != content.checksum:
        return "rows differ from the version that it claims to have"
    return None


async def _checksum(connection: AsyncConnection, table: Table) -> tuple[int, str]:
    await connection.execute(_IN_UTC)
    row = (await connection.execute(select_checksum(table))).one()
    return row.rows, row.checksum


def _check(table: Table, rows: Sequence[Row]) -> None:
    if not rows:
        raise ReferenceInvalid(table.name, "there are no rows, which would empty it on every shard")
    columns = {column.name for column in table.c}
    for number, row in enumerate(rows, start=1):
        for what, names in (("unknown", row.keys() - columns), ("missing", columns - row.keys())):
            if names:
                raise ReferenceInvalid(table.name, f"row {number}: {what} columns {', '.join(sorted(names))}")
        empty = [key for key in _keys_of(table) if row[key] is None]
        if empty:
            raise ReferenceInvalid(table.name, f"row {number}: {', '.join(empty)} is empty")


def _refuse_twice(table: Table, rows: Sequence[Row]) -> None:
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        key = tuple(row[name] for name in _keys_of(table))
        if key in seen:
            raise ReferenceInvalid(table.name, f"the key {key} is there twice")
        seen.add(key)


def _as_json(rows: Sequence[Row]) -> str:
    """Write rows for the server; what JSON does not know (money, moments) goes as text, as it was written."""
    return json.dumps(list(map(dict, rows)), default=str)


def _loads(written: str | None) -> Any:
    return None if written is None else json.loads(written, parse_float=Decimal)
