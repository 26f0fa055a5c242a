"""Reference tables: small tables of which every shard has a full copy, written by version.

The content of a version is published in the directory, whole and once; then each shard is brought to it in a
transaction of its own. A shard that is down, or a run that is killed, is behind and is caught up by the next
run: there is nothing in between. docs/adr/010-reference-tables-by-version.md has the reasons.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Column, Numeric, Table, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from sharding.shard_call import cut_after
from sharding.writes.errors import (
    ReferenceAhead,
    ReferenceConflict,
    ReferenceInvalid,
    ReferenceMismatch,
)
from sharding.writes.reference import LOCK_VERSION, RECORD_VERSION

Row = Mapping[str, Any]
DIRECTORY = "directory"


_BOUNDS = "bounds"


@dataclass(frozen=True)
class NumberBounds:
    """What a number of a reference table may be: finite, at least `least` and below `below`."""

    least: Decimal
    below: Decimal

    def as_info(self) -> dict[str, "Bounds"]:
        """Return the entry of `Column.info` that declares the bounds of a column."""
        return {_BOUNDS: self}

    def as_check(self, column: str) -> str:
        """Write the CHECK of a column. PostgreSQL has NaN above all numbers: the upper bound refuses it."""
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
            row = (await connection.execute(sql.NEWEST, {"tree": self.tree, "table": table})).one_or_none()
        return None if row is None else Content(table, row.version, row.rows, row.checksum)

    async def publish(self, content: Content) -> None:
        """Publish a version.

        Raises:
            ReferenceConflict: somebody else has published this version.
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
                await connection.execute(sql.PUBLISH, values)
                await connection.commit()  # within the time limit
        except IntegrityError as error:
            raise ReferenceConflict(content.table, version=content.version) from error


async def shape(engine: AsyncEngine, table: Table, rows: Sequence[Row], *, version: int) -> Content:
    """Give rows the form in which every shard will show them, by asking one; nothing is written.

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
        await connection.execute(sql.STEADY)
        shown = (await connection.execute(sql.canonical(table), {"rows": _as_json(rows)})).one()
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
        if (await connection.execute(sql.READ_VERSION, name)).scalar_one() > content.version:
            return False
        rows = {"rows": content.rows_json}
        # Deleted first: a row may have left its unique value to another one.
        await connection.execute(sql.remove_others(table), rows)
        await connection.execute(sql.upsert(table), rows)
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
    """Compare a shard's rows with a version, one by one; give `limit` differences at most."""
    async with engine.connect() as connection, cut_after(connection, shard=shard, seconds=seconds):
        await connection.execute(sql.STEADY)
        values = {"rows": content.rows_json, "limit": limit}
        found = (await connection.execute(sql.differences(table), values)).all()
    return [Difference(*map(_loads, row)) for row in found]


def next_version(newest: Content | None, copies: Iterable[ReferenceCopy]) -> int:
    """Tell the version that comes next: beyond the directory's, and beyond every shard's. Pure."""
    return max([newest.version if newest else 0, *(copy.version for copy in copies)]) + 1


def fault_of(copy: ReferenceCopy, content: Content | None) -> str | None:
    """Say what is wrong with a shard's copy; None if it is as published. Pure.

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
    await connection.execute(sql.STEADY)
    row = (await connection.execute(sql.checksum(table))).one()
    return row.rows, row.checksum


def _check(table: Table, rows: Sequence[Row]) -> None:
    if not rows:
        raise ReferenceInvalid(table.name, "there are no rows, which would empty it on every shard")
    columns = {column.name for column in table.c}
    for number, row in enumerate(rows, start=1):
        for what, names in (("unknown", row.keys() - columns), ("missing", columns - row.keys())):
            if names:
                raise ReferenceInvalid(table.name, f"row {number}: {what} columns {', '.join(sorted(names))}")
        empty = [key for key in sql.keys_of(table) if row[key] is None]
        if empty:
            raise ReferenceInvalid(table.name, f"row {number}: {', '.join(empty)} is empty")


def _refuse_twice(table: Table, rows: Sequence[Row]) -> None:
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        key = tuple(row[name] for name in sql.keys_of(table))
        if key in seen:
            raise ReferenceInvalid(table.name, f"the key {key} is there twice")
        seen.add(key)


def _as_json(rows: Sequence[Row]) -> str:
    """Write rows for the server; what JSON does not know (money, moments) goes as text, as it was written."""
    return json.dumps(list(map(dict, rows)), default=str)


def _loads(written: str | None) -> Any:
    return None if written is None else json.loads(written, parse_float=Decimal)
