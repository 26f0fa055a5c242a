"""What the pages are made of: files of others as they were, texts in both languages, no script in a page."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po
from fastapi.routing import APIRoute

from app.access.table import PAGES
from app.board.pages import front
from app.board.pages.entry import own_path
from app.board.pages.reasons import REASONS, code_of, translated
from app.board.pages.rendering import (
    FOLDER,
    HEADERS,
    VIEWER_HEADERS,
    VIEWER_STYLE,
    PageReader,
    static_files,
)
from app.kit.strict import StrictRoute
from app.pricing import errors as pricing_errors
from ops import pages

VENDOR = FOLDER / "static" / "vendor"
PLOTS = Path(pages.__file__).parent / "static"
PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[sd]")
KEYWORDS = {"_": None, "gettext": None, "ngettext": (1, 2)}


def test_files_of_others_are_as_their_packages_have_them() -> None:
    lines = [line.split("  ") for line in (VENDOR / "HASHES").read_text().splitlines() if line[0] != "#"]
    there = {path.name for path in VENDOR.iterdir()} - {"HASHES"}
    assert {line[0] for line in lines} == {name for name in there if not name.startswith("LICENSE.")}
    for name, package, _version, _licence, _path, digest in lines:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
        assert (VENDOR / f"LICENSE.{package.split('/')[-1].split('.')[0]}").exists()


def test_the_plots_of_the_dbas_pages_are_as_their_package_has_them() -> None:
    """Beside files of our own: what has a licence beside it is another's."""
    lines = [line.split("  ") for line in (PLOTS / "HASHES").read_text().splitlines() if line[0] != "#"]
    of_others = {path.stem for path in PLOTS.glob("*.LICENSE")}
    assert {line[0] for line in lines} == {
        path.name for path in PLOTS.iterdir() if path.stem in of_others and path.suffix != ".LICENSE"
    }
    for name, package, _version, _licence, _path, digest in lines:
        assert package in of_others
        assert hashlib.sha256((PLOTS / name).read_bytes()).hexdigest() == digest


def test_every_text_is_there_in_russian_with_the_same_values_in_it() -> None:
    with (FOLDER / "locale" / "ru.po").open("rb") as file:
        catalogue = read_po(file)
    methods = [
        ("pages/**.py", "python"),
        ("notices.py", "python"),
        ("templates/**.html", "jinja2.ext.babel_extract"),
    ]
    used = {found[2] for found in extract_from_dir(FOLDER, method_map=methods, keywords=KEYWORDS)}
    known = {message.id: message for message in catalogue if message.id}
    assert {one_of(text) for text in used} == {one_of(text) for text in known}
    for message in known.values():
        texts = [message.string] if isinstance(message.string, str) else message.string or [""]
        wanted = set(PLACEHOLDER.findall(one_of(message.id)))
        for text in texts:
            assert text, message.id
            assert set(PLACEHOLDER.findall(text)) == wanted, message.id


def one_of(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else text[0]


@pytest.mark.parametrize("path", sorted((FOLDER / "templates").glob("*.html")), ids=lambda path: path.name)
def test_no_template_has_what_the_policy_forbids(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|hx-on|\bjs:", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    assert "| safe" not in text


def test_the_policy_lets_nothing_else_in() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    # A page with a piece in 3D has one style more, which is known by its hash.
    viewers = VIEWER_HEADERS["Content-Security-Policy"]
    assert viewers.replace(f" {VIEWER_STYLE}", "") == policy


def test_every_page_has_a_rule_and_every_rule_a_page() -> None:
    routes = [route for route in front.routes if isinstance(route, StrictRoute)]
    there = {("board", method, route.path) for route in routes for method in route.methods or ()}
    assert there == set(PAGES)
    others = {route.path for route in front.routes if isinstance(route, APIRoute)} - {
        route.path for route in routes
    }
    assert others == {"/static/{digest}/{name}"}


@pytest.mark.parametrize(
    "back",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/a\nb",
        "",
        "/" + "a" * 600,
        "javascript:1",
    ],
)
def test_one_is_led_back_to_our_own_pages_alone(back: str) -> None:
    assert own_path(back) == "/"
    assert own_path("/orders/17?x=1") == "/orders/17?x=1"


@pytest.mark.parametrize(
    ("language", "money", "wait", "moment"),
    [
        ("en", "€1,412.50", "2 h 10 min", "2 Dec 2026, 09:30 GMT+01:00"),
        ("ru", "1\u00a0412,50\u00a0€", "2 ч 10 мин", "2 дек. 2026, 09:30 GMT+01:00"),
    ],
)
def test_values_are_written_as_the_viewer_reads_them(
    language: str, money: str, wait: str, moment: str
) -> None:
    viewer = PageReader(language=language, zone_name="Europe/Berlin")
    assert viewer.money(Decimal("1412.50")) == money
    assert viewer.lasted(7800) == wait
    assert viewer.moment(datetime(2026, 12, 2, 8, 30, tzinfo=UTC)) == moment


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1, "Подтверждён 1 заказ"),
        (3, "Подтверждено 3 заказа"),
        (11, "Подтверждено 11 заказов"),
        (21, "Подтверждён 21 заказ"),
    ],
)
def test_russian_has_three_plurals(number: int, said: str) -> None:
    viewer = PageReader(language="ru")
    assert viewer.ngettext("%(n)d order was approved", "%(n)d orders were approved", number) == said


def test_a_file_is_found_by_its_content_and_small() -> None:
    weights = {name: len(file.compressed or file.content) for name, file in static_files().items()}
    assert sum(size for name, size in weights.items() if "model-viewer" not in name) < 150_000


ARGUMENTS: Mapping[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "DamagedFile": (("stl",), {}),
    "NoTriangles": (("obj",), {}),
    "UnpacksTooLarge": ((2**31, 2**28), {}),
    "TooManyBodies": ((1e12, 1000), {}),
    "NotFlat": ((12_345, 1.25, 0.01), {}),
    "SelfIntersecting": ((3,), {}),
    "NotFinite": ((1_234,), {}),
    "TooManyPolygons": ((2_000_000, 1_000_000), {}),
    "FileTooLarge": ((70 * 2**20, 64 * 2**20), {}),
    "TooLong": ((60,), {}),
    "TooLarge": ((1234.5, 200), {}),
    "TooSmall": ((0.02, 0.5), {}),
    "HasHoles": ((1_234,), {}),
    "SharedEdges": ((3,), {}),
    "MixedWinding": ((3,), {}),
    "InsideOut": ((1, 2), {}),
    "FlatBodies": ((2,), {}),
    "NoVolume": ((0.00012, 0.1), {}),
    "Overlapping": ((12.5, 10.25), {}),
    "TooExpensive": ((1_000_000,), {}),
    "ModelLost": (("ring v2.stl",), {}),
    "AttemptsExhausted": ((3,), {}),
}


@pytest.mark.parametrize("code", REASONS)
def test_a_rejection_is_read_as_its_code_and_said_in_russian(code: str) -> None:
    given, named = ARGUMENTS.get(code, ((), {}))
    text = str(getattr(pricing_errors, code)(*given, **named))
    found = code_of(text)
    assert found is not None
    assert found[0] == code
    said = translated(text, PageReader(language="ru")) or ""
    assert said != text
    assert all(value in said for value in found[1].values())
    # Of an order with two lines, each with the name of its model.
    both = translated(f"a.stl: {text} b.stl: {text}", PageReader(language="ru"))
    assert both == f"a.stl: {said} b.stl: {said}"


def test_the_words_of_a_person_stay_as_they_are() -> None:
    text = "The wall is too thin. Order it again, thicker; 100% sure"
    assert translated(text, PageReader(language="ru")) == text
    assert code_of(text) is None
