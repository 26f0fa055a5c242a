"""Values that PostgreSQL has and Python has not: ordered, counted and grouped as one database does."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime, time
from typing import Any

import pytest
from sqlalchemy import Text, cast, distinct, func, select
from sqlalchemy.exc import DataError
from sqlalchemy.orm import registry

from sharding.errors import ScatterRefused, ValueUnreadable
from sharding.scatter import scatter
from tests.integration.scatter_rig import Rig, open_one, orders, run_rig, shown
from tests.servers import PostgresServers

pytestmark = pytest.mark.field

o = orders.c
INSTANTS = [
    *("infinity", "-infinity", None, "2026-01-01 00:00+00", "1999-12-31 23:59:59.999999+00"),
    *("0044-03-15 12:00 BC", "0001-12-31 BC", "0001-01-01 00:00+00", "9999-12-31 23:59:59+00"),
    *("10000-01-01 00:00+00", "294276-12-31 23:59:59.999999+00", "4714-11-24 00:00:00+00 BC"),
]
DAYS = ["infinity", "-infinity", None, "5874897-12-31", "4714-11-24 BC", "2026-01-01", "0001-01-01"]
CLOCKS = ["24:00", None, "23:59:59.999999", "00:00", "12:00"]
ZONED = ["24:00-15:59", None, "13:00+01", "12:00+00", "11:00-01"]
SPANS = ["infinity", "-infinity", None, "1 mon", "30 days", "720:00", "-1 mon 31 days", "178000000 years"]
NUMBERS = ["NaN", "Infinity", "-Infinity", None, "0", "1e-300", "1e300", "1.0", "1.00"]
FLOATS = ["NaN", "Infinity", "-Infinity", None, "-0", "0", "1e-300", "5e-324", "1e300"]
ROWS = 60


@pytest.fixture(scope="module")
async def rig(postgres: PostgresServers) -> AsyncIterator[Rig]:
    with run_rig(postgres, prefix="scatter_field") as rig:
        rig.fill({orders: [order(number) for number in range(ROWS)]})
        yield rig
        for cluster in (*rig.clusters.values(), rig.whole):
            await cluster.close()


def order(number: int) -> Mapping[str, Any]:
    def of(values: list[Any]) -> Any:
        return values[number % len(values)]

    return {
        "order_id": number,
        "status": of(["a", "B", "é", "\U0001f48d", "\ufffd"]),
        "odd_at": of(INSTANTS),
        "odd_local_at": of([each and each.replace("+00", "") for each in INSTANTS]),
        "odd_day": of(DAYS),
        "odd_clock": of(CLOCKS),
        "odd_zoned": of(ZONED),
        "odd_spent": of(SPANS),
        "exact": of(NUMBERS),
        "weight": of(FLOATS),
    }


ORDERED = [o.odd_at, o.odd_local_at, o.odd_day, o.odd_clock, o.exact, o.weight, o.status]


@pytest.mark.parametrize("limit", [1, 7, 100])
@pytest.mark.parametrize("direction", ["asc", "desc", "asc first", "desc last"])
@pytest.mark.parametrize("column", ORDERED, ids=str)
async def test_pages_are_in_the_order_of_one_database(
    rig: Rig, column: Any, direction: str, limit: int
) -> None:
    key = o.order_id.desc() if "desc" in direction else o.order_id.asc()
    element = column.desc() if "desc" in direction else column.asc()
    if "first" in direction:
        element = element.nulls_first()
    if "last" in direction:
        element = element.nulls_last()
    asked = select(o.order_id).order_by(element)

    assert await rig.pages(asked, limit=limit) == await rig.expected(asked.order_by(key))


@pytest.mark.parametrize("column", [*ORDERED, o.odd_zoned, o.odd_spent], ids=str)
async def test_groups_are_those_of_one_database(rig: Rig, column: Any) -> None:
    asked = select(cast(column, Text), func.count(), func.max(o.order_id)).group_by(column)
    by_group = asked.order_by(column)

    found = shown(await rig.pages(asked, limit=2))

    # Which of several equal values is shown (1 mon, 30 days) is for the server to choose.
    if column in {o.odd_spent, o.exact, o.weight}:
        found = [row.partition(", ")[2] for row in found]
        assert found == [row.partition(", ")[2] for row in shown(await rig.expected(by_group))]
    else:
        assert found == shown(await rig.expected(by_group))


@pytest.mark.parametrize("column", [*ORDERED, o.odd_zoned, o.odd_spent], ids=str)
async def test_aggregates_are_those_of_one_database(rig: Rig, column: Any) -> None:
    asked = select(cast(func.min(column), Text), cast(func.max(column), Text), func.count(column))

    assert await rig.pages(asked, limit=5) == await rig.expected(asked)


@pytest.mark.parametrize("column", [o.exact, o.weight], ids=str)
@pytest.mark.parametrize("finite", [True, False])
async def test_sums_are_those_of_one_database(rig: Rig, column: Any, finite: bool) -> None:
    asked = select(func.sum(column), func.avg(column))
    if finite:
        asked = asked.where(column < 10)
        asked = asked.where(column > -10)

    assert shown(await rig.pages(asked, limit=5)) == shown(await rig.expected(asked))


@pytest.mark.parametrize("column", [*ORDERED, o.odd_zoned, o.odd_spent], ids=str)
async def test_values_of_one_order_are_counted_on_its_shard(rig: Rig, column: Any) -> None:
    asked = select(o.order_id, func.count(distinct(column))).group_by(o.order_id)

    assert await rig.pages(asked, limit=7) == await rig.expected(asked.order_by(o.order_id))


@pytest.mark.parametrize("column", ORDERED, ids=str)
async def test_groups_of_a_shard_are_in_the_order_of_one_database(rig: Rig, column: Any) -> None:
    asked = select(o.order_id, func.count()).group_by(o.order_id, column).order_by(column.desc())

    assert await rig.pages(asked, limit=7) == await rig.expected(asked.order_by(o.order_id.desc()))


@pytest.mark.parametrize("column", [o.odd_zoned, o.odd_spent], ids=str)
async def test_what_cannot_be_merged_is_refused_before_anything_is_read(rig: Rig, column: Any) -> None:
    for asked in (select(o.order_id).order_by(column), select(column).distinct()):
        with pytest.raises(ScatterRefused, match=column.name):
            await rig.page(asked)
    with pytest.raises(ScatterRefused, match=r"count\(DISTINCT"):
        await rig.page(select(func.count(distinct(column))))


# What Python cannot read is an error of one database as well, for the page that it stands on, and only there.

SINCE = {
    "odd_at": datetime(1, 1, 1, tzinfo=UTC),
    "odd_local_at": datetime(1, 1, 1),
    "odd_day": date(1, 1, 1),
    "odd_clock": time(0, 0),
}
UNREADABLE = [o[name] for name in SINCE]


@pytest.mark.parametrize("shape", ["columns", "distinct", "groups", "local groups"])
@pytest.mark.parametrize("column", UNREADABLE, ids=str)
async def test_a_page_is_given_up_to_what_python_cannot_read(rig: Rig, column: Any, shape: str) -> None:
    asked: Any = {
        "columns": select(o.order_id, column),
        "distinct": select(column).distinct(),
        "groups": select(column, func.count()).group_by(column),
        "local groups": select(o.order_id, column).group_by(o.order_id, column),
    }[shape]
    asked = asked.where(column > SINCE[column.name])
    ordered = asked.order_by(column)
    total = ordered if shape in {"distinct", "groups"} else ordered.order_by(o.order_id)
    readable = 0
    while True:
        try:
            expected = await rig.expected(total.limit(readable + 1))
        except DataError:
            break
        readable += 1
    assert len(await rig.expected(total.limit(readable))) == len(expected) == readable

    page = await rig.page(ordered, limit=readable)

    assert page.rows == expected
    assert page.next_cursor is not None
    with pytest.raises(ValueUnreadable, match=r"cast it to Text: .*(infinity|year|24:00)"):
        await rig.page(ordered, limit=readable, cursor=page.next_cursor)
    with pytest.raises(ValueUnreadable):
        await rig.page(ordered, limit=readable + 1)


class Whole:
    """An order with nearly all of its columns."""


registry().map_imperatively(Whole, orders, exclude_properties=["odd_spent"])


async def test_entities_are_given_up_to_the_first_that_python_cannot_read(rig: Rig) -> None:
    asked = (
        select(Whole)
        .where(o.odd_at > datetime(1999, 1, 1, tzinfo=UTC), o.odd_day.is_(None))
        .order_by(o.odd_at)
    )

    assert [each.order_id for each in (await rig.page(asked, limit=3)).rows] == [16, 51, 44]
    with pytest.raises(ValueUnreadable):
        await rig.page(asked, limit=50)


SETTINGS = {"TimeZone": "Asia/Kolkata", "DateStyle": "SQL, DMY", "IntervalStyle": "sql_standard"}
SETTINGS |= {"extra_float_digits": "0"}


@pytest.mark.parametrize("name", SETTINGS)
async def test_shards_that_write_values_otherwise_are_refused(
    rig: Rig, postgres: PostgresServers, name: str
) -> None:
    database = rig.dbnames["s2"]
    rig.writers["s2"].execute(f"ALTER DATABASE {database} SET {name} = '{SETTINGS[name]}'")
    other = open_one(postgres, "s2", database)
    clusters = {**rig.clusters, "s2": other}
    try:
        for asked in (
            select(o.order_id).order_by(o.odd_at),
            select(o.odd_day, func.count()).group_by(o.odd_day),
        ):
            with pytest.raises(ScatterRefused, match=f"{name} is .* on shard s"):
                await scatter(clusters, asked, limit=5)
    finally:
        rig.writers["s2"].execute(f"ALTER DATABASE {database} RESET {name}")
        await other.close()


@pytest.mark.parametrize("name", ["DateStyle", "extra_float_digits"])
async def test_groups_whose_text_is_not_the_whole_value_are_refused(
    rig: Rig, postgres: PostgresServers, name: str
) -> None:
    database = rig.dbnames["s2"]
    rig.writers["s2"].execute(f"ALTER DATABASE {database} SET {name} = '{SETTINGS[name]}'")
    other = open_one(postgres, "s2", database)
    try:
        with pytest.raises(ScatterRefused, match=f"{name} is .* on shard s2, which"):
            await scatter({"s2": other}, select(o.odd_day, func.count()).group_by(o.odd_day), limit=5)
        page = await scatter({"s2": other}, select(o.order_id).order_by(o.odd_at), limit=ROWS)
        assert len(page.rows) > 5
    finally:
        rig.writers["s2"].execute(f"ALTER DATABASE {database} RESET {name}")
        await other.close()
