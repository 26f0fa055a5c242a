"""Where the project file is, and the verbs that it adds: all that `mesctl --help` needs of it.

It is `[tool.mes-storage]` in pyproject.toml, or `mes-storage.toml`, searched from a folder upwards.
`ops.project` reads the rest; it imports pydantic, which help does not wait for.
"""

import re
import tomllib
from collections.abc import Sequence
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


def find_file(start: Path) -> Path:
    """Find the project file in a folder, or in the nearest one above it.

    Raises:
        ProjectMissing: there is none.
        ProjectInvalid: one on the way is no TOML.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        for path in (folder / FILE, folder / PYPROJECT):
            if path.is_file() and read_section(path) is not None:
                return path
    raise ProjectMissing(start)


def read_section(path: Path) -> dict[str, Any] | None:
    """Read what a file says of the project; None is a pyproject.toml that says nothing.

    Raises:
        ProjectInvalid: it cannot be read, is no TOML, or has something else where the section should be.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProjectInvalid(path, [f"cannot be read at {path}: {error.strerror}"]) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProjectInvalid(path, [f"is not TOML: {error}"]) from error
    if path.name != PYPROJECT:
        return content
    tools = content.get("tool")
    found = tools.get("mes-storage") if isinstance(tools, dict) else None
    if found is not None and not isinstance(found, dict):
        raise ProjectInvalid(path, [f"{SECTION}: is {found!r}; make it a table, [{SECTION}]"])
    return found


def read_commands(path: Path) -> dict[str, tuple[str, str]]:
    """Return the verbs that a project adds: their references and summaries, by name.

    An entry that is wrong is left out: `ops.project` names its fault when the file is used.
    """
    commands = (read_section(path) or {}).get("commands", {})
    return {
        name: (entry["run"], entry["summary"])
        for name, entry in (commands.items() if isinstance(commands, dict) else ())
        if isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("run", "summary"))
    }


def line_of(path: Path, key: str) -> int | None:
    """Return the number of the line at which a key stands, from 1; None where it is not found.

    tomllib tells no lines, so this searches the text: for the header of the table, then for the key's name.

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
