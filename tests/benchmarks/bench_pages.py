"""What the pages cost: until an event is on the screen, for an open board, and until a page is painted."""

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median, quantiles
from typing import Any

import uvicorn
from httpx import AsyncClient
from playwright.async_api import Browser, Page
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.kit.caller import Role
from tests.benchmarks.harness import CannotRun, Measured, benchmark, platform
from tests.callers import acting
from tests.integration.pages_rig import Pages, chromium, serving_pages, viewing
from tests.integration.services_rig import ok
from tests.needs import NEEDS

BOARDS, EVENTS, OPEN, LOADS = 20, 15, 500, 9
ROWS = 50
WATCH = """
    window.seen = {};
    new MutationObserver((changes) => {
      for (const change of changes) for (const node of change.addedNodes) {
        if (node.dataset && node.dataset.order) window.seen[node.dataset.order] ??= Date.now();
      }
    }).observe(document, {childList: true, subtree: true});
"""
LARGEST = """
    new Promise((done) => new PerformanceObserver((list) => done(list.getEntries().at(-1).startTime))
      .observe({type: "largest-contentful-paint", buffered: true}))
"""
WEIGHT = """
    [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
      .reduce((sum, each) => sum + each.transferSize, 0)
"""


@asynccontextmanager
async def _served(**changes: Any) -> AsyncIterator[tuple[Pages, Browser]]:
    if NEEDS["chromium"].find() is None:
        raise CannotRun("chromium is not here")
    with platform() as topology:
        async with serving_pages(topology, **changes) as pages, chromium() as browser:
            yield pages, browser


async def _listen(pages: Pages, seen: dict[str, float], ready: asyncio.Event) -> None:
    """Follow the events of a board by a bare loop, and note when each order's came."""
    async with (
        AsyncClient(base_url=pages.url, timeout=None, trust_env=False) as client,
        client.stream("GET", "/stream", headers=acting("Olga", Role.OPERATOR)) as answer,
    ):
        name = ""
        async for line in answer.aiter_lines():
            ready.set()
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "data" and name == "row" and (row := json.loads(value))["html"]:
                seen.setdefault(row["id"], time.time())


@benchmark(name="board_live", target=3)
async def board_live() -> Measured:
    """Compare when an approved order is on the screens of 20 boards with when a bare loop has its event."""
    async with _served(max_streams=100) as (pages, browser), AsyncExitStack() as stack:
        bare: dict[str, float] = {}
        ready = asyncio.Event()
        listening = asyncio.create_task(_listen(pages, bare, ready))
        stack.callback(listening.cancel)
        await ready.wait()
        boards = []
        cookies = await _cookies_of(browser, pages, "Rosa")
        for _ in range(BOARDS):
            # Each in a browser of its own: one has six connections to a server that speaks HTTP/1.1.
            viewer = await stack.enter_async_context(viewing(browser, pages.url))
            await viewer.context.add_cookies(cookies)
            await viewer.context.add_init_script(WATCH)
            boards.append(await viewer.open("/"))
        for board in boards:
            await board.wait_for_selector("#link-state[data-state=live]")
        begun: dict[str, float] = {}
        for order_id in await pages.priced(EVENTS):
            begun[order_id] = time.time()
            ok(await pages.services.crm.post(f"/v1/orders/{order_id}/approve"))
            for board in boards:
                await board.wait_for_selector(f"#o{order_id}", state="attached")
        on_screen = [await board.evaluate("window.seen") for board in boards]
        waits = [each[order] / 1000 - at for each in on_screen for order, at in begun.items()]
        loops = [bare[order] - at for order, at in begun.items()]
    screen, loop = quantiles(waits, n=20)[-1], quantiles(loops, n=20)[-1]
    said = (
        f"p95 from the seller's approval to the screen {screen * 1000:.0f} ms, to a loop {loop * 1000:.0f} ms"
    )
    return Measured(screen / loop, said)


async def _cookies_of(browser: Browser, pages: Pages, name: str | None) -> Any:
    """Sign in, and return the cookies: a browser that begins with them has nothing else yet."""
    async with viewing(browser, pages.url, name, language="ru") as viewer:
        return await viewer.context.cookies()


@benchmark(name="board_open", target=1024, unit="KiB of a board")
async def board_open() -> Measured:
    """Report what 500 open boards take of the process that serves them, their clients included."""
    async with (
        _served(max_streams=OPEN + 1, max_connections=OPEN + 100) as (pages, _),
        AsyncExitStack() as stack,
    ):
        before = _resident()
        seen: list[dict[str, float]] = [{} for _ in range(OPEN)]
        for each in seen:
            ready = asyncio.Event()
            stack.callback(asyncio.create_task(_listen(pages, each, ready)).cancel)
            await ready.wait()
        grown = _resident() - before
        [order_id] = await pages.priced()
        cpu, begun = time.process_time(), time.time()
        ok(await pages.services.crm.post(f"/v1/orders/{order_id}/approve"))
        async with asyncio.timeout(60):
            while not all(order_id in each for each in seen):  # noqa: ASYNC110 (500 loops note it)
                await asyncio.sleep(0.02)
        last = max(each[order_id] for each in seen) - begun
        spent = time.process_time() - cpu
    memory = f"{grown / 2**20:.0f} MiB for {OPEN}"
    said = f"{memory}; an order reaches all within {last:.2f} s, for {spent:.2f} s of CPU"
    return Measured(grown / OPEN / 1024, said)


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@benchmark(name="page_weight", target=250, unit="KB")
async def page_weight() -> Measured:
    """Weigh the first load of each page, in Russian, which takes two fonts; a piece in 3D is left out."""
    async with _served() as (pages, browser):
        orders = await pages.approved(ROWS)
        # Its picture is a part of what is loaded; the mesh and the viewer are not.
        await pages.draw(orders[0])
        found = {}
        for name, path in (
            ("Rosa", "/"),
            ("Rosa", f"/orders/{orders[0]}"),
            ("Sara", "/sales"),
            (None, "/login"),
        ):
            cookies = await _cookies_of(browser, pages, name)
            async with viewing(browser, pages.url, language="ru") as viewer:
                await viewer.context.add_cookies(cookies)
                page = await viewer.open(path)
                await page.evaluate("document.fonts.ready")
                found[path.rstrip("0123456789")] = await page.evaluate(WEIGHT) / 1000
    said = ", ".join(f"{path} {kilobytes:.0f}" for path, kilobytes in found.items())
    return Measured(max(found.values()), said)


@benchmark(name="paint_cost", target=2)
async def paint_cost() -> Measured:
    """Compare the largest contentful paint of a board of 50 rows with that of the same bytes, kept ready."""
    async with _served() as (pages, browser), AsyncExitStack() as stack:
        await pages.approved(ROWS)
        viewer = await stack.enter_async_context(viewing(browser, pages.url, "Rosa"))
        page = await viewer.open("/")
        kept = await _fetched(page)
        static = await stack.enter_async_context(_static(kept))
        times: dict[str, list[float]] = {pages.url: [], static: []}
        for _ in range(LOADS):
            for url, found in times.items():
                await page.goto("about:blank")
                await page.goto(f"{url}/", wait_until="load")
                found.append(float(await page.evaluate(LARGEST)))
    own, plain = (median(found) for found in times.values())
    return Measured(own / plain, f"{own:.0f} ms, and {plain:.0f} ms of a static page")


async def _fetched(page: Page) -> Mapping[str, tuple[bytes, str]]:
    """Return the page and its files by their paths, with their kinds."""
    names = await page.evaluate("performance.getEntriesByType('resource').map((each) => each.name)")
    kept = {}
    for name in [page.url, *names]:
        if "/stream" not in name:
            answer = await page.request.get(name)
            path = "/" + name.split("/", 3)[3]
            kept[path] = await answer.body(), answer.headers["content-type"]
    return kept


@asynccontextmanager
async def _static(kept: Mapping[str, tuple[bytes, str]]) -> AsyncIterator[str]:
    async def answer(request: Request) -> Response:
        body, kind = kept.get(request.url.path, (b"", "text/plain"))
        return Response(
            body,
            media_type=kind,
            headers={"Cache-Control": "max-age=3600"} if kind[:9] != "text/html" else {},
        )

    app = Starlette(routes=[Route("/{path:path}", answer)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110 (uvicorn says it by nothing else)
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://localhost:{port}"
    finally:
        server.should_exit = server.force_exit = True
        await serving
