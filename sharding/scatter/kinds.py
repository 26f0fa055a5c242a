"""Which types Python can compare exactly as PostgreSQL does, and how.

A sort value is fetched as what the server compares: the stored text of an enum that is kept as text, not
Python's member; a float as double precision; a UUID as bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from sqlalchemy import BigInteger, Double, LargeBinary, Numeric, Text, Uuid, cast, literal, type_coerce, types
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect
from sqlalchemy.types import TypeDecorator

from sharding.scatter.errors import ScatterRefused
from sharding.scatter.tables import Clause

_make_dialect: Any = psycopg_dialect
DIALECT: Any = _make_dialect()
_INT8 = range(-(1 << 63), 1 << 63)


@dataclass(frozen=True)
class Kind:
    """How values of some types are fetched and compared.

    Parameters:
        name: PostgreSQL's name.
        stored: the types of the server, by `pg_type.typname`, that a column of this kind may really have.
        raw: makes the expression whose value is fetched; it may not change the order.
        is_text: whether a collation decides the order.
        rank: maps a value to what Python compares; None if that is the value itself.
        has_nan: whether a value may be NaN, which PostgreSQL puts above every other.
    """

    name: str
    stored: frozenset[str]
    raw: Callable[[Clause], Clause]
    is_text: bool = False
    rank: Callable[[Any], Any] | None = None
    has_nan: bool = False


def _as_is(clause: Clause) -> Clause:
    return clause


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _instant(value: Any) -> Any:
    # Two aware datetimes of one zone are compared by the clock on the wall, which repeats an hour in autumn.
    return value.astimezone(UTC) if getattr(value, "tzinfo", None) else value


INTEGER = Kind("bigint", _names("int2 int4 int8"), lambda clause: type_coerce(clause, BigInteger()))
TEXT = Kind("text", _names("text varchar"), lambda clause: type_coerce(clause, Text()), is_text=True)
# As the driver gives it: an expression that SQLAlchemy takes for numeric may be double precision to the
# server (numeric * double), and as Numeric it would be rounded to ten digits: another place in the order.
NUMERIC = Kind(
    "numeric",
    _names("numeric int2 int4 int8"),
    lambda clause: type_coerce(clause, types.NullType()),
    has_nan=True,
)
# A real stands between two doubles: compared as double precision it is the same value on both sides.
FLOAT = Kind("double precision", _names("float4 float8"), lambda clause: cast(clause, Double()), has_nan=True)
BOOLEAN = Kind("boolean", _names("bool"), lambda clause: type_coerce(clause, types.Boolean()))
UUID = Kind("uuid", _names("uuid"), lambda clause: type_coerce(clause, Uuid()))
BYTEA = Kind("bytea", _names("bytea"), lambda clause: type_coerce(clause, LargeBinary()))
# An expression with a date first, such as coalesce(date, timestamp), is a Date to SQLAlchemy alone.
DATE = Kind("date", _names("date"), lambda clause: type_coerce(clause, types.Date()), rank=_instant)
TIME = Kind("time", _names("time"), lambda clause: type_coerce(clause, types.Time()))
TIMESTAMP = Kind(
    "timestamp",
    _names("timestamp timestamptz"),
    lambda clause: type_coerce(clause, types.DateTime()),
    rank=_instant,
)
TIMESTAMPTZ = Kind(
    "timestamptz",
    _names("timestamptz timestamp"),
    lambda clause: type_coerce(clause, types.DateTime(timezone=True)),
    rank=_instant,
)

# By the very class: a subclass may stand for another type of the server (CITEXT is a TEXT).
_KINDS: Mapping[type, Kind] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                types.Integer,
                types.BigInteger,
                types.SmallInteger,
                types.INTEGER,
                types.BIGINT,
                types.SMALLINT,
            ),
            INTEGER,
        ),
        **dict.fromkeys(
            (types.String, types.Text, types.Unicode, types.UnicodeText, types.VARCHAR, types.TEXT), TEXT
        ),
        **dict.fromkeys((types.Numeric, types.NUMERIC, types.DECIMAL), NUMERIC),
        **dict.fromkeys((types.Float, types.Double, types.FLOAT, types.DOUBLE_PRECISION, types.REAL), FLOAT),
        **dict.fromkeys((types.Boolean, types.BOOLEAN), BOOLEAN),
        **dict.fromkeys((types.Uuid, types.UUID), UUID),
        **dict.fromkeys((types.LargeBinary, postgresql.BYTEA), BYTEA),
        **dict.fromkeys((types.Date, types.DATE), DATE),
    }
)
_ADVICE: Mapping[type, str] = MappingProxyType(
    {
        types.CHAR: "char(n) ignores blanks at its end: cast it to Text",
        types.Enum: "an enum type has an order of its own: cast it to Text",
        types.Interval: "an interval of a month has no fixed length: order by an extract() of it",
        types.JSON: "JSON has no order that Python knows: extract a value and cast it",
        types.ARRAY: "an array is compared element by element: order by elements",
        postgresql.CITEXT: "citext folds case by the server's rules: order by cast(lower(...), Text)",
        types.NullType: "its type is not known to SQLAlchemy: cast it",
    }
)


def kind_of(clause: Clause) -> Kind:
    """Find how values of an expression are compared.

    Raises:
        ScatterRefused: Python does not compare them as PostgreSQL does.
    """
    found = clause.type
    if found._has_column_expression:
        raise ScatterRefused(f"{clause} is selected as an SQL expression by its type {found!r}: cast it")
    # SQLAlchemy's Interval is a decorator of DateTime, which it is not to PostgreSQL.
    while isinstance(found, TypeDecorator) and not isinstance(found, types.Interval):
        found = found.load_dialect_impl(DIALECT)
    kind = _KINDS.get(type(found)) or _kind_of_time(found)
    if isinstance(found, types.Enum) and not found.native_enum:
        kind = TEXT
    if kind is None:
        advice = next((text for cls, text in _ADVICE.items() if isinstance(found, cls)), "cast it")
        raise ScatterRefused(f"{clause} of type {found!r} cannot be merged in the server's order: {advice}")
    return kind


def _kind_of_time(found: Any) -> Kind | None:
    if isinstance(found, types.DateTime):
        return TIMESTAMPTZ if found.timezone else TIMESTAMP
    if isinstance(found, types.Time) and not found.timezone:
        return TIME
    return None


def bound(value: Any) -> Clause:
    """Make a parameter of a sort value, typed by the value: a column may be declared narrower than it is."""
    if type(value) is int:
        return literal(value, BigInteger() if value in _INT8 else Numeric())
    if type(value) is Decimal:
        return literal(value, Numeric())
    if type(value) is float:
        return literal(value, Double())
    if hasattr(value, "tzinfo") and value.tzinfo is not None:
        return literal(value, types.DateTime(timezone=True))
    return literal(value, Text()) if type(value) is str else literal(value)


def ranker(kind: Kind, index: int, *, is_nullable: bool, nulls_greatest: bool) -> Callable[[Any], Any]:
    """Make the function by which `list.sort` orders rows by their value at `index`.

    Parameters:
        kind: how the values are compared.
        index: where the value stands in a row.
        is_nullable: whether it may be NULL.
        nulls_greatest: whether NULL is above every value, or below.
    """
    if not (is_nullable or kind.rank or kind.has_nan):
        return itemgetter(index)
    null = (3, 0) if nulls_greatest else (0, 0)
    rank = kind.rank or _as_is

    def key(row: Any) -> Any:
        value = row[index]
        if value is None:
            return null
        # NaN is the one value that differs from itself; to PostgreSQL it is one value above all others.
        return (1, rank(value)) if value == value else (2, 0)  # noqa: PLR0124

    return key
