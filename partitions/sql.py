"""Names and values as they stand in SQL."""

import re
from collections.abc import Iterable

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


def identifier(name: str) -> str:
    """Write a name; in quotes when a person made it who likes capitals."""
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Write a text."""
    return "'" + value.replace("'", "''") + "'"


def value_list(values: Iterable[str]) -> str:
    """Write texts as they stand behind IN, in their order."""
    return ", ".join(literal(value) for value in sorted(values))


def regclass(name: str) -> str:
    """Write a name as the oid of its relation; NULL when there is none."""
    return f"to_regclass({literal(identifier(name))})"
