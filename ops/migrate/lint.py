"""Lint: the SQL of every revision, as it would run, against squawk's rules and our own. Needs no server."""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from alembic import command
from alembic.script import Script

from ops.migrate import squawk
from ops.migrate.errors import UnmarkedRevision
from ops.migrate.phases import read_phases
from ops.migrate.scripts import Scripts, alembic_config
from ops.migrate.squawk import Violation, SyntaxNode, violations, parse
from ops.project.project import ProjectTree
from sharding.keys import guarded_tables


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
    tables = squawk.Tables()
    line = list(Scripts(tree, folder).line())
    found = {script.revision: list(_lint_revision(tree, folder, script, tables)) for script in line}
    guarded = [each.table for each in guarded_tables(tree.metadata)]
    for revision, complaint in squawk.unguarded(tables, guarded):
        found[revision].append(complaint)
    for script in line:
        allowed: Mapping[str, str] = getattr(script.module, "lint_allows", {})
        used: set[str] = set()
        for complaint in found[script.revision]:
            if allowed.get(complaint.rule):
                used.add(complaint.rule)
            else:
                yield LintFinding(tree.name, script.revision, *complaint)
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


def _lint_revision(
    tree: ProjectTree, versions: Path, script: Script, tables: squawk.Tables
) -> Iterator[Violation]:
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
    yield from squawk.check(statements, tables, sharded=bool(guarded_tables(tree.metadata)))


def _render(tree: ProjectTree, versions: Path, script: Script) -> str:
    output = io.StringIO()
    config = alembic_config(tree, versions, output)
    command.upgrade(config, f"{script.down_revision or 'base'}:{script.revision}", sql=True)
    return output.getvalue()
