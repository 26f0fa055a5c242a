"""A board on which 10,000 orders wait: its pages over HTTP, by filter, search and page after page."""

import html
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio
from httpx import AsyncClient
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from app.board.application import build as build_board
from app.models.status import Status
from sharding.topology import Topology
from tests.benchmarks.bench_board import counted_statements, load
from tests.callers import by_operator, by_seller
from tests.integration.board_rig import with_board
from tests.integration.services_rig import client_of, fast_settings

WAITING = 10_000
MOST_STATEMENTS = 6
WAIT = Status.MANUFACTURING_APPROVED
_ROW = re.compile(r'<tr data-order="(\d+)"')
_MORE = re.compile(r'hx-get="(/[^"]*cursor=[^"]*)"')


@dataclass
class Many:
    """A board's application, and its database."""

    client: AsyncClient
    owner: Engine

    def ids(
        self, condition: str, order: str = "changed_at DESC, order_id DESC", limit: int = WAITING
    ) -> list[str]:
        """Give the orders that the database has under a condition, as one statement says."""
        query = text(f"SELECT order_id FROM orders WHERE {condition} ORDER BY {order} LIMIT :most")
        with self.owner.connect() as connection:
            return [str(each) for each in connection.execute(query, {"most": limit}).scalars()]

    async def walk(
        self, path: str, *, pages: int, caller: Callable[[], dict[str, str]] = by_operator
    ) -> list[str]:
        """Follow a list page after page, as by its button; give its orders."""
        found: list[str] = []
        for _ in range(pages):
            answer = await self.client.get(path, headers={**caller(), "HX-Request": "true"})
            assert answer.status_code == 200
            found += _ROW.findall(answer.text)
            more = _MORE.search(answer.text)
            if more is None:
                return found
            path = html.unescape(more[1])
        return found


@pytest_asyncio.fixture(scope="module")
async def many(module_topology: Topology) -> AsyncIterator[Many]:
    topology = with_board(module_topology)
    owner = create_engine(topology.url("board", role="board_owner"), poolclass=NullPool)
    load(owner, 0, WAITING, [WAIT])
    async with client_of(build_board(fast_settings(topology), topology)) as client:
        yield Many(client, owner)


async def test_the_pages_of_a_long_list_follow_each_other(many: Many) -> None:
    assert await many.walk("/", pages=6) == many.ids("true", limit=300)
    longest = many.ids("true", "changed_at, order_id", limit=150)
    assert await many.walk("/?order=longest", pages=3) == longest


async def test_what_a_seller_has_too_much_of_has_pages_of_its_own(many: Many) -> None:
    first = (await many.client.get("/sales", headers=by_seller())).text
    assert 'href="/sales/waiting"' in first
    assert 'href="/sales/refused"' not in first
    late = many.ids("changed_at <= now() - interval '2 days'", "changed_at, order_id", limit=150)
    assert len(late) == 150
    assert await many.walk("/sales/waiting", pages=3, caller=by_seller) == late
    refused = "cancel_refused_at IS NOT NULL AND cancel_requested_at IS NULL"
    by_place = many.ids(refused, "cancel_refused_at, order_id")
    assert await many.walk("/sales/refused", pages=1, caller=by_seller) == by_place != []
    for part in ("confirm", "expiring", "rejected"):
        assert await many.walk(f"/sales/{part}", pages=1, caller=by_seller) == []
    unknown = await many.client.get("/sales/everything", headers=by_seller())
    assert unknown.status_code == 422


@pytest.mark.parametrize(
    ("query", "condition"),
    [
        ("partner=atelier-7", "partner = 'atelier-7'"),
        (
            "material=brass&price_from=900&price_to=910",
            "'brass' = ANY (materials) AND price BETWEEN 900 AND 910",
        ),
        ("channel=B2B&price_from=915", "channel = 'B2B' AND price >= 915"),
        ("price_to=19", "false"),
    ],
)
async def test_a_filter_shows_all_that_fit_and_no_other(many: Many, query: str, condition: str) -> None:
    assert await many.walk(f"/?{query}", pages=9) == many.ids(condition)


async def test_one_of_many_is_found_by_its_id_and_by_words(many: Many) -> None:
    by_id = await many.client.get("/search", params={"q": "7777"}, headers=by_operator())
    assert (by_id.status_code, by_id.headers["location"]) == (303, "/orders/7777")
    by_words = await many.client.get("/search", params={"q": "c77 ring"}, headers=by_operator())
    assert {"77", "5077"} <= set(_ROW.findall(by_words.text))
    none = await many.client.get("/search", params={"q": "zeppelin"}, headers=by_operator())
    assert _ROW.findall(none.text) == []


@pytest.mark.parametrize(
    ("path", "caller"),
    [
        ("/", by_operator),
        ("/?material=brass&price_from=100&channel=B2C", by_operator),
        ("/?cursor=2026-11-30T11:00:00%2B00:00~60", by_operator),
        ("/changes", by_operator),
        ("/work", by_operator),
        ("/search?q=c77+ring", by_operator),
        ("/history?partner=atelier-7", by_seller),
        ("/sales", by_seller),
        ("/sales/waiting", by_seller),
        ("/orders/7777", by_operator),
    ],
)
async def test_a_page_asks_for_few_statements(
    many: Many, path: str, caller: Callable[[], dict[str, str]]
) -> None:
    with counted_statements() as seen:
        answer = await many.client.get(path, headers=caller())
    assert answer.status_code == 200
    assert 1 <= len(seen) <= MOST_STATEMENTS, seen
