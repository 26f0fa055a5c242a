"""The pages in a real browser: the stories of operators, sellers and customers, in both languages."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from sharding.topology import Topology
from tests.integration.pages_rig import Pages, Viewing, chromium, serving_pages, viewing


@pytest_asyncio.fixture(scope="module")
async def pages(module_topology: Topology) -> AsyncIterator[Pages]:
    async with serving_pages(module_topology) as pages:
        yield pages


@pytest_asyncio.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


async def test_an_operator_takes_an_order(pages: Pages, browser: Browser) -> None:
    async with viewing(browser, pages.url, "Rosa") as rosa:
        page = await rosa.open("/")
        await expect(page.locator("#link-state")).to_have_text("live")
        [order_id] = await pages.approved()
        row = page.locator(f"#o{order_id}")
        await expect(row).to_be_visible()
        await page.screenshot(path="/tmp/qp/shots/real-board.png")
        await row.locator("[data-take]").click()
        await expect(page.locator(f"[data-job='{order_id}']")).to_be_visible()
        await page.screenshot(path="/tmp/qp/shots/real-taken.png")
        assert rosa.complaints == []
