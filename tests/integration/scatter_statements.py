"""SELECTs that look as if shards might answer them wrongly, with what makes their order total."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    Date,
    DateTime,
    Integer,
    Numeric,
    String,
    Text,
    TypeDecorator,
    and_,
    any_,
    case,
    cast,
    collate,
    exists,
    extract,
    func,
    literal,
    not_,
    or_,
    select,
    tuple_,
    type_coerce,
)
from sqlalchemy.orm import aliased, registry
from sqlalchemy.sql import operators

from tests.integration.scatter_rig import Order, lines, materials, orders

o, li, m = orders.c, lines.c, materials.c
other = orders.alias("other")
Twin = aliased(Order, name="twin")
twin: Any = Twin
key: Any = Order
lines_inside = lines.alias("of_it")
inner = lines_inside.c
on = li.order_id == o.order_id


class Folded(TypeDecorator[str]):
    """Text whose operators are of its own: they ignore case, and the server's order does not."""

    impl = Text
    cache_ok = True

    class Comparator(TypeDecorator.Comparator[str]):
        """Compares in small letters."""

        def operate(self, op: Any, *others: Any, **options: Any) -> Any:
            """Compare in small letters."""
            if op in {operators.eq, operators.lt, operators.gt}:
                return op(func.lower(type_coerce(self.expr, Text)), *others, **options)
            return super().operate(op, *others, **options)

    comparator_factory = Comparator


class Ranked(TypeDecorator[str]):
    """A number to the server, and to Python a word whose order is another one."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> int | None:
        """Give the number of a word."""
        return None if value is None else ["low", "high"].index(value)

    def process_result_value(self, value: int | None, dialect: object) -> str | None:
        """Give a word for a number."""
        return None if value is None else "low" if value <= 0 else "high"


class Crossed:
    """Has attributes that are named like each other's columns."""


registry().map_imperatively(Crossed, orders, properties={"n": o.small, "small": o.n})
crossed: Any = Crossed
folded = type_coerce(o.status, Folded)
ranked = type_coerce(o.small, Ranked)
autumn = datetime(2026, 10, 25, tzinfo=UTC)
of_lines = select(o.order_id, li.line_no).outerjoin(lines, on)
KEY = [o.order_id]
BOTH = [o.order_id, li.order_id, li.line_no]

ANSWERED: Mapping[str, tuple[Any, Sequence[Any]]] = {
    "nulls last in descent": (select(o.order_id, o.n).order_by(o.n.desc().nulls_last()), [o.order_id.desc()]),
    "nulls first in ascent": (select(o.n).order_by(o.n.asc().nulls_first()), KEY),
    "mixed directions": (
        select(o.order_id).order_by(o.small.desc(), o.n, o.status.desc()),
        [o.order_id.desc()],
    ),
    "nan in descent": (select(o.exact).order_by(o.exact.desc().nulls_last()), [o.order_id.desc()]),
    "float nan": (select(o.weight, o.order_id).order_by(o.weight), KEY),
    "order by a label": (select(o.order_id, (o.n % 3).label("third")).order_by("third"), KEY),
    "a label that is another column's name": (
        select(o.order_id, o.small.label("n")).order_by(o.n.desc()),
        [o.order_id.desc()],
    ),
    "the same name twice": (
        select(o.n, other.c.n).join(other, other.c.order_id == o.order_id),
        [*KEY, other.c.order_id],
    ),
    "the same column twice": (select(o.n, o.n, o.order_id), KEY),
    "an attribute that is another's column": (
        select(crossed.order_id, crossed.n, crossed.small).order_by("n"),
        KEY,
    ),
    "order by a constant": (select(o.order_id).order_by(literal(1)), KEY),
    "operators of its type's own": (select(o.order_id).order_by(folded.desc()), [o.order_id.desc()]),
    "a word that is kept as a number": (
        select(o.order_id, ranked).order_by(ranked.desc()),
        [o.order_id.desc()],
    ),
    "distinct words that are kept as numbers": (select(ranked.label("word")).distinct().order_by("word"), []),
    "numeric to SQLAlchemy, and double to the server": (
        select(o.order_id).order_by(o.price * o.weight / literal(1e13)),
        KEY,
    ),
    "the same, selected": (
        select(o.order_id, (o.price * o.weight / literal(1e13)).label("tiny")).order_by("tiny"),
        KEY,
    ),
    "a case of numeric and double": (
        select(o.order_id).order_by(case((o.n > 0, o.price), else_=o.weight / 3).desc()),
        [o.order_id.desc()],
    ),
    "a date or a time": (select(o.order_id).order_by(func.coalesce(o.day, o.at)), KEY),
    "two entities": (
        select(Order, Twin).join(Twin, twin.order_id == key.order_id),
        [key.order_id, twin.order_id],
    ),
    "twice the key": (
        select(o.order_id).where(o.order_id.in_([1, 2, 3, 9]), o.order_id.in_([2, 9, 40])),
        KEY,
    ),
    "key in or": (select(o.order_id).where(or_(o.order_id == 3, o.n > 0)), KEY),
    "not the key": (select(o.order_id).where(not_(o.order_id == 3)), KEY),
    "no row": (
        select(func.sum(o.n), func.count(), func.avg(o.spent), func.max(o.status)).where(o.n == 17),
        [],
    ),
    "sums": (select(func.sum(o.small), func.sum(o.big), func.sum(o.price), func.sum(o.spent)), []),
    "averages": (select(func.avg(o.small), func.avg(o.big), func.avg(o.price), func.avg(o.spent)), []),
    "average of a condition": (select(func.avg(case((o.n > 0, 1), else_=0))), []),
    "a sum that divides": (select(cast(func.sum(o.n), Numeric) / func.nullif(func.count(o.n), 0)), []),
    "least and greatest": (
        select(func.min(o.status), func.max(o.finish), func.max(o.at), func.min(o.uid.cast(Text))),
        [],
    ),
    "having alone": (select(literal(1)).select_from(orders).having(func.count() > 3), []),
    "having alone, not met": (select(func.count()).select_from(orders).having(func.count() < 0), []),
    "filters that differ": (
        select(
            func.count().filter(o.n > 0), func.count().filter(o.n > 1), func.sum(o.n).filter(o.n > 0)
        ).select_from(orders),
        [],
    ),
    "group by an expression": (
        (third := select((o.n % 3).label("third"), func.count()).group_by("third")).order_by(
            func.count().desc()
        ),
        [third.selected_columns.third],
    ),
    "group by NULL": (select(o.finish, func.count(), func.sum(o.price)).group_by(o.finish), [o.finish]),
    "order by an aggregate": (
        select(o.status).group_by(o.status).order_by(func.max(o.n).desc().nulls_last(), func.count()),
        [o.status],
    ),
    "groups over a join": (
        select(li.material, func.count(), func.sum(o.n))
        .select_from(orders)
        .outerjoin(lines, on)
        .group_by(li.material),
        [li.material],
    ),
    "groups of the key": (
        select(o.order_id, func.count(li.material.distinct()))
        .outerjoin(lines, on)
        .group_by(o.order_id)
        .having(func.count() > 1),
        KEY,
    ),
    "groups of a key that may be NULL": (
        select(li.order_id, func.count()).select_from(orders).outerjoin(lines, on).group_by(li.order_id),
        [li.order_id],
    ),
    "distinct": (select(o.status, o.small).distinct().order_by(o.small.desc()), [o.status.desc()]),
    "distinct numbers": (select(o.exact).distinct().order_by(o.exact.desc()), []),
    "distinct floats": (select(o.weight).distinct().order_by(o.weight), []),
    "full join": (
        select(o.order_id, li.order_id, li.line_no).outerjoin(lines, on, full=True),
        BOTH,
    ),
    "outer join, no match asked": (of_lines.where(li.line_no.is_(None)), BOTH),
    "reference beside": (
        select(o.order_id, m.material).join(materials, m.material != o.status),
        [*KEY, m.material],
    ),
    "exists": (
        select(o.order_id).where(exists().where(inner.order_id == o.order_id, inner.material == o.status)),
        KEY,
    ),
    "not in": (
        select(o.order_id).where(o.order_id.not_in(select(inner.order_id).where(inner.quantity > 1))),
        KEY,
    ),
    "nested": (
        select(o.order_id).where(
            exists().where(
                inner.order_id == o.order_id,
                exists()
                .where(m.material == inner.material, m.density > o.small)
                .correlate(orders, lines_inside),
            )
        ),
        KEY,
    ),
    "a count beside": (
        select(o.order_id, select(func.count()).where(inner.order_id == o.order_id).scalar_subquery()),
        KEY,
    ),
    "any": (
        select(o.order_id).where(
            literal(2) == any_(select(inner.quantity).where(inner.order_id == o.order_id).scalar_subquery())
        ),
        KEY,
    ),
    "time": (
        select(o.order_id, o.at).where(o.at < autumn + timedelta(days=3)).order_by(o.at.desc()),
        [o.order_id.desc()],
    ),
    "months": (
        select(func.date_trunc("month", o.at, type_=DateTime(timezone=True)).label("month"), func.count())
        .group_by("month")
        .order_by("month"),
        [],
    ),
    "days of time": (
        select(o.order_id).order_by(cast(o.at, Date), extract("hour", o.local_at).desc()),
        [o.order_id.desc()],
    ),
    "casts": (select(o.order_id).order_by(cast(o.price, Integer), cast(o.n, Text)), KEY),
    "short text": (select(o.order_id).order_by(cast(o.status, String(1))), KEY),
    "collated": (select(o.status).order_by(collate(o.status, "C").desc()), [o.order_id.desc()]),
    "wide sums": (
        select(o.small, func.sum(o.big)).group_by(o.small).order_by(func.sum(o.big).desc()),
        [o.small],
    ),
    "exact": (
        select(o.order_id).where(o.exact > Decimal("0.5")).order_by(o.exact, o.price.desc()),
        [o.order_id.desc()],
    ),
    "rows compared": (select(o.order_id).where(tuple_(o.order_id, o.n) > tuple_(10, 0)), KEY),
    "and of one": (select(o.order_id).where(and_(o.order_id.in_([1, 2, 30]))), KEY),
}
