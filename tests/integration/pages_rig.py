"""The board's pages on real services, databases and Redis, and the Chromium that opens them."""

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI
from httpx import AsyncClient, Auth
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright

from app.access import identities
from app.access.credentials import TokenUse
from app.board.application import build as build_board
from app.board.endpoints import Board
from app.console.demo.shapes import signet_ring, stl_binary
from app.crm.application import build as build_crm
from app.database import open_shards
from app.kit.caller import Role
from app.mes.application import build as build_mes
from app.models.reference import Finish, Material
from app.orders import UnknownOrder
from app.pricing.measurement import Measurement
from app.pricing.preview import preview
from app.pricing.tariff import TARIFF, explain
from app.serve import server_config
from app.settings import Settings
from app.shop.application import build as build_shop
from app.topology import services_of
from readreplica.sessions import WriteSession
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.callers import KEYS, ActingAs, caller_of
from tests.integration.board_rig import with_board
from tests.integration.services_rig import Services, fast_settings, ok, save_map
from tests.needs import require

BUILDS = {"shop": build_shop, "crm": build_crm, "mes": build_mes, "board": build_board}
RING = stl_binary(signet_ring(radius_mm=9, width_mm=4, thickness_mm=2))
PASSWORD = "correct horse battery staple"
PEOPLE: Mapping[str, Role] = {
    "Rosa": Role.OPERATOR,
    "Oleg": Role.OPERATOR,
    "Sara": Role.SELLER,
    "Anna": Role.AUDITOR,
}


def how_of(material: str = Material.GOLD_18K, finish: str = Finish.POLISHED) -> dict[str, Any]:
    """Return what the pricing says of how the price of a piece came about."""
    measured = Measurement(volume_mm3=512.4, area_mm2=845.1, extents_mm=(21.4, 22.0, 6.5), polygons=12_480)
    said = explain(measured, material=material, finish=finish, tariff=TARIFF)
    return {"measured": [{"line_no": 1, **said}]}


@dataclass
class Running:
    """A service that is served: its application, its server, and what ends it."""

    app: FastAPI
    server: uvicorn.Server
    task: "asyncio.Task[None]"
    stack: AsyncExitStack


@dataclass
class Pages:
    """The four services, served, and clients of those that decide."""

    topology: Topology
    settings: Settings
    services: Services
    running: dict[str, Running] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the board is; a browser takes what comes from localhost as secure."""
        return f"http://localhost:{services_of(self.topology)['board'].port}"

    @property
    def board(self) -> Board:
        """What the board works with."""
        parts: Board = self.running["board"].app.state.parts
        return parts

    async def start(self, name: str) -> None:
        """Serve one of the services."""
        app = BUILDS[name](self.settings, self.topology)
        stack = AsyncExitStack()
        await stack.enter_async_context(app.router.lifespan_context(app))
        address = services_of(self.topology)[name]
        config = server_config(app, self.settings, host=address.host, port=address.port)
        config.timeout_graceful_shutdown = 1
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve())
        while not server.started:  # noqa: ASYNC110 (uvicorn says it by nothing else)
            await asyncio.sleep(0.01)
        self.running[name] = Running(app, server, task, stack)

    async def stop(self, name: str) -> None:
        """End one of the services, with every stream that it has open."""
        running = self.running.pop(name)
        running.server.should_exit = running.server.force_exit = True
        await running.task
        await running.stack.aclose()

    async def priced(self, count: int = 1, *, price: str = "412.50", **changes: Any) -> list[str]:
        """Bring partners' orders to where a seller approves them; give their ids."""
        made = []
        for _ in range(count):
            order_id = await self.services.placed(await self.services.b2b_response(**changes))
            how = how_of(changes.get("material", Material.BRASS), changes.get("finish", Finish.MATTE))
            await self.services.price(order_id, price, how=how)
            await self.services.shows(self.services.crm, order_id, "PRICE_CALCULATED")
            made.append(order_id)
        return made

    async def customers_order(self, *, price: str = "412.50", name: str = "ring.stl", **changes: Any) -> str:
        """Bring a customer's order to where its price is there, and wait until the board has it."""
        services = self.services
        order_id = str(ok(await services.start(**changes), 201)["order_id"])
        ok(await services.upload(order_id, name=name))
        ok(await services.shop.post(f"/v1/orders/{order_id}/submit"))
        await services.shows(services.mes, order_id, "SUBMITTED")
        chosen = {name: changes[name] for name in ("material", "finish") if name in changes}
        await services.price(order_id, price, how=how_of(**chosen))
        await services.shows(services.crm, order_id, "PRICE_CALCULATED")
        await self.shown(order_id, "PRICE_CALCULATED")
        return order_id

    async def approved(self, count: int = 1, **changes: Any) -> list[str]:
        """Bring partners' orders to where operators take them, and wait until the board has them."""
        made = await self.priced(count, **changes)
        for order_id in made:
            ok(await self.services.crm.post(f"/v1/orders/{order_id}/approve"))
        for order_id in made:
            await self.shown(order_id, "MANUFACTURING_APPROVED")
        return made

    async def draw(self, order_id: str, content: bytes = RING) -> None:
        """Draw the piece of an order, as a worker of the pricing does it in its sandbox."""
        found = preview(content, suffix="stl")
        assert found is not None
        for line in await self.board.pages.lines(int(order_id)):
            assert line.model_key is not None
            models = self.board.pages.models
            await models.put_preview(line.model_key, "glb", b64decode(found.glb))
            await models.put_preview(line.model_key, "png", b64decode(found.png))

    async def shown(self, order_id: str, status: str) -> None:
        """Wait until the board has an order with a status."""
        async with asyncio.timeout(30):
            while True:
                try:
                    found = await self.board.pages.settled(int(order_id), lambda each: each.status == status)
                    if found.status == status:
                        return
                except UnknownOrder:
                    await asyncio.sleep(0.02)


@asynccontextmanager
async def serving_pages(topology: Topology, **changes: Any) -> AsyncIterator[Pages]:
    """Serve the board and the services that it asks, with identities of staff."""
    port = max(each.port for each in services_of(topology).values()) + 1
    topology = with_board(topology, port=port)
    settings = fast_settings(topology).model_copy(update=changes)
    await save_map(topology)
    await _make_people(topology)
    async with AsyncExitStack() as stack:
        clients = {}
        for name in ("shop", "crm", "mes"):
            auth: Auth = caller_of("crm") if name == "crm" else ActingAs()
            url = services_of(topology)[name].url
            client = AsyncClient(base_url=url, auth=auth, trust_env=False)
            clients[name] = await stack.enter_async_context(client)
        shards = await stack.enter_async_context(open_shards(topology, application_name="test"))
        pages = Pages(topology, settings, Services(**clients, shards=shards))
        try:
            for name in BUILDS:
                await pages.start(name)
            yield pages
        finally:
            for name in list(pages.running):
                await pages.stop(name)


async def _make_people(topology: Topology) -> None:
    async with open_cluster(
        topology, "directory", role="directory_owner", application_name="test"
    ) as directory:

        async def make(session: WriteSession) -> None:
            for name, role in PEOPLE.items():
                await identities.create(session, name, role, by="test", password=PASSWORD)

        await directory.transact(make)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run Debian's Chromium, without a window."""
    program = require("chromium")
    async with async_playwright() as playwright:
        # Its own sandbox needs rights that root of a container has not.
        browser = await playwright.chromium.launch(
            executable_path=program,
            # WebGL is drawn by the processor: there is no card.
            args=["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"],
        )
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Viewing:
    """Somebody's browser, and what its pages have complained of."""

    context: BrowserContext
    url: str
    complaints: list[str] = field(default_factory=list)

    async def open(self, path: str = "/") -> Page:
        """Open a page in a tab of its own."""
        page = await self.context.new_page()
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        await page.goto(f"{self.url}{path}")
        return page

    def _note(self, message: ConsoleMessage) -> None:
        # A card that is drawn by the processor is slow, and says so.
        if message.type in {"error", "warning"} and "GL Driver Message" not in message.text:
            self.complaints.append(f"{message.type}: {message.text}")


@asynccontextmanager
async def viewing(
    browser: Browser,
    url: str,
    name: str | None = None,
    *,
    language: str = "en",
    theme: str = "light",
    width: int = 1440,
    height: int = 900,
    **options: Any,
) -> AsyncIterator[Viewing]:
    """Open a browser of one of `PEOPLE`, who is signed in, or of somebody without a name."""
    options = {"timezone_id": "Europe/Berlin", "locale": f"{language}-XX"[:2]} | options
    context = await browser.new_context(viewport={"width": width, "height": height}, **options)
    context.set_default_timeout(30_000)
    cookies = {"lang": language, "theme": theme, "zone": options["timezone_id"]}
    await context.add_cookies([{"name": key, "value": value, "url": url} for key, value in cookies.items()])
    viewer = Viewing(context, url)
    try:
        if name is not None:
            await sign_in(viewer, name)
        yield viewer
    finally:
        await context.close()


async def sign_in(viewer: Viewing, name: str) -> None:
    """Sign in by the page."""
    page = await viewer.context.new_page()
    await page.goto(f"{viewer.url}/login")
    await page.fill("#login-name", name)
    await page.fill("#login-password", PASSWORD)
    await page.click("main button.main")
    await page.wait_for_selector("nav.tabs")
    await page.close()


def link_of(order_id: str) -> str:
    """Make the token of a customer's link."""
    return KEYS.sign(TokenUse.LINK, {"sub": order_id})
