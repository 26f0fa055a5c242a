"""What cannot be answered exactly from the shards' answers is refused before any of them is asked."""

from datetime import date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    CHAR,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Enum,
    Integer,
    Interval,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    Time,
    TypeDecorator,
    bindparam,
    cast,
    collate,
    column,
    distinct,
    exists,
    func,
    insert,
    lateral,
    literal,
    literal_column,
    not_,
    or_,
    select,
    tablesample,
    text,
    true,
    union_all,
    values,
)
from sqlalchemy.dialects.postgresql import ARRAY, CITEXT, JSONB, distinct_on
from sqlalchemy.orm import (
    Bundle,
    DeclarativeBase,
    Mapped,
    aliased,
    composite,
    joinedload,
    mapped_column,
    relationship,
)

from app.mes.repository import newest as newest_of_the_mes
from app.models.mes import MesOrder, MesOrderItem
from app.models.status import Status
from sharding.errors import ScatterRefused
from sharding.keys import reference_table, shard_key
from sharding.scatter import scatter
from sharding.scatter.kinds import INFINITY, clock_text, instant_text


class Shouted(TypeDecorator[str]):
    """Text that is selected in capitals."""

    impl = Text
    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        """Make two texts one."""
        return func.upper(column)


metadata = MetaData()
orders = Table(
    "orders",
    metadata,
    Column("order_id", BigInteger, primary_key=True),
    Column("status", String, nullable=False),
    Column("price", Numeric),
    Column("is_rush", Boolean),
    Column("spent", Interval),
    Column("zoned", Time(timezone=True)),
    Column("document", JSONB),
    Column("tags", ARRAY(Text)),
    Column("folded", CITEXT),
    Column("padded", CHAR(5)),
    Column("mood", Enum("sad", "glad", name="mood")),
    Column("made_at", DateTime),
    Column("shouted", Shouted),
    info=shard_key("order_id"),
)
lines = Table(
    "lines",
    metadata,
    Column("order_id", BigInteger, primary_key=True),
    Column("line_no", Integer, primary_key=True),
    Column("material", Text),
    info=shard_key("order_id"),
)
materials = Table("materials", metadata, Column("material", Text, primary_key=True), info=reference_table())
partners = Table(
    "partners", metadata, Column("partner_key", BigInteger, primary_key=True), Column("partner", Text)
)
requests = Table(
    "requests",
    metadata,
    Column("request_key", BigInteger, primary_key=True),
    Column("order_id", BigInteger),
    Column("partner_key", BigInteger),
    info=shard_key("request_key"),
)
undeclared = Table(
    "undeclared",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("order_id", BigInteger, primary_key=True),
)
keyless = Table("keyless", metadata, Column("order_id", BigInteger), info=shard_key("order_id"))


class Base(DeclarativeBase):
    """Of the classes that are mapped in ways which add to a SELECT."""


class Eager(Base):
    """Loads its parts along."""

    __tablename__ = "eager"
    __table_args__ = ({"info": shard_key("order_id")},)
    order_id: Mapped[int] = mapped_column(primary_key=True)
    parts: Mapped[list["Part"]] = relationship(
        lazy="joined", primaryjoin="Eager.order_id == foreign(Part.order_id)", viewonly=True
    )


class Part(Base):
    """A part of it."""

    __tablename__ = "part"
    __table_args__ = ({"info": shard_key("order_id")},)
    order_id: Mapped[int] = mapped_column(primary_key=True)


class Sized:
    """Has two columns as one value."""


sized = Table(
    "sized",
    metadata,
    Column("order_id", BigInteger, primary_key=True),
    Column("width", Integer),
    Column("height", Integer),
    info=shard_key("order_id"),
)
Base.registry.map_imperatively(
    Sized,
    sized,
    properties={"size": composite(lambda *sizes: sizes, sized.c.width, sized.c.height)},
)
sized_class: Any = Sized

o, li = orders.c, lines.c
another = lines.alias("another").c
newest = select(o.order_id, o.status).order_by(o.order_id.desc())
alone = exists().where(li.material == "gold")
bound = li.order_id == o.order_id

REFUSED: dict[str, tuple[Any, str]] = {
    "limit": (newest.limit(5), "LIMIT or OFFSET: pass limit and cursor"),
    "offset": (newest.offset(5), "LIMIT or OFFSET"),
    "fetch": (newest.fetch(5), "LIMIT or OFFSET"),
    "for update": (newest.with_for_update(), "FOR UPDATE: the sessions only read"),
    "distinct on": (newest.ext(distinct_on(o.status)), "DISTINCT ON"),
    "prefix": (newest.prefix_with("ALL"), "a prefix"),
    "hint": (newest.with_hint(orders, "ONLY"), "a hint"),
    "union": (union_all(newest, newest), "UNION, INTERSECT or EXCEPT"),
    "insert": (insert(orders), "not a select"),
    "text": (text("SELECT 1"), "text"),
    "no from": (select(func.count(1)), "no FROM"),
    "cte": (select(newest.cte().c.order_id), "common table expression"),
    "derived table": (select(newest.subquery().c.order_id), "a subquery"),
    "lateral": (select(o.order_id, lateral(select(li.line_no).where(bound)).c.line_no), "LATERAL"),
    "values": (select(values(column("n", Integer), name="v").data([(1,)])), "VALUES"),
    "tablesample": (select(tablesample(orders, 5).c.order_id), "TABLESAMPLE"),
    "function in from": (select(func.generate_series(1, 3).table_valued("n").c.n), "a function"),
    "window": (select(o.order_id, func.row_number().over(order_by=o.price)), "a window function"),
    "percentile": (select(func.percentile_cont(0.5).within_group(o.price)), "ordered-set aggregate"),
    "string_agg": (select(func.string_agg(o.status, ",")), r"string_agg\(\) is not known"),
    "ordered aggregate": (
        select(func.sum(o.price).aggregate_order_by(o.price)),
        "an aggregate with ORDER BY",
    ),
    "stddev": (select(func.stddev(o.price)), "cannot be made from each shard's stddev"),
    "count distinct": (select(func.count(distinct(o.status))), r"count\(DISTINCT ...\) counts a value once"),
    "sum distinct": (select(func.sum(distinct(o.price))), r"sum\(DISTINCT ...\)"),
    "avg of unknown type": (select(func.avg(o.price.op("%%%")(1))), "the operator %%%"),
    "ungrouped column": (select(o.status, func.count()), "neither in GROUP BY nor in an aggregate"),
    "ungrouped order": (
        select(o.status, func.count()).group_by(o.status).order_by(o.price),
        "neither in GROUP BY",
    ),
    "grouped entity": (select(MesOrder, func.count()).group_by(MesOrder.status), "selects all columns"),
    "distinct groups": (select(func.count(o.price)).group_by(o.status).distinct(), "DISTINCT with GROUP BY"),
    "having alone": (newest.having(o.order_id > 1), "HAVING without an aggregate"),
    "collated group": (select(func.count(o.price)).group_by(collate(o.status, "C")), "would be lost"),
    "subquery beside aggregates": (
        select(func.count(), select(func.count(materials.c.material)).scalar_subquery()).select_from(orders),
        "a subquery beside aggregates",
    ),
    "random order": (select(o.order_id).order_by(func.random()), "another value on every shard"),
    "now": (newest.where(func.now() > func.now()), "compute it once and pass it"),
    "unknown function": (newest.where(func.my_own(o.status)), r"my_own\(\) is not known"),
    "function of a schema": (newest.where(func.mine.lower(o.status) == "a"), "is not known"),
    "text condition": (newest.where(text("true")), r"text\(\) cannot be read"),
    "literal column": (select(o.order_id, literal_column("1")), "is text or belongs to no table"),
    "bare column": (newest.where(column("status") == "a"), "is text or belongs to no table"),
    "order of a name": (select(o.order_id).order_by("nothing"), "label reference .* 'nothing'"),
    "distinct and other order": (select(o.status).distinct().order_by(o.price), "which is not selected"),
    "time with a zone": (select(o.order_id).order_by(o.zoned), "ordered by both of them"),
    "interval": (select(o.order_id).order_by(o.spent), "a month has no fixed length"),
    "jsonb": (select(o.order_id).order_by(o.document), "JSON has no order"),
    "array": (select(o.order_id).order_by(o.tags), "compared element by element"),
    "citext": (select(o.order_id).order_by(o.folded), "citext folds case"),
    "char": (select(o.order_id).order_by(o.padded), "ignores blanks"),
    "enum": (select(o.order_id).order_by(o.mood), "an order of its own"),
    "unknown type": (select(o.order_id).order_by(func.lower(o.status)), "type is not known"),
    "join on another column": (
        select(o.order_id).join(lines, li.material == o.status),
        "not joined on their shard keys",
    ),
    "cross join": (select(o.order_id, li.line_no), "not joined on their shard keys"),
    "join or": (select(o.order_id).join(lines, or_(bound, true())), "not joined on their shard keys"),
    "join not": (select(o.order_id).join(lines, not_(bound)), "not joined on their shard keys"),
    "outer join": (
        select(o.order_id).outerjoin(lines, li.material == o.status).where(bound),
        "is not ON their shard keys",
    ),
    "reference kept": (
        select(materials.c.material).outerjoin(lines, li.material == materials.c.material),
        "keeps rows of a reference table",
    ),
    "another table's key": (
        select(o.order_id).join(requests, requests.c.order_id == o.order_id),
        "not joined on their shard keys",
    ),
    "a column of our name": (select(undeclared.c.id), "table undeclared declares no shard key"),
    "no shard key": (select(partners), "table partners declares no shard key: .* or give key="),
    "no primary key": (select(keyless.c.order_id), "has no primary key"),
    "uncorrelated": (newest.where(alone), "is not bound to the row outside by the shard key"),
    "correlated otherwise": (
        newest.where(exists().where(li.material == o.status)),
        "is not bound to the row outside",
    ),
    "not exists": (newest.where(not_(alone)), "is not bound to the row outside"),
    "in of another column": (newest.where(o.status.in_(select(li.material))), "is not bound"),
    "key in another column": (newest.where(o.order_id.in_(select(li.line_no))), "is not bound"),
    "in of groups": (
        newest.where(o.order_id.in_(select(li.order_id).group_by(li.order_id).having(func.count() > 1))),
        "is not bound",
    ),
    "scalar": (select(o.order_id, select(func.max(li.line_no)).scalar_subquery()), "is not bound"),
    "limit inside": (
        newest.where(o.order_id.in_(select(li.order_id).where(bound).limit(1))),
        "LIMIT or OFFSET",
    ),
    "sharded in reference": (
        select(materials).where(materials.c.material.in_(select(li.material))),
        "is not bound",
    ),
    "options": (select(MesOrder).options(joinedload("*")), r"\.options\(\)"),
    "eager relation": (select(Eager), "loaded eagerly"),
    "execution options": (newest.execution_options(yield_per=5), r"\.execution_options\(\)"),
    "bundle": (select(Bundle("two", MesOrder.order_id, MesOrder.status)), "a Bundle"),
    "rollup": (select(func.count(o.price)).group_by(func.rollup(o.order_id)), r"rollup\(\) is not known"),
    "params": (newest.where(o.status == bindparam("wanted", "a")).params(wanted="b"), r"\.params\(\)"),
    "not in of a key that may be NULL": (
        select(o.order_id).outerjoin(lines, bound).where(li.order_id.not_in(select(another.order_id))),
        "is not bound to the row outside",
    ),
    "aggregate of the query around": (
        select(select(func.count(o.order_id)).select_from(materials).correlate(orders).scalar_subquery())
        .select_from(orders)
        .distinct(),
        "an aggregate of the query around it",
    ),
    "a position": (
        select(o.status, o.order_id).order_by(bindparam("place", 1, literal_execute=True)),
        "the position of a column",
    ),
    "text as time": (newest.where(o.made_at < "yesterday"), "'yesterday' is text for a value of time"),
    "text as time, in a list": (
        newest.where(o.made_at.in_(bindparam("days", ["today"], expanding=True, type_=DateTime))),
        "'today' is text for a value of time",
    ),
    "text of a day and an hour": (
        newest.where(o.made_at < cast("tomorrow 10:00", DateTime)),
        "'tomorrow 10:00' is text for a value of time",
    ),
    "group by a label that is a column too": (
        select((o.order_id % 3).label("price"), func.count()).group_by("price"),
        "'price' is a label and a column of orders, by which the server would group",
    ),
    "order by a name of two columns": (
        select(o.order_id, li.order_id).join(lines, bound).order_by("order_id"),
        "'order_id' names several",
    ),
    "composite": (select(sized_class.order_id).order_by(sized_class.size), "a composite: name its columns"),
    "text cast to time": (
        newest.where(o.made_at < cast("now", DateTime)),
        "'now' is text for a value of time",
    ),
    "parameter cast to time": (
        newest.where(o.made_at < cast(literal("now", String), DateTime)),
        "'now' is text",
    ),
    "changed by its type": (select(o.shouted).distinct(), "is selected as an SQL expression by its type"),
    "no value": (newest.where(o.status == bindparam("wanted")), "the parameter wanted has no value"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_answered_exactly_is_refused_by_name(name: str) -> None:
    statement, reason = REFUSED[name]
    with pytest.raises(ScatterRefused, match=reason):
        await scatter({}, statement, limit=10)


async def test_a_key_that_is_given_is_of_tables_that_declare_none() -> None:
    both = select(partners.c.partner).join(requests, requests.c.partner_key == partners.c.partner_key)
    with pytest.raises(ScatterRefused, match="not joined on their shard keys"):
        await scatter({}, both, limit=10, key="partner_key")
    assert (await scatter({}, select(partners.c.partner), limit=10, key="partner_key")).rows == []
    for key, reason in {"partner": "not in the primary key", "x": "has no column x"}.items():
        with pytest.raises(ScatterRefused, match=reason):
            await scatter({}, select(partners.c.partner), limit=10, key=key)


a_line = aliased(MesOrderItem)
ALLOWED = {
    "of the mes": newest_of_the_mes(Status.SUBMITTED),
    "entity": select(MesOrder).order_by(MesOrder.changed_at.desc()),
    "entity by a label": select(MesOrder.order_id, MesOrder.price.label("p")).order_by("p"),
    "joined": select(MesOrder, a_line).join(a_line, a_line.order_id == MesOrder.order_id),
    "joined in where": select(o.order_id, li.line_no).where(bound),
    "count distinct of one order": select(o.order_id, func.count(distinct(li.material)))
    .join(lines, bound)
    .group_by(o.order_id),
    "averages": select(o.status, func.avg(cast(o.price, Double))).group_by(o.status).having(func.count() > 1),
    "group by a label": select((o.order_id % 3).label("third"), func.count()).group_by("third"),
    "group by the name of a column": select(o.status, func.count()).group_by("status"),
    "text that holds a word of time": newest.where(o.status == "tomorrow or never"),
    "reference": select(materials).order_by(materials.c.material),
    "own key": select(requests).order_by(requests.c.order_id),
}


@pytest.mark.parametrize("name", ALLOWED)
async def test_what_can_be_answered_is_not_refused(name: str) -> None:
    page = await scatter({}, ALLOWED[name], limit=10)
    assert (page.rows, page.next_cursor) == ([], None)


@pytest.mark.parametrize("limit", [0, -1, 10_001])
async def test_a_page_has_a_size(limit: int) -> None:
    with pytest.raises(ScatterRefused, match=f"limit is {limit}; a page has from 1 to 10000 rows"):
        await scatter({}, newest, limit=limit)


@given(st.datetimes())
def test_an_instant_is_written_as_python_writes_it_where_python_has_it(at: datetime) -> None:
    microseconds = (at - datetime(2000, 1, 1)) // timedelta(microseconds=1)
    assert instant_text(microseconds) == f"{at.isoformat(sep=' ', timespec='microseconds')}+00"


DAY = 86_400_000_000
JULIAN_2000 = 2_451_545


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (INFINITY, "infinity"),
        (-INFINITY, "-infinity"),
        (-JULIAN_2000 * DAY, "4714-11-24 00:00:00.000000+00 BC"),
        (-730_119 * DAY - 1, "0001-12-31 23:59:59.999999+00 BC"),
        ((2_147_483_493 - JULIAN_2000) * DAY, "5874897-12-31 00:00:00.000000+00"),
    ],
)
def test_an_instant_that_python_has_not_is_written_as_postgresql_reads_it(
    microseconds: int, text: str
) -> None:
    assert instant_text(microseconds) == text


@given(st.times())
def test_a_time_is_written_as_python_writes_it(at: time) -> None:
    since_midnight = datetime.combine(date.min, at) - datetime.combine(date.min, time())
    assert clock_text(since_midnight // timedelta(microseconds=1)) == at.isoformat(timespec="microseconds")
    assert clock_text(DAY) == "24:00:00.000000"
