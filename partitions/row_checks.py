"""Checks that read rows: rows that are misplaced, duplicate, both live and archived, or without their parent.

Every row is read, in windows of the key: each statement is short and takes ACCESS SHARE, none holds up vacuum
for long, and of each fault no more than a few keys are fetched.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from psycopg.errors import QueryCanceled
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from partitions.catalog import read_columns, read_constraints
from partitions.check import PartitionFinding
from partitions.policy import ArchivePolicy, ListPartitions, Policy
from partitions.sql import identifier

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Window:
    """Keys after `after`, through `last`; None has no end."""

    after: int | None = None
    last: int | None = None

    def holds(self, column: str) -> str:
        """Render the condition that a column's value is in it."""
        ends = []
        if self.after is not None:
            ends.append(f"{column} > {self.after}")
        if self.last is not None:
            ends.append(f"{column} <= {self.last}")
        return " AND ".join(ends) or "true"


@dataclass(frozen=True, slots=True)
class WindowSize:
    """How many rows a window has at first, and at least, where the server's statement_timeout is short."""

    rows: int = 50_000
    fewest_rows: int = 100


def walk_windows(
    connection: Connection, source: str, key: str, look: Callable[[Window], Found], *, size: WindowSize
) -> Iterator[tuple[int, Found]]:
    """Look at a table window by window, in the order of its key.

    A window that statement_timeout cuts off is halved and tried again, and so are those after it.

    Parameters:
        connection: in autocommit, so that no statement holds up vacuum for the time of all.
        source: what stands behind FROM; it has an index that begins with the key.
        key: an integer column.
        look: is given each window.
        size: how large windows are.

    Returns:
        how many rows a window has at most, and what `look` gave.

    Raises:
        DBAPIError: even the smallest window takes longer than statement_timeout.
    """
    after, rows = None, size.rows
    while True:
        try:
            window = Window(after, _last_of(connection, source, key, after, rows))
            found = look(window)
        except DBAPIError as fault:
            if not isinstance(fault.orig, QueryCanceled) or rows <= size.fewest_rows:
                raise
            rows = max(rows // 2, size.fewest_rows)
            continue
        yield rows, found
        if window.last is None:
            return
        after = window.last


def _last_of(connection: Connection, source: str, key: str, after: int | None, rows: int) -> int | None:
    column = identifier(key)
    beginning = Window(after).holds(column)
    query = f"SELECT {column} FROM {source} WHERE {beginning} ORDER BY {column} OFFSET {rows - 1} LIMIT 1"
    last: int | None = connection.exec_driver_sql(query).scalar()
    return last


Columns = Mapping[str, tuple[str, ...]]
"""The columns of tables, by table."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that a check found wrong in one way: how many, and the smallest of them."""

    count: int
    examples: tuple[int, ...]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{', '.join(map(str, self.examples))}{more}"


ToFinding = Callable[[Keys], PartitionFinding]


@dataclass(frozen=True, slots=True)
class RowCheck:
    """A check that reads a table once.

    Parameters:
        subject: the table or partition that is read.
        source: how it stands behind FROM.
        key: the integer column by which it is read.
        query: renders SQL whose rows are `(kind, key)`, of the keys that are wrong in a window.
        findings: makes a finding of the keys of each kind.
    """

    subject: str
    source: str
    key: str
    query: Callable[[Window], str]
    findings: Mapping[str, ToFinding]


def misplaced_rows(policy: Policy, partition: str, condition: str, columns: Columns) -> RowCheck:
    """Find rows outside their partition's bound, as a restore without constraints can leave them.

    PostgreSQL finds no such row through the parent by its key: the planner trusts the bound.

    Parameters:
        policy: the policy of its table.
        partition: one of its partitions.
        condition: its bound, as a condition on a row.
        columns: the columns of the table.
    """
    key, table, name = _key_of(policy), identifier(policy.table), identifier(partition)
    column = identifier(key)
    there = (
        f"EXISTS (SELECT FROM {table} AS other WHERE other.{column} = here.{column} {_elsewhere(partition)})"
    )

    def query(window: Window) -> str:
        return (
            f"SELECT CASE WHEN {there} THEN 'twice' ELSE 'misplaced' END AS kind, here.{column} AS key "
            f"FROM ONLY {name} AS here WHERE {window.holds(f'here.{column}')} AND NOT ({condition})"
        )

    def misplaced(keys: Keys) -> PartitionFinding:
        fault = f"{keys.count} rows are outside its bound: {key} {keys}"
        fix = _move(f"ONLY {name}", table, columns[policy.table], f"NOT ({condition})")
        return PartitionFinding(policy.table, partition, fault, fix)

    def twice(keys: Keys) -> PartitionFinding:
        fault = f"{keys.count} rows are outside its bound, and stand in another partition too: {key} {keys}"
        look = f"SELECT tableoid::regclass, * FROM ONLY {name} WHERE {column} = {keys.examples[0]}"
        fix = f"compare with the row in its place, then delete the one that is outside: {look}"
        return PartitionFinding(policy.table, partition, fault, fix)

    return RowCheck(partition, f"ONLY {name}", key, query, {"misplaced": misplaced, "twice": twice})


def duplicate_ids(policy: ListPartitions) -> RowCheck:
    """Find ids that stand in a table twice, which no unique index can forbid without the partition key."""
    table, column = identifier(policy.table), identifier(policy.row_id)

    def query(window: Window) -> str:
        return (
            f"SELECT 'twice' AS kind, {column} AS key FROM {table} WHERE {window.holds(column)} "
            f"GROUP BY {column} HAVING count(*) > 1"
        )

    def twice(keys: Keys) -> PartitionFinding:
        fault = f"{keys.count} {policy.row_id} stand in it more than once: {keys}"
        look = f"SELECT tableoid::regclass, * FROM {table} WHERE {column} = {keys.examples[0]}"
        return PartitionFinding(
            policy.table, "", fault, f"keep the row with the newest history, delete the other: {look}"
        )

    return RowCheck(policy.table, table, policy.row_id, query, {"twice": twice})


def archive_rows(policy: ArchivePolicy, columns: Columns) -> Iterator[RowCheck]:
    """Find rows that stand both live and archived, and for children that are not where their parent is.

    Parameters:
        policy: what is archived, and what travels along.
        columns: the columns of the tables of the policy's children.
    """
    yield _live_and_archived_rows(policy)
    for live, archived in policy.children.items():
        yield _child_rows(
            policy, live, home=policy.tree, twin=archived, other=policy.archive, columns=columns
        )
        yield _child_rows(
            policy, archived, home=policy.archive, twin=live, other=policy.tree, columns=columns
        )


def _live_and_archived_rows(policy: ArchivePolicy) -> RowCheck:
    column = identifier(policy.key)

    def query(window: Window) -> str:
        return (
            f"SELECT DISTINCT 'both' AS kind, live.{column} AS key FROM {identifier(policy.tree)} AS live "
            f"WHERE {window.holds(f'live.{column}')} AND {_exists(policy, policy.archive, 'live', window)}"
        )

    def both(keys: Keys) -> PartitionFinding:
        fault = f"{keys.count} {policy.key} stand in it and in {policy.archive}: {keys}"
        looks = "; ".join(
            f"SELECT * FROM {identifier(table)} WHERE {column} = {keys.examples[0]}"
            for table in (policy.tree, policy.archive)
        )
        live, archived = _names(policy.tree, *policy.children), _names(*list(policy.moves.values()))
        fix = (
            f"compare ({looks}), then delete the older one with what belongs to it, in one transaction: "
            f"from {live}, or from {archived}"
        )
        return PartitionFinding(policy.tree, "", fault, fix)

    return RowCheck(policy.tree, identifier(policy.tree), policy.key, query, {"both": both})


def _child_rows(
    policy: ArchivePolicy, child: str, *, home: str, twin: str, other: str, columns: Columns
) -> RowCheck:
    """Find rows of `child` without a parent in `home`; it may be in `other`, where `twin` belongs."""
    table, column = identifier(child), identifier(policy.key)
    at_home, elsewhere = _exists(policy, home, "child"), _exists(policy, other, "child")

    def query(window: Window) -> str:
        # The window is repeated for the parent: that lets the planner read as little of it.
        in_window = _exists(policy, home, "child", window)
        return (
            f"SELECT DISTINCT CASE WHEN {elsewhere} THEN 'stray' ELSE 'orphan' END AS kind, "
            f"child.{column} AS key FROM {table} AS child "
            f"WHERE {window.holds(f'child.{column}')} AND NOT {in_window}"
        )

    def stray(keys: Keys) -> PartitionFinding:
        fault = f"rows of {keys.count} {policy.key} that stand in {other}, not in {home}: {keys}"
        condition = f"NOT {at_home} AND {elsewhere}"
        return PartitionFinding(
            child, "", fault, _move(f"{table} AS child", identifier(twin), columns[child], condition)
        )

    def orphan(keys: Keys) -> PartitionFinding:
        fault = f"rows of {keys.count} {policy.key} that stand neither in {home} nor in {other}: {keys}"
        condition = f"NOT {at_home} AND NOT {elsewhere}"
        fix = (
            f"bring their rows of {home} back from a backup, or attach the month that was detached; "
            f"if they may go: DELETE FROM {table} AS child WHERE {condition}"
        )
        return PartitionFinding(child, "", fault, fix)

    return RowCheck(child, table, policy.key, query, {"stray": stray, "orphan": orphan})


def _exists(policy: ArchivePolicy, table: str, child: str, window: Window | None = None) -> str:
    column = identifier(policy.key)
    within = "" if window is None else f" AND {window.holds(f'parent.{column}')}"
    return (
        f"EXISTS (SELECT FROM {identifier(table)} AS parent WHERE parent.{column} = {child}.{column}{within})"
    )


def _move(source: str, target: str, columns: tuple[str, ...], condition: str) -> str:
    # By name: the two need not have their columns in the same order.
    names = ", ".join(map(identifier, columns))
    return (
        f"WITH gone AS (DELETE FROM {source} WHERE {condition} RETURNING {names}) "
        f"INSERT INTO {target} ({names}) SELECT {names} FROM gone"
    )


def _elsewhere(partition: str) -> str:
    return f"AND other.tableoid <> '{identifier(partition)}'::regclass"


def _key_of(policy: Policy) -> str:
    return policy.row_id if isinstance(policy, ListPartitions) else policy.key


def _names(*tables: str) -> str:
    return ", ".join(tables)


EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class RowCheckProgress:
    """How far the row checks are: the table that is read, and how many rows of about how many were read."""

    subject: str
    rows: int
    of_rows: int


Report = Callable[[RowCheckProgress], None]


def check_rows(
    connection: Connection,
    policies: Iterable[Policy],
    archives: Iterable[ArchivePolicy] = (),
    *,
    size: WindowSize | None = None,
    report: Report | None = None,
) -> list[PartitionFinding]:
    """List rows that contradict the policies; it takes the time to read all, several times.

    Each statement sees one moment, so that a row which the archive job moves meanwhile is no finding.

    Parameters:
        connection: reads the tables in autocommit.
        policies: how the tables are partitioned.
        archives: what is archived where, and what belongs to it.
        size: how many rows a statement reads.
        report: is called with the progress after each statement.
    """
    checks = _row_checks(connection, tuple(policies), tuple(archives))
    counts = [_estimate(connection, check) for check in checks]
    # Were it on, the planner would believe the bounds that are to be proved.
    connection.exec_driver_sql("SET constraint_exclusion = partition")
    findings: list[PartitionFinding] = []
    behind = 0
    for check, count in zip(checks, counts, strict=True):

        def progress(rows: int, *, subject: str = check.subject, behind: int = behind) -> None:
            if report is not None:
                report(RowCheckProgress(subject, behind + rows, sum(counts)))

        findings.extend(_run(connection, check, size or WindowSize(), count, progress))
        behind += count
    return findings


def _row_checks(
    connection: Connection, policies: tuple[Policy, ...], archives: tuple[ArchivePolicy, ...]
) -> list[RowCheck]:
    tables = {policy.table for policy in policies} | {
        table for archive in archives for pair in archive.children.items() for table in pair
    }
    columns = {table: read_columns(connection, table) for table in tables}
    # Misplaced rows come first: one that the planner does not find makes its children look like orphans.
    return [
        *(
            misplaced_rows(policy, name, condition, columns)
            for policy in policies
            for name, condition in read_constraints(connection, policy.table).items()
        ),
        *(duplicate_ids(policy) for policy in policies if isinstance(policy, ListPartitions)),
        *(check for archive in archives for check in archive_rows(archive, columns)),
    ]


_ESTIMATE = text("""
    SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint
    FROM pg_partition_tree(to_regclass(:table)) JOIN pg_class ON oid = relid WHERE isleaf
""")


def _estimate(connection: Connection, check: RowCheck) -> int:
    return int(connection.execute(_ESTIMATE, {"table": identifier(check.subject)}).scalar_one())


def _run(
    connection: Connection, check: RowCheck, size: WindowSize, count: int, progress: Callable[[int], None]
) -> Iterator[PartitionFinding]:
    """Check one window after the other, and add up what each kind of fault has."""

    def read(window: Window) -> list[tuple[str, Keys]]:
        query = (
            f"SELECT kind, count(*), (array_agg(key ORDER BY key))[1:{EXAMPLES}] "
            f"FROM ({check.query(window)}) AS wrong GROUP BY kind"
        )
        rows = connection.exec_driver_sql(query, execution_options={"no_parameters": True})
        return [(kind, Keys(found, tuple(examples))) for kind, found, examples in rows]

    wrong: dict[str, Keys] = {}
    rows = 0
    for in_window, found in walk_windows(connection, check.source, check.key, read, size=size):
        for kind, keys in found:
            before = wrong.get(kind, Keys(0, ()))
            wrong[kind] = Keys(before.count + keys.count, (before.examples + keys.examples)[:EXAMPLES])
        rows += in_window
        progress(min(rows, count))
    progress(count)
    return (check.findings[kind](keys) for kind, keys in sorted(wrong.items()))
