"""`python -m tools.docs`: build the documentation in build/docs; a warning, as of a broken link, fails it.

The pages of docs/ and the generated reference are put together in build/docs-source, in the order of `NAV`.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tools.reference import reference_pages

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
NAV: Mapping[str, Sequence[str]] = {
    "Home": ["index.md"],
    "Tutorial": ["tutorial.md"],
    "How-to": ["how-to/*.md", "runbooks/*.md"],
    "Reference": ["reference/*.md", "reference/mesctl/*.md", "reference/api/*.md"],
    "Explanation": ["explanation/*.md", "adr/*.md"],
    "Glossary": ["glossary.md"],
}
"""The parts of the documentation, as Diataxis names them, and which pages are in each."""
TITLES: Mapping[str, str] = {
    "runbooks": "Runbooks",
    "mesctl": "mesctl",
    "api": "Python",
    "adr": "Decisions",
}
"""The titles of the folders inside of a part."""


class PageForgotten(Exception):
    """A page is in no part of the documentation, so no reader would find it."""

    def __init__(self, pages: Sequence[str]) -> None:
        self.pages = pages
        super().__init__(f"in no part of tools.docs.NAV: {', '.join(pages)}")


def write_source(build: Path, *, written: Path) -> Path:
    """Put the written and the generated pages into a folder of `build`; return the configuration for them."""
    docs = build / "docs-source"
    shutil.rmtree(docs, ignore_errors=True)
    shutil.copytree(written, docs)
    for name, text in reference_pages():
        path = docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    config |= {"nav": navigation(docs), "docs_dir": docs.name, "site_dir": "docs"}
    path = build / "mkdocs.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def navigation(docs: Path) -> list[dict[str, Any]]:
    """Return mkdocs' `nav`: every page of a folder, by part, in the order of the names.

    Raises:
        PageForgotten: a page is in no part.
    """
    found = {
        part: [path.relative_to(docs).as_posix() for each in patterns for path in sorted(docs.glob(each))]
        for part, patterns in NAV.items()
    }
    every = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    if forgotten := every.difference(*found.values()):
        raise PageForgotten(sorted(forgotten))
    return [
        {part: names[0] if len(names) == 1 else list(_grouped(part, names))} for part, names in found.items()
    ]


def _grouped(part: str, names: Sequence[str]) -> Iterator[str | dict[str, list[str]]]:
    """Yield the pages of a part, those of an inner folder together under its title."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.split("/")[-2], []).append(name)
    for folder, pages in folders.items():
        if folder == part.lower():
            yield from pages
        else:
            yield {TITLES[folder]: pages}


def build_site(build: Path = BUILD, *, written: Path = ROOT / "docs") -> int:
    """Build the pages in `build/docs`, print what is wrong with them, and return the exit status."""
    config = write_source(build, written=written)
    shutil.rmtree(build / "docs", ignore_errors=True)
    program = str(Path(sys.executable).parent / "zensical")
    done = subprocess.run(
        [program, "build", "--strict", "--clean", "-f", str(config)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    # --strict knows pages and links; a docstring that does not fit its function is only reported.
    is_clean = done.returncode == 0 and "griffe:" not in said
    if not is_clean:
        print(said, file=sys.stderr)
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(build_site())
