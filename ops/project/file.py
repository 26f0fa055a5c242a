"""Where the project file is, and the commands that it adds: all that `mesctl --help` needs of it.

It is `[tool.mes-storage]` in pyproject.toml, or `mes-storage.toml`, searched from a folder upwards.
`ops.project.project` makes sense of the rest; it imports pydantic, which help does not wait for.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.errors import ExitStatus, OpsError

FILE = "mes-storage.toml"

PYPROJECT = "pyproject.toml"

SECTION = "tool.mes-storage"


class ProjectMissing(OpsError):
    """No project file was found."""

    exit_status = ExitStatus.USAGE

    def __init__(self, start: Path) -> None:
        self.start = start
        super().__init__(
            f"no project file: neither a {FILE} nor [{SECTION}] in a {PYPROJECT} stands in {start} or above "
            "it; `mesctl init` writes one, `--project FILE` names one"
        )


class ProjectInvalid(OpsError):
    """The project file cannot be used; one line per fault."""

    exit_status = ExitStatus.USAGE

    def __init__(self, path: Path, faults: Sequence[str]) -> None:
        self.path = path
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{path.name}: {fault}" for fault in self.faults))


@dataclass(frozen=True)
class ProjectSection:
    """The keys of a project file, as TOML has them, and the path of the file, which is absolute."""

    path: Path
    content: dict[str, Any]


def find_section(start: Path) -> ProjectSection:
    """Read the project file of a folder, or of the nearest one above it that has one.

    Raises:
        ProjectMissing: there is none.
        ProjectInvalid: one on the way is no TOML.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        for path in (folder / FILE, folder / PYPROJECT):
            if path.is_file() and (found := read_section(path)):
                return found
    raise ProjectMissing(start)


def read_section(path: Path) -> ProjectSection | None:
    """Read the keys of a project file; None for a pyproject.toml without `[tool.mes-storage]`.

    Raises:
        ProjectInvalid: it cannot be read, is no TOML, or has something else where the section should be.
    """
    path = path.resolve()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProjectInvalid(path, [f"cannot be read at {path}: {error.strerror}"]) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProjectInvalid(path, [f"is not TOML: {error}"]) from error
    if path.name != PYPROJECT:
        return ProjectSection(path, content)
    tools = content.get("tool")
    found = tools.get("mes-storage") if isinstance(tools, dict) else None
    if found is not None and not isinstance(found, dict):
        raise ProjectInvalid(path, [f"{SECTION}: is {found!r}; make it a table, [{SECTION}]"])
    return None if found is None else ProjectSection(path, found)


def commands_of(section: ProjectSection) -> dict[str, tuple[str, str]]:
    """Return the commands that a project adds: their references and summaries, by name.

    An entry that is wrong is left out: `ops.project.project` reports its fault when the file is used.
    """
    commands = section.content.get("commands", {})
    return {
        name: (entry["run"], entry["summary"])
        for name, entry in (commands.items() if isinstance(commands, dict) else ())
        if isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("run", "summary"))
    }


def line_of(path: Path, key: str) -> int | None:
    """Return the number of the line at which a key stands, from 1; None where it is not found.

    tomllib keeps no line numbers, so this searches the text for the header of the table, then for the key.

    Parameters:
        path: the project file.
        key: as in `trees.payments.metadata`, without the section of pyproject.toml.
    """
    *table, last = key.split(".")
    section = [*(SECTION.split(".") if path.name == PYPROJECT else ()), *table]
    inside = not section
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            inside = [part.strip().strip("\"'") for part in header[1].split(".")] == section
        elif inside and re.match(rf"\s*[\"']?{re.escape(last)}[\"']?\s*=", line):
            return number
    return None
