"""Squawk: the linter of PostgreSQL migrations, and the one parser here that knows all of its statements.

It comes as a binary in its wheel. sqlglot gives up on ATTACH PARTITION, and pglast is under the GPL.
The form of squawk's syntax tree is no promise of its authors: the lock file pins it, and tests read it.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ops.migrate.errors import SquawkMissing

# Why a rule of squawk's is not ours.
EXCLUDED = {
    "require-statement-timeout": "what holds up the application is a lock, and lock_timeout guards that",
    "prefer-bigint-over-int": "our integers are counts, versions and node numbers; every id is a bigint",
    "prefer-text-field": "only alembic's own table has another type, and it is not ours to choose",
}
# Outside a transaction the setting of one holds no more; the connection of the migration has a lock_timeout.
EXCLUDED_ALONE = {
    "require-lock-timeout": "the migration's connection sets it for statements that stand alone"
}


class Violation(NamedTuple):
    """What a rule says against a statement."""

    rule: str
    message: str
    statement: str


@dataclass(frozen=True)
class SyntaxNode:
    """A part of a statement, as PostgreSQL's grammar names it."""

    kind: str
    text: str
    parts: tuple["Node", ...]

    def find(self, *kinds: str) -> Iterator["Node"]:
        """Give every part of some kinds, however deep, in the order of the text."""
        for part in self.parts:
            if part.kind in kinds:
                yield part
            yield from part.find(*kinds)

    def has(self, *kinds: str) -> bool:
        """Whether there is a part of some kinds."""
        return next(self.find(*kinds), None) is not None

    @property
    def name(self) -> str:
        """The plain name of a table, column or index, without its schema."""
        *_, last = self, *self.find("IDENT")  # a word that is also a keyword is no IDENT
        return last.text.strip('"') if last.text.startswith('"') else last.text.lower()


def parse(script: str) -> list[SyntaxNode]:
    """Give the statements of a script.

    Raises:
        SquawkMissing: squawk is not installed.
    """
    source = script.encode()
    tree = _run(["--debug", "parse"], script)
    # One line is one node: its depth by two blanks each, its kind, and its place in the source in bytes.
    rows = [
        (len(blanks) // 2, kind, source[int(start) : int(end)].decode())
        for blanks, kind, start, end in re.findall(r"^( *)([A-Z_0-9]+)@(\d+)\.\.(\d+)", tree, re.MULTILINE)
    ]
    [root] = _nest(rows, 0)
    return [node for node in root.parts if node.kind not in {"WHITESPACE", "COMMENT", "SEMICOLON"}]


def violations(script: str, *, in_transaction: bool) -> Iterator[Violation]:
    """Give what squawk says against the statements of one transaction, or against one that stands alone."""
    excluded = [*EXCLUDED, *(() if in_transaction else EXCLUDED_ALONE)]
    mode = "--assume-in-transaction" if in_transaction else "--no-assume-in-transaction"
    options = ["--reporter", "json", "--pg-version", "15", "--exclude", ",".join(excluded), mode]
    lines = script.splitlines()
    for each in json.loads(_run(options, script) or "[]"):
        hint = f" {each['help']}" if each["help"] else ""
        yield Violation(each["rule_name"], each["message"] + hint, lines[each["line"]].strip())


def _nest(rows: list[tuple[int, str, str]], depth: int) -> list[SyntaxNode]:
    """Make nodes of the rows at a depth; those that are deeper belong to the row before them."""
    starts = [place for place, row in enumerate(rows) if row[0] == depth]
    ends = [*starts[1:], len(rows)]
    return [
        SyntaxNode(rows[start][1], rows[start][2], tuple(_nest(rows[start + 1 : end], depth + 1)))
        for start, end in zip(starts, ends, strict=False)  # one end too many where there is no row
    ]


def _run(options: list[str], script: str) -> str:
    beside = Path(sys.executable).parent / "squawk"
    program = str(beside) if beside.exists() else shutil.which("squawk")
    if program is None:
        raise SquawkMissing
    # It ends with status 1 when it has something to say.
    done = subprocess.run([program, *options], input=script, capture_output=True, text=True, check=False)
    return done.stdout
