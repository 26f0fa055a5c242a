"""The site of the DBA's pages without a database: who gets in, deadlines, and languages."""

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from app.console.problems import OrderFigures, Waiting, order_problems
from ops.errors import OpsError
from ops.monitoring.samples import Point, Series
from ops.options import Options
from ops.pages.content import (
    Button,
    Code,
    Figure,
    Figures,
    Panel,
    PanelAction,
    PanelContent,
    PanelRow,
    PanelTable,
    Plot,
    PlotLine,
    ProblemList,
    Seconds,
    Sentence,
    ShardPart,
    ShardPicture,
    Share,
    Since,
    Size,
    State,
    worst,
)
from ops.pages.history import failovers, last_rates, plot_of
from ops.pages.language import Language, choose_language
from ops.pages.reading import PanelBoard
from ops.pages.sessions import LINK_SECONDS, LoginRefused, SessionStore, Viewer, form_token
from ops.pages.site import HEADERS, Site
from ops.problems.service import OpenProblem
from tests.project import PROJECT

HOST = "localhost"
BAD = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
NOW = datetime(2026, 12, 2, 3, 0, tzinfo=UTC)


def everything(_options: Options) -> PanelContent:
    """Give a content in which each name is as bad as a catalogue may have it."""
    row = PanelRow(
        BAD,
        (Code(BAD), BAD, Sentence(BAD), State(BAD, "page"), Since(NOW), 3),
        "page",
        BAD,
        Button("do", BAD),
    )
    shard = ShardPart(BAD, 2, 3, 4, 0.5)
    return PanelContent(
        blocks=[
            ProblemList([OpenProblem("page", BAD, f"does not answer: {BAD}", NOW, BAD)]),
            PanelTable(columns=[BAD, "b", "c", "d", "e", "f"], rows=[row], caption=BAD),
            Figures([Figure(BAD, Code(BAD), "page")]),
            Plot(title=BAD, moments=[1.0, 2.0], lines=[PlotLine(BAD, [1.0, None])], unit="bytes"),
            ShardPicture(tree=BAD, version=1, owners=[BAD, BAD], shards=[shard], skew=1.0),
        ],
        unreached={BAD: BAD},
    )


class Gate:
    """A project's access: who is in `roles` gets in by the password `right`."""

    def __init__(self) -> None:
        self.roles: dict[str, bool] = {"Ada": True, "Otto": False}

    def login(self, name: str, password: str, address: str | None) -> Viewer | None:
        if name == "away":
            raise LoginRefused("the identities cannot be read: nothing within 2 s")
        if name not in self.roles or password != "right":
            return None
        return Viewer(name, self.roles[name], by_login=True, opened_at=1.0)

    def refresh(self, viewer: Viewer) -> Viewer | None:
        return viewer if viewer.name in self.roles else None


def panel(name: str, read: Callable[[Options], PanelContent], **words: Any) -> Panel:
    return Panel(name=name, title=name, read=read, **words)


class Rig:
    """A site, and what reaches it."""

    def __init__(self, folder: Path, panels: Sequence[Panel], gate: Gate | None = None) -> None:
        self.sessions = SessionStore(folder)
        self.options = Options(json=False)
        self.board = PanelBoard(self.options, panels, failed=_failed)
        site = Site(
            self.options, self.board, self.sessions, access=gate, title="Rings", hosts=(HOST,), port=9
        )
        transport = httpx.ASGITransport(app=site.app())
        same = {"sec-fetch-site": "same-origin"}
        self.client = httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}", headers=same)

    async def enter(self) -> str:
        """Come in by a link; give the token of the forms."""
        answer = await self.client.post("/session", data={"token": self.sessions.make_link()})
        assert answer.status_code == 303, answer.text
        return form_token(self.client.cookies["mesctl-pages-9"])

    async def panels(self, seen: str = "") -> dict[str, Any]:
        answer = await self.client.get("/panels", params={"seen": seen})
        found: dict[str, Any] = answer.json()["panels"]
        return found


def _failed(_panel: Panel, error: Exception) -> PanelContent:
    return PanelContent(unreached={"mes_1": str(error)}, tone="page")


DONE: list[tuple[str, str]] = []


def act(_options: Options, viewer: str, argument: str) -> str:
    if argument == "bad":
        raise OpsError("it cannot be done")
    DONE.append((viewer, argument))
    return "nothing to do"


ACTION = PanelAction(name="do", label="Do", question="Sure?", run=act)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    DONE.clear()
    return Rig(tmp_path, [panel("bad", everything, actions=(ACTION,))], Gate())


async def shown(rig: Rig, seen: str = "") -> str:
    """Give the HTML of the one panel, once it was read."""
    while True:
        found = await rig.panels(seen)
        [each] = found.values()
        if "skeleton" not in each["html"]:
            return str(each["html"])
        seen = f"bad:{each['version']}"


async def test_every_answer_is_guarded(rig: Rig) -> None:
    await rig.enter()
    for path in ("/", "/open", "/panels", "/static/pages.js", "/livez", "/nowhere", "/static/../site.py"):
        answer = await rig.client.get(path)
        for name in HEADERS.keys() - {"cache-control"}:
            assert answer.headers[name] == HEADERS[name], path
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'")


class Strict(HTMLParser):
    """Finds what a page with our policy must not have."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        is_bad = tag in {"style", "img", "iframe"} or (tag == "script" and "src" not in given)
        is_bad |= any(name == "style" or name.startswith("on") for name in given)
        is_bad |= "javascript:" in f"{given.get('href')}{given.get('action')}"
        if is_bad:
            self.faults.append(f"{tag} {given}")


async def test_no_script_and_no_style_stands_in_a_page(rig: Rig) -> None:
    await rig.enter()
    await shown(rig)
    for path in ("/", "/open", "/nowhere"):
        assert Strict((await rig.client.get(path)).text).faults == [], path
    assert Strict("<p onclick='x'>").faults


async def test_names_of_the_catalogue_are_text(rig: Rig) -> None:
    await rig.enter()
    html = await shown(rig)
    page = (await rig.client.get("/")).text
    for text in (html, page):
        assert "<script>" not in text
        assert "<img" not in text
        assert "alert(&#39;x&#39;)" in text
    assert unescape(html).count(BAD) >= 15


async def test_a_link_opens_one_session(tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    token = store.make_link()
    answers: list[str | None] = []
    threads = [threading.Thread(target=lambda: answers.append(store.redeem(token))) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    [session] = filter(None, answers)
    assert store.viewer(session) == Viewer("link", may_act=True)
    assert store.viewer(token) is None
    store.close(session)
    assert store.viewer(session) is None


def test_the_folder_is_its_owners_and_holds_no_token(tmp_path: Path) -> None:
    store = SessionStore(tmp_path / "pages")
    session = store.redeem(store.make_link()) or ""
    files = [file for file in (tmp_path / "pages").rglob("*") if file.is_file()]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600]
    assert (tmp_path / "pages" / "sessions").stat().st_mode & 0o777 == 0o700
    assert not any(session in f"{file} {file.read_text()}" for file in files)


def test_an_old_link_opens_nothing(tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    token = store.make_link()
    [file] = (tmp_path / "links").iterdir()
    old = time.time() - LINK_SECONDS - 1
    os.utime(file, (old, old))
    assert store.redeem(token) is None
    assert store.redeem("../../etc/passwd") is None


async def test_without_a_session_nothing_is_shown(rig: Rig) -> None:
    answer = await rig.client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/open")
    assert (await rig.client.get("/panels")).status_code == 401
    assert (await rig.client.post("/actions/bad/do")).status_code == 303
    wrong = await rig.client.post("/session", data={"token": "x" * 43})
    assert wrong.status_code == 401
    assert "was used already" in wrong.text
    assert DONE == []


async def test_another_name_for_this_machine_is_refused(rig: Rig) -> None:
    for host in ("evil.example", "evil.example:9", "localhost@evil.example", "", "localhost.evil.example"):
        answer = await rig.client.get("/open", headers={"host": host})
        assert answer.status_code == 421, host
    assert (await rig.client.get("/open", headers={"host": "localhost:9188"})).status_code == 200


async def test_a_button_asks_first_and_then_acts_once(rig: Rig) -> None:
    token = await rig.enter()
    fields = {"argument": "7", "form_token": token}
    asked = await rig.client.post("/actions/bad/do", data=fields)
    assert "Sure?" in asked.text
    assert DONE == []
    done = await rig.client.post(
        "/actions/bad/do", data={**fields, "confirmed": "yes"}, headers={"accept": "application/json"}
    )
    assert (done.status_code, done.json()) == (200, {"said": "nothing to do", "done": True})
    assert DONE == [("link", "7")]
    refused = await rig.client.post("/actions/bad/do", data={**fields, "argument": "bad", "confirmed": "yes"})
    assert refused.status_code == 409
    assert "it cannot be done" in refused.text
    assert (await rig.client.post("/actions/bad/other", data=fields)).status_code == 404


@pytest.mark.parametrize(
    ("headers", "change"),
    [
        ({"sec-fetch-site": "cross-site"}, {}),
        ({"sec-fetch-site": "same-site"}, {}),
        ({}, {"form_token": ""}),
        ({}, {"form_token": "0" * 64}),
        ({}, {"pad": "x" * 20_000}),
    ],
)
async def test_a_form_of_another_site_does_nothing(
    rig: Rig, headers: dict[str, str], change: dict[str, str]
) -> None:
    fields = {"argument": "7", "form_token": await rig.enter(), "confirmed": "yes", **change}
    answer = await rig.client.post("/actions/bad/do", data=fields, headers=headers)
    assert answer.status_code == 403
    assert (await rig.client.post("/session/end", data=fields, headers=headers)).status_code == 403
    assert DONE == []


async def test_a_browser_without_fetch_metadata_goes_by_its_origin(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [panel("bad", everything)])
    del rig.client.headers["sec-fetch-site"]
    for origin, status in (("http://evil.example", 403), (f"http://{HOST}", 303)):
        fields = {"token": rig.sessions.make_link()}
        answer = await rig.client.post("/session", data=fields, headers={"origin": origin})
        assert answer.status_code == status


async def test_a_project_says_who_may_look_and_who_may_act(tmp_path: Path) -> None:
    gate = Gate()
    rig = Rig(tmp_path, [panel("bad", everything, actions=(ACTION,))], gate)
    wrong = await rig.client.post("/session", data={"name": "Otto", "password": "wrong"})
    assert wrong.status_code == 401
    away = await rig.client.post("/session", data={"name": "away", "password": "x"})
    assert "cannot be read" in away.text
    assert (await rig.client.post("/session", data={"name": "Otto", "password": "right"})).status_code == 303
    assert "/actions/bad/do" not in await shown(rig)
    token = form_token(rig.client.cookies["mesctl-pages-9"])
    fields = {"argument": "7", "form_token": token, "confirmed": "yes"}
    assert (await rig.client.post("/actions/bad/do", data=fields)).status_code == 403
    del gate.roles["Otto"]
    assert (await rig.client.get("/panels")).status_code == 401
    assert (await rig.client.post("/session", data={"name": "Ada", "password": "right"})).status_code == 303
    assert "/actions/bad/do" in await shown(rig)


async def test_a_panel_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    gate, begun = threading.Event(), []

    def hang(_options: Options) -> PanelContent:
        begun.append(1)
        gate.wait(30)
        return PanelContent(blocks=[Figures([Figure("late", 7)])])

    def fine(_options: Options) -> PanelContent:
        return PanelContent(blocks=[Figures([Figure("soon", 1)])], tone="right")

    rig = Rig(tmp_path, [panel("slow", hang, seconds=0.2), panel("fine", fine, every_seconds=60)])
    await rig.enter()
    versions: dict[str, int] = {}
    found: dict[str, Any] = {}
    began = time.monotonic()
    while "not reached: slow" not in found.get("slow", {}).get("html", ""):
        seen = ",".join(f"{name}:{version}" for name, version in versions.items())
        found |= await rig.panels(seen)
        versions = {name: each["version"] for name, each in found.items()}
        assert time.monotonic() - began < 10
    assert "soon" in found["fine"]["html"]
    assert (found["fine"]["tone"], found["slow"]["tone"]) == ("right", "late")
    assert begun == [1]  # however often it is asked for
    gate.set()
    found |= await rig.panels(f"slow:{versions['slow']},fine:{versions['fine']}")
    assert "late" in found["slow"]["html"]
    assert "not reached" not in found["slow"]["html"]


async def test_what_was_read_before_stays_beside_an_error(tmp_path: Path) -> None:
    answers: Iterator[PanelContent] = iter([PanelContent(blocks=[Figures([Figure("rows", 12_345)])])])
    rig = Rig(tmp_path, [panel("bad", lambda _: next(answers, None) or _raise(), every_seconds=0.0)])
    await rig.enter()
    html, version = "", 0
    while "not reached: mes_1" not in html:
        found = await rig.panels(f"bad:{version}")
        html, version = found["bad"]["html"], found["bad"]["version"]
    assert "12,345" in html
    assert "read at" in html


def _raise() -> PanelContent:
    raise OpsError("does not answer: gone")


async def test_many_browsers_are_one_reading(tmp_path: Path) -> None:
    count = 0

    def read(_options: Options) -> PanelContent:
        nonlocal count
        count += 1
        time.sleep(0.05)
        return PanelContent(tone="right")

    rig = Rig(tmp_path, [panel("bad", read, every_seconds=60)])
    await rig.enter()
    await asyncio.gather(*(rig.panels("bad:0") for _ in range(50)))
    assert count == 1


async def test_static_files_change_their_address_with_their_content(rig: Rig) -> None:
    [address] = re.findall(r'href="(/static/pages\.css\?[0-9a-f]{16})"', (await rig.client.get("/open")).text)
    answer = await rig.client.get(address)
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-type"].startswith("text/css")
    assert "immutable" not in (await rig.client.get("/static/pages.css")).headers["cache-control"]


async def test_the_language_is_the_readers(rig: Rig) -> None:
    russian = {"accept-language": "fr, ru-RU;q=0.9, en;q=0.2"}
    assert 'lang="ru"' in (await rig.client.get("/open", headers=russian)).text
    await rig.enter()
    assert 'lang="ru"' in (await rig.client.get("/nowhere", headers=russian)).text
    await rig.client.post("/settings", data={"language": "ru"})
    html = await shown(rig)
    assert "не отвечает: &lt;script&gt;" in html
    await rig.client.post("/settings", data={"language": "<b>", "theme": "<b>"})
    assert 'lang="ru" data-theme="auto"' in (await rig.client.get("/")).text
    assert choose_language(None, "en;q=x, ru;q=0.1") == "ru"
    assert choose_language("xx", None) == "en"


RUSSIAN = Language("ru", [PROJECT.root / "app/console/locale"])


def test_numbers_times_and_plurals_are_the_languages() -> None:
    english = Language("en")
    assert [english.count("%(number)s bucket", "%(number)s buckets", each) for each in (1, 64)] == [
        "1 bucket",
        "64 buckets",
    ]
    counts = [RUSSIAN.count("%(number)s bucket", "%(number)s buckets", each) for each in (1, 2, 64, 11, 4096)]
    assert counts == ["1 бакет", "2 бакета", "64 бакета", "11 бакетов", "4\xa0096 бакетов"]
    assert str(english.cell(Size(9_856_000))) == "9.4 MiB"
    assert str(RUSSIAN.cell(Size(9_856_000))) == "9,4 MiB"
    assert str(english.cell(Seconds(0.25))) == "0.2 s"
    assert str(RUSSIAN.cell(Seconds(7_300))) == "2 ч"
    assert str(english.cell(Share(0.0178))) == "1.8%"
    assert english.age(NOW, NOW + timedelta(days=16)) == "16 days"


def test_what_verbs_say_is_translated_by_its_pattern() -> None:
    said = RUSSIAN.sentence("does not answer: nothing within 9 s")
    assert said == "не отвечает: нет ответа за 9 с"  # noqa: RUF001 (Cyrillic)
    assert RUSSIAN.sentence("session 17 on shop") == "сеанс 17 на shop"
    assert RUSSIAN.sentence("no pattern has this") == "no pattern has this"
    assert Language("en").sentence("does not answer: x") == "does not answer: x"
    waiting = Waiting(3, NOW - timedelta(hours=5))
    figures = OrderFigures("mes_0", NOW, {"crm": waiting}, {"shop": waiting}, unpriced=waiting)
    for problem in order_problems(figures):
        for text in (problem.object, problem.what):
            assert re.search("[\u0430-\u044f]", RUSSIAN.sentence(text)), text


def test_every_text_of_the_pages_is_in_russian() -> None:
    for folder, catalogue in (("ops/pages", "ops/pages/locale"), ("app/console", "app/console/locale")):
        found: set[str] = set()
        keywords = {"N_": None, "t": None, "Refusal": (2,), "_open_again": (2,)}
        kinds = [("pages.py" if folder == "app/console" else "**.py", "python"), ("**.html", "jinja2")]
        for _, _, message, _, _ in extract_from_dir(
            PROJECT.root / folder,
            method_map=kinds,
            keywords=keywords,
        ):
            found.add(message if isinstance(message, str) else message[0])
        assert len(found) > 20
        known: set[str] = set()
        for place in {"ops/pages/locale", catalogue}:
            with (PROJECT.root / place / "ru.po").open("rb") as file:
                messages = list(read_po(file, locale="ru"))
            known |= {str(each.id) for each in messages if each.string and not each.context}
            for each in messages:
                pieces = (each.id, each.string) if isinstance(each.id, str) else ()
                places = [sorted(re.findall(r"%\(\w+\)s", str(piece))) for piece in pieces]
                assert not places or places[0] == places[1] or not each.string, each.id
        assert found - known == set()


def series(metric: str, labels: dict[str, str], *values: float, after: int = 0) -> Series:
    points = [Point(NOW + timedelta(minutes=after + minute), value) for minute, value in enumerate(values)]
    return Series(f"mes_storage_{metric}", labels, points)


def test_a_failover_is_where_another_node_became_the_primary() -> None:
    old = series("up", {"database": "mes_0", "node": "primary", "role": "primary"}, 1, 1, 0, 0)
    new = series("up", {"database": "mes_0", "node": "mes_0_replica", "role": "primary"}, 1, 1, after=4)
    other = series("up", {"database": "mes_1", "node": "primary", "role": "primary"}, 1, 1, 1, 1, 1, 1)
    as_replica = series("up", {"database": "mes_0", "node": "mes_0_replica", "role": "replica"}, 1, 1, 1)
    assert failovers([old, as_replica, other, new]) == [
        (NOW + timedelta(minutes=4), "mes_0", "primary", "mes_0_replica")
    ]


def test_a_counter_is_plotted_as_its_growth_and_a_restart_is_a_gap() -> None:
    counter = series("transactions_total", {"database": "mes_0"}, 0, 600, 60, 120)
    assert last_rates([counter]) == {"mes_0": 1.0}
    [plot] = plot_of(
        "x", [counter], metric="mes_storage_transactions_total", label=("database",), is_rate=True
    )
    assert [line.values for line in plot.lines] == [[10.0, 1.0]]
    assert plot_of("x", [counter], metric="mes_storage_rows", label=("database",)) == []


def test_the_worst_of_tones() -> None:
    assert worst(["right", "ticket", ""]) == "ticket"
    assert worst([]) == ""
