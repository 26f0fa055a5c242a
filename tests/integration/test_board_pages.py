"""How an open board stays live in a real browser, whatever becomes of its stream."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from httpx import AsyncClient
from playwright.async_api import Browser, Page, Route, expect
from sqlalchemy import create_engine, delete, text, update
from sqlalchemy.pool import NullPool

from app.access.enforce import COOKIE
from app.board.live import MOST_MISSED
from app.board.repository import PAGE
from app.messaging.streams import id_of
from app.models.board import BoardOrder
from app.models.status import Status
from readreplica.token import CausalToken
from sharding.topology import Topology
from tests.benchmarks.bench_board import load
from tests.callers import by_operator
from tests.integration.board_rig import open_board
from tests.integration.pages_rig import PASSWORD, Pages, chromium, serving_pages, viewing
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


async def test_what_is_handed_over_comes_into_the_others_hands(pages: Pages, browser: Browser) -> None:
    [order_id] = await pages.approved()
    async with viewing(browser, pages.url, "Oleg") as oleg:
        page = await oleg.open("/")
        await is_live(page)
        ok(await pages.services.take(order_id))
        await expect(page.locator(f"#o{order_id}")).to_have_count(0)
        over = f"/v1/orders/{order_id}/hand-over"
        ok(await pages.services.mes.post(over, json={"to": "Oleg"}, headers=by_operator()))
        await expect(page.locator(f"#work [data-job='{order_id}']")).to_be_visible()
        # Who writes in his work is not disturbed by what happens to others.
        await page.click(f"[data-job='{order_id}'] details summary")
        await page.fill(f"[data-job='{order_id}'] [action$=hand-over] [name=to]", "Ro")
        await pages.approved()
        await expect(page.locator(f"[data-job='{order_id}'] [action$=hand-over] [name=to]")).to_have_value(
            "Ro"
        )
        assert oleg.complaints == []


async def test_a_tab_that_was_open_for_three_days_is_right_again(pages: Pages, browser: Browser) -> None:
    """Its session has ended, and more has happened than is kept for it: it reads all again."""
    taken, stays = await pages.approved(2)
    async with viewing(browser, pages.url, "Rosa") as rosa:
        page = await rosa.context.new_page()
        await page.clock.install()
        await page.goto(pages.url)
        await is_live(page)
        await expect(page.locator(f"#o{taken}")).to_be_visible()
        await pages.stop("board")
        await rosa.context.clear_cookies(name=COOKIE)
        await page.clock.fast_forward(3 * 24 * 3600 * 1000)
        await pages.start("board")
        ok(await pages.services.take(taken, operator="Oleg"))
        [new] = await pages.approved()
        for _ in range(MOST_MISSED + 1):
            await pages.board.live.publish(int(taken), None, CausalToken())
        await page.clock.fast_forward(20_000)
        await expect(page.locator("#signin")).to_be_visible()
        await page.fill("#signin [name=name]", "Rosa")
        await page.fill("#signin [name=password]", PASSWORD)
        await page.click("#signin button.main")
        await page.clock.fast_forward(20_000)
        await is_live(page)
        await expect(page.locator(f"#o{new}")).to_be_visible()
        await expect(page.locator(f"#o{taken}")).to_have_count(0)
        await expect(page.locator(f"#o{stays}")).to_be_visible()


async def test_what_no_event_tells_of_is_seen_within_five_minutes(pages: Pages, browser: Browser) -> None:
    """As after a rebuild of the board."""
    [order_id] = await pages.approved()
    async with viewing(browser, pages.url, "Rosa") as rosa, open_board(pages.topology) as board:
        page = await rosa.context.new_page()
        await page.clock.install()
        await page.goto(pages.url)
        await is_live(page)
        async with board.write() as session:
            await session.execute(
                update(BoardOrder)
                .where(BoardOrder.order_id == int(order_id))
                .values(status=Status.MANUFACTURING_STARTED, operator="Oleg")
            )
        await expect(page.locator(f"#o{order_id}")).to_be_visible()
        await page.clock.fast_forward(301_000)
        await expect(page.locator(f"#o{order_id}")).to_have_count(0)


async def test_the_page_behind_the_back_button_is_as_things_are(pages: Pages, browser: Browser) -> None:
    [order_id] = await pages.approved()
    async with viewing(browser, pages.url, "Rosa") as rosa:
        page = await rosa.open("/")
        await is_live(page)
        await page.click(f"#o{order_id} [data-open-order]")
        await page.wait_for_url(f"**/orders/{order_id}")
        ok(await pages.services.take(order_id, operator="Oleg"))
        await pages.shown(order_id, "MANUFACTURING_STARTED")
        await page.go_back()
        await is_live(page)
        await expect(page.locator(f"#o{order_id}")).to_have_count(0)


async def test_no_other_site_acts_in_a_readers_name_or_shows_a_page_in_its_frame(pages: Pages) -> None:
    [order_id] = await pages.approved()
    async with AsyncClient(base_url=pages.url, trust_env=False) as client:
        said = {"name": "Rosa", "password": PASSWORD}
        headers = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate"}
        answer = await client.post("/login", data=said, headers=headers)
        cookie = {"Cookie": answer.headers["set-cookie"].split(";")[0]}
        assert (await client.get("/", headers=cookie)).status_code == 200
        for site in ("cross-site", "same-site"):
            refused = await client.post(
                f"/orders/{order_id}/take",
                headers={**cookie, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"},
            )
            assert refused.status_code == 403
        other = {**cookie, "Origin": "https://evil.example"}  # a browser that says no more
        assert (await client.post(f"/orders/{order_id}/take", headers=other)).status_code == 403
        waiting = await pages.board.pages.settled(int(order_id), lambda _: True)
        assert waiting.operator is None
        for path in (
            "/",
            f"/orders/{order_id}",
            "/orders/17",
            "/sales",
            "/search?q=a",
            "/login",
            "/my/17",
            "/nothing",
        ):
            shown = await client.get(path, headers={**cookie, "Accept": "text/html"})
            assert shown.headers["X-Frame-Options"] == "DENY", path
            assert "frame-ancestors 'none'" in shown.headers["Content-Security-Policy"], path


async def test_an_order_that_leaves_while_its_page_is_on_its_way_is_not_offered(
    pages: Pages, browser: Browser
) -> None:
    owner = create_engine(pages.topology.url("board", role="board_owner"), poolclass=NullPool)
    load(owner, 1_000, 1_060, [Status.MANUFACTURING_APPROVED])
    read, goes_on = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        answer = await route.fetch()
        read.set()
        await goes_on.wait()
        await route.fulfill(response=answer)

    async with viewing(browser, pages.url, "Rosa") as rosa:
        page = await rosa.open("/?order=longest")
        await is_live(page)
        last = await page.locator("#rows tr[data-order]").count()
        assert last == PAGE
        await page.route("**/?*cursor=*", hold)
        await page.click("#more a")
        await read.wait()
        with owner.begin() as connection:
            newest = text(
                "SELECT order_id FROM orders WHERE status = :waits ORDER BY changed_at DESC LIMIT 1"
            )
            order_id = connection.execute(newest, {"waits": Status.MANUFACTURING_APPROVED}).scalar_one()
            connection.execute(
                update(BoardOrder)
                .where(BoardOrder.order_id == order_id)
                .values(status=Status.MANUFACTURING_STARTED, operator="Oleg")
            )
        heard = page.evaluate("new Promise((done) => document.addEventListener('row', done, {once: true}))")
        hearing = asyncio.ensure_future(heard)
        await page.evaluate("1")
        async with pages.board.orders.write() as session:
            await session.execute(text("SELECT pg_current_xact_id()"))
        await pages.board.live.publish(order_id, None, session.token)
        await hearing
        goes_on.set()
        await expect(page.locator(f"#o{order_id}:not(.gone)")).to_have_count(0)
        await expect(page.locator("#rows tr[data-order]:not(.gone)").nth(last)).to_be_visible()
        await expect(page.locator(f"#o{order_id}:not(.gone)")).to_have_count(0)
        # A search has further pages as well; a piece that was not drawn has a drawing in its place.
        await page.goto(f"{pages.url}/search?q=c10")
        await expect(page.locator("#found-count")).to_have_text(f"{PAGE}+")
        await page.click("#more a")
        await expect(page.locator("#found-count")).to_have_text("60")
        await expect(page.locator("#more a")).to_have_count(0)
        assert await page.locator(".thumb").first.evaluate(
            "each => each.decode().then(() => each.naturalWidth)"
        )
        assert rosa.complaints == []
    with owner.begin() as connection:
        connection.execute(delete(BoardOrder).where(BoardOrder.order_id.between(1_000, 1_060)))
