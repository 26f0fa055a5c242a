"""Stages a wheel: a folder that holds its packages and a pyproject.toml of its own, and nothing else.

The version, the dependencies and the extras are those of the repository's pyproject.toml, from which the lock
is made.
"""

import json
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMON_FILES = ("LICENSE",)
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel, and what of the repository is in it."""

    name: str
    summary: str
    readme: str
    packages: tuple[str, ...]
    """Top-level folders."""

    depends_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other wheels, of the same version, with the extras of theirs that are needed."""

    has_dependencies: bool = False
    """Whether the dependencies of the repository itself are its own."""

    dependencies: tuple[str, ...] = ()
    """Extras of the repository that the wheel always needs."""

    extras: tuple[str, ...] = ()
    """Extras of the repository that are its extras too."""

    modules: Mapping[str, str] = field(default_factory=dict)
    """Single modules by their place in the repository."""

    scripts: Mapping[str, str] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    """Packages that may stand in one folder with modules of others: they have no __init__.py in the wheel."""


WHEELS = (
    Wheel(
        name="mes-storage",
        summary="PostgreSQL partitioned by status or month, sharded and replicated, for SQLAlchemy.",
        readme="""\
Libraries for SQLAlchemy on PostgreSQL: `partitions` (declared partitions, archives by month), `sharding`
(sessions by shard key, scatter, writes over shards) and `readreplica` (reads that see what their caller has
written). Extras: `alembic` for operations in migrations, `asgi` and `redis` for causal tokens over HTTP,
`srv` for nodes that DNS announces.""",
        packages=("partitions", "readreplica", "sharding"),
        has_dependencies=True,
        extras=("alembic", "asgi", "redis", "srv"),
    ),
    Wheel(
        name="mesctl",
        summary="Runs and changes the databases of a project that uses mes-storage.",
        readme="""\
`mesctl init` starts a project, `mesctl doctor` checks one; `mesctl --help` shows all commands. Extras:
`embedded` brings PostgreSQL and Valkey for `mesctl up`, which serves development; `lint` brings squawk for
`mesctl migrate lint`; `pages` brings what serves the DBA's pages.""",
        packages=("ops",),
        depends_on={"mes-storage": ("alembic",)},
        dependencies=("mesctl",),
        extras=("embedded", "lint", "pages"),
        modules={"mesctl.py": "tools/wheels/mesctl.py"},
        scripts={"mesctl": "mesctl:main"},
        shared=("ops",),
    ),
    Wheel(
        name="mes-order-system",
        summary="The order system of a jewellery maker: Shop, CRM, MES and pricing on mes-storage.",
        readme="An application, to be installed alone: its packages are `app` and `migrations`. Its project "
        "file and its alembic.ini stand in the repository.",
        packages=("app", "migrations"),
        depends_on={"mes-storage": ("asgi", "redis"), "mesctl": ("embedded", "pages")},
        dependencies=("order-system",),
    ),
)


def stage(wheel: Wheel, root: Path, folder: Path) -> None:
    """Fill a new folder with what a wheel is built from.

    Parameters:
        wheel: which.
        root: the repository.
        folder: it must not exist yet.
    """
    folder.mkdir(parents=True)
    for package in wheel.packages:
        shutil.copytree(root / package, folder / package, ignore=LEFT_OUT)
    for package in wheel.shared:
        (folder / package / "__init__.py").unlink()
    for module, source in wheel.modules.items():
        shutil.copy(root / source, folder / module)
    for name in COMMON_FILES:
        shutil.copy(root / name, folder / name)
    (folder / "README.md").write_text(f"# {wheel.name}\n\n{wheel.readme}\n")
    whole = tomllib.loads((root / "pyproject.toml").read_text())
    files = sorted(
        each for package in wheel.packages for each in folder.glob(f"{package}/**/*") if each.is_file()
    )
    (folder / "pyproject.toml").write_text(
        pyproject_of(wheel, whole, [each.relative_to(folder) for each in files])
    )


def pyproject_of(wheel: Wheel, whole: Mapping[str, Any], files: Iterable[Path]) -> str:
    """Write the pyproject.toml of a wheel.

    Parameters:
        wheel: which.
        whole: the repository's pyproject.toml.
        files: of its packages, relative to the folder.
    """
    project = whole["project"]
    data: dict[str, list[str]] = {}
    for file in files:
        data.setdefault(".".join(file.parent.parts), []).append(file.name)
    sections: dict[str, Mapping[str, Any]] = {
        "build-system": {
            "requires": whole["build-system"]["requires"],
            "build-backend": "setuptools.build_meta",
        },
        "project": {
            "name": wheel.name,
            "version": project["version"],
            "description": wheel.summary,
            "readme": "README.md",
            "requires-python": project["requires-python"],
            "license": project["license"],
            "license-files": list(COMMON_FILES),
            "classifiers": ["Typing :: Typed"],
            "dependencies": dependencies_of(wheel, project),
        },
        "project.optional-dependencies": {
            extra: project["optional-dependencies"][extra] for extra in wheel.extras
        },
        "project.scripts": wheel.scripts,
        # Every file, by the folder that it is in.
        "tool.setuptools": {
            "packages": sorted(data),
            "py-modules": _modules(wheel),
            "include-package-data": False,
        },
        "tool.setuptools.package-data": data,
    }
    return "\n".join(f"[{name}]\n{_lines(values)}" for name, values in sections.items())


def dependencies_of(wheel: Wheel, project: Mapping[str, Any]) -> list[str]:
    """Return what a wheel requires, other wheels first."""
    others = [
        f"{name}[{','.join(extras)}]=={project['version']}" if extras else f"{name}=={project['version']}"
        for name, extras in wheel.depends_on.items()
    ]
    own = list(project["dependencies"]) if wheel.has_dependencies else []
    return (
        others
        + own
        + [each for extra in wheel.dependencies for each in project["optional-dependencies"][extra]]
    )


def _modules(wheel: Wheel) -> list[str]:
    return [Path(module).stem for module in wheel.modules]


def _lines(values: Mapping[str, Any]) -> str:
    # JSON's strings, lists and booleans are TOML's too.
    return "".join(f"{json.dumps(name)} = {json.dumps(value)}\n" for name, value in values.items())
