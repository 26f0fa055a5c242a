"""Which types Python can compare exactly as PostgreSQL does, and how.

A sort value is fetched as what the server compares: the stored text of an enum that is kept as text, not
Python's member; a float as double precision; a UUID as bytes. A date or time is fetched in the server's own
encoding, for it has values that Python has not: infinity, years before Christ and after 9999, 24:00.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from struct import Struct
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    BigInteger,
    Double,
    LargeBinary,
    Numeric,
    Text,
    Uuid,
    cast,
    func,
    literal,
    type_coerce,
    types,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from sharding.errors import ScatterRefused
from sharding.private_api import has_column_expression
from sharding.scatter.tables import Clause

_make_dialect: Any = psycopg_dialect
DIALECT: Any = _make_dialect()
_INT8 = range(-(1 << 63), 1 << 63)
_DAY = 86_400_000_000
# From 0001-01-01 to 2000-01-01, and after how many days the calendar repeats itself.
_DAYS_BEFORE_2000 = 730_119
_CYCLE_YEARS, _CYCLE_DAYS = 400, 146_097
# date, time, timestamp, timestamptz: how many microseconds their unit has. These oids are fixed.
_UNITS: Mapping[int, int] = MappingProxyType({1082: _DAY, 1083: 1, 1114: 1, 1184: 1})
_HEADER = Struct(">iIi")
INFINITY = 1 << 100
"""Beyond every number of microseconds."""


class Untyped(UserDefinedType[str]):
    """Text whose type the server finds by what it is compared with."""

    cache_ok = True


@dataclass(frozen=True)
class Kind:
    """How values of some types are fetched and compared.

    Parameters:
        name: PostgreSQL's name.
        stored: the types of the server, by `pg_type.typname`, that a column of this kind may really have.
        raw: makes the expression whose value is fetched, which Python orders as the server orders its own.
        plain: makes the expression that the server compares, with no operators of a type of the caller's own.
        is_text: whether a collation decides the order.
        bind: makes a parameter of a value that `raw` has fetched.
        has_nan: whether a value may be NaN, which PostgreSQL puts above every other.
    """

    name: str
    stored: frozenset[str]
    raw: Callable[[Clause], Clause]
    plain: Callable[[Clause], Clause]
    bind: Callable[[Any], Clause]
    is_text: bool = False
    has_nan: bool = False

    @property
    def is_encoded(self) -> bool:
        """Whether `raw` fetches something else than the expression's own value."""
        return self.raw is not self.plain


def bound(value: Any) -> Clause:
    """Make a parameter of a sort value, typed by the value: a column may be declared narrower than it is."""
    if type(value) is int:
        return literal(value, BigInteger() if value in _INT8 else Numeric())
    if type(value) is Decimal:
        return literal(value, Numeric())
    if type(value) is float:
        return literal(value, Double())
    return literal(value, Text()) if type(value) is str else literal(value)


class Encoded(TypeDecorator[int]):
    """A date or time by the server's own encoding, which has all of its values: in microseconds."""

    impl = LargeBinary
    cache_ok = True

    def process_result_value(self, value: bytes | None, dialect: object) -> int | None:  # noqa: ARG002 (SQLAlchemy's signature)
        """Read what `record_send` wrote: how many columns, then of each its type, length and bytes."""
        if value is None:
            return None
        _, type_oid, length = _HEADER.unpack_from(value)
        if length < 0:
            return None
        number = int.from_bytes(value[_HEADER.size :], "big", signed=True)
        if type_oid not in _UNITS:
            raise ScatterRefused(f"a date or time is of the type with oid {type_oid} on a shard: cast it")
        # The greatest and the smallest number of a type are its infinities.
        if number in {(1 << 8 * length - 1) - 1, -(1 << 8 * length - 1)}:
            return INFINITY if number > 0 else -INFINITY
        return number * _UNITS[type_oid]


def _encoded(clause: Clause) -> Clause:
    # In a row, for that can be sent whatever its type: an expression with a date first, such as
    # coalesce(date, timestamp), is a Date to SQLAlchemy alone.
    return type_coerce(func.record_send(func.row(clause)), Encoded())


def _instant(value: int) -> Clause:
    return literal(instant_text(value), Untyped())


def instant_text(value: int) -> str:
    """Write microseconds since 2000 as PostgreSQL reads them for a date or timestamp, in any DateStyle."""
    if abs(value) == INFINITY:
        return "infinity" if value > 0 else "-infinity"
    days, rest = divmod(value, _DAY)
    cycles, day = divmod(days + _DAYS_BEFORE_2000, _CYCLE_DAYS)
    # The same day of the first 400 years, which Python has.
    at = datetime.min + timedelta(days=day, microseconds=rest)
    year = at.year + cycles * _CYCLE_YEARS
    shown, era = (year, "") if year > 0 else (1 - year, " BC")
    return f"{shown:04}-{at:%m-%d %H:%M:%S.%f}+00{era}"


def _clock(value: int) -> Clause:
    return literal(clock_text(value), Untyped())


def clock_text(value: int) -> str:
    """Write microseconds since midnight as PostgreSQL reads them for a time; a day has 24:00."""
    minutes, rest = divmod(value, 60_000_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1_000_000:02}.{rest % 1_000_000:06}"


def _kind(name: str, stored: str, type_: TypeEngine[Any], **more: Any) -> Kind:
    """Make a kind whose values Python has and compares as the server does."""

    def plain(clause: Clause) -> Clause:
        return type_coerce(clause, type_)

    options = {"raw": plain, "plain": plain, "bind": bound, **more}
    return Kind(name, frozenset(stored.split()), **options)


INTEGER = _kind("bigint", "int2 int4 int8", BigInteger())
TEXT = _kind("text", "text varchar", Text(), is_text=True)
# As the driver gives it: an expression that SQLAlchemy takes for numeric may be double precision to the
# server (numeric * double), and as Numeric it would be rounded to ten digits: another place in the order.
NUMERIC = _kind("numeric", "numeric int2 int4 int8", types.NullType(), has_nan=True)
# A real stands between two doubles: compared as double precision it is the same value on both sides.
FLOAT = _kind(
    "double precision", "float4 float8", Double(), raw=lambda clause: cast(clause, Double()), has_nan=True
)
BOOLEAN = _kind("boolean", "bool", types.Boolean())
UUID = _kind("uuid", "uuid", Uuid())
BYTEA = _kind("bytea", "bytea", LargeBinary())
DATE = _kind("date", "date", types.Date(), raw=_encoded, bind=_instant)
TIME = _kind("time", "time", types.Time(), raw=_encoded, bind=_clock)
TIMESTAMP = _kind("timestamp", "timestamp timestamptz", types.DateTime(), raw=_encoded, bind=_instant)
TIMESTAMPTZ = _kind(
    "timestamptz", "timestamptz timestamp", types.DateTime(timezone=True), raw=_encoded, bind=_instant
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
        types.Time: "a time with a zone is ordered by both of them: order by an extract() of it",
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
    if has_column_expression(found):
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


def ranker(kind: Kind, index: int, *, is_nullable: bool, nulls_greatest: bool) -> Callable[[Any], Any]:
    """Make the function by which `list.sort` orders rows by their value at `index`.

    Parameters:
        kind: how the values are compared.
        index: where the value stands in a row.
        is_nullable: whether it may be NULL.
        nulls_greatest: whether NULL is above every value, or below.
    """
    if not (is_nullable or kind.has_nan):
        return itemgetter(index)
    null = (3, 0) if nulls_greatest else (0, 0)

    def key(row: Any) -> Any:
        value = row[index]
        if value is None:
            return null
        # NaN is the one value that differs from itself; to PostgreSQL it is one value above all others.
        return (1, value) if value == value else (2, 0)  # noqa: PLR0124

    return key
