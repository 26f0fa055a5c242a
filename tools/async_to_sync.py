"""`python -m tools.async_to_sync [--check]`: write the sync version of what is written for asyncio.

One source, two packages: a token that has to do with asyncio is dropped or renamed, everything else (comments
too) stays. What differs by more than words is in files written by hand, which both import by the same name.
`make sync` writes them; `make check` fails when one differs from what would be written.
"""

import argparse
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUFF = Path(sys.executable).with_name("ruff")
NOTICE = "# Generated from {source} by `make sync`: change that file, not this one.\n"


@dataclass(frozen=True)
class SyncPackage:
    """The modules of one package that have a sync version, and the package of these."""

    package: str
    target: str
    modules: Sequence[str]
    by_hand: Sequence[str] = ()
    """Modules of the target that have a counterpart of the same name in the package, written by hand."""


SYNC_PACKAGES = (
    SyncPackage(
        package="readreplica",
        target="readreplica.sync",
        modules=(
            "cluster",
            "connections",
            "discovery",
            "engines",
            "monitor",
            "commit_resolution",
            "retry",
            "routing",
            "sessions",
            "poller",
            "writer",
        ),
        by_hand=("concurrency",),
    ),
    SyncPackage(
        package="sharding",
        target="sharding.sync",
        modules=("engines", "keyed", "map_watch"),
    ),
)

DROPPED = frozenset({"async", "await"})
RENAMED: Mapping[str, str] = {
    "AsyncConnection": "Connection",
    "AsyncEngine": "Engine",
    "AsyncExitStack": "ExitStack",
    "AsyncIterator": "Iterator",
    "AsyncReadBase": "ReadBase",
    "AsyncRetrying": "Retrying",
    "AsyncSession": "Session",
    "AsyncWriteBase": "WriteBase",
    "BackgroundLoop": "BackgroundThread",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclosing": "closing",
    "asynccontextmanager": "contextmanager",
    "enter_async_context": "enter_context",
    "wait_async": "wait",
}
# The result of a coroutine function is what a function returns.
UNWRAPPED = frozenset({"Awaitable", "Coroutine"})
# An AsyncEngine holds the Engine that a sync version has already, and so with the others.
DROPPED_ATTRIBUTES = frozenset({"sync_connection", "sync_engine", "sync_session"})
RENAMED_TEXT: Mapping[str, str] = {
    "from sqlalchemy.ext.asyncio import Connection, Engine": "from sqlalchemy import Connection, Engine",
    "from sqlalchemy.ext.asyncio import Engine": "from sqlalchemy import Engine",
    "from sqlalchemy.ext.asyncio import Session": "from sqlalchemy.orm import Session",
    "async with": "with",
}


def sync_version(source: str, packages: Sequence[SyncPackage], *, named: str) -> str:
    """Return the sync version of a module.

    Parameters:
        source: the module for asyncio.
        packages: every package that has sync versions: imports between them are of sync versions, too.
        named: the file that the source comes from, for the notice at the top.
    """
    words = "".join(_rewritten(source))
    for before, after in RENAMED_TEXT.items():
        words = words.replace(before, after)
    for each in packages:
        for module in (*each.modules, *each.by_hand):
            words = words.replace(f"{each.package}.{module} import", f"{each.target}.{module} import")
    return NOTICE.format(source=named) + words


def _rewritten(source: str) -> Iterator[str]:
    """Yield the source piece by piece, each with the space before it, without what only asyncio has."""
    lines = source.splitlines(keepends=True)
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.string]
    row, column = 1, 0
    skipped_brackets: list[bool] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        space = _between(lines, (row, column), token.start)
        row, column = token.end
        place += 1
        if token.type in (tokenize.INDENT, tokenize.DEDENT):
            yield space + token.string
            continue
        if token.type == tokenize.NAME and token.string in DROPPED:
            yield space
            column += 1  # and the space behind it
            continue
        following = tokens[place] if place < len(tokens) else None
        if token.string == "." and following is not None and following.string in DROPPED_ATTRIBUTES:
            row, column = following.end
            place += 1
            continue
        if token.string in UNWRAPPED and following is not None and following.string == "[":
            row, column = following.end
            place += 1
            if token.string == "Coroutine":
                place, (row, column) = _third_argument(tokens, place)
            skipped_brackets.append(True)
            yield space
            continue
        if token.string == "[":
            skipped_brackets.append(False)
        if token.string == "]" and skipped_brackets.pop():
            yield space
            continue
        yield space + RENAMED.get(token.string, token.string)


def _third_argument(tokens: Sequence[tokenize.TokenInfo], place: int) -> tuple[int, tuple[int, int]]:
    """Find where the third argument of `Coroutine[Any, Any, X]` begins."""
    commas = 0
    while commas < 2:
        commas += tokens[place].string == ","
        place += 1
    return place, tokens[place].start


def _between(lines: Sequence[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]] if start[0] <= len(lines) else ""
    parts = [lines[start[0] - 1][start[1] :], *lines[start[0] : end[0] - 1]]
    if end[0] <= len(lines):
        parts.append(lines[end[0] - 1][: end[1]])
    return "".join(parts)


def tidied(text: str, path: Path) -> str:
    """Sort the imports, drop those that nothing uses any more, and format."""
    name = ["--stdin-filename", str(path)]
    fixed = _run([str(RUFF), "check", "--quiet", "--fix-only", "--select=I,F401,UP", *name, "-"], text)
    return _run([str(RUFF), "format", "--quiet", *name, "-"], fixed)


def _run(command: Sequence[str], text: str) -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def generated_files(packages: Sequence[SyncPackage]) -> Iterator[tuple[Path, str]]:
    """Yield every generated file with its content."""
    for each in packages:
        for module in each.modules:
            source = ROOT.joinpath(*each.package.split("."), f"{module}.py")
            target = ROOT.joinpath(*each.target.split("."), f"{module}.py")
            named = source.relative_to(ROOT).as_posix()
            yield target, tidied(sync_version(source.read_text(), packages, named=named), target)


def main() -> int:
    """Write the sync versions, or name those that differ from what would be written."""
    parser = argparse.ArgumentParser(prog="make sync", description="Write the sync versions.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    is_check = parser.parse_args().check
    stale = [
        (path, text)
        for path, text in generated_files(SYNC_PACKAGES)
        if not path.exists() or path.read_text() != text
    ]
    for path, text in stale:
        name = path.relative_to(ROOT)
        if is_check:
            print(f"{name} is not the sync version of its source: run `make sync`", file=sys.stderr)
        else:
            path.write_text(text)
            print(f"wrote {name}")
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
