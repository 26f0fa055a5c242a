"""How a type is spelt, and whether a column has it. Pure."""

import re

from partitions.online.change import has_columns
from partitions.sql import RelationName, literal, unquoted

_SAME = {
    "int8": "bigint",
    "int": "integer",
    "int4": "integer",
    "int2": "smallint",
    "float": "double precision",
    "float8": "double precision",
    "float4": "real",
    "bool": "boolean",
    "varchar": "character varying",
    "char varying": "character varying",
    "nchar varying": "character varying",
    "national character varying": "character varying",
    "national char varying": "character varying",
    "char": "character",
    "nchar": "character",
    "national character": "character",
    "national char": "character",
    "bpchar": "character",
    "decimal": "numeric",
    "dec": "numeric",
    "varbit": "bit varying",
    "time": "time without time zone",
    "timetz": "time with time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
}
_PARTS = re.compile(
    r"(?P<name>[a-z][a-z0-9 ]*?) ?(?:\((?P<sizes>[-0-9, ]+)\))?(?P<zone> with(?:out)? time zone)?"
)
_ARRAY = re.compile(r"(?: ?\[[0-9]*\])+$| array(?: ?\[[0-9]+\])?$")
_SINGLE_PRECISION_BITS = 24


def canonical(kind: str) -> str:
    """Spell a type of PostgreSQL as PostgreSQL prints it; another type is given back as it is."""
    plain = " ".join(kind.split())
    if '"' in plain:
        return plain
    lower = plain.lower().removeprefix("pg_catalog.")
    element = _ARRAY.sub("", lower)
    found = _PARTS.fullmatch(element)
    if found is None:
        return plain
    name, sizes = found["name"] + (found["zone"] or ""), (found["sizes"] or "").replace(" ", "")
    name, sizes = _with_sizes(_SAME.get(name, name), sizes, is_bpchar=name == "bpchar")
    return _put(name, sizes) + ("[]" if element != lower else "")


def _with_sizes(name: str, sizes: str, *, is_bpchar: bool) -> tuple[str, str]:
    match name:
        case "character" if is_bpchar and not sizes:
            return "bpchar", ""
        case "character" | "bit" if not sizes:
            return name, "1"
        case "numeric" if sizes and "," not in sizes:
            return name, f"{sizes},0"
        case "double precision" if sizes:
            return ("real" if int(sizes) <= _SINGLE_PRECISION_BITS else name), ""
        case "time" | "timestamp":
            return f"{name} without time zone", sizes
        case _:
            return name, sizes


def _put(name: str, sizes: str) -> str:
    word, space, zone = name.partition(" ")
    if not sizes:
        return name
    # timestamp(3) with time zone, but character varying(10)
    return f"{word}({sizes}){space}{zone}" if zone.endswith("time zone") else f"{name}({sizes})"


def cut_by(kind: str, value: str) -> str | None:
    """Render the condition that a cast to a type cuts a value, or fills it up; None when it never does.

    ALTER COLUMN ... TYPE refuses such a value, and `::` does not.
    """
    found = re.fullmatch(r"(character|bit)( varying)?\((\d+)\)", canonical(kind))
    if found is None:
        return None
    wrong = "<>" if found[1] == "bit" and not found[2] else ">"
    return f"length(CAST({value} AS text)) {wrong} {found[3]}"


def may_be_same(kind: str, other: str) -> bool:
    """Return whether two spellings could mean one type; what a schema hides, only the catalogue knows."""
    if canonical(kind) == canonical(other):
        return True
    names = [unquoted(canonical(each).rpartition(".")[2]) for each in (kind, other)]
    return names[0] == names[1]


def has_type(table: RelationName, column: str, kind: str) -> str:
    """Render the query whether a column has a type, however the type is spelt."""
    spelt = literal(canonical(kind))
    same = f"format_type(atttypid, atttypmod) = {spelt}"
    if "(" in kind:
        # Spaces within: PostGIS prints geometry(Point,4326).
        same += f" OR replace(format_type(atttypid, atttypmod), ' ', '') = replace({spelt}, ' ', '')"
    else:
        same += f" OR atttypmod = -1 AND atttypid = to_regtype({spelt})"
    return has_columns(table, column, f"({same})")


def may_be(kind: str) -> str:
    """Render the query whether there is such a type, and a column of it can be added without a rewrite."""
    return f"""
        SELECT EXISTS (
            SELECT FROM pg_type WHERE oid = to_regtype({literal(kind)}) AND typtype <> 'p' AND NOT EXISTS (
                WITH RECURSIVE base (oid) AS (
                    SELECT pg_type.oid UNION SELECT t.typbasetype FROM pg_type t JOIN base USING (oid)
                )
                SELECT FROM base JOIN pg_type t USING (oid) LEFT JOIN pg_constraint ON contypid = t.oid
                WHERE t.typnotnull OR contypid IS NOT NULL
            )
        )
    """.strip()
