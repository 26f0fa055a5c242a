"""What cannot be asked of all shards at once is refused before any of them is asked."""

import pytest
from sqlalchemy import BigInteger, Column, MetaData, Select, String, Table, func, select

from sharding.errors import CursorMalformed, ScatterRefused
from sharding.scatter import AnySelect, scatter

orders = Table("orders", MetaData(), Column("order_id", BigInteger), Column("status", String))
newest: Select[int, str] = select(orders.c.order_id, orders.c.status).order_by(orders.c.order_id.desc())


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (select(orders), "ordered by the key alone"),
        (select(orders).order_by(orders.c.order_id), "newest first"),
        (select(orders).order_by(orders.c.status.desc()), "ordered by the key alone"),
        (newest.order_by(orders.c.status), "ordered by the key alone"),
        (newest.limit(5), "LIMIT or OFFSET"),
        (newest.offset(5), "LIMIT or OFFSET"),
        (newest.fetch(5), "LIMIT or OFFSET"),
        (newest.distinct(), "DISTINCT"),
        (newest.group_by(orders.c.status), "GROUP BY"),
        (newest.having(func.count() > 1), "HAVING"),
    ],
)
async def test_what_cannot_be_merged_is_refused(statement: AnySelect, reason: str) -> None:
    with pytest.raises(ScatterRefused, match=reason):
        await scatter({}, statement, limit=10)


async def test_a_page_has_at_least_one_row() -> None:
    with pytest.raises(ScatterRefused, match="limit is 0"):
        await scatter({}, newest, limit=0)


@pytest.mark.parametrize("cursor", ["", "k", "kxyz", "12", "k-1", "k8000000000000000", "k1 "])
async def test_a_cursor_that_was_not_handed_out_is_refused(cursor: str) -> None:
    with pytest.raises(CursorMalformed):
        await scatter({}, newest, limit=10, cursor=cursor)
