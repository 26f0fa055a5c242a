"""What of SQLAlchemy is used here and SQLAlchemy does not document.

A test holds `PRIVATE_NAMES` to the version that is installed.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

__all__ = ["PRIVATE_NAMES", "RESERVED_WORDS"]

PRIVATE_NAMES: Mapping[str, Sequence[str]] = {
    "sqlalchemy.dialects.postgresql.base": ("RESERVED_WORDS",),
}
"""Each name that is used, by module."""
