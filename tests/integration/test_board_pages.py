"""How an open board stays live in a real browser, whatever becomes of its stream."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from httpx import AsyncClient
from playwright.async_api import Browser, Page, Route, expect

from app.messaging.streams import id_of
from app.models.status import Status
from sharding.topology import Topology
from tests.callers import by_operator
from tests.integration.pages_rig import Pages, chromium, serving_pages, viewing
from tests.integration.replicas_rig import paused_replay
from tests.integration.services_rig import ok
from tests.servers import PostgresServers


@pytest_asyncio.fixture(scope="module")
async def pages(module_topology: Topology) -> AsyncIterator[Pages]:
    async with serving_pages(module_topology) as pages:
        yield pages


@pytest_asyncio.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


async def is_live(page: Page, said: str = "live", *, seconds: float = 20) -> None:
    await expect(page.locator("#link-state")).to_have_text(said, timeout=seconds * 1000)


async def test_a_script_that_comes_late_leaves_the_board_live(pages: Pages, browser: Browser) -> None:
    """As on the first visit, when no script is kept yet."""

    async def late(route: Route) -> None:
        await asyncio.sleep(0.5)
        await route.continue_()

    async with viewing(browser, pages.url, "Rosa") as rosa:
        page = await rosa.context.new_page()
        await page.route("**/hx-sse.min.js", late)
        await page.goto(pages.url)
        await is_live(page, seconds=8)


async def test_a_stream_that_was_refused_at_first_is_asked_for_again(pages: Pages, browser: Browser) -> None:
    """As by a server that restarts while a page is opened."""
    async with viewing(browser, pages.url, "Rosa") as rosa:
        page = await rosa.context.new_page()
        await page.clock.install()
        await page.route("**/stream?*", lambda route: route.fulfill(status=503), times=1)
        await page.goto(pages.url)
        await is_live(page, "no connection")
        await page.clock.fast_forward(30_000)
        await is_live(page)
        await expect(page.locator("#toasts .note")).to_have_count(0)


async def test_a_page_has_what_its_stream_will_not_send(pages: Pages, postgres: PostgresServers) -> None:
    """Also off a replica that is behind the events."""
    async with AsyncClient(base_url=pages.url, headers=by_operator(), trust_env=False) as client:
        ok_page = await client.get("/")
        [order_id] = await pages.priced()
        await pages.shown(order_id, "PRICE_CALCULATED")
        before = pages.board.live.position
        with paused_replay(postgres):
            ok(await pages.services.crm.post(f"/v1/orders/{order_id}/approve"))
            async with asyncio.timeout(20), pages.board.live.subscribe(before) as events:
                async for event in events:
                    if event.after is Status.MANUFACTURING_APPROVED and str(event.order_id) == order_id:
                        break
            assert id_of(pages.board.live.position) >= id_of(event.event_id)
            page, fragment = await client.get("/"), await client.get("/changes")
            one = await client.get(f"/orders/{order_id}")
        assert (ok_page.status_code, one.status_code) == (200, 200)
        assert f'id="o{order_id}"' in page.text
        assert order_id in [each["id"] for each in fragment.json()["orders"]]
