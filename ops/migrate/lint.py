"""Lint: the SQL of every revision, as it would run, against squawk's rules and our own. Needs no server.

Our own rules are what partitions want, and what Citus refuses. Each is a function from a statement, and the
tables that stand before it, to what is wrong with it.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from alembic import command
from alembic.script import Script

from ops.migrate.errors import UnmarkedRevision
from ops.migrate.phases import read_phases
from ops.migrate.scripts import Scripts, alembic_config
from ops.migrate.squawk import (
    CREATIONS,
    PrimaryKey,
    SyntaxNode,
    Violation,
    copied,
    default_name,
    drops_key,
    first_line,
    is_temporary,
    key_of,
    names,
    parents,
    parse,
    renamed,
    table_of,
    unique_keys,
    violations,
)
from ops.project.project import ProjectTree
from partitions.sql import bare
from sharding.keys import guarded_tables
from sharding.ownership import CHECK_NAME


@dataclass
class Table:
    """What is known of a table.

    Parameters:
        primary_key: None without one.
        made: the revision that makes it, and the line; None where none does.
        guarded: whether it has the guard of a shard.
        partition_key: the columns; empty where it is not partitioned.
        parent: the table that it was made a partition of.
        lost_key: the line that leaves it without a primary key in this revision.
    """

    primary_key: PrimaryKey | None
    made: tuple[str, str] | None = None
    guarded: bool = True
    partition_key: frozenset[str] = frozenset()
    parent: str | None = None
    lost_key: str | None = None


@dataclass
class Tables:
    """The tables that earlier statements have made, and the revision whose statements come next."""

    known: dict[str, Table] = field(default_factory=dict)
    revision: str = ""

    def partition_key(self, name: str | None) -> frozenset[str]:
        """Return the columns of a table's partition key."""
        return self.known[name].partition_key if name in self.known else frozenset()

    def learn(self, statement: SyntaxNode) -> None:
        """Take note of what a statement makes."""
        name = table_of(statement)
        if statement.kind == "DROP_TABLE":
            for dropped in statement.find("TABLE_NAME_REF", "RELATION_NAME_REF"):
                self.known.pop(dropped.name, None)
        elif name is None or is_temporary(statement):
            return
        elif statement.kind in CREATIONS:
            self.known[name] = self._make(name, statement)
            self._change(name, statement)
        elif statement.kind == "ALTER_TABLE":
            self._change(name, statement)

    def _make(self, name: str, statement: SyntaxNode) -> Table:
        keyed = [self._known(source) for source in (*copied(statement, "INDEXES"), *parents(statement))]
        return Table(
            PrimaryKey(default_name(name)) if any(each.primary_key for each in keyed) else None,
            made=(self.revision, first_line(statement)),
            guarded=any(self._known(source).guarded for source in copied(statement, "CONSTRAINTS")),
            partition_key=frozenset().union(
                *(names(each, "PARTITION_ITEM") for each in statement.find("PARTITION_BY"))
            ),
            parent=next(parents(statement), None),
        )

    def _change(self, name: str, statement: SyntaxNode) -> None:
        table = self.known.setdefault(name, self._known(name))
        if drops_key(statement, table.primary_key):
            table.primary_key = None
        for constraint in statement.find("PRIMARY_KEY_CONSTRAINT"):
            table.primary_key = key_of(name, constraint, statement)
        table.lost_key = None if table.primary_key else table.lost_key or first_line(statement)
        table.guarded |= CHECK_NAME in {part.name for part in statement.find("CONSTRAINT_NAME")}
        if table.primary_key:
            table.primary_key = renamed(table.primary_key, statement)
        for becomes in statement.find("TABLE_RENAME_TO"):
            self.known[becomes.name] = self.known.pop(name)

    def _known(self, name: str) -> Table:
        """Return what is known of a table; one that no revision made may have all that it needs."""
        return self.known.get(name) or Table(PrimaryKey(default_name(name)))

    def take_without_key(self) -> Iterator[tuple[str, str]]:
        """Yield the tables that the revision leaves without a primary key, with the line that does; once."""
        for name, table in self.known.items():
            # A key that the whole table has got since is its partitions' as well.
            if table.lost_key and not (table.parent and self._known(table.parent).primary_key):
                yield name, table.lost_key
            table.lost_key = None


Rule = Callable[[SyntaxNode, Tables], Iterator[str]]


def no_open_bounds(statement: SyntaxNode, _tables: Tables) -> Iterator[str]:
    """Refuse MINVALUE and MAXVALUE: they leave no room, and Citus' time_partitions crashes on them."""
    for bound in statement.find("PARTITION_FOR_VALUES_FROM"):
        if bound.has("MINVALUE_KW", "MAXVALUE_KW"):
            yield "give the partition finite bounds: MINVALUE or MAXVALUE leaves no room beside it"


def unique_has_partition_key(statement: SyntaxNode, tables: Tables) -> Iterator[str]:
    """Refuse a unique key of a partitioned table without the partition key: PostgreSQL cannot check it."""
    key = tables.partition_key(table_of(statement))
    clause = next(statement.find("PARTITION_BY"), None)
    key = names(clause, "PARTITION_ITEM") if clause else key
    if not key:
        return
    for columns in unique_keys(statement):
        if columns and not key <= columns:
            wanted = ", ".join(sorted(key - columns))
            yield f"the unique key ({', '.join(sorted(columns))}) lacks the partition key: add {wanted}"


def one_level(statement: SyntaxNode, tables: Tables) -> Iterator[str]:
    """Refuse partitions of partitions: Citus does."""
    nested = statement.has("PARTITION_OF") and statement.has("PARTITION_BY")
    attached = [
        ref.name for clause in statement.find("ATTACH_PARTITION") for ref in clause.find("TABLE_NAME_REF")
    ]
    if nested or any(map(tables.partition_key, attached)):
        yield "Citus refuses partitions of partitions: keep one level, in two trees (docs/adr/001)"


def no_triggers(statement: SyntaxNode, _tables: Tables) -> Iterator[str]:
    """Refuse triggers: Citus does on distributed tables."""
    if statement.kind == "CREATE_TRIGGER":
        yield "Citus refuses triggers on distributed tables: do it in the transaction of the application"


def no_update_cascade(statement: SyntaxNode, _tables: Tables) -> Iterator[str]:
    """Refuse ON UPDATE CASCADE: Citus does."""
    for clause in statement.find("ON_UPDATE_ACTION"):
        if clause.has("CASCADE_KW", "CASCADE"):
            yield "Citus refuses ON UPDATE CASCADE: let keys never change"


def logged(statement: SyntaxNode, _tables: Tables) -> Iterator[str]:
    """Refuse UNLOGGED: replicas do not have such a table, and after a crash it is empty."""
    if statement.has("UNLOGGED_KW") and (statement.kind in CREATIONS or statement.has("SET_UNLOGGED")):
        yield "an UNLOGGED table is on no replica, and is empty after a crash: leave it logged"


EVERYWHERE: Mapping[str, Rule] = {
    "table-is-logged": logged,
    "partition-bound-is-finite": no_open_bounds,
    "unique-key-has-partition-key": unique_has_partition_key,
}

SHARDED: Mapping[str, Rule] = {
    "citus-one-partition-level": one_level,
    "citus-no-trigger": no_triggers,
    "citus-no-update-cascade": no_update_cascade,
}
"""Rules for trees that may move to Citus."""


def apply_rules(statements: list[SyntaxNode], tables: Tables, *, sharded: bool) -> Iterator[Violation]:
    """Apply the rules to the statements of a revision.

    Parameters:
        statements: what the revision runs.
        tables: what stands before it; learns what the revision makes.
        sharded: whether the tree's databases are shards.
    """
    rules = {**EVERYWHERE, **SHARDED} if sharded else EVERYWHERE
    for statement in statements:
        for name, rule in rules.items():
            for message in rule(statement, tables):
                yield Violation(name, message, first_line(statement))
        tables.learn(statement)
    for table, line in tables.take_without_key():
        yield Violation(
            "table-has-primary-key",
            f"{table} has no primary key: replication cannot name its rows, and Citus cannot move its group",
            line,
        )


def missing_guards(tables: Tables, wanted: Iterable[str]) -> Iterator[tuple[str, Violation]]:
    """Complain, when all revisions are known, of tables that lack the guard of a shard; with their revisions.

    Parameters:
        tables: what the revisions make.
        wanted: the tables that have a shard key.
    """
    for name in wanted:
        table = tables.known.get(name)
        if table and table.made and not table.guarded:
            revision, line = table.made
            message = f"{name} has a shard key and no CHECK {CHECK_NAME}: it takes rows of other shards"
            yield revision, Violation("table-has-guard", message, line)


class LintFinding(NamedTuple):
    """What is wrong with a revision."""

    tree: str
    revision: str
    rule: str
    problem: str
    statement: str


class Segment(NamedTuple):
    """The statements of one transaction, or one statement that stands alone."""

    statements: list[SyntaxNode]
    in_transaction: bool


def lint_tree(tree: ProjectTree, versions: Path | None = None) -> Iterator[LintFinding]:
    """Lint the revisions of a tree, oldest first.

    A revision may allow itself what a rule refuses: `lint_allows = {"RULE": "why it does no harm here"}`. An
    allowance that nothing needs is a finding as well.

    Parameters:
        tree: the migration tree.
        versions: the folder of the revisions; without it, the project's own.
    """
    folder = versions or tree.revisions
    tables = Tables()
    line = list(Scripts(tree, folder).line())
    found = {script.revision: list(_lint_revision(tree, folder, script, tables)) for script in line}
    # Of a table's name the linter sees no schema.
    guarded = [bare(each.table) for each in guarded_tables(tree.metadata)]
    for revision, violation in missing_guards(tables, guarded):
        found[revision].append(violation)
    for script in line:
        allowed: Mapping[str, str] = getattr(script.module, "lint_allows", {})
        used: set[str] = set()
        for violation in found[script.revision]:
            if allowed.get(violation.rule):
                used.add(violation.rule)
            else:
                yield LintFinding(tree.name, script.revision, *violation)
        for rule in allowed.keys() - used:
            unused = "lint_allows names it without need or without a reason: remove it, or give the reason"
            yield LintFinding(tree.name, script.revision, rule, unused, "")


def segments(statements: list[SyntaxNode]) -> Iterator[Segment]:
    """Split a script at its transactions.

    An autocommit block stands between a COMMIT and a BEGIN. Read as one script, what was set in the
    transaction before would seem to hold in the block and behind it, and a linter would be content.
    """
    inside: list[SyntaxNode] | None = None
    for statement in statements:
        match statement.kind:
            case "BEGIN":
                inside = []
            case "COMMIT_TRANSACTION":
                if inside:
                    yield Segment(inside, in_transaction=True)
                inside = None
            case _ if inside is None:
                yield Segment([statement], in_transaction=False)
            case _:
                inside.append(statement)


def _lint_revision(tree: ProjectTree, versions: Path, script: Script, tables: Tables) -> Iterator[Violation]:
    try:
        read_phases([script])
    except UnmarkedRevision as fault:
        yield Violation("phase-is-marked", str(fault), "")
    is_alembics = re.compile(rf"\b{tree.version_table}\b").search
    statements = [each for each in parse(_render(tree, versions, script)) if not is_alembics(each.text)]
    for segment in segments(statements):
        text = "\n".join(each.text for each in segment.statements)
        yield from violations(text, in_transaction=segment.in_transaction)
    tables.revision = script.revision
    yield from apply_rules(statements, tables, sharded=bool(guarded_tables(tree.metadata)))


def _render(tree: ProjectTree, versions: Path, script: Script) -> str:
    output = io.StringIO()
    config = alembic_config(tree, versions, output)
    command.upgrade(config, f"{script.down_revision or 'base'}:{script.revision}", sql=True)
    return output.getvalue()
