"""Names and values as they stand in SQL."""

import re
from collections.abc import Iterable
from hashlib import sha256

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
MAX_NAME_BYTES = 63
HASH_LETTERS = 8


def identifier(name: str) -> str:
    """Write a name; in quotes when a person made it who likes capitals, or words of SQL."""
    return (
        name if _PLAIN.fullmatch(name) and name not in RESERVED_WORDS else '"' + name.replace('"', '""') + '"'
    )


def cut(name: str, *, room_bytes: int = 0) -> str:
    """Cut a name as PostgreSQL does, behind 63 bytes, and not within a letter; `room_bytes` are kept free."""
    return name.encode()[: MAX_NAME_BYTES - room_bytes].decode(errors="ignore")


def unique_name(name: str) -> str:
    """Cut a name that is too long so that it stays another than one that begins alike."""
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    return f"{cut(name, room_bytes=1 + HASH_LETTERS)}_{sha256(name.encode()).hexdigest()[:HASH_LETTERS]}"


def unique_name_sql(name: str) -> str:
    """Write `unique_name` of a text in SQL."""
    short = f"{cut_sql(name, room_bytes=1 + HASH_LETTERS)} || '_' || {hash_sql(name)}"
    return f"CASE WHEN octet_length({name}) <= {MAX_NAME_BYTES} THEN {name} ELSE {short} END"


def cut_sql(name: str, *, room_bytes: int) -> str:
    """Write `cut` of a text in SQL: the cast to name cuts, and what fills the room in front goes again."""
    return f"substr((repeat('x', {room_bytes}) || {name})::name::text, {room_bytes + 1})"


def hash_sql(value: str) -> str:
    """Write a few letters that differ with a text, in SQL."""
    return f"left(encode(sha256(convert_to({value}, 'UTF8')), 'hex'), {HASH_LETTERS})"


def qualified(name: str, schema: str | None) -> str:
    """Write the name of a relation with its schema; without one, PostgreSQL looks along its search path."""
    return identifier(name) if schema is None else f"{identifier(schema)}.{identifier(name)}"


def literal(value: str) -> str:
    """Write a text."""
    return "'" + value.replace("'", "''") + "'"


def value_list(values: Iterable[str]) -> str:
    """Write texts as they stand behind IN, in their order."""
    return ", ".join(literal(value) for value in sorted(values))


def regclass(name: str, schema: str | None = None) -> str:
    """Write a name as the oid of its relation; NULL when there is none."""
    return f"to_regclass({literal(qualified(name, schema))})"
