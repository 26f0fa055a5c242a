"""The bounds of partitions: read as PostgreSQL prints them, written as it reads them."""

import re
from dataclasses import dataclass

from partitions.errors import UnknownBound
from partitions.months import KeyRange
from partitions.sql import value_list


@dataclass(frozen=True, slots=True)
class ValueList:
    """The bound of a LIST partition."""

    values: frozenset[str]


@dataclass(frozen=True, slots=True)
class DefaultBound:
    """The bound of a DEFAULT partition."""


Bound = ValueList | KeyRange | DefaultBound

_LITERAL = r"(?:'(?:[^']|'')*'|-?\d+)"
_LIST = re.compile(rf"FOR VALUES IN \(({_LITERAL}(?:, {_LITERAL})*)\)")
_RANGE = re.compile(r"FOR VALUES FROM \('?(-?\d+)'?\) TO \('?(-?\d+)'?\)")


def parse_bound(partition: str, bound: str) -> Bound:
    """Read a bound as `pg_get_expr` prints it.

    Raises:
        UnknownBound: it is neither DEFAULT, nor a list, nor a finite range over one integer column.
    """
    if bound == "DEFAULT":
        return DefaultBound()
    if found := _RANGE.fullmatch(bound):
        return KeyRange(int(found[1]), int(found[2]))
    if found := _LIST.fullmatch(bound):
        return ValueList(frozenset(map(_unquote, re.findall(_LITERAL, found[1]))))
    raise UnknownBound(partition, bound)


def render_bound(bound: Bound) -> str:
    """Write a bound as ATTACH PARTITION takes it."""
    match bound:
        case KeyRange(start, end):
            return f"FOR VALUES FROM ({start}) TO ({end})"
        case ValueList(values):
            return f"FOR VALUES IN ({value_list(values)})"
        case DefaultBound():
            return "DEFAULT"


def _unquote(literal: str) -> str:
    return literal[1:-1].replace("''", "'") if literal.startswith("'") else literal
