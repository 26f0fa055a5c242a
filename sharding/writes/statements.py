"""How a chunk's rows reach their table: COPY, or one statement run for many rows."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import psycopg
from sqlalchemy import Executable, and_, bindparam, cast, exists, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from sharding.keys import shard_key_of
from sharding.ownership import ASK_OWNERSHIP, REFUSED, read_refusal
from sharding.writes.rows import Mode, Row, Target


async def write_rows(connection: AsyncConnection, target: Target, mode: Mode, rows: Sequence[Row]) -> int:
    """Write rows in the connection's transaction.

    Returns:
        how many rows were inserted or updated.

    Raises:
        BucketNotOwned: the shard does not own a row's bucket.
        DBAPIError: the server refused them.
    """
    written = 0
    # Rows with the same columns go together. Only new rows may be put in another order for that: of two rows
    # of one key, an update's last one must win, and an insert-or-ignore's first one.
    ordered = sorted(rows, key=lambda row: row.columns) if mode is Mode.INSERT else rows
    for columns, alike in groupby(ordered, key=lambda row: row.columns):
        values = [row.values for row in alike]
        if mode is Mode.INSERT:
            await _copy(connection, target, columns, values)
            written += len(values)
        else:
            statement, prefixes = _statement(target, mode, columns)
            parameters = [dict(zip(prefixes, row, strict=True)) for row in values]
            # SQLAlchemy forgets the row count of an INSERT unless it is asked to keep it.
            options = {"preserve_rowcount": True}
            result = await connection.execute(statement, parameters, execution_options=options)
            written += result.rowcount
    if written < len(rows) and shard_key_of(target.table) == target.key:
        # A row that is not there has perhaps moved away with its bucket, and the guard sees no such row.
        await connection.exec_driver_sql(ASK_OWNERSHIP, {"keys": [row.key for row in rows]})
    return written


async def _copy(
    connection: AsyncConnection, target: Target, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Insert by COPY, which is several times as fast as INSERT; triggers fire, and defaults hold."""
    quote = connection.dialect.identifier_preparer
    names = ", ".join(quote.quote(name) for name in columns)
    command = f"COPY {quote.format_table(target.table)} ({names}) FROM STDIN"
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)
    try:
        async with driver.cursor() as cursor, cursor.copy(command.encode()) as copy:
            for row in _bound(connection, target, columns, rows):
                await copy.write_row(row)
    except psycopg.Error as error:
        refusal = read_refusal(error.diag.message_detail) if error.sqlstate == REFUSED else None
        if refusal:
            raise refusal from error
        # As SQLAlchemy wraps what runs through it, so that callers see one kind of error.
        lost = driver.closed
        raise DBAPIError(command, None, error, connection_invalidated=lost) from error


def _bound(
    connection: AsyncConnection, target: Target, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> Iterator[Sequence[Any]]:
    """Give values as the column types send them (an enum's text, JSON): COPY knows no types."""
    processors: list[Callable[[Any], Any] | None] = []
    for name in columns:
        kind = target.table.c[name].type.dialect_impl(connection.dialect)
        processors.append(kind.bind_processor(connection.dialect))
    for row in rows:
        yield [process(value) if process else value for process, value in zip(processors, row, strict=True)]


def _statement(target: Target, mode: Mode, columns: Sequence[str]) -> tuple[Executable, list[str]]:
    # A parameter must not be named as a column is: SQLAlchemy would take it for the column's own value.
    names = [f"given_{column}" for column in columns]
    make = _update if mode is Mode.UPDATE else _insert_ignore
    return make(target, dict(zip(columns, names, strict=True))), names


def _insert_ignore(target: Target, names: dict[str, str]) -> Executable:
    table = target.table
    given = {
        column: cast(bindparam(name, type_=table.c[column].type), table.c[column].type)
        for column, name in names.items()
    }
    rows = select(*given.values())
    if target.is_narrow:
        # The primary key has the partition key as well: an order that has moved on to another status would
        # not be found by ON CONFLICT, and stand there twice.
        rows = rows.where(~exists().where(and_(*(table.c[each] == given[each] for each in target.identity))))
    statement = insert(table).from_select(list(given), rows)
    return statement.on_conflict_do_nothing(index_elements=list(target.primary_key))


def _update(target: Target, names: dict[str, str]) -> Executable:
    table, keys = target.table, {target.key, *target.identity}
    found = and_(*(table.c[each] == bindparam(names[each], type_=table.c[each].type) for each in keys))
    values = {
        column: bindparam(name, type_=table.c[column].type)
        for column, name in names.items()
        if column not in keys
    }
    changes: dict[str, Any] = dict(values)
    if target.version and target.version not in changes:
        # Whoever has read the row before must find that it has changed.
        changes[target.version] = table.c[target.version] + 1
    return update(table).where(found).values(changes)
