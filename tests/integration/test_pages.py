"""The pages in a real browser: the stories of operators, sellers and customers, in both languages."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect
from pydantic import SecretStr
from sqlalchemy import text

from app.access.enforce import COOKIE
from readreplica.sessions import WriteSession
from sharding.topology import Topology
from tests.callers import acting
from tests.integration.letters import Letters, catching_letters
from tests.integration.pages_rig import PASSWORD, RING, Pages, chromium, link_of, serving_pages, viewing
from tests.integration.services_rig import MODEL, ok

NASTY = "\"><img src=x onerror=alert(1)>'</script><script>alert(2)</script>{{7*7}}"


@pytest_asyncio.fixture(scope="module")
async def letters() -> AsyncIterator[Letters]:
    async with catching_letters() as letters:
        yield letters


@pytest_asyncio.fixture(scope="module")
async def pages(module_topology: Topology, letters: Letters) -> AsyncIterator[Pages]:
    where = {
        "notice_url": SecretStr(f"smtp://127.0.0.1:{letters.port}"),
        "notice_link_base": "https://w.test",
    }
    async with serving_pages(module_topology, **where) as pages:
        yield pages


@pytest_asyncio.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


expect.set_options(timeout=20_000)


async def is_live(page: Page, said: str = "live") -> None:
    await expect(page.locator("#link-state")).to_have_text(said)


@pytest.mark.parametrize(
    ("language", "said", "theirs"), [("en", "live", "Yours now"), ("ru", "на связи", "Теперь ваш")]
)
async def test_an_operator_makes_an_order_by_keys_alone(
    pages: Pages, browser: Browser, language: str, said: str, theirs: str
) -> None:
    async with viewing(browser, pages.url, "Rosa", language=language) as rosa:
        page = await rosa.open("/")
        await is_live(page, said)
        [order_id] = await pages.approved()
        await expect(page.locator(f"#o{order_id}")).to_be_visible()
        await page.keyboard.press("j")
        await expect(page.locator(f"#o{order_id}")).to_have_class(re.compile("at"))
        await page.keyboard.press("t")
        job = page.locator(f"[data-job='{order_id}']")
        await expect(job).to_be_visible()
        await expect(page.locator(f"#o{order_id} [data-act]")).to_have_text(theirs)
        await page.keyboard.press("Escape")
        for status in ("MANUFACTURING_COMPLETED", "PACKAGING"):
            await page.keyboard.press("n")
            await expect(job.locator(f".s-{status}")).to_be_visible()
        await page.keyboard.press("n")
        await expect(job).to_have_count(0)
        shown = ok(await pages.services.mes.get(f"/v1/orders/{order_id}"))
        assert (shown["status"], shown["operator"]) == ("SHIPPED", "Rosa")
        await page.reload()
        await expect(page.locator("#pay dd").first).not_to_have_text("0")
        assert rosa.complaints == []


async def test_of_two_who_take_at_once_the_other_sees_who_has_it_and_keeps_his_place(
    pages: Pages, browser: Browser
) -> None:
    async with viewing(browser, pages.url, "Rosa") as rosa, viewing(browser, pages.url, "Oleg") as oleg:
        orders = await pages.approved(3)
        boards = [await rosa.open("/"), await oleg.open("/")]
        for board in boards:
            await is_live(board)
            # What is pointed at stays where it is.
            await board.locator(f"#o{orders[1]}").hover()
        before = await boards[1].locator(f"#o{orders[1]}").bounding_box()
        takes = [board.locator(f"#o{orders[1]} [data-take]") for board in boards]
        await asyncio.gather(*(each.click(force=True) for each in takes))
        taken = await pages.services.shows(pages.services.mes, orders[1], "MANUFACTURING_STARTED")
        holder = taken["operator"]
        winner, loser = boards if holder == "Rosa" else boards[::-1]
        await expect(winner.locator(f"[data-job='{orders[1]}']")).to_be_visible()
        lost = loser.locator(f"#o{orders[1]} [data-act]")
        await expect(lost).to_contain_text(holder)
        await expect(loser.locator(f"[data-job='{orders[1]}']")).to_have_count(0)
        assert await boards[1].locator(f"#o{orders[1]}").bounding_box() == before
        for other in (orders[0], orders[2]):
            await pages.services.take(other)
        assert rosa.complaints + oleg.complaints == []


async def test_a_double_click_takes_once(pages: Pages, browser: Browser) -> None:
    async with viewing(browser, pages.url, "Rosa") as rosa:
        [order_id] = await pages.approved()
        page = await rosa.open("/")
        await page.locator(f"#o{order_id} [data-take]").dblclick()
        await expect(page.locator(f"[data-job='{order_id}']")).to_be_visible()
        history = ok(await pages.services.mes.get(f"/v1/orders/{order_id}"))["history"]
        assert [line["status"] for line in history].count("MANUFACTURING_STARTED") == 1
        await expect(page.locator("#toasts .note")).to_have_count(0)
        await page.goto(f"{pages.url}/orders/{order_id}")
        await pages.services.mes.post(f"/v1/orders/{order_id}/take")
        # Behind the back button the list is as it is, and not as it was.
        await page.go_back()
        await expect(page.locator(f"#o{order_id}")).to_have_count(0)
        assert rosa.complaints == []


async def test_the_list_does_not_jump_under_the_pointer(pages: Pages, browser: Browser) -> None:
    async with viewing(browser, pages.url, "Rosa") as rosa:
        [first] = await pages.approved()
        page = await rosa.open("/")
        await is_live(page)
        row = page.locator(f"#o{first}")
        await row.hover()
        before = await row.bounding_box()
        [second] = await pages.approved()
        pill = page.locator("#show-new")
        await expect(pill).to_have_text("New orders: 1")
        assert await row.bounding_box() == before
        await expect(page).to_have_title(re.compile(r"^\(1\) "))
        await pill.click()
        await expect(page.locator(f"#o{second}")).to_be_visible()
        await pages.services.take(second, operator="Oleg")
        await expect(page.locator(f"#o{second}")).to_contain_text("Taken by Oleg")
        await page.mouse.move(5, 5)
        await expect(page.locator(f"#o{second}")).to_have_count(0)
        await pages.services.take(first, operator="Oleg")
        assert rosa.complaints == []


async def test_a_board_goes_on_behind_the_last_event_when_the_server_comes_again(
    pages: Pages, browser: Browser
) -> None:
    async with viewing(browser, pages.url, "Rosa") as rosa:
        page = await rosa.open("/")
        await is_live(page)
        await pages.stop("board")
        await is_live(page, "no connection")
        [order_id] = await pages.priced()
        ok(await pages.services.crm.post(f"/v1/orders/{order_id}/approve"))
        await pages.start("board")
        await pages.shown(order_id, "MANUFACTURING_APPROVED")
        await expect(page.locator(f"#o{order_id}")).to_be_visible()
        await is_live(page)
        await pages.services.take(order_id, operator="Oleg")
        await expect(page.locator(f"#o{order_id}")).to_have_count(0)


async def test_a_board_asks_where_it_hears_nothing(pages: Pages, browser: Browser) -> None:
    """As behind a proxy that keeps all of a stream to itself."""
    async with viewing(browser, pages.url, "Rosa") as rosa:
        page = await rosa.context.new_page()
        held: list[Route] = []
        await page.route(re.compile(r"/stream"), lambda route: held.append(route))  # noqa: PLW0108 (it is wrapped)
        await page.goto(pages.url)
        await is_live(page, "polling")
        [order_id] = await pages.approved()
        await expect(page.locator(f"#o{order_id}")).to_be_visible()
        await pages.services.take(order_id, operator="Oleg")
        await expect(page.locator(f"#o{order_id}")).to_have_count(0)


async def test_waits_are_right_by_a_clock_that_is_off(pages: Pages, browser: Browser) -> None:
    async with viewing(browser, pages.url, "Rosa") as rosa:
        [order_id] = await pages.approved()
        page = await rosa.context.new_page()
        await page.clock.install(time=datetime.now(UTC) + timedelta(days=400))
        await page.goto(pages.url)
        await page.clock.run_for("03:00")
        await expect(page.locator(f"#o{order_id} time")).to_have_text("3 min")
        await pages.services.take(order_id, operator="Oleg")


async def test_texts_of_strangers_are_shown_and_not_run(pages: Pages, browser: Browser) -> None:
    started = ok(await pages.services.start(customer={"name": NASTY, "email": "a@b.example"}), 201)
    order_id = started["order_id"]
    ok(await pages.services.upload(order_id, name=f"{NASTY}.stl".replace("/", "")))
    ok(await pages.services.shop.post(f"/v1/orders/{order_id}/submit"))
    await pages.services.shows(pages.services.mes, order_id, "SUBMITTED")
    await pages.services.price(order_id)
    await pages.services.shows(pages.services.crm, order_id, "PRICE_CALCULATED")
    ok(await pages.services.crm.post(f"/v1/orders/{order_id}/approve"))
    await pages.shown(order_id, "MANUFACTURING_APPROVED")
    async with viewing(browser, pages.url, "Rosa") as rosa, viewing(browser, pages.url, "Sara") as sara:
        seen = []
        page = await rosa.open("/")
        page.on("dialog", lambda dialog: seen.append(dialog.message))
        await expect(page.locator(f"#o{order_id}")).to_contain_text("<img src=x onerror=alert(1)>")
        await page.locator(f"#o{order_id} [data-take]").click()
        await expect(page.locator(f"[data-job='{order_id}']")).to_contain_text("<script>alert(2)")
        await page.goto(f"{pages.url}/orders/{order_id}")
        await page.click("summary.danger")
        # What asks for words is written in at once.
        await expect(page.locator("#reason-advance")).to_be_focused()
        await page.keyboard.insert_text(NASTY)
        await page.click("button.danger")
        await expect(page.locator("main .note.bad")).to_contain_text("{{7*7}}")
        for path in (
            f"/orders/{order_id}",
            f"/search?q={order_id}",
            "/search?q=%22%3E%3Cimg%20src%3Dx",
            "/sales",
        ):
            other = await sara.open(path)
            other.on("dialog", lambda dialog: seen.append(dialog.message))
            await expect(other.locator("main")).to_be_visible()
        assert seen == []
        assert rosa.complaints + sara.complaints == []


async def test_nothing_is_lost_when_the_session_ends_in_the_middle_of_a_form(
    pages: Pages, browser: Browser
) -> None:
    async with viewing(browser, pages.url, "Rosa") as rosa:
        [order_id] = await pages.approved()
        ok(await pages.services.take(order_id))
        await pages.shown(order_id, "MANUFACTURING_STARTED")
        page = await rosa.open(f"/orders/{order_id}")
        form = page.locator("form[action$=release]")
        await page.locator("summary", has_text="Give back").click()
        await form.locator("[name=reason]").fill("my hand hurts")
        await rosa.context.clear_cookies(name=COOKIE)
        # By the event: the page may have heard of the end by what it asks itself, and covers the form.
        await form.locator("button").dispatch_event("click")
        await expect(page.locator("#signin")).to_be_visible()
        # What the page asks by itself takes nothing from what the reader asked.
        async with page.expect_response(lambda answer: answer.status == 401):
            await page.evaluate("htmx.trigger(document.querySelector('#order'), 'refresh')")
        await page.fill("#again-name", "Rosa")
        await page.fill("#again-password", "wrong")
        await page.keyboard.press("Enter")
        await expect(page.locator("#signin [data-fault]")).to_be_visible()
        await page.fill("#again-password", PASSWORD)
        await page.keyboard.press("Enter")
        await expect(page.locator("#signin")).to_be_hidden()
        # What was asked is asked again, with what was written.
        await expect(page.locator(".order-head .s-MANUFACTURING_APPROVED")).to_be_visible()
        await expect(page.locator(".life")).to_contain_text("my hand hurts")
        await pages.services.take(order_id, operator="Oleg")


async def test_an_operator_gives_back_and_hands_over(pages: Pages, browser: Browser) -> None:
    async with viewing(browser, pages.url, "Rosa") as rosa:
        first, second = await pages.approved(2)
        for order_id in (first, second):
            ok(await pages.services.take(order_id))
            await pages.shown(order_id, "MANUFACTURING_STARTED")
        page = await rosa.open("/")
        job = page.locator(f"[data-job='{first}']")
        await job.locator("summary").click()
        await job.locator("[name=reason]").fill("no gold left")
        await job.locator("button.danger").click()
        await expect(job).to_have_count(0)
        await expect(page.locator(f"#o{first}")).to_be_visible()
        job = page.locator(f"[data-job='{second}']")
        await job.locator("summary").click()
        await job.get_by_label("Hand over to").fill("Oleg")
        await job.get_by_role("button", name="Hand over").click()
        await expect(job).to_have_count(0)
        assert ok(await pages.services.mes.get(f"/v1/orders/{second}"))["operator"] == "Oleg"
        await pages.services.take(first, operator="Oleg")
        assert rosa.complaints == []


async def test_a_seller_approves_many_at_once_and_sees_what_became_of_each(
    pages: Pages, browser: Browser
) -> None:
    orders = await pages.priced(3)
    for order_id in orders:
        await pages.shown(order_id, "PRICE_CALCULATED")
    async with viewing(browser, pages.url, "Sara") as sara:
        page = await sara.open("/")
        await expect(page).to_have_url(f"{pages.url}/sales")
        for order_id in orders:
            await page.check(f"input[value='{order_id}']")
        # One was approved meanwhile by somebody else, and is in work.
        ok(await pages.services.crm.post(f"/v1/orders/{orders[0]}/approve", headers=acting("boss")))
        await page.get_by_role("button", name="Approve the chosen ones").click()
        await expect(page.locator("#sales .note")).to_contain_text("2 orders were approved")
        await expect(page.locator("#sales .note li")).to_contain_text(f"№ {orders[0]}")
        for order_id in orders[1:]:
            await pages.services.shows(pages.services.mes, order_id, "MANUFACTURING_APPROVED")
        assert sara.complaints == []
    for order_id in orders:
        await pages.shown(order_id, "MANUFACTURING_APPROVED")
        await pages.services.take(order_id, operator="Oleg")


async def test_a_seller_sets_another_price_and_the_customer_sees_it(
    pages: Pages, browser: Browser, letters: Letters
) -> None:
    order_id = await pages.customers_order()
    async with viewing(browser, pages.url, "Sara") as sara, viewing(browser, pages.url) as ada:
        mine = await ada.open(f"/my/{order_id}#{link_of(order_id)}")
        await expect(mine.locator(".big")).to_contain_text("412.50")
        await expect(mine.locator(".facts")).to_contain_text(re.compile("21.4 . 22 . 6.5 mm"))
        page = await sara.open(f"/orders/{order_id}")
        await expect(page.locator(".part").first).to_contain_text("8.42 g, with what casting loses")
        form = page.locator("form[action$=price]")
        await page.locator("summary", has_text="Set another price").click()
        await form.locator("[name=price]").fill("much")
        await form.locator("[name=reason]").fill(NASTY)
        await form.locator("button").click()
        await expect(page.locator("main .note.bad")).to_have_text("A price is a number, such as 250.50.")
        # What was refused is still there, to be mended.
        await expect(form.locator("[name=reason]")).to_have_value(NASTY)
        await form.locator("[name=price]").fill("390,00")
        await form.locator("button").click()
        await expect(page.locator(".line-items tfoot")).to_contain_text("€390.00")
        await expect(page.locator(".line-items tfoot")).to_contain_text(NASTY)
        await expect(mine.locator(".big")).to_contain_text("390.00")
        assert "onerror" not in await mine.content()
        for name in ("shop", "crm", "mes"):
            service = getattr(pages.services, name)
            assert ok(await service.get(f"/v1/orders/{order_id}"))["price"] == "390.00"
        await page.locator("#stored summary").click()
        await expect(page.locator("#stored")).to_contain_text("orders_hot")
        await expect(page.locator("#stored")).to_contain_text("No message is owed.")
        await page.locator("form[action$=approve] button").click()
        await pages.services.shows(pages.services.mes, order_id, "MANUFACTURING_APPROVED")
        refused = await pages.services.crm.post(
            f"/v1/orders/{order_id}/price", json={"price": "1.00", "reason": "too late"}
        )
        assert refused.status_code == 409
        ok(await pages.services.take(order_id))
        for step in ("MANUFACTURING_COMPLETED", "PACKAGING"):
            ok(await pages.services.advance(order_id, step))
        parcel = NASTY[:64].strip()
        ok(await pages.services.advance(order_id, "SHIPPED", tracking=parcel))
        await expect(mine.locator(".facts")).to_contain_text(parcel)
        await expect(page.locator(".life")).to_contain_text(parcel)
        assert sara.complaints + ada.complaints == []
    said = "Order N: the price is there", "Order N: a new price", "Order N is on its way"
    await letters.until(order_id, *said)
    assert f"https://w.test/my/{order_id}#ey" in letters.came[-1].get_content()


async def test_a_letter_that_is_not_taken_is_sent_again_and_once(pages: Pages, letters: Letters) -> None:
    letters.refuses = True
    order_id = await pages.customers_order()
    notices = f"notices WHERE order_id = {order_id}"

    async def attempts(session: WriteSession) -> int | None:
        found: int | None = await session.scalar(text(f"SELECT max(attempts) FROM {notices}"))
        return found

    async def until(wanted: int | None) -> None:
        async with asyncio.timeout(30):
            while (await pages.board.orders.transact(attempts)).value != wanted:  # noqa: ASYNC110 (SQL says it)
                await asyncio.sleep(0.02)

    await until(1)
    letters.refuses = False
    # What is refused rests half a minute.
    due = text("UPDATE notices SET next_at = now()")
    await pages.board.orders.transact(lambda session: session.execute(due))
    await letters.until(order_id, "Order N: the price is there")
    await until(None)
    assert letters.of(order_id) == ["Order N: the price is there"]


async def test_what_was_rejected_is_ordered_again_with_another_file(
    pages: Pages, browser: Browser, letters: Letters
) -> None:
    order_id = await pages.customers_order()
    assert (await pages.services.shop.post(f"/v1/orders/{order_id}/again")).status_code == 409
    ok(await pages.services.crm.post(f"/v1/orders/{order_id}/approve"))
    await pages.services.shows(pages.services.mes, order_id, "MANUFACTURING_APPROVED")
    ok(await pages.services.take(order_id))
    ok(await pages.services.advance(order_id, "REJECTED", reason=NASTY))
    for service in (pages.services.shop, pages.services.crm):
        await pages.services.shows(service, order_id, "REJECTED")
    await pages.shown(order_id, "REJECTED")
    async with viewing(browser, pages.url, "Sara") as sara, viewing(browser, pages.url) as ada:
        page = await sara.open("/sales")
        await page.locator("#rejected a[data-open-order]").first.click()
        await page.locator("summary", has_text="Ask for another file").click()
        await page.fill("form[action$=ask-file] [name=reason]", f"thicker {NASTY}")
        await page.click("form[action$=ask-file] button")
        await expect(page.locator(".life")).to_contain_text("Another file asked for")
        mine = await ada.open(f"/my/{order_id}#{link_of(order_id)}")
        await expect(mine.locator("main .note.bad")).to_contain_text(f"thicker {NASTY}")
        await mine.set_input_files(
            "#again-file", {"name": "ring.exe", "mimeType": "model/stl", "buffer": MODEL}
        )
        await mine.click(".drop button")
        await expect(mine.locator("main .note.bad").first).to_contain_text("send STL, 3MF or OBJ")
        await mine.set_input_files(
            "#again-file", {"name": "better.stl", "mimeType": "model/stl", "buffer": MODEL}
        )
        await mine.click(".drop button")
        await expect(mine.locator("h1")).to_contain_text("better.stl")
        await expect(mine.locator("form[action$=submit]")).to_be_visible()
        again = mine.url.rpartition("/")[2]
        assert again != order_id
        # One order follows it, however often that is asked for.
        found = ok(await pages.services.shop.post(f"/v1/orders/{order_id}/again"))
        assert (found["order_id"], found["quantity"]) == (again, 2)
        await mine.goto(f"{pages.url}/my/{order_id}")
        await mine.get_by_role("link", name="To the new order").click()
        await expect(mine).to_have_url(f"{pages.url}/my/{again}")
        said = "Order N: the price is there", "Order N cannot be made", "Order N: please send another file"
        await letters.until(order_id, *said)
        page = await sara.open("/sales")
        await expect(page.locator("#rejected")).not_to_contain_text(order_id)
        assert sara.complaints == []
        # The console has what was refused.
        assert [each for each in ada.complaints if "409" not in each] == []


@pytest.mark.parametrize("language", ["en", "ru"])
async def test_a_customer_orders_and_follows_it_by_his_link(
    pages: Pages, browser: Browser, language: str
) -> None:
    started = ok(await pages.services.start(), 201)
    order_id, asked = started["order_id"], []
    async with viewing(browser, pages.url, language=language) as ada:
        ada.context.on("request", lambda request: asked.append(request.url))
        page = await ada.open(f"/my/{order_id}#{link_of(order_id)}")
        await expect(page.locator("h1")).to_be_visible()
        await expect(page).to_have_url(f"{pages.url}/my/{order_id}")
        assert not [url for url in asked if "eyJ" in url]
        await page.set_input_files("#file", {"name": "ring.stl", "mimeType": "model/stl", "buffer": MODEL})
        await page.click(".drop button")
        await page.locator("form[action$=submit] button").click()
        await expect(page.locator(".way li").nth(1)).to_have_class("now")
        await expect(page.locator("#place")).to_be_visible()
        await pages.services.shows(pages.services.mes, order_id, "SUBMITTED")
        await pages.services.price(order_id)
        # The price comes by itself.
        await expect(page.locator(".big")).to_contain_text("412")
        await page.locator("form[action$=cancel] button").click()
        await page.locator("#confirm button.main").click()
        await expect(page.locator("main .note.bad")).to_be_visible()
        await pages.services.shows(pages.services.shop, order_id, "CANCELLED")
        assert ada.complaints == [], ada.complaints
        other = ok(await pages.services.start(), 201)["order_id"]
        page = await ada.open(f"/my/{other}")
        await expect(page.locator("[data-opens]")).to_be_visible()


async def test_a_piece_is_seen_in_3d_by_those_who_may_see_it(pages: Pages, browser: Browser) -> None:
    [order_id] = await pages.approved(name="signet.stl", content=RING)
    await pages.draw(order_id)
    other = ok(await pages.services.start(), 201)["order_id"]
    async with viewing(browser, pages.url, "Rosa") as rosa:
        page = await rosa.open(f"/orders/{order_id}")
        picture = page.locator(".stage img")
        await expect(picture).to_be_visible()
        assert await picture.evaluate("each => each.decode().then(() => each.naturalWidth)") == 320
        assert not await page.evaluate("Boolean(customElements.get('model-viewer'))")
        await page.get_by_role("button", name="Show in 3D").click()
        await expect(page.locator("model-viewer")).to_be_visible()
        await expect(page.locator("model-viewer")).to_have_js_property("loaded", True)
        # What is open stays open when the page hears of a change.
        await page.evaluate("document.querySelector('model-viewer').dataset.mine = 'yes'")
        ok(await pages.services.take(order_id, operator="Oleg"))
        await expect(page.locator(".order-head .s-MANUFACTURING_STARTED")).to_be_visible()
        await expect(page.locator("model-viewer[data-mine=yes]")).to_be_visible()
        await page.get_by_role("button", name="Back to the picture").click()
        await expect(picture).to_be_visible()
        assert rosa.complaints == []
    async with viewing(browser, pages.url) as ada:
        page = await ada.open(f"/my/{other}#{link_of(other)}")
        await expect(page.locator(".empty h2")).to_have_text("No model")
        # Another's order is as one that is not there.
        for path in (f"/my/{order_id}/picture", "/my/17/mesh", f"/orders/{order_id}/picture"):
            assert (await page.request.get(f"{pages.url}{path}")).status == 401
        for path in (f"/my/{other}/picture", f"/my/{other}/mesh?line=2"):
            assert (await page.request.get(f"{pages.url}{path}")).status == 404
        said = {"Cookie": f"__Host-order-{order_id}={link_of(other)}"}
        foreign = await page.request.get(f"{pages.url}/my/{order_id}/picture", headers=said)
        assert foreign.status == 404


@pytest.mark.long
@pytest.mark.parametrize("themes", [1, pytest.param(2, marks=pytest.mark.soak)])
async def test_every_page_is_open_to_all(pages: Pages, browser: Browser, themes: int) -> None:
    """axe-core, WCAG 2.2 AA and its best practices: each page in each language, theme and state.

    Here in English by day and in Russian in the dark; in `make soak` each language has both themes.
    """
    [waiting] = await pages.approved()
    in_work, rejected = await pages.approved(2)
    for order_id in (in_work, rejected):
        ok(await pages.services.take(order_id))
    ok(await pages.services.advance(rejected, "REJECTED", reason="the wall is too thin"))
    [to_confirm] = await pages.priced()
    await pages.shown(rejected, "REJECTED")
    await pages.shown(to_confirm, "PRICE_CALCULATED")
    customer = ok(await pages.services.start(), 201)["order_id"]
    priced = await pages.customers_order()
    await pages.draw(priced)
    failed = await pages.customers_order()
    ok(await pages.services.crm.post(f"/v1/orders/{failed}/approve"))
    await pages.services.shows(pages.services.mes, failed, "MANUFACTURING_APPROVED")
    ok(await pages.services.take(failed))
    ok(await pages.services.advance(failed, "REJECTED", reason="the wall is too thin"))
    await pages.shown(failed, "REJECTED")
    staff = {
        "Rosa": (
            "/",
            "/?material=platinum_950",
            "/?price_from=much",
            f"/orders/{waiting}",
            f"/orders/{in_work}",
            f"/orders/{rejected}",
            "/orders/17",
            "/sales",
            "/search?q=ring",
            "/search?q=nothing-like-this",
        ),
        "Sara": (
            "/sales",
            "/sales/confirm",
            f"/orders/{to_confirm}",
            f"/orders/{priced}",
            f"/orders/{failed}",
        ),
        None: (
            "/login",
            "/",
            f"/my/{customer}",
            *(f"/my/{each}#{link_of(each)}" for each in (customer, priced, failed)),
        ),
    }
    found = []
    for (name, paths), (language, width) in itertools.product(staff.items(), (("en", 1440), ("ru", 360))):
        shown = ("light", "dark") if themes == 2 else ("light",) if language == "en" else ("dark",)
        async with viewing(
            browser, pages.url, name, language=language, width=width, reduced_motion="reduce"
        ) as viewer:
            page = await viewer.context.new_page()
            for path in paths:
                await page.goto("about:blank")  # or what only differs behind the # would not be opened
                await page.goto(f"{pages.url}{path}")
                found += [f"{language} {name} {path}: {each}" for each in await faults_of(page, width, shown)]
    assert found == [], "\n".join(found)
    # What an operator has in hand comes first in the tests behind this one.
    await pages.services.take(waiting, operator="Oleg")
    ok(await pages.services.advance(in_work, "REJECTED", reason="the wall is too thin"))
    await pages.shown(in_work, "REJECTED")


OPEN_IN_THE_DARK = """
    document.documentElement.dataset.theme = "dark";
    document.querySelectorAll("details").forEach((each) => { each.open = true; });
    document.querySelector("#keys")?.showModal();
"""
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()


async def faults_of(page: Page, width: int, themes: Sequence[str]) -> list[str]:
    """Run axe-core on a page in these themes, in the dark with all open that opens; nothing may overflow."""
    await expect(page.locator("main")).to_be_visible()
    found = []
    if await page.evaluate("document.documentElement.scrollWidth") > width:
        found.append("it is wider than the screen")
    # Its script is run by the protocol: the policy of the page lets no other in.
    await page.evaluate(AXE)
    if "light" in themes:
        found += [f"light: {each}" for each in await _axe(page)]
    if "dark" in themes:
        await page.evaluate(OPEN_IN_THE_DARK)
        found += [f"dark: {each}" for each in await _axe(page)]
    return found


async def _axe(page: Page) -> list[str]:
    result: dict[str, Any] = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {node['html'][:120]} {node['failureSummary'][:200]}"
        for each in result["violations"]
        for node in each["nodes"][:1]
    ]
