"""What a library promises is its `__all__`, and the documentation imports from there only."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLIC = (
    "partitions",
    "partitions.migration_ops",
    "partitions.online",
    "readreplica",
    "readreplica.asgi",
    "readreplica.httpx",
    "readreplica.redis",
    "readreplica.sync",
    "sharding",
    "sharding.sync",
)
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_IMPORT = re.compile(r"^ *from ((?:partitions|readreplica|sharding)[\w.]*) import ([\w, ]+)", re.MULTILINE)


def _documented() -> Iterator[tuple[str, str, str]]:
    """Yield page, package and name of each import of a library in the documentation."""
    for page in PAGES:
        for package, names in _IMPORT.findall(page.read_text()):
            yield from ((page.name, package, name.strip()) for name in names.split(","))


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert len({*module.__all__}) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_the_documentation_imports_public_names_of_public_packages_only() -> None:
    found = list(_documented())
    assert len(found) >= 10
    assert [each for each in found if each[1] not in PUBLIC] == []
    assert [each for each in found if each[2] not in importlib.import_module(each[1]).__all__] == []
