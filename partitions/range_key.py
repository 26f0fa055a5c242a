"""RANGE keys: each type's own integers, on which months are compared, and its literals in SQL.

An integer stays as it is. A date counts in days, a timestamp in microseconds, both since 1970-01-01 UTC. All
months are those of UTC: a `timestamp` without time zone is read as UTC, whatever the server's TimeZone says.
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

KeyAt = Callable[[datetime], int]
"""Returns the smallest key of an instant; it must rise with time. ValueError is before the first key."""

DAY = 24 * 60 * 60 * 1_000_000
"""Microseconds of a day; PostgreSQL knows no leap seconds."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CYCLE_YEARS = 400
_CYCLE_DAYS = 146_097
"""The Gregorian calendar repeats itself after so many days."""

_WRITTEN = re.compile(
    r"(?P<year>\d{4,})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?: (?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)(?:\.(?P<fraction>\d{1,6}))?)?"
    r"(?P<offset>[+-]\d\d(?::\d\d){0,2})?(?P<bc> BC)?"
)


class KeyType(StrEnum):
    """The types that a RANGE key may have; the value is PostgreSQL's word for it."""

    INTEGER = "integer"
    """Of any width: smallint, integer, bigint."""

    DATE = "date"
    TIMESTAMP = "timestamp without time zone"
    TIMESTAMPTZ = "timestamp with time zone"

    @property
    def is_time(self) -> bool:
        """Whether a month follows from the key itself."""
        return self is not KeyType.INTEGER

    def at(self, instant: datetime) -> int:
        """Return the smallest key of an instant; of a date, that of its day in UTC.

        Raises:
            ValueError: an integer has no instant of its own.
        """
        microseconds = (instant - _EPOCH) // timedelta(microseconds=1)
        match self:
            case KeyType.DATE:
                return microseconds // DAY
            case KeyType.TIMESTAMP | KeyType.TIMESTAMPTZ:
                return microseconds
            case KeyType.INTEGER:
                raise ValueError("an integer key has no instant of its own")

    def instant(self, key: int) -> datetime:
        """Return the first instant of a key of time.

        Raises:
            OverflowError: it is outside of the years 1 to 9999.
            ValueError: the key is an integer.
        """
        if not self.is_time:
            raise ValueError("an integer key has no instant of its own")
        return _EPOCH + timedelta(microseconds=key * DAY if self is KeyType.DATE else key)

    def literal(self, key: int) -> str:
        """Write a key as it stands in SQL; it means the same under any TimeZone and DateStyle."""
        match self:
            case KeyType.INTEGER:
                return str(key)
            case KeyType.DATE:
                return f"'{_date(key)}{_era(key)}'"
        days, rest = divmod(key, DAY)
        seconds, fraction = divmod(rest, 1_000_000)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        zone = "+00" if self is KeyType.TIMESTAMPTZ else ""
        return f"'{_date(days)} {clock}{f'.{fraction:06}' if fraction else ''}{zone}{_era(days)}'"

    def parse(self, written: str) -> int | None:
        """Read a value as PostgreSQL prints it in DateStyle ISO; None when it is none of this type."""
        if self is KeyType.INTEGER:
            return int(written) if re.fullmatch(r"-?\d+", written) else None
        found = _WRITTEN.fullmatch(written)
        if found is None or (found["hour"] is None) != (self is KeyType.DATE):
            return None
        year = int(found["year"])
        days = _days(1 - year if found["bc"] else year, int(found["month"]), int(found["day"]))
        if self is KeyType.DATE:
            return days
        clock = [int(found[part]) for part in ("hour", "minute", "second")]
        fraction = int((found["fraction"] or "").ljust(6, "0"))
        return days * DAY + (_seconds(clock) - _offset(found["offset"])) * 1_000_000 + fraction


def key_of_value(value: int | date) -> tuple[KeyType, int]:
    """Return the type and the integer of a value as Python has it: a number, a date, or a datetime.

    A datetime without a time zone is a `timestamp`, one with it a `timestamptz`.
    """
    match value:
        case datetime(tzinfo=None):
            return KeyType.TIMESTAMP, KeyType.TIMESTAMP.at(value.replace(tzinfo=UTC))
        case datetime():
            return KeyType.TIMESTAMPTZ, KeyType.TIMESTAMPTZ.at(value)
        case date():
            return KeyType.DATE, value.toordinal() - _EPOCH.toordinal()
    return KeyType.INTEGER, value


def _seconds(clock: list[int]) -> int:
    hours, minutes, seconds = (*clock, 0, 0)[:3]
    return hours * 3600 + minutes * 60 + seconds


def _offset(written: str | None) -> int:
    if written is None:
        return 0
    seconds = _seconds([int(part) for part in written[1:].split(":")])
    return -seconds if written.startswith("-") else seconds


def _days(year: int, month: int, day: int) -> int:
    """Count the days since 1970 of a date in any year; the year before 1 is 0."""
    cycles, within = divmod(year, _CYCLE_YEARS)
    same = date(within + _CYCLE_YEARS, month, day).toordinal() - _EPOCH.toordinal()
    return same + (cycles - 1) * _CYCLE_DAYS


def _calendar(days: int) -> tuple[int, date]:
    """Return the year of a day, and a day of the same month and number that Python has."""
    cycles, within = divmod(days, _CYCLE_DAYS)
    same = _EPOCH.date() + timedelta(days=within)
    return same.year + cycles * _CYCLE_YEARS, same


def _date(days: int) -> str:
    year, same = _calendar(days)
    return f"{year if year > 0 else 1 - year:04}-{same.month:02}-{same.day:02}"


def _era(days: int) -> str:
    return "" if _calendar(days)[0] > 0 else " BC"
