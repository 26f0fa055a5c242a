"""The pooler's files on disk: what stands, how it differs, and the change of all that differ."""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from ops.pgbouncer.render import USERLIST

_LINE = re.compile(r'"((?:[^"]|"")*)" "((?:[^"]|"")*)"')


def existing_text(path: Path) -> str | None:
    """Read a file; None when there is none."""
    return path.read_text() if path.exists() else None


def existing_secrets(folder: Path) -> dict[str, str]:
    """Read the userlist that stands; nothing when there is none."""
    text = existing_text(folder / USERLIST) or ""
    return {role: secret.replace('""', '"') for role, secret in _LINE.findall(text)}


def changes(folder: Path, files: Mapping[str, str]) -> dict[str, list[str]]:
    """Compare files with what stands; a diff for each that differs, without any secret."""
    found: dict[str, list[str]] = {}
    for name, text in files.items():
        before = existing_text(folder / name)
        if before == text:
            continue
        old, new = ((_masked(each) if name == USERLIST else each) for each in (before or "", text))
        lines = difflib.unified_diff(
            old.splitlines(), new.splitlines(), f"{name} as it stands", name, lineterm=""
        )
        found[name] = list(lines) or [f"{name}: a secret differs"]
    return found


def write(folder: Path, files: Mapping[str, str], *, mode: int = 0o600) -> None:
    """Write files, which only their owner reads; each appears complete, the main one last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(files, reverse=True):
        _replace(folder / name, files[name], mode)


def _replace(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def _masked(userlist: str) -> str:
    return _LINE.sub(lambda line: f'"{line[1]}" "***"', userlist)
