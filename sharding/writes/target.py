"""What a bulk write writes to: the table, the column that places a row, and what tells rows apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Table, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper

from sharding.keys import is_reference, shard_key_of
from sharding.writes.errors import TargetRefused


class Mode(StrEnum):
    """What is done with a row."""

    INSERT = "insert"
    """A row whose key is there already is an error."""
    INSERT_IGNORE = "insert-ignore"
    """A row whose key is there already is skipped: the same again writes only what is missing."""
    UPDATE = "update"
    """The columns given are set in the row of this key; a key that is not there is skipped."""


@dataclass(frozen=True)
class Target:
    """A table that is placed by a key.

    Parameters:
        table: the table.
        key: the column whose hash places a row.
        identity: the columns that tell one row from another. The mapper's identity may be less than the
            table's primary key, which has the partition key as well.
        version: the column of SQLAlchemy's optimistic lock, if the model has one.
        columns: the column's name, for each name that a row may use.
    """

    table: Table
    key: str
    identity: tuple[str, ...]
    version: str | None
    columns: Mapping[str, str]

    @property
    def primary_key(self) -> tuple[str, ...]:
        """The columns of the table's own primary key."""
        return tuple(column.name for column in self.table.primary_key.columns)

    @property
    def is_narrow(self) -> bool:
        """Whether one identity could stand in the table twice, as far as the primary key goes."""
        return set(self.identity) != set(self.primary_key)


def target_of(entity: type[Any] | Table, *, key: str | None = None) -> Target:
    """Find out what there is to know of a mapped class or a table.

    Parameters:
        entity: the mapped class, or the table.
        key: the column that places a row, of a table that does not declare it.

    Raises:
        TargetRefused: it is neither, has no primary key, no shard key or another one, or every shard has a
            whole copy of it.
    """
    table, mapper = _table_of(entity)
    if not table.primary_key.columns:
        raise TargetRefused(entity, "it has no primary key, so that no row can be told from another")
    key = _key_of(entity, table, given=key)
    identity = mapper.primary_key if mapper else tuple(table.primary_key.columns)
    version = mapper.version_id_col if mapper else None
    return Target(
        table=table,
        key=key,
        identity=tuple(column.name for column in identity),
        version=None if version is None else version.name,
        columns=_names(table, mapper),
    )


def _key_of(entity: type[Any] | Table, table: Table, *, given: str | None) -> str:
    if is_reference(table):
        raise TargetRefused(
            entity, "every shard has a whole copy of it: publish its content by sharding.writes.References"
        )
    declared = shard_key_of(table)
    key = declared or given
    if key is None:
        raise TargetRefused(
            entity, "it declares no shard key: give key=, or declare it with info=shard_key(COLUMN)"
        )
    if given not in (None, key):
        raise TargetRefused(
            entity,
            f"it declares the shard key {declared!r}, and key={given!r} would place rows where nothing finds "
            "them: leave key= out, or correct the declaration",
        )
    if key not in table.c:
        raise TargetRefused(entity, f"it has no column {key!r}")
    return key


def _table_of(entity: type[Any] | Table) -> tuple[Table, Mapper[Any] | None]:
    if isinstance(entity, Table):
        return entity, None
    try:
        mapper = inspect(entity)
    except NoInspectionAvailable:
        mapper = None
    if not isinstance(mapper, Mapper):
        raise TargetRefused(entity, "it is neither a mapped class nor a table")
    if not isinstance(mapper.local_table, Table):
        raise TargetRefused(entity, "it is not mapped to a table")
    return mapper.local_table, mapper


def _names(table: Table, mapper: Mapper[Any] | None) -> dict[str, str]:
    names = {column.name: column.name for column in table.c}
    for attribute in mapper.column_attrs if mapper else ():
        first = attribute.columns[0]
        if isinstance(first, Column):
            names[attribute.key] = first.name
    return names
