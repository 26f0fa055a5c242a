"""What only the rows can tell: misplaced, twice, both live and archived, or without what they belong to.

Every row is read, in windows of the key: short statements of ACCESS SHARE, none of which holds up vacuum for
long, and of each fault no more than a few keys come here.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, text

from partitions import catalog_sql
from partitions.archive.policy import ArchivePolicy
from partitions.check import Finding
from partitions.policy import ListPartitions, Policy
from partitions.questions import (
    Columns,
    Keys,
    Question,
    about_archive,
    about_ids,
    about_partition,
)
from partitions.sql import identifier
from partitions.windows import Size, Window, walk

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a deep check is: what is being read, and how many rows of about how many are behind it."""

    subject: str
    rows: int
    of_rows: int


Report = Callable[[Progress], None]


def check_rows(
    connection: Connection,
    policies: Iterable[Policy],
    archives: Iterable[ArchivePolicy] = (),
    *,
    size: Size | None = None,
    report: Report | None = None,
) -> list[Finding]:
    """List rows that contradict the policies; it takes the time to read all, several times.

    Each statement sees one moment, so that a row which the archive job moves meanwhile is not told.

    Parameters:
        connection: reads the tables in autocommit.
        policies: how the tables are partitioned.
        archives: what is archived where, and what belongs to it.
        size: how many rows a statement reads.
        report: is told of the progress after each statement.
    """
    questions = _questions(connection, tuple(policies), tuple(archives))
    counts = [_estimate(connection, question) for question in questions]
    # Were it on, the planner would believe the bounds that are to be proved.
    connection.exec_driver_sql("SET constraint_exclusion = partition")
    findings: list[Finding] = []
    behind = 0
    for question, count in zip(questions, counts, strict=True):

        def tell(rows: int, *, subject: str = question.subject, behind: int = behind) -> None:
            if report is not None:
                report(Progress(subject, behind + rows, sum(counts)))

        findings.extend(_ask(connection, question, size or Size(), count, tell))
        behind += count
    return findings


def _questions(
    connection: Connection, policies: tuple[Policy, ...], archives: tuple[ArchivePolicy, ...]
) -> list[Question]:
    tables = {policy.table for policy in policies} | {
        table for archive in archives for pair in archive.children.items() for table in pair
    }
    columns: Columns = {
        table: tuple(connection.scalars(catalog_sql.COLUMNS, {"table": identifier(table)}))
        for table in tables
    }
    # Misplaced rows come first: one that the planner does not find makes its children look like orphans.
    return [
        *(about_partition(*facts, columns) for policy in policies for facts in _bounds(connection, policy)),
        *(about_ids(policy) for policy in policies if isinstance(policy, ListPartitions)),
        *(question for archive in archives for question in about_archive(archive, columns)),
    ]


def _bounds(connection: Connection, policy: Policy) -> Iterator[tuple[Policy, str, str]]:
    for name, condition in connection.execute(catalog_sql.CONSTRAINTS, {"table": identifier(policy.table)}):
        yield policy, name, condition


_ESTIMATE = text("""
    SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint
    FROM pg_partition_tree(to_regclass(:table)) JOIN pg_class ON oid = relid WHERE isleaf
""")


def _estimate(connection: Connection, question: Question) -> int:
    return int(connection.execute(_ESTIMATE, {"table": identifier(question.subject)}).scalar_one())


def _ask(
    connection: Connection, question: Question, size: Size, count: int, tell: Callable[[int], None]
) -> Iterator[Finding]:
    """Ask about one window after the other, and add up what each kind of fault has."""

    def look(window: Window) -> list[tuple[str, Keys]]:
        query = (
            f"SELECT kind, count(*), (array_agg(key ORDER BY key))[1:{EXAMPLES}] "
            f"FROM ({question.query(window)}) AS wrong GROUP BY kind"
        )
        rows = connection.exec_driver_sql(query, execution_options={"no_parameters": True})
        return [(kind, Keys(found, tuple(examples))) for kind, found, examples in rows]

    wrong: dict[str, Keys] = {}
    rows = 0
    for in_window, found in walk(connection, question.source, question.key, look, size=size):
        for kind, keys in found:
            before = wrong.get(kind, Keys(0, ()))
            wrong[kind] = Keys(before.count + keys.count, (before.examples + keys.examples)[:EXAMPLES])
        rows += in_window
        tell(min(rows, count))
    tell(count)
    return (question.tell[kind](keys) for kind, keys in sorted(wrong.items()))
