"""Random queries over random rows: four shards give what one PostgreSQL that holds all of it gives."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    DateTime,
    Integer,
    Numeric,
    Table,
    Text,
    and_,
    case,
    cast,
    collate,
    distinct,
    exists,
    extract,
    func,
    not_,
    or_,
    select,
)
from sqlalchemy.exc import InvalidRequestError

from sharding.errors import ScatterRefused
from tests.integration.scatter_rig import ODD, Order, Rig, lines, materials, orders, run_rig, shard_of, shown
from tests.integration.scatter_statements import ANSWERED, ranked
from tests.servers import PostgresServers

# Everything here is slow beside what hypothesis expects of an example.
# With 12 or more a shard is asked for less than the page, and one that has more is asked again.
LIMITS = st.sampled_from([7, 12, 20, 35])
QUICK = settings(
    max_examples=6,
    deadline=None,
    # What fails is told at once; `make soak` finds the smallest.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
THOROUGH = settings(QUICK, max_examples=1_000, derandomize=False, phases=list(Phase))


@pytest.fixture(scope="module")
async def rig(postgres: PostgresServers) -> AsyncIterator[Rig]:
    with run_rig(postgres, prefix="scatter_equivalence") as rig:
        yield rig
        for cluster in (*rig.clusters.values(), rig.whole):
            await cluster.close()


# Rows: few values of each type, so that ties, NULLs and odd values are many.

AUTUMN = datetime(2026, 10, 25, tzinfo=UTC)
VALUES: Mapping[str, Sequence[Any]] = {
    "status": ["", "a", "B", "b", "Z", "é", "ab", "a b", "\U0001f48d"],
    "finish": [None, "zz-matte", "aa-polished"],
    "small": [None, -1, 0, 7],
    "n": [None, -(2**31), 0, 1, 2**31 - 1],
    "big": [None, -(2**63), 0, 2**63 - 1],
    "price": [None, Decimal("-1.50"), Decimal("0.00"), Decimal("99.99")],
    "exact": [None, *map(Decimal, ["NaN", "Infinity", "-Infinity", "1.000000000000000000001", "1"])],
    "weight": [None, float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 0.5, 1.5],
    "short_weight": [None, float("nan"), 0.1, 0.2, 1.0],
    "is_rush": [None, False, True],
    "at": [None, datetime(1999, 1, 1, tzinfo=UTC), AUTUMN, AUTUMN + timedelta(hours=1, microseconds=1)],
    "local_at": [None, datetime(1999, 1, 1), datetime(2026, 1, 1, 0, 0, 0, 1)],
    "day": [None, date(1999, 12, 31), date(2026, 1, 1)],
    "uid": [None, UUID(int=0), UUID(int=1), UUID(int=2**127)],
    "raw": [None, b"", b"\x00", b"\x00\xff", b"\xff"],
    "spent": [None, timedelta(0), timedelta(days=40), timedelta(seconds=1)],
    # Text for the server: Python has no such values.
    "odd_at": [
        *(None, "infinity", "-infinity", "2026-10-25 00:00+00", "0044-03-15 12:00 BC", "9999-12-31 23:59+00"),
        *("10000-01-01 00:00+00", "294276-12-31 23:59:59.999999+00", "4714-11-24 00:00:00+00 BC"),
    ],
    "odd_local_at": [
        None,
        "infinity",
        "-infinity",
        "0001-12-31 BC",
        "0001-01-01",
        "12026-06-01 10:00:00.000001",
    ],
    "odd_day": [
        None,
        "infinity",
        "-infinity",
        "4714-11-24 BC",
        "0001-02-29 BC",
        "2000-02-29",
        "5874897-12-31",
    ],
    "odd_clock": [None, "24:00", "23:59:59.999999", "00:00", "00:00:00.000001"],
    "odd_zoned": [None, "24:00-15:59", "00:00+15:59", "12:00+00", "13:00+01", "11:00-01"],
    "odd_spent": [None, "1 mon", "30 days", "-1 mon 31 days", "720:00:01", "178000000 years", "0"],
    "document": [None],
    "tags": [None],
}
IDS = st.integers(min_value=-40, max_value=2**63 - 1).map(lambda number: number % 61 - 5)
SKEWED = [key for key in range(400) if shard_of(key) == "s1"][:60]
Rows = Mapping[Table, Sequence[Mapping[str, Any]]]


@st.composite
def contents(draw: st.DrawFn) -> Rows:
    """Rows of the three tables."""
    ids = draw(st.lists(IDS, unique=True, min_size=draw(st.sampled_from([0, 6, 12])), max_size=30))
    if draw(st.booleans()):
        # All of one shard: then it has more than its share of a page, and is asked again.
        ids = sorted({key for number in ids for key in SKEWED[number % 20 :: 20]})
    one = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()})
    pieces = st.tuples(st.sampled_from([None, "gold", "tin", "wax"]), st.sampled_from([None, 1, 2, 3]))
    return {
        orders: [{"order_id": order_id} | draw(one) for order_id in ids],
        lines: [
            {"order_id": order_id, "line_no": number, "material": material, "quantity": quantity}
            # Some lines have no order.
            for order_id in [*ids[::2], 1001, 1002]
            for number, (material, quantity) in enumerate(draw(st.lists(pieces, max_size=3)))
        ],
        materials: [
            {"material": "gold", "density": Decimal("19.30")},
            {"material": "tin", "density": None},
        ],
    }


# The grammar: expressions by what they may stand for.

o, li, m = orders.c, lines.c, materials.c
another = orders.alias("another")
UNSORTABLE = {"spent", "document", "tags", "odd_zoned", "odd_spent"}
SORTABLE = [o[name] for name in VALUES if name not in UNSORTABLE] + [
    o.order_id,
    o.n % 3,
    cast(o.n, Numeric) * o.price,
    func.coalesce(o.price, 0),
    cast(func.lower(o.status), Text),
    collate(o.status, "C"),
    cast(func.length(o.status), Integer),
    case((o.small > 0, "much"), (o.small.is_(None), None), else_="little"),
    cast(o.finish, Text),
    o.at - timedelta(days=1),
    # Numeric, Integer and Date to SQLAlchemy, and something else to the server.
    o.price * o.weight,
    case((o.is_rush, o.price), else_=o.weight),
    func.coalesce(o.small, o.weight),
    func.coalesce(o.day, o.at),
    func.coalesce(o.day, o.odd_at),
    func.date_trunc("day", o.odd_at, type_=DateTime(timezone=True)),
    ranked,
]
LINE_SORTABLE = [li.material, li.quantity, li.line_no, li.order_id]
# An alias: where the query has lines of its own, SQLAlchemy would take those for the subquery's.
inner = lines.alias("of_it").c
EXISTING = exists().where(inner.order_id == o.order_id, inner.quantity > 1)
CONDITIONS = [
    o.n > 0,
    o.status >= "b",
    o.status.in_(["a", "b", ""]),
    o.status.like("a%"),
    o.finish == "zz-matte",
    o.price.between(-2, 50),
    o.is_rush,
    o.exact == Decimal("NaN"),
    o.weight > 0,
    o.at < AUTUMN,
    o.odd_at > AUTUMN,
    o.odd_day.is_not(None),
    o.uid.is_not(None),
    o.small.is_distinct_from(0),
    o.order_id.in_([1, 2, 3, 4, 5, 30]),
    o.order_id == 7,
    o.order_id.not_in([1, 2]),
    o.order_id > 20,
    EXISTING,
    not_(EXISTING),
    o.order_id.in_(select(inner.order_id).where(inner.quantity == 2)),
    o.order_id.not_in(select(inner.order_id)),
    select(func.count(distinct(inner.material))).where(inner.order_id == o.order_id).scalar_subquery() > 1,
    o.status.in_(select(m.material)),
    exists().where(another.c.order_id == o.order_id, another.c.n > 0),
]
AGGREGATES: Sequence[Callable[[], Any]] = [
    func.count,
    lambda: func.count(o.n),
    lambda: func.sum(o.n),
    lambda: func.sum(o.small),
    lambda: func.sum(o.big),
    lambda: func.sum(o.price),
    lambda: func.sum(o.exact),
    lambda: func.sum(o.weight),
    lambda: func.sum(o.spent),
    lambda: func.avg(o.n),
    lambda: func.avg(o.big),
    lambda: func.avg(o.price),
    lambda: func.avg(o.spent),
    lambda: func.avg(o.weight),
    lambda: func.min(o.status),
    lambda: func.max(o.status),
    lambda: func.min(o.finish),
    lambda: func.max(o.weight),
    lambda: func.min(o.exact),
    lambda: func.max(o.at),
    lambda: func.min(o.day),
    lambda: func.max(o.spent),
    lambda: cast(func.max(o.odd_at), Text),
    lambda: cast(func.min(o.odd_local_at), Text),
    lambda: cast(func.min(o.odd_day), Text),
    lambda: cast(func.max(o.odd_clock), Text),
    lambda: cast(func.max(o.odd_zoned), Text),
    lambda: func.count(o.odd_at),
    lambda: func.sum(extract("epoch", o.odd_spent)),
    lambda: func.bool_and(o.is_rush),
    lambda: func.every(o.n > 0),
    lambda: func.count().filter(o.n > 0),
    lambda: func.sum(o.price).filter(o.is_rush),
    lambda: func.sum(o.n) + func.count(),
    # Never divided by the zero rows that a condition may leave: one database would not answer either.
    lambda: func.coalesce(func.sum(o.price), 0) / (func.count() + 1),
]
GROUPS = [o.status, o.finish, o.small, o.price, o.day, o.spent, o.raw, o.is_rush, o.n % 2, o.uid, o.at]
GROUPS += [o.exact, o.weight, o.odd_at, o.odd_local_at, o.odd_day, o.odd_clock, o.odd_zoned]

predicates: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(CONDITIONS),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: and_(*two)),
        st.tuples(inner, inner).map(lambda two: or_(*two)),
        inner.map(not_),
    ),
    max_leaves=3,
)


def readable(column: Any) -> Any:
    """Select what Python cannot read as text."""
    return cast(column, Text) if getattr(column, "name", None) in ODD else column


def directed(expressions: Sequence[Any]) -> st.SearchStrategy[tuple[Any, bool]]:
    """An element of ORDER BY, and whether it descends."""
    ways = st.sampled_from(["default", "asc", "desc", "asc first", "asc last", "desc first", "desc last"])
    return st.tuples(st.sampled_from(expressions), ways).map(lambda two: (_directed(*two), "desc" in two[1]))


def _directed(expression: Any, way: str) -> Any:
    if way == "default":
        return expression
    element = expression.desc() if "desc" in way else expression.asc()
    if "first" in way:
        return element.nulls_first()
    return element.nulls_last() if "last" in way else element


def totally(statement: Any, ordered: Sequence[tuple[Any, bool]], unique: Sequence[Any]) -> Any:
    """Order as `scatter` promises to: as asked, then by the unique key in the direction of the last term."""
    last = bool(ordered) and ordered[-1][1]
    tail = [column.desc() if last else column.asc() for column in unique]
    return statement.order_by(None).order_by(*(element for element, _ in ordered), *tail)


@st.composite
def row_queries(draw: st.DrawFn, shape: str) -> tuple[Any, Any]:
    """A SELECT of rows, and the same with its order made total."""
    if shape == "distinct":
        columns = draw(
            st.lists(
                st.sampled_from([o.status, o.finish, o.small, o.is_rush, o.day]), min_size=1, unique=True
            )
        )
        statement = select(*columns).distinct()
        sortable, unique = columns, columns
    elif shape == "entity":
        statement, sortable, unique = select(Order), SORTABLE, [o.order_id]
    else:
        columns = draw(st.lists(st.sampled_from([*VALUES, "order_id"]), min_size=1, max_size=4, unique=True))
        statement = select(*(readable(o[name]) for name in columns))
        sortable, unique = SORTABLE, [o.order_id]
    if shape in {"join", "outer", "reference"}:
        statement = statement.add_columns(li.line_no, li.material)
        on = li.order_id == o.order_id
        statement = statement.join(lines, on, isouter=shape == "outer")
        sortable, unique = [*SORTABLE, *LINE_SORTABLE], [o.order_id, li.order_id, li.line_no]
    if shape == "reference":
        statement = statement.add_columns(m.density).outerjoin(materials, m.material == li.material)
        sortable, unique = [*sortable, m.density], [*unique, m.material]
    if shape == "self":
        statement = statement.add_columns(another.c.n).join(another, another.c.order_id == o.order_id)
        unique = [o.order_id, another.c.order_id]
    for condition in draw(st.lists(predicates, max_size=2)):
        statement = statement.where(condition)
    ordered = draw(st.lists(directed(sortable), max_size=3))
    asked = statement.order_by(*(element for element, _ in ordered)) if ordered else statement
    return asked, totally(statement, ordered, unique)


@st.composite
def group_queries(draw: st.DrawFn) -> tuple[Any, Any]:
    """A SELECT of groups, and the same with its order made total."""
    groups = draw(st.lists(st.sampled_from(GROUPS), max_size=2, unique=True))
    is_local = draw(st.integers(0, 4)) == 0
    if is_local:
        groups = [*groups, o.order_id]
    makers = draw(st.lists(st.sampled_from(AGGREGATES), min_size=1, max_size=3))
    aggregates = [make().label(f"a{i}") for i, make in enumerate(makers)]
    shown_groups = [readable(group) for group in groups]
    columns = [*shown_groups, *aggregates] if draw(st.booleans()) else [*aggregates, *shown_groups]
    # A mere count(*) names no table.
    statement = select(*columns).select_from(orders).group_by(*groups)
    for condition in draw(st.lists(predicates, max_size=2)):
        statement = statement.where(condition)
    if draw(st.booleans()):
        statement = statement.having(or_(func.count() > draw(st.integers(0, 3)), func.min(o.price) < 0))
    if not groups:
        return statement, statement
    # Merged in Python where the groups are local, and there an average's type is not known to SQLAlchemy.
    ordered = draw(
        st.lists(directed([func.count(), *groups] if is_local else [*aggregates, *groups]), max_size=2)
    )
    if is_local:
        ordered = [each for each in ordered if not any(name in str(each[0]) for name in UNSORTABLE)]
        if any(group is o.spent or group is o.odd_zoned for group in groups):
            return select(o.order_id), select(o.order_id).order_by(o.order_id)
    asked = statement.order_by(*(element for element, _ in ordered)) if ordered else statement
    total = totally(statement, ordered, groups)
    return asked, total if is_local else statement.order_by(*(element for element, _ in ordered), *groups)


SHAPES = ["orders", "entity", "join", "outer", "reference", "distinct", "self"]
# One of each: rows are dear, and a query of their own shape is soon left out by chance.
Queries = st.tuples(*map(row_queries, SHAPES), group_queries(), group_queries())


async def compare(rig: Rig, content: Rows, queries: Sequence[tuple[Any, Any]], limit: int) -> None:
    rig.fill(content)
    for asked, total in queries:
        try:
            expected = shown(await rig.expected(total))
        except InvalidRequestError as fault:
            # A subquery on tables that all stand around it as well: SQLAlchemy renders it for nobody.
            if "auto-correlation" not in str(fault):
                raise
            with pytest.raises(ScatterRefused, match="auto-correlation"):
                await rig.pages(asked, limit=limit)
            continue
        assert shown(await rig.pages(asked, limit=limit)) == expected


@QUICK
@given(content=contents(), queries=Queries, limit=LIMITS)
async def test_four_shards_answer_as_one_database(
    rig: Rig, content: Rows, queries: Sequence[tuple[Any, Any]], limit: int
) -> None:
    await compare(rig, content, queries, limit)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@THOROUGH
@given(content=contents(), queries=Queries, limit=LIMITS)
async def test_four_shards_answer_as_one_database_for_long(
    rig: Rig, content: Rows, queries: Sequence[tuple[Any, Any]], limit: int
) -> None:
    await compare(rig, content, queries, limit)


@QUICK
@given(
    content=contents(),
    ordered=st.lists(directed(SORTABLE), max_size=2),
    limit=st.integers(4, 15),
    later=st.lists(
        # Above every id of `contents`, and few: each is a page more.
        st.tuples(st.integers(2_000, 2_900), st.sampled_from(VALUES["status"])),
        unique_by=lambda two: two[0],
        max_size=5,
    ),
)
async def test_rows_that_come_between_pages_neither_hide_nor_double_those_that_were_there(
    rig: Rig, content: Rows, ordered: Sequence[tuple[Any, bool]], limit: int, later: Sequence[tuple[int, str]]
) -> None:
    rig.fill(content)
    statement = select(o.order_id).order_by(*(element for element, _ in ordered))
    before = await rig.expected(totally(select(o.order_id), ordered, [o.order_id]))
    coming, cursor = list(later), None
    found: list[int] = []
    while True:
        page = await rig.page(statement, limit=limit, cursor=cursor)
        found += page.rows
        cursor = page.next_cursor
        if cursor is None:
            break
        if coming:
            order_id, status = coming.pop()
            blank = dict.fromkeys(VALUES)
            rig.add(orders, [blank | {"order_id": order_id, "status": status}])
    assert [order_id for order_id in found if order_id < 2_000] == before
    assert len(set(found)) == len(found)


async def test_calls_at_once_do_not_disturb_each_other(rig: Rig) -> None:
    blank = {name: values[0] for name, values in VALUES.items()} | {"status": "a"}
    rig.fill({orders: [blank | {"order_id": order_id} for order_id in range(60)]})
    statements = [select(o.order_id).where(o.order_id % 3 == rest).order_by(o.order_id) for rest in range(3)]
    pages = await asyncio.gather(*(rig.page(statement, limit=20) for statement in statements * 3))
    for i, page in enumerate(pages):
        assert page.rows == [order_id for order_id in range(60) if order_id % 3 == i % 3]


def some_rows() -> Rows:
    """Forty orders in which every value meets every shard, and lines for most of them."""
    return {
        orders: [
            {
                name: values[(order_id * 7 + i) % len(values)]
                for i, (name, values) in enumerate(VALUES.items())
            }
            | {"order_id": order_id}
            for order_id in range(40)
        ],
        lines: [
            {"order_id": order_id, "line_no": number, "material": material, "quantity": quantity}
            for order_id in [*range(0, 40, 3), *range(0, 40, 4), 1001, 1002]
            for number, material, quantity in [(order_id % 3, "gold", 1), (order_id % 4 + 4, None, 2)]
        ],
        materials: [{"material": "gold", "density": Decimal(1)}, {"material": "a", "density": None}],
    }


async def test_what_looks_hard_is_answered_as_by_one_database(rig: Rig) -> None:
    content = some_rows()
    unique = {(row["order_id"], row["line_no"]): row for row in content[lines]}
    rig.fill({**content, lines: list(unique.values())})
    wrong = {}
    for name, (statement, unique_columns) in ANSWERED.items():
        expected = shown(await rig.expected(statement.order_by(*unique_columns)))
        try:
            found = shown(await rig.pages(statement, limit=12))
        except Exception as error:
            found = [str(error)]
        if found != expected:
            wrong[name] = (found, expected)
    assert wrong == {}, "\n".join(
        f"{name}: {found}\n    not {right}" for name, (found, right) in wrong.items()
    )
