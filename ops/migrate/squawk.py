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
from partitions.sql import cut

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


CREATIONS = frozenset({"CREATE_TABLE", "CREATE_TABLE_AS", "SELECT_INTO"})

_NAMED_BY = dict.fromkeys(CREATIONS, "TABLE_NAME") | {"DROP_TABLE": "TABLE_NAME_REF"}


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
    parts: tuple["SyntaxNode", ...]

    def find(self, *kinds: str) -> Iterator["SyntaxNode"]:
        """Yield every part of some kinds, however deep, in the order of the text."""
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
    """Return the statements of a script.

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
    """Yield squawk's violations in the statements of one transaction, or in one that stands alone."""
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


class PrimaryKey(NamedTuple):
    """The name of a primary key, and its columns as far as the statement names them."""

    name: str
    columns: frozenset[str] = frozenset()


def table_of(statement: SyntaxNode) -> str | None:
    """Return the table that a statement is about."""
    relation = next(statement.find(_NAMED_BY.get(statement.kind, "TABLE_RELATION_NAME")), None)
    return relation.name if relation and relation.text else None


def is_temporary(statement: SyntaxNode) -> bool:
    """Whether a statement makes a table of its session alone."""
    return statement.kind in CREATIONS and statement.has("TEMP_KW", "TEMPORARY_KW")


def copied(statement: SyntaxNode, what: str) -> Iterator[str]:
    """Yield the tables of which a CREATE TABLE ... LIKE copies the `INDEXES`, or the `CONSTRAINTS`."""
    for clause in statement.find("LIKE_CLAUSE"):
        last = None
        for option in clause.find("INCLUDING_PROPERTY", "EXCLUDING_PROPERTY"):
            if option.has("PROPERTY_ALL", f"PROPERTY_{what}"):
                last = option.kind
        if last == "INCLUDING_PROPERTY":
            yield next(clause.find("RELATION_NAME_REF")).name


def parents(statement: SyntaxNode) -> Iterator[str]:
    """Yield the table that a CREATE TABLE makes a partition of: its keys come along. INHERITS brings none."""
    for clause in statement.find("PARTITION_OF"):
        yield next(clause.find("TABLE_NAME_REF")).name


def key_of(table: str, constraint: SyntaxNode, statement: SyntaxNode) -> PrimaryKey:
    """Return the primary key that a constraint is."""
    given = next(constraint.find("CONSTRAINT_NAME"), None)
    columns = names(constraint, "COLUMN_NAME_REF")
    for column in statement.find("COLUMN"):
        if column.has("PRIMARY_KEY_CONSTRAINT"):
            columns |= names(column, "COLUMN_NAME")
    return PrimaryKey(given.name if given else default_name(table), columns)


def drops_key(statement: SyntaxNode, key: PrimaryKey | None) -> bool:
    """Whether a statement takes a primary key away, by its name or with one of its columns."""
    if key is None:
        return False
    constraints = _parts(statement, "DROP_CONSTRAINT", "CONSTRAINT_NAME_REF")
    return key.name in constraints or bool(key.columns & _parts(statement, "DROP_COLUMN", "COLUMN_NAME_REF"))


def renamed(key: PrimaryKey, statement: SyntaxNode) -> PrimaryKey:
    """Return a primary key by the names that it has after a statement."""
    for clause in statement.find("RENAME_CONSTRAINT", "RENAME_COLUMN"):
        kind = clause.kind.removeprefix("RENAME_")
        was, becomes = (part.name for part in clause.find(f"{kind}_NAME_REF", f"{kind}_NAME"))
        if clause.kind == "RENAME_CONSTRAINT":
            key = key._replace(name=becomes if key.name == was else key.name)
        elif was in key.columns:
            key = key._replace(columns=key.columns - {was} | {becomes})
    return key


def _parts(statement: SyntaxNode, clause: str, kind: str) -> frozenset[str]:
    return frozenset(name for each in statement.find(clause) for name in names(each, kind))


def default_name(table: str) -> str:
    """Return the name that PostgreSQL gives to a primary key without one."""
    return cut(table, room_bytes=len("_pkey")) + "_pkey"


def unique_keys(statement: SyntaxNode) -> Iterator[frozenset[str]]:
    """Yield the columns of every unique key that a statement makes."""
    if statement.kind == "CREATE_INDEX" and any(part.kind == "UNIQUE_KW" for part in statement.parts):
        yield names(statement, "PARTITION_ITEM")
    for column in statement.find("COLUMN"):
        if column.has("PRIMARY_KEY_CONSTRAINT", "UNIQUE_CONSTRAINT"):
            yield names(column, "COLUMN_NAME")
    for constraint in statement.find("PRIMARY_KEY_CONSTRAINT", "UNIQUE_CONSTRAINT"):
        yield names(constraint, "COLUMN_NAME_REF")


def names(node: SyntaxNode, kind: str) -> frozenset[str]:
    """Return the names of a node's parts of one kind."""
    return frozenset(part.name for part in node.find(kind) if part.text)


def first_line(statement: SyntaxNode) -> str:
    """Show a statement by its first line."""
    return statement.text.splitlines()[0]
