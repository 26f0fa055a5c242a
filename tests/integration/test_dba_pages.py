"""The DBA's pages on real servers, one of them frozen, and in Chromium."""

import asyncio
import os
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright, expect
from sqlalchemy import insert, select

from app.access import identities
from app.console.pages_access import StaffAccess
from app.kit.caller import Role
from app.models.mes import MesOrder, MesOrderEvent, MesOutbox
from app.models.status import Status
from ops.options import Options
from ops.pages.commands import OWN_NAMES, make_app, panels_of
from ops.pages.content import Figure, Figures, Panel, PanelContent, PanelRow, PanelTable, ShardPicture, Size
from ops.pages.reading import PanelBoard
from ops.pages.sessions import SessionStore, Viewer
from ops.pages.site import Site
from readreplica.sessions import WriteSession
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.integration.audit_rig import Clerk, order_row
from tests.integration.mesctl_rig import Mesctl
from tests.integration.writes_rig import MAP, OWN, Wide
from tests.needs import require
from tests.project import PROJECT

pytestmark = pytest.mark.usefixtures("stats_rights")

SOON_SECONDS = 30.0
"""A panel has ten; the rest is this machine's."""

SCREENSHOTS = "MES_STORAGE_SCREENSHOTS"
"""Names the folder into which the browser's tests write their pictures."""

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}


def options_of(wide: Wide, home: Path) -> Options:
    return Options(json=False, named_home=home, named_topology=wide.topology.path, named_project=PROJECT.path)


def contents_of(options: Options) -> Mapping[str, PanelContent]:
    return {panel.name: panel.read(options) for panel in panels_of(options)}


def table_of(content: PanelContent, columns: int) -> PanelTable:
    """Give the table that has so many columns."""
    return next(
        each for each in content.blocks if isinstance(each, PanelTable) and len(each.columns) == columns
    )


def texts(row: PanelRow) -> list[Any]:
    return [getattr(cell, "value", cell) for cell in row.cells]


def test_a_panel_shows_what_its_verb_shows(
    wide: Wide, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mesctl, options = Mesctl(wide.topology.path, capsys, PROJECT.path), options_of(wide, tmp_path)
    assert mesctl("partitions", "apply").status == 0
    shown = contents_of(options)
    assert {name: dict(each.unreached) for name, each in shown.items() if each.unreached} == {}

    shards = mesctl("shards", "list", "--json").json
    picture = next(each for each in shown["shards-mes"].blocks if isinstance(each, ShardPicture))
    assert (picture.version, picture.owners) == (shards["map_version"], MAP.owners)
    assert [(part.name, part.buckets, part.rows) for part in picture.shards] == [
        (row["shard"], row["buckets"], row["live_rows"] + row["archived_rows"]) for row in shards["shards"]
    ]

    listed = mesctl("partitions", "list", "--json").json
    pieces = table_of(shown["partitions"], 5)
    assert {(texts(row)[0], texts(row)[1], texts(row)[3]) for row in pieces.rows} == {
        (f"{row['database']}: {row['partition']}", row["bound"], row["size_bytes"]) for row in listed
    }
    sizes = [cell.value for row in pieces.rows for cell in row.cells if isinstance(cell, Size)]
    assert sizes == sorted(sizes, reverse=True)

    nodes = mesctl("replicas", "list", "--json").json
    assert [texts(row)[:3] for row in table_of(shown["replicas"], 6).rows] == [
        [row["database"], row["node"], row["state"]] for row in nodes
    ]
    revisions = mesctl("migrate", "status", "--json").json
    assert [texts(row)[:3] for row in table_of(shown["migrations"], 6).rows] == [
        [row["database"], row["tree"], row["revision"]] for row in revisions
    ]
    archives = mesctl("archive", "status", "--json").json
    assert {(texts(row)[0], texts(row)[1]): texts(row)[2] for row in table_of(shown["archive"], 7).rows} == {
        (name, archive): found["waiting"]
        for name, tables in archives.items()
        for archive, found in tables.items()
    }
    problems = mesctl("problems", "--json").json
    found = next(each.problems for each in shown["problems"].blocks if each.kind == "problems")
    assert [(each.object, each.what) for each in found] == [
        (each["object"], each["what"]) for each in problems
    ]


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application on a free port; give its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://localhost:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def pages(wide: Wide, tmp_path: Path) -> Iterator[tuple[str, SessionStore]]:
    """Serve the pages of three shards; give their address, and what makes links."""
    with served(make_app(options_of(wide, tmp_path), port=1)) as url:
        yield url, SessionStore(tmp_path / "pages")


async def settled(client: httpx.AsyncClient) -> Mapping[str, str]:
    """Ask for the panels until each was read; give their HTML."""
    found: dict[str, dict[str, Any]] = {}
    until = time.monotonic() + SOON_SECONDS
    while not found or any("skeleton" in each["html"] for each in found.values()):
        assert time.monotonic() < until, [name for name, each in found.items() if "skeleton" in each["html"]]
        seen = ",".join(f"{name}:{each['version']}" for name, each in found.items())
        answer = await client.get("/panels", params={"seen": seen})
        found |= answer.json()["panels"]
    return {name: each["html"] for name, each in found.items()}


@asynccontextmanager
async def entered(url: str, form: Mapping[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"sec-fetch-site": "same-origin"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=SOON_SECONDS) as client:
        assert (await client.post("/session", data=dict(form))).status_code == 303
        yield client


async def test_a_frozen_server_is_named_and_hides_nothing_of_the_others(
    wide: Wide, pages: tuple[str, SessionStore]
) -> None:
    url, sessions = pages
    with wide.own.frozen():
        async with entered(url, {"token": sessions.make_link()}) as client:
            html = await settled(client)
    of_shards = {
        "sessions",
        "in-doubt",
        "messages",
        "prices",
        "shards-mes",
        "partitions",
        "archive",
        "migrations",
    }
    for name in sorted(of_shards):
        assert f"not reached: {OWN}" in html[name], name
    assert f"database {OWN}" in html["problems"]
    assert "does not answer" in html["problems"]
    for name in ("shards-mes", "partitions", "archive", "migrations", "prices"):
        assert "mes_0" in re.sub(r"<p class=.unreached.*", "", html[name]), name
    assert "not reached" not in html["replicas"]


def lay_dead_letter(topology: Topology) -> tuple[int, str]:
    """Have an order whose message no service could handle; give its id and the message's."""
    shard, order_id = "mes_0", next(key for key in range(1, 999) if MAP.shard_of(key) == "mes_0")
    message_id, now = uuid4(), datetime.now(UTC)
    facts = {"order_id": order_id, "type": "order.shipped", "data": {}, "destination": "crm"}
    dead = {"set_aside_at": now - timedelta(hours=2), "set_aside_reason": "<script>alert(1)</script>"}
    clerk = Clerk(topology)
    clerk.write(
        shard,
        insert(MesOrder).values(order_row(order_id, Status.SHIPPED)),
        insert(MesOutbox).values(**facts, message_id=message_id, attempts=9, **dead),
    )
    return order_id, str(message_id)


def letter_of(topology: Topology, message_id: str) -> Any:
    with Clerk(topology).engine("mes_0").connect() as connection:
        query = select(MesOutbox.set_aside_at, MesOutbox.attempts).where(MesOutbox.message_id == message_id)
        return connection.execute(query).one()


def actors_of(topology: Topology, order_id: int) -> list[str]:
    with Clerk(topology).engine("mes_0").connect() as connection:
        found = connection.scalars(select(MesOrderEvent.actor).where(MesOrderEvent.order_id == order_id))
        return list(found)


@pytest.fixture
def dead_letter(wide: Wide) -> Iterator[tuple[int, str]]:
    """Lay a dead letter, and take its message away again."""
    order_id, message_id = lay_dead_letter(wide.topology)
    yield order_id, message_id
    wide.run("mes_0", "TRUNCATE outbox")


async def make_staff(topology: Topology, name: str, role: Role) -> None:
    async def work(session: WriteSession) -> None:
        await identities.create(session, name, role, by="test", password="correct horse")

    directory = topology.directory_of("mes")
    async with open_cluster(
        topology, directory.name, role=directory.owner, application_name="test"
    ) as cluster:
        await cluster.transact(work)


async def test_staff_log_in_by_their_roles_until_they_are_revoked(
    wide: Wide, tmp_path: Path, dead_letter: tuple[int, str]
) -> None:
    name = f"{uuid4().hex[:8]}"
    people = {f"dba-{name}": Role.DBA, f"auditor-{name}": Role.AUDITOR, f"operator-{name}": Role.OPERATOR}
    for person, role in people.items():
        await make_staff(wide.topology, person, role)
    access = StaffAccess(wide.topology)

    def viewer(person: str, password: str = "correct horse") -> Viewer | None:
        return access.login(person, password, "127.0.0.1")

    assert viewer(f"operator-{name}") is None
    assert viewer(f"dba-{name}", "wrong") is None
    dba, auditor = viewer(f"dba-{name}"), viewer(f"auditor-{name}")
    assert (dba and dba.may_act, auditor and auditor.may_act) == (True, False)
    with served(make_app(options_of(wide, tmp_path), port=1)) as url:
        form = {"name": f"auditor-{name}", "password": "correct horse"}
        async with entered(url, form) as client:
            html = await settled(client)
            assert f"retry {dead_letter[1]}" in html["messages"]  # the command is there, and no button
            assert "/actions/" not in "".join(html.values())
            wide.run("directory", f"UPDATE identities SET revoked_at = now() WHERE name = 'auditor-{name}'")
            until = time.monotonic() + SOON_SECONDS
            while (await client.get("/panels")).status_code != 401:
                assert time.monotonic() < until


def test_a_directory_that_is_away_keeps_in_who_was_known(wide: Wide) -> None:
    now = [0.0]
    access = StaffAccess(wide.topology, clock=lambda: now[0])
    viewer = Viewer("a stranger", may_act=True, by_login=True, opened_at=time.time())
    assert access.refresh(viewer) is None
    asyncio.run(make_staff(wide.topology, "night", Role.DBA))
    known = Viewer("night", may_act=True, by_login=True, opened_at=time.time() + 5)
    assert access.refresh(known) == known
    wide.run("directory", "REVOKE SELECT ON identities FROM directory_owner")
    try:
        now[0] = 500.0
        assert access.refresh(known) == known
        now[0] = 700.0
        assert access.refresh(known) is None
    finally:
        wide.run("directory", "GRANT SELECT ON identities TO directory_owner")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    program = require("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


class Console:
    """What a page has complained of."""

    def __init__(self, page: Page) -> None:
        self.lines: list[str] = []
        page.on("pageerror", lambda error: self.lines.append(str(error)))
        page.on("console", self._hear)

    def _hear(self, said: ConsoleMessage) -> None:
        if said.type in {"error", "warning"}:
            self.lines.append(said.text)


async def opened(context: BrowserContext, url: str, sessions: SessionStore) -> tuple[Page, Console]:
    page = await context.new_page()
    console = Console(page)
    await page.goto(f"{url}/open#{sessions.make_link()}")
    await expect(page.locator(".problems, .fine")).to_be_visible(timeout=SOON_SECONDS * 1000)
    await expect(page.locator(".skeleton")).to_have_count(0, timeout=SOON_SECONDS * 1000)
    return page, console


async def faults_of(page: Page) -> list[str]:
    """Give what axe finds on the page."""
    await page.evaluate(AXE)
    found = await page.evaluate("rules => axe.run(document, rules)", RULES)
    return [f"{each['id']}: {node['target']}" for each in found["violations"] for node in each["nodes"]]


async def picture(page: Page, name: str) -> None:
    if folder := os.environ.get(SCREENSHOTS):
        await page.screenshot(path=Path(folder) / f"{name}.png", full_page=name.endswith("phone"))


@pytest.mark.long
async def test_a_night_with_a_frozen_server_in_a_browser(
    wide: Wide, pages: tuple[str, SessionStore], dead_letter: tuple[int, str]
) -> None:
    url, sessions = pages
    order_id, message_id = dead_letter
    async with chromium() as browser:
        context = await browser.new_context(viewport={"width": 1440, "height": 1000}, locale="en-GB")
        with wide.own.frozen():
            page, console = await opened(context, url, sessions)
            assert page.url == f"{url}/"  # the token is in no address any more
            await expect(page.locator("#panel-shards-mes .unreached")).to_contain_text(f"not reached: {OWN}")
            await expect(page.locator("#panel-problems li.page").first).to_be_visible()
            assert await page.title() != "Order system · databases"
            await picture(page, "dba-frozen")
            assert await faults_of(page) == []
        await expect(page.locator("#panel-sessions .unreached")).to_have_count(0, timeout=SOON_SECONDS * 1000)

        row = page.locator("#panel-messages tr.helps")
        await expect(row.locator(".command code")).to_have_text(
            f"mesctl orders dead-letters retry {message_id}"
        )
        await row.get_by_role("button", name="Send again").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_role("button", name="Leave it").click()
        assert letter_of(wide.topology, message_id).set_aside_at is not None
        await row.get_by_role("button", name="Send again").press("Enter")
        await dialog.get_by_role("button", name="Do it").press("Enter")
        await expect(page.locator("#said")).to_have_text(f"sent again: order.shipped of order {order_id}")
        assert tuple(letter_of(wide.topology, message_id)) == (None, 0)
        assert actors_of(wide.topology, order_id) == ["pages: link"]
        assert console.lines == []


@pytest.mark.long
async def test_both_languages_both_themes_and_a_phone(pages: tuple[str, SessionStore]) -> None:
    url, sessions = pages
    async with chromium() as browser:
        context = await browser.new_context(locale="ru-RU", timezone_id="Asia/Tokyo", color_scheme="dark")
        page, console = await opened(context, url, sessions)
        state = await context.storage_state()
        await expect(page.get_by_role("heading", name="Реплики")).to_be_visible()
        for language, theme, width in (
            ("ru-RU", "dark", 1440),
            ("en-GB", "light", 1440),
            ("ru-RU", "light", 360),
            ("en-GB", "dark", 3840),
        ):
            shown = await browser.new_context(
                viewport={"width": width, "height": 900},
                locale=language,
                color_scheme=theme,  # type: ignore[arg-type]
                storage_state=state,
            )
            page = await shown.new_page()
            console_of_it = Console(page)
            await page.goto(url)
            await expect(page.locator(".skeleton")).to_have_count(0, timeout=SOON_SECONDS * 1000)
            await expect(page.locator("#live")).to_have_attribute("data-state", "live")
            where = (language, theme, width)
            assert await faults_of(page) == [], where
            wide_page = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide_page <= 0, where
            assert console_of_it.lines == [], where
            await picture(page, f"dba-{language[:2]}-{theme}-{'phone' if width < 400 else width}")
            await page.goto(f"{url}/open")
            assert await faults_of(page) == [], where
            await shown.close()
        assert console.lines == []


def empty(_options: Options) -> PanelContent:
    return PanelContent()


async def test_nothing_moves_under_the_pointer(tmp_path: Path) -> None:
    turn = 0

    def above(_options: Options) -> PanelContent:
        rows = [PanelRow(f"r{number}", (f"row {number}",)) for number in range(10 if turn % 2 else 1)]
        return PanelContent(blocks=[PanelTable(columns=["x"], rows=rows)])

    def below(_options: Options) -> PanelContent:
        nonlocal turn
        turn += 1
        rows = [PanelRow(f"{turn} {number}", (f"row {number}", turn)) for number in range(6)]
        figures = Figures([Figure("turn", turn)])
        return PanelContent(blocks=[figures, PanelTable(columns=["x", "turn"], rows=rows)])

    words: dict[str, Any] = {"every_seconds": 0.3, "is_wide": True}
    panels = [
        Panel(name="above", title="above", read=above, **words),
        Panel(name="below", title="below", read=below, **words),
        *(
            Panel(name=f"p{n}", title=f"p{n}", read=lambda _: PanelContent(), every_seconds=60)
            for n in range(20)
        ),
    ]
    sessions, options = SessionStore(tmp_path), Options(json=False)

    def app_in_its_loop() -> Any:
        board = PanelBoard(
            options, panels, failed=lambda _panel, error: PanelContent(unreached={"x": str(error)})
        )
        return Site(options, board, sessions, access=None, title="x", hosts=OWN_NAMES, port=1).app()

    with served(app_in_its_loop()) as url:
        async with chromium() as browser:
            context = await browser.new_context(viewport={"width": 900, "height": 700})
            page = await context.new_page()
            await page.goto(f"{url}/open#{sessions.make_link()}")
            row = page.locator("#panel-below tbody tr").nth(2)
            await expect(row).to_be_visible()
            # Until the pointer is over it the row may move: `hover` follows it.
            await row.hover(position={"x": 20, "y": 10})
            key = "document.querySelector('#panel-below tbody tr:hover').dataset.key"
            before, since = await page.evaluate(key), turn
            until = time.monotonic() + SOON_SECONDS
            while turn < since + 4:
                await page.evaluate("new Promise(done => setTimeout(done, 50))")
                assert await page.evaluate(key) == before
                assert time.monotonic() < until
            await expect(page.locator("#panel-below .held")).to_be_visible()
            await page.mouse.move(5, 5)
            await expect(page.locator("#panel-below .held")).to_be_hidden()


async def test_pages_that_went_away_say_so_and_come_back(wide: Wide, tmp_path: Path) -> None:
    sessions = SessionStore(tmp_path / "pages")
    options = Options(json=False)
    panel = Panel(name="p", title="p", read=lambda _: PanelContent(tone="right"), every_seconds=0.5)

    def app() -> Any:
        board = PanelBoard(options, [panel], failed=lambda _panel, error: PanelContent())
        return Site(options, board, sessions, access=None, title="x", hosts=OWN_NAMES, port=1).app()

    async with chromium() as browser:
        context = await browser.new_context()
        with served(app()) as url:
            page = await context.new_page()
            await page.goto(f"{url}/open#{sessions.make_link()}")
            await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        await expect(page.locator("#live")).to_contain_text("do not answer")
        port = int(url.rpartition(":")[2])
        with socket.create_server(("127.0.0.1", port)) as listening:
            server = uvicorn.Server(uvicorn.Config(app(), log_config=None, timeout_graceful_shutdown=1))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            await expect(page.locator("#live")).to_have_attribute(
                "data-state", "live", timeout=SOON_SECONDS * 1000
            )
            for file in (tmp_path / "pages" / "sessions").iterdir():
                file.unlink()
            await expect(page.locator("#live a")).to_have_attribute("href", "/open")
            server.should_exit = True
            thread.join()
