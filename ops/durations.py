"""Durations as people type them."""

import re
from datetime import timedelta

import typer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_TEXT = re.compile(r"(\d{1,6})([smhdw])")


def parse_duration(text: str) -> timedelta:
    """Read `30d`, `12h`, `90m` or `0s`.

    Raises:
        BadParameter: the text is no duration.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration: write it like 30d, 12h, 90m or 0s")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def format_duration(duration: timedelta) -> str:
    """Write a duration so that `parse_duration` reads it back; parts of a second are dropped."""
    seconds = int(duration.total_seconds())
    for unit, size in (("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
