"""The bounds of partitions: calendar months in UTC with their keys, key ranges, lists of values."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from partitions.errors import InfiniteBound, UnknownBound
from partitions.range_key import KeyAt, KeyType
from partitions.sql import identifier, value_list

_TEXT = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")


@dataclass(frozen=True, order=True, slots=True)
class KeyRange:
    """Keys from `start` (in it) to `end` (not in it); both are the integers of their type."""

    start: int
    end: int
    type: KeyType = KeyType.INTEGER

    def __str__(self) -> str:
        return f"{self.type.literal(self.start)} to {self.type.literal(self.end)}"

    def condition(self, column: str) -> str:
        """Write that a column's value is in it."""
        name = identifier(column)
        return f"{name} >= {self.type.literal(self.start)} AND {name} < {self.type.literal(self.end)}"

    def overlaps(self, other: "KeyRange") -> bool:
        """Return whether some key is in both."""
        return self.start < other.end and other.start < self.end

    def covers(self, other: "KeyRange") -> bool:
        """Return whether every key of `other` is in this one."""
        return self.start <= other.start and other.end <= self.end


@dataclass(frozen=True, order=True, slots=True)
class Month:
    """A calendar month in UTC; months compare as time does."""

    year: int
    number: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= 12:
            raise ValueError(f"month {self.number} is not between 1 and 12")

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:02}"

    @classmethod
    def of(cls, instant: datetime) -> "Month":
        """Return the month of an instant, which must have a time zone."""
        if instant.tzinfo is None:
            raise ValueError(f"{instant} has no time zone")
        in_utc = instant.astimezone(UTC)
        return cls(in_utc.year, in_utc.month)

    @classmethod
    def parse(cls, text: str) -> "Month":
        """Read `2026-11`."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not a month: write it like 2026-11")
        return cls(int(found[1]), int(found[2]))

    @property
    def start(self) -> datetime:
        """The first instant of the month."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def next(self) -> "Month":
        """The month after this one."""
        return self.later(1)

    @property
    def previous(self) -> "Month":
        """The month before this one."""
        return self.later(-1)

    def later(self, months: int) -> "Month":
        """Return the month that comes so many months later (earlier, when negative)."""
        years, index = divmod(self.number - 1 + months, 12)
        return Month(self.year + years, index + 1)

    def keys(self, key_at: KeyAt, key_type: KeyType = KeyType.INTEGER) -> KeyRange:
        """Return the keys of the month: from its first instant to the next month's."""
        return KeyRange(key_at(self.start), key_at(self.next.start), key_type)


def months_through(first: Month, last: Month) -> Iterator[Month]:
    """Return every month from `first` to `last`, both included."""
    month = first
    while month <= last:
        yield month
        month = month.next


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
_END = r"(MINVALUE|MAXVALUE|'(?:[^']|'')*'|-?\d+)"
_RANGE = re.compile(rf"FOR VALUES FROM \({_END}\) TO \({_END}\)")
_INFINITE = frozenset({"MINVALUE", "MAXVALUE", "infinity", "-infinity"})


def parse_bound(partition: str, bound: str, key_type: KeyType | None = KeyType.INTEGER) -> Bound:
    """Read a bound as `pg_get_expr` prints it in DateStyle ISO.

    Parameters:
        partition: whose it is.
        bound: its text.
        key_type: the type of a RANGE key; None is one that no month can be made of.

    Raises:
        InfiniteBound: a range has no end.
        UnknownBound: it is neither DEFAULT, nor a list, nor a finite range over one column of that type.
    """
    if bound == "DEFAULT":
        return DefaultBound()
    if found := _RANGE.fullmatch(bound):
        ends = [_unquote(end) for end in found.groups()]
        if not _INFINITE.isdisjoint(ends):
            raise InfiniteBound(partition, bound)
        start, end = (None, None) if key_type is None else map(key_type.parse, ends)
        if key_type is None or start is None or end is None:
            raise UnknownBound(partition, bound)
        return KeyRange(start, end, key_type)
    if found := _LIST.fullmatch(bound):
        return ValueList(frozenset(map(_unquote, re.findall(_LITERAL, found[1]))))
    raise UnknownBound(partition, bound)


def render_bound(bound: Bound) -> str:
    """Write a bound as ATTACH PARTITION takes it."""
    match bound:
        case KeyRange(start, end, key_type):
            return f"FOR VALUES FROM ({key_type.literal(start)}) TO ({key_type.literal(end)})"
        case ValueList(values):
            return f"FOR VALUES IN ({value_list(values)})"
        case DefaultBound():
            return "DEFAULT"


def _unquote(literal: str) -> str:
    return literal[1:-1].replace("''", "'") if literal.startswith("'") else literal
