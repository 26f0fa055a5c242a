"""The time, so that it can be passed in."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the present moment, with a time zone."""


def utc_now() -> datetime:
    """Read the system's clock."""
    return datetime.now(UTC)
