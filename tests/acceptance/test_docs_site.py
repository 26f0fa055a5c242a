"""`make docs`: every public name has its place on a page, no page needs the network, a broken link fails."""

import importlib
import re
from pathlib import Path

import pytest

from tools.docs import PageForgotten, build_site, navigation
from tools.reference import PACKAGES


@pytest.mark.long
def test_the_site_has_every_public_name_and_asks_no_other_host(tmp_path: Path) -> None:
    assert build_site(tmp_path) == 0
    site = tmp_path / "docs"
    for package in PACKAGES:
        page = (site / "reference" / "api" / f"{package}.html").read_text()
        names = importlib.import_module(package).__all__
        assert [name for name in names if f'id="{package}.{name}"' not in page] == []
    for path in site.rglob("*.html"):
        assert re.findall(r'(?:src="|<link[^>]* href=")(?:https?:)?//[^"]+', path.read_text()) == [], path


@pytest.mark.long
def test_links_to_nowhere_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "written"
    written.mkdir()
    targets = ["nowhere.md", "index.md#nowhere"]
    (written / "index.md").write_text("# Home\n" + "".join(f"\nSee [there]({each}).\n" for each in targets))
    assert build_site(tmp_path / "build", written=written) == 1
    said = capsys.readouterr().err
    assert "index.md:3:" in said
    assert "index.md:5:" in said


def test_a_page_that_is_in_no_part_is_named(tmp_path: Path) -> None:
    for name in ("index.md", "how-to/archive.md", "ideas/later.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("# Page\n")
    with pytest.raises(PageForgotten) as refused:
        navigation(tmp_path)
    assert refused.value.pages == ["ideas/later.md"]
