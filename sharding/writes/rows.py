"""One row of a bulk write, checked before a shard hears of it. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import InstanceState

from sharding.writes.errors import RowRefused

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
