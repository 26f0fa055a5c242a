"""What the libraries use and SQLAlchemy and psycopg do not promise: in one module each, and it is there."""

import ast
import importlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import partitions.private_api
import readreplica.private_api
import sharding.private_api

ROOT = Path(__file__).parents[2]
MODULES = (partitions.private_api, readreplica.private_api, sharding.private_api)
# Public, in spite of the underscore: of namedtuples, of SQLAlchemy's rows and of enums.
PUBLIC = frozenset({"_asdict", "_make", "_mapping", "_replace", "_value_"})
UNDOCUMENTED = ("psycopg.generators", "psycopg.waiting", "sqlalchemy.dialects.postgresql.base")


def has_name(place: object, name: str) -> bool:
    """An attribute of instances alone stands among the annotations of a class."""
    if hasattr(place, name):
        return True
    return any(name in vars(each).get("__annotations__", {}) for each in getattr(place, "__mro__", ()))


def missing_names(used: dict[str, tuple[str, ...]]) -> list[str]:
    """The names that are not there any more, with the version of the package that took them away."""
    found = []
    for place, names in used.items():
        module, _, cls = place.partition(":")
        package = module.partition(".")[0]
        try:
            holder: object = importlib.import_module(module)
            holder = getattr(holder, cls) if cls else holder
        except (ImportError, AttributeError):
            holder = None
        lacking = [name for name in names if not has_name(holder, name)]
        found += [f"{package} {version(package)} has no {place} {name}" for name in lacking]
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_private_name_is_in_the_installed_version(module: ModuleType) -> None:
    assert missing_names(module.PRIVATE_NAMES) == []


def test_a_name_that_a_version_took_away_is_named_with_the_version() -> None:
    used = {"sqlalchemy:Select": ("_where_criteria", "_gone"), "psycopg.gone": ("send",)}
    assert missing_names(used) == [
        f"sqlalchemy {version('sqlalchemy')} has no sqlalchemy:Select _gone",
        f"psycopg {version('psycopg')} has no psycopg.gone send",
    ]


def accessed(tree: ast.AST) -> Iterator[str]:
    """The names with an underscore that are read from anything but `self` and `cls`."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=name):
                pass
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]):
                pass
            case _:
                continue
        if name.startswith("_") and not name.endswith("__") and name not in PUBLIC:
            yield name


def own(trees: list[ast.Module]) -> set[str]:
    """The names that a package gives to its own objects."""
    found: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                found.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.FunctionDef(name=name):
                found.add(name)
            case ast.AsyncFunctionDef(name=name):
                found.add(name)
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_private_names_are_used_in_one_module_of_a_package(module: ModuleType) -> None:
    package = module.__name__.partition(".")[0]
    trees = {file: ast.parse(file.read_text()) for file in (ROOT / package).rglob("*.py")}
    named = own([*trees.values()])
    here = ROOT / package / "private_api.py"
    elsewhere = {
        (file.name, name)
        for file, tree in trees.items()
        if file != here
        for name in accessed(tree)
        if name not in named
    }
    assert elsewhere == set()
    of_objects = {name for place, names in module.PRIVATE_NAMES.items() if ":" in place for name in names}
    assert {*accessed(trees[here])} == of_objects


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_undocumented_modules_are_imported_in_one_module_of_a_package(module: ModuleType) -> None:
    package = module.__name__.partition(".")[0]
    found: dict[str, set[str]] = {}
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            names = {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
            private = any(part.startswith("_") and part != "__future__" for part in node.module.split("."))
            if private or names & {*UNDOCUMENTED}:
                found.setdefault(file.name, set()).update(each.name for each in node.names)
    of_modules = {name for place, names in module.PRIVATE_NAMES.items() if ":" not in place for name in names}
    assert found == ({"private_api.py": of_modules} if of_modules else {})
