"""`python -m tests.screenshots`: make the pictures in docs/images of the pages, on real services."""

import asyncio
from pathlib import Path
from typing import Any

from playwright.async_api import Browser
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.benchmarks.harness import platform
from tests.integration.pages_rig import Pages, chromium, link_of, serving_pages, viewing
from tests.integration.services_rig import ok

IMAGES = Path(__file__).parents[1] / "docs" / "images"

CUSTOMERS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("Ada Byron", "engagement-ring-halo.stl", {"material": "platinum_950", "quantity": 1}, "3980.00"),
    ("Константин Орлов", "signet-ring-oval.stl", {"material": "gold_18k", "quantity": 2}, "1412.50"),
    ("Grace Hopper", "pendant-leaf.stl", {"material": "silver_925", "finish": "matte"}, "172.40"),
    ("Мария Седова", "wedding-band.stl", {"material": "gold_14k", "finish": "hammered"}, "918.40"),
)
PARTNERS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("cufflink.stl", {"material": "brass", "finish": "brushed", "quantity": "12"}, "240.00"),
    ("earring-drop.stl", {"material": "silver_925", "finish": "matte", "quantity": "4"}, "210.00"),
    ("bracelet-link.stl", {"material": "gold_18k", "finish": "polished", "quantity": "24"}, "5220.00"),
    ("tie-bar.stl", {"material": "brass", "finish": "polished", "quantity": "3"}, "44.31"),
)
# How long each waits, in minutes, the newest last: a morning in the workshop.
SPREAD = text("""
    UPDATE orders SET changed_at = now() - waited * interval '1 minute'
    FROM (SELECT order_id AS id, (ARRAY[2, 7, 19, 44, 130, 305, 1560, 1900])[row_number() OVER
          (ORDER BY order_id DESC)] AS waited FROM orders WHERE status = 'MANUFACTURING_APPROVED') AS waits
    WHERE order_id = id AND waited IS NOT NULL
""")
Shot = tuple[str, str | None, str, dict[str, Any]]


async def main() -> None:
    """Make orders, and a picture of each page."""
    IMAGES.mkdir(exist_ok=True)
    with platform() as topology:
        async with serving_pages(topology) as pages, chromium() as browser:
            shots = await _shots(pages)
            owner = create_engine(pages.topology.url("board", role="board_owner"), poolclass=NullPool)
            with owner.begin() as connection:
                connection.execute(SPREAD)
            for shot in shots:
                await _take(browser, pages, *shot)


async def _shots(pages: Pages) -> list[Shot]:
    """Make the orders, and return what is taken: the name of a picture, who looks, at what, and how."""
    services = pages.services
    in_work = await pages.approved(2, **PARTNERS[3][1], name=PARTNERS[3][0], price=PARTNERS[3][2])
    # All have one file here, and so one picture.
    await pages.draw(in_work[0])
    for order_id in in_work:
        ok(await services.take(order_id))
    ok(await services.advance(in_work[0], "MANUFACTURING_COMPLETED"))
    ok(await services.advance(in_work[0], "PACKAGING"))
    shipped = await pages.approved(1, **PARTNERS[0][1], name=PARTNERS[0][0])
    ok(await services.take(shipped[0]))
    for step in ("MANUFACTURING_COMPLETED", "PACKAGING", "SHIPPED"):
        ok(await services.advance(shipped[0], step))
    for name, changes, price in PARTNERS:
        await pages.approved(1, name=name, price=price, **changes)
    customers = [
        await pages.customers_order(
            **changes, customer={"name": who, "email": "somebody@example.org"}, name=model, price=price
        )
        for who, model, changes, price in CUSTOMERS
    ]
    for order_id in customers[1:3]:
        ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))
        await pages.shown(order_id, "MANUFACTURING_APPROVED")
    waiting = await pages.priced(1, name=PARTNERS[1][0], **PARTNERS[1][1])
    await pages.shown(waiting[0], "PRICE_CALCULATED")
    await pages.shown(in_work[0], "PACKAGING")
    mine = f"/my/{customers[0]}#{link_of(customers[0])}"
    wide, phone = {"width": 1360, "height": 850}, {"width": 390, "height": 844}
    return [
        ("board", "Rosa", "/", wide),
        ("board-ru", "Rosa", "/", {**wide, "language": "ru", "theme": "dark"}),
        ("order", "Rosa", f"/orders/{in_work[0]}", {**wide, "height": 1000}),
        ("sales-ru", "Sara", "/sales", {**wide, "language": "ru"}),
        ("customer", None, mine, {**wide, "height": 900}),
        ("board-phone", "Rosa", "/", phone),
        ("customer-phone-ru", None, mine, {**phone, "language": "ru", "theme": "dark"}),
    ]


async def _take(  # noqa: PLR0917 (it unpacks a Shot)
    browser: Browser, pages: Pages, picture: str, name: str | None, path: str, look: dict[str, Any]
) -> None:
    async with viewing(browser, pages.url, name, **look) as viewer:
        page = await viewer.open(path)
        await page.wait_for_selector("#link-state[data-state=live], #sales")
        await page.evaluate("document.fonts.ready")
        await page.screenshot(path=IMAGES / f"{picture}.png")


if __name__ == "__main__":
    asyncio.run(main())
