"""Names and values as they stand in SQL."""

import re
from collections.abc import Iterable

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
MAX_NAME_BYTES = 63


def identifier(name: str) -> str:
    """Write a name; in quotes when a person made it who likes capitals, or words of SQL."""
    return (
        name if _PLAIN.fullmatch(name) and name not in RESERVED_WORDS else '"' + name.replace('"', '""') + '"'
    )


def cut(name: str) -> str:
    """Cut a name as PostgreSQL does, behind 63 bytes, and not within a letter."""
    return name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def literal(value: str) -> str:
    """Write a text."""
    return "'" + value.replace("'", "''") + "'"


def value_list(values: Iterable[str]) -> str:
    """Write texts as they stand behind IN, in their order."""
    return ", ".join(literal(value) for value in sorted(values))


def regclass(name: str) -> str:
    """Write a name as the oid of its relation; NULL when there is none."""
    return f"to_regclass({literal(identifier(name))})"
