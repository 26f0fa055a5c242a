"""Names and values as they stand in SQL."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from partitions.private_api import RESERVED_WORDS

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_QUOTED = r'"(?:[^"]|"")+"'
_DOTTED = re.compile(rf'(?:({_QUOTED}|[^".]+)\.)?({_QUOTED}|[^".]+)', re.DOTALL)
# Words that SQLAlchemy leaves out: some name a column, and yet begin something else (`row::bigint`).
_MORE_WORDS = re.compile(
    "bigint|bit|boolean|char|character|coalesce|collation|concurrently|dec|decimal|exists|"
    "extract|float|greatest|grouping|inout|int|integer|interval|json|json_array|"
    "json_arrayagg|json_exists|json_object|json_objectagg|json_query|json_scalar|json_serialize|"
    "json_table|json_value|lateral|least|merge_action|national|nchar|none|normalize|nullif|"
    "numeric|out|overlay|position|precision|real|row|setof|smallint|substring|system_user|"
    "tablesample|time|timestamp|treat|trim|values|varchar|xmlattributes|xmlconcat|xmlelement|"
    "xmlexists|xmlforest|xmlnamespaces|xmlparse|xmlpi|xmlroot|xmlserialize|xmltable"
)
_UNCLEAR = re.compile(r'[".]')
QUOTE = '"'
MAX_NAME_BYTES = 63
HASH_LETTERS = 8


def identifier(name: str) -> str:
    """Write a name; in quotes when a person made it who likes capitals, or words of SQL."""
    is_word = name in RESERVED_WORDS or _MORE_WORDS.fullmatch(name) is not None
    return name if _PLAIN.fullmatch(name) and not is_word else '"' + name.replace('"', '""') + '"'


def unquoted(name: str) -> str:
    """Read a name that may stand in SQL's quotes, as far as PostgreSQL does."""
    return cut(name[1:-1].replace('""', '"') if re.fullmatch(_QUOTED, name, re.DOTALL) else name)


@dataclass(frozen=True, slots=True)
class RelationName:
    """A table's name, and its schema where it was given one. `str` writes it as it stands in SQL."""

    name: str
    schema: str | None = None

    @classmethod
    def of(cls, written: str) -> "RelationName":
        """Read a name as the catalogue has it, or in SQL's quotes, with or without a schema before a dot."""
        found = _DOTTED.fullmatch(written)
        if found is None:
            return cls(cut(written))
        schema, name = found.groups()
        return cls(unquoted(name), None if schema is None else unquoted(schema))

    def beside(self, name: str) -> "RelationName":
        """Return the name of an object in the same schema."""
        return RelationName(name, self.schema)

    @property
    def text(self) -> str:
        """Write it as people do; `of` reads it back, so a part with a dot or a quote in it is in quotes."""
        parts = [part for part in (self.schema, self.name) if part is not None]
        return ".".join(
            f'"{part.replace(QUOTE, QUOTE * 2)}"' if _UNCLEAR.search(part) else part for part in parts
        )

    @property
    def regclass(self) -> str:
        """Write its oid; NULL when there is no such relation."""
        return f"to_regclass({literal(str(self))})"

    def __str__(self) -> str:
        return ".".join(identifier(part) for part in (self.schema, self.name) if part is not None)


def relation(table: str) -> str:
    """Write the name of a table, which may have its schema before a dot, as it stands in SQL."""
    return str(RelationName.of(table))


def relation_oid(table: str) -> str:
    """Write a table's name, which may have its schema before a dot, as an oid; NULL when it is absent."""
    return RelationName.of(table).regclass


def canonical(table: str) -> str:
    """Write the name of a table in the one way in which names are compared."""
    return RelationName.of(table).text


def beside(table: str, name: str) -> str:
    """Return the name of a table or an index in the schema of another table."""
    return RelationName.of(table).beside(name).text


def bare(table: str) -> str:
    """Return the name of a table without its schema, as the catalogue has it."""
    return RelationName.of(table).name


def schema_of(table: str) -> str | None:
    """Return the schema that the name of a table says."""
    return RelationName.of(table).schema


def cut(name: str, *, room_bytes: int = 0) -> str:
    """Cut a name as PostgreSQL does, behind 63 bytes, and not within a letter; `room_bytes` are kept free."""
    return name.encode()[: MAX_NAME_BYTES - room_bytes].decode(errors="ignore")


def object_name(stem: str, suffix: str = "", *, number: int = 0) -> str:
    """Return the name of an object that is made for another: two stems have two names, also when cut.

    Parameters:
        stem: what it is made for; cut where all would be too long, with its hash in place of what is cut off.
        suffix: what it is; never cut.
        number: distinguishes it from others of that name, as PostgreSQL does; none when 0.
    """
    ending = f"{suffix}{number or ''}"
    if len((stem + ending).encode()) <= MAX_NAME_BYTES:
        return stem + ending
    ending = f"_{hashlib.sha256(stem.encode()).hexdigest()[:HASH_LETTERS]}{ending}"
    return cut(stem, room_bytes=len(ending.encode())) + ending


def unique_name_sql(name: str) -> str:
    """Write `object_name` of a text in SQL."""
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
    return str(RelationName(name, schema))


def literal(value: str) -> str:
    """Write a text."""
    quoted = "'" + value.replace("'", "''") + "'"
    # E and twice: the same text whatever standard_conforming_strings says.
    return "E" + quoted.replace("\\", "\\\\") if "\\" in value else quoted


def dollar_quoted(body: str, tag: str) -> str:
    """Write a text in dollars, for it to be read easily; the tag becomes longer when the text has it."""
    while f"${tag}$" in body:
        tag += "_"
    return f"${tag}${body}${tag}$"


def texts(values: Iterable[str]) -> str:
    """Write an array of texts, in their order."""
    return f"ARRAY[{', '.join(map(literal, values))}]::text[]"


def value_list(values: Iterable[str]) -> str:
    """Write texts as they stand behind IN, in their order."""
    return ", ".join(literal(value) for value in sorted(values))


def regclass(name: str, schema: str | None = None) -> str:
    """Write a name as the oid of its relation; NULL when there is none."""
    return f"to_regclass({literal(qualified(name, schema))})"
