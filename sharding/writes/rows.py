"""The table of a bulk write, its rows, checked before one is sent, and the report of what was written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Column, Table, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import InstanceState, Mapper

from readreplica.token import CausalToken
from sharding.keys import is_reference, shard_key_of
from sharding.writes.errors import RowRefused, TargetRefused


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
        raise TargetRefused(entity, "it has no primary key, so that no row can be identified")
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


_FIXED_BYTES = 16
"""What a number, a moment or a UUID is taken for."""


class Row(NamedTuple):
    """A row on its way: where it stood in the input, its shard key, its columns and about how large it is."""

    number: int
    key: int
    columns: tuple[str, ...]
    values: tuple[Any, ...]
    size_bytes: int


def read_row(target: Target, mode: Mode, number: int, given: Any) -> Row:
    """Make a row of a mapping or of a mapped object.

    Of an object only the attributes that were set count; the others are left to the server's defaults.

    Parameters:
        target: where the row goes.
        mode: what is done with it.
        number: where it stands in the input, from 1.
        given: the mapping, or the object.

    Raises:
        RowRefused: it has no key, an unknown column, or nothing to set.
    """
    values = _values(target, number, given)
    if mode is Mode.UPDATE:
        needed, rest = {target.key, *target.identity}, values.keys() - {target.key, *target.identity}
        if not rest:
            raise RowRefused(number, "it sets nothing beside its key")
    else:
        needed = {target.key, *target.primary_key}
        if target.version:  # as the mapper begins to count
            values.setdefault(target.version, 1)
    missing = sorted(name for name in needed if values.get(name) is None)
    if missing:
        raise RowRefused(number, f"it has no {', '.join(missing)}")
    size = sum(map(_size_of, values.values()))
    return Row(number, values[target.key], tuple(values), tuple(values.values()), size)


def _values(target: Target, number: int, given: Any) -> dict[str, Any]:
    named = given if isinstance(given, Mapping) else _attributes(target, number, given)
    try:
        return {target.columns[name]: value for name, value in named.items()}
    except KeyError as unknown:
        raise RowRefused(number, f"{target.table.name} has no column {unknown}") from None


def _attributes(target: Target, number: int, given: Any) -> dict[str, Any]:
    try:
        state = inspect(given)
    except NoInspectionAvailable:
        state = None
    if not isinstance(state, InstanceState) or state.mapper.local_table is not target.table:
        fault = f"it is a {type(given).__name__}, neither a mapping nor an object of {target.table.name}"
        raise RowRefused(number, fault)
    attributes = state.mapper.column_attrs.keys()
    return {name: state.dict[name] for name in attributes if name in state.dict}


def _size_of(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict | list | tuple):
        return len(repr(value))
    return _FIXED_BYTES


@dataclass
class ShardReport:
    """The rows of one shard. `given` is the sum of the five counts below it.

    Parameters:
        shard: its name.
        given: rows that belong to it.
        written: rows that were inserted or updated.
        skipped: rows that were there already, or, of an update, were not there.
        failed: rows of chunks that were rolled back; a chunk is written whole or not at all.
        in_doubt: rows of chunks whose COMMIT was not answered; each of these is there whole, or not at all.
        not_tried: rows that were left because the write had stopped, or the shard was out.
        rerouted: rows among `given` that another shard refused, because it no longer owned their bucket.
        chunks: transactions that were committed.
        seconds: time spent with the shard.
        first_error: the first failure, in words.
        unwritten_keys: the least and the greatest key of the rows that are not known to be written.
        is_out: whether the shard was given up: it timed out, or could not be reached twice.
        token: what a read must have seen to see every commit.
    """

    shard: str
    given: int = 0
    written: int = 0
    skipped: int = 0
    failed: int = 0
    in_doubt: int = 0
    not_tried: int = 0
    rerouted: int = 0
    chunks: int = 0
    seconds: float = 0.0
    first_error: str | None = None
    unwritten_keys: tuple[int, int] | None = None
    is_out: bool = False
    token: CausalToken = field(default_factory=CausalToken)

    @property
    def unwritten(self) -> int:
        """Rows that are not known to be written."""
        return self.failed + self.in_doubt + self.not_tried

    def widen(self, keys: tuple[int, int]) -> None:
        """Note keys of rows that were not written."""
        low, high = self.unwritten_keys or keys
        self.unwritten_keys = min(low, keys[0]), max(high, keys[1])

    def as_facts(self) -> dict[str, Any]:
        """Return it for JSON: keys as text, because JavaScript loses integers above 2^53."""
        keys = self.unwritten_keys
        return {
            **{name: value for name, value in vars(self).items() if name not in {"token", "unwritten_keys"}},
            "unwritten_keys": keys and [str(key) for key in keys],
            "token": self.token.encode(),
        }


@dataclass
class BulkReport:
    """What became of a bulk write.

    Parameters:
        shards: a report for each shard that was given rows.
        refused: rows that never reached a shard, because they cannot be written.
        first_refusal: why the first of these was refused.
    """

    shards: dict[str, ShardReport] = field(default_factory=dict)
    refused: int = 0
    first_refusal: str | None = None

    def of(self, shard: str) -> ShardReport:
        """Return the report of a shard."""
        return self.shards.setdefault(shard, ShardReport(shard))

    @property
    def written(self) -> int:
        """Rows written on all shards."""
        return sum(report.written for report in self.shards.values())

    @property
    def is_complete(self) -> bool:
        """Whether every row was written or skipped."""
        return not self.refused and not any(report.unwritten for report in self.shards.values())

    @property
    def token(self) -> CausalToken:
        """What a read must have seen to see every commit of every shard."""
        token = CausalToken()
        for report in self.shards.values():
            token = token.merge(report.token)
        return token

    def summary(self) -> str:
        """Return one line: what was written, and what was not."""
        parts = [_words_of(report) for _, report in sorted(self.shards.items())]
        if self.refused:
            parts.append(f"{self.refused} rows refused ({self.first_refusal})")
        return "; ".join(parts) or "no rows"


def _words_of(report: ShardReport) -> str:
    counts: Mapping[str, int] = {
        "skipped": report.skipped,
        "failed": report.failed,
        "in doubt": report.in_doubt,
        "not tried": report.not_tried,
    }
    words = [f"{report.shard}: {report.written} of {report.given} rows written"]
    words += [f"{count} {what}" for what, count in counts.items() if count]
    if report.unwritten_keys:
        words.append("keys {} to {}".format(*report.unwritten_keys))
    return ", ".join(words) + (f" ({report.first_error})" if report.first_error else "")
