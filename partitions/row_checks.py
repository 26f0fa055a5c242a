"""Checks that read rows: rows that are misplaced, duplicate, both live and archived, or without their parent.

Every row is read, in windows of the key: each statement is short and takes ACCESS SHARE, none holds up vacuum
for long, and of each fault no more than a few keys are fetched.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from psycopg.errors import QueryCanceled
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from partitions.archive_policy import ArchivePolicy, Child
from partitions.catalog import read_columns, read_constraints
from partitions.check import PartitionFinding
from partitions.policy import Policy
from partitions.sql import identifier, literal, relation, relation_oid

Found = TypeVar("Found")


RowId = tuple[str, ...]
"""What names a row: values as PostgreSQL prints them, in the order of the columns."""


@dataclass(frozen=True, slots=True)
class Window:
    """Rows whose id is after `after`, through `last`; None has no end."""

    after: RowId | None = None
    last: RowId | None = None

    def holds(self, columns: Sequence[str]) -> str:
        """Render the condition that the values of some columns, as they stand in SQL, are in it."""
        row = _row(columns)
        ends = []
        if self.after is not None:
            ends.append(f"{row} > {_row(map(literal, self.after))}")
        if self.last is not None:
            ends.append(f"{row} <= {_row(map(literal, self.last))}")
        return " AND ".join(ends) or "true"


def _row(expressions: Iterable[str]) -> str:
    found = tuple(expressions)
    return found[0] if len(found) == 1 else f"({', '.join(found)})"


@dataclass(frozen=True, slots=True)
class WindowSize:
    """How many rows a window has at first, and at least, where the server's statement_timeout is short."""

    rows: int = 50_000
    fewest_rows: int = 100


def walk_windows(
    connection: Connection,
    source: str,
    row_id: Sequence[str],
    look: Callable[[Window], Found],
    *,
    size: WindowSize,
) -> Iterator[tuple[int, Found]]:
    """Look at a table window by window, in the order of the ids of its rows.

    A window that statement_timeout cuts off is halved and tried again, and so are those after it.

    Parameters:
        connection: in autocommit, so that no statement holds up vacuum for the time of all.
        source: what stands behind FROM; it has an index that begins with the id.
        row_id: the columns of the id.
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
            window = Window(after, _last_of(connection, source, row_id, after, rows))
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


def _last_of(
    connection: Connection, source: str, row_id: Sequence[str], after: RowId | None, rows: int
) -> RowId | None:
    columns = [identifier(column) for column in row_id]
    names = ", ".join(columns)
    printed = ", ".join(f"{column}::text" for column in columns)
    query = (
        f"SELECT {printed} FROM {source} WHERE {Window(after).holds(columns)} "
        f"ORDER BY {names} OFFSET {rows - 1} LIMIT 1"
    )
    last = connection.exec_driver_sql(query, execution_options={"no_parameters": True}).first()
    return None if last is None else tuple(last)


Columns = Mapping[str, tuple[str, ...]]
"""The columns of tables, by table."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The rows that a check found wrong in one way: how many, and the ids of the first of them."""

    count: int
    examples: tuple[RowId, ...]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{', '.join(map(_row, self.examples))}{more}"

    def first(self, row_id: Sequence[str]) -> str:
        """Render the condition that a row is the first example."""
        pairs = zip(row_id, self.examples[0], strict=True)
        return " AND ".join(f"{identifier(column)} = {_constant(value)}" for column, value in pairs)


def _constant(value: str) -> str:
    return value if re.fullmatch(r"-?\d+", value) else literal(value)


ToFinding = Callable[[Keys], PartitionFinding]


@dataclass(frozen=True, slots=True)
class RowCheck:
    """A check that reads a table once.

    Parameters:
        subject: the table or partition that is read.
        source: how it stands behind FROM.
        row_id: the columns by whose values it is read.
        query: renders SQL whose rows are `(kind, key_1, ...)`, of the ids that are wrong in a window.
        findings: makes a finding of the ids of each kind.
    """

    subject: str
    source: str
    row_id: tuple[str, ...]
    query: Callable[[Window], str]
    findings: Mapping[str, ToFinding]


def _of(alias: str, columns: Sequence[str]) -> list[str]:
    return [f"{alias}.{identifier(column)}" for column in columns]


def _as_keys(expressions: Sequence[str]) -> str:
    return ", ".join(f"{each} AS key_{number}" for number, each in enumerate(expressions, start=1))


def _equal(one: Sequence[str], other: Sequence[str]) -> str:
    return " AND ".join(f"{mine} = {its}" for mine, its in zip(one, other, strict=True))


def misplaced_rows(policy: Policy, partition: str, condition: str, columns: Columns) -> RowCheck:
    """Find rows outside their partition's bound, as a restore without constraints can leave them.

    PostgreSQL finds no such row through the parent by its key: the planner trusts the bound.

    Parameters:
        policy: the policy of its table.
        partition: one of its partitions.
        condition: its bound, as a condition on a row.
        columns: the columns of the table.
    """
    row_id, table, name = policy.row_id, relation(policy.table), relation(partition)
    here, same = _of("here", row_id), _equal(_of("other", row_id), _of("here", row_id))
    there = f"EXISTS (SELECT FROM {table} AS other WHERE {same} {_elsewhere(partition)})"

    def query(window: Window) -> str:
        return (
            f"SELECT CASE WHEN {there} THEN 'twice' ELSE 'misplaced' END AS kind, {_as_keys(here)} "
            f"FROM ONLY {name} AS here WHERE {window.holds(here)} AND NOT ({condition})"
        )

    def misplaced(keys: Keys) -> PartitionFinding:
        fault = f"{keys.count} rows are outside its bound: {_row(row_id)} {keys}"
        fix = _move(f"ONLY {name}", table, columns[policy.table], f"NOT ({condition})")
        return PartitionFinding(policy.table, partition, fault, fix)

    def twice(keys: Keys) -> PartitionFinding:
        fault = (
            f"{keys.count} rows are outside its bound, and stand in another partition too: "
            f"{_row(row_id)} {keys}"
        )
        look = f"SELECT tableoid::regclass, * FROM ONLY {name} WHERE {keys.first(row_id)}"
        fix = f"compare with the row in its place, then delete the one that is outside: {look}"
        return PartitionFinding(policy.table, partition, fault, fix)

    return RowCheck(partition, f"ONLY {name}", row_id, query, {"misplaced": misplaced, "twice": twice})


def duplicate_ids(policy: Policy) -> RowCheck:
    """Find ids that stand in a table twice, which no unique index can forbid without the partition key."""
    table, row_id = relation(policy.table), policy.row_id
    columns = [identifier(column) for column in row_id]

    def query(window: Window) -> str:
        return (
            f"SELECT 'twice' AS kind, {_as_keys(columns)} FROM {table} WHERE {window.holds(columns)} "
            f"GROUP BY {', '.join(columns)} HAVING count(*) > 1"
        )

    def twice(keys: Keys) -> PartitionFinding:
        fault = f"{keys.count} {_row(row_id)} stand in it more than once: {keys}"
        look = f"SELECT tableoid::regclass, * FROM {table} WHERE {keys.first(row_id)}"
        return PartitionFinding(
            policy.table, "", fault, f"keep the row with the newest history, delete the other: {look}"
        )

    return RowCheck(policy.table, table, row_id, query, {"twice": twice})


def archive_rows(policy: ArchivePolicy, columns: Columns) -> Iterator[RowCheck]:
    """Find rows that stand both live and archived, and for children that are not where their parent is.

    Parameters:
        policy: what is archived, and what travels along.
        columns: the columns of the live tables of the policy's children.
    """
    yield _live_and_archived_rows(policy)
    for child in policy.children:
        names = columns[child.table]
        yield _ChildRows(policy, child, names, is_archived=False).check()
        yield _ChildRows(policy, child, names, is_archived=True).check()


def _live_and_archived_rows(policy: ArchivePolicy) -> RowCheck:
    row_id = policy.row_id
    live = _of("live", row_id)

    def query(window: Window) -> str:
        archived = _exists(policy, policy.archive, live, window)
        return (
            f"SELECT DISTINCT 'both' AS kind, {_as_keys(live)} FROM {relation(policy.tree)} AS live "
            f"WHERE {window.holds(live)} AND {archived}"
        )

    def both(keys: Keys) -> PartitionFinding:
        fault = f"{keys.count} {_row(row_id)} stand in it and in {policy.archive}: {keys}"
        looks = "; ".join(
            f"SELECT * FROM {relation(table)} WHERE {keys.first(row_id)}"
            for table in (policy.tree, policy.archive)
        )
        children = [child.table for child in policy.children]
        fix = (
            f"compare ({looks}), then delete the older one with what belongs to it, in one transaction: "
            f"from {', '.join((policy.tree, *children))}, or from {', '.join(policy.moves.values())}"
        )
        return PartitionFinding(policy.tree, "", fault, fix)

    return RowCheck(policy.tree, relation(policy.tree), row_id, query, {"both": both})


@dataclass(frozen=True)
class _ChildRows:
    """Finds rows of a child, live or archived, without a parent beside them; it may be in the other place."""

    policy: ArchivePolicy
    child: Child
    columns: tuple[str, ...]
    is_archived: bool

    @property
    def name(self) -> str:
        """The table that is read."""
        return self.child.archive if self.is_archived else self.child.table

    @property
    def home(self) -> str:
        """Where its parents should be."""
        return self.policy.archive if self.is_archived else self.policy.tree

    @property
    def other(self) -> str:
        """Where they may be instead."""
        return self.policy.tree if self.is_archived else self.policy.archive

    def check(self) -> RowCheck:
        """Return the check."""
        found = {"stray": self._stray, "orphan": self._orphan}
        return RowCheck(self.name, relation(self.name), self.child.key, self._query, found)

    def _parent(self, table: str, window: Window | None = None) -> str:
        return _exists(self.policy, table, _of("child", self.child.key), window)

    def _query(self, window: Window) -> str:
        key = _of("child", self.child.key)
        # The window is repeated for the parent: that lets the planner read as little of it.
        return (
            f"SELECT DISTINCT CASE WHEN {self._parent(self.other)} THEN 'stray' ELSE 'orphan' END AS kind, "
            f"{_as_keys(key)} FROM {relation(self.name)} AS child "
            f"WHERE {window.holds(key)} AND NOT {self._parent(self.home, window)}"
        )

    def _stray(self, keys: Keys) -> PartitionFinding:
        fault = (
            f"rows of {keys.count} {_row(self.child.key)} that stand in {self.other}, "
            f"not in {self.home}: {keys}"
        )
        condition = f"NOT {self._parent(self.home)} AND {self._parent(self.other)}"
        return PartitionFinding(self.name, "", fault, self._move_stray(condition))

    def _move_stray(self, condition: str) -> str:
        twin = self.child.table if self.is_archived else self.child.archive
        source, target = f"{relation(self.name)} AS child", relation(twin)
        filled = None if self.is_archived else self.policy.filled(self.child)
        if filled is None or self.policy.range_key is None:
            return _move(source, target, self.columns, condition)
        same = _equal(_of("parent", self.policy.row_id), _of("gone", self.child.key))
        of_parent = (
            f"(SELECT parent.{identifier(self.policy.range_key)} FROM {relation(self.other)} AS parent "
            f"WHERE {same})"
        )
        return _move(source, target, self.columns, condition, (filled, of_parent))

    def _orphan(self, keys: Keys) -> PartitionFinding:
        fault = (
            f"rows of {keys.count} {_row(self.child.key)} that stand neither in {self.home} nor in "
            f"{self.other}: {keys}"
        )
        condition = f"NOT {self._parent(self.home)} AND NOT {self._parent(self.other)}"
        fix = (
            f"bring their rows of {self.home} back from a backup, or attach the month that was detached; "
            f"if they may go: DELETE FROM {relation(self.name)} AS child WHERE {condition}"
        )
        return PartitionFinding(self.name, "", fault, fix)


def _exists(policy: ArchivePolicy, table: str, key: Sequence[str], window: Window | None = None) -> str:
    row_id = _of("parent", policy.row_id)
    within = "" if window is None else f" AND {window.holds(row_id)}"
    return f"EXISTS (SELECT FROM {relation(table)} AS parent WHERE {_equal(row_id, key)}{within})"


def _move(
    source: str,
    target: str,
    columns: tuple[str, ...],
    condition: str,
    more: tuple[str, str] | None = None,
) -> str:
    # By name: the two need not have their columns in the same order.
    names = ", ".join(map(identifier, columns))
    into, values = ("", "") if more is None else (f", {identifier(more[0])}", f", {more[1]}")
    return (
        f"WITH gone AS (DELETE FROM {source} WHERE {condition} RETURNING {names}) "
        f"INSERT INTO {target} ({names}{into}) SELECT {names}{values} FROM gone"
    )


def _elsewhere(partition: str) -> str:
    return f"AND other.tableoid <> {relation_oid(partition)}"


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
        child.table for archive in archives for child in archive.children
    }
    columns = {table: read_columns(connection, table) for table in tables}
    # Misplaced rows come first: one that the planner does not find makes its children look like orphans.
    return [
        *(
            misplaced_rows(policy, name, condition, columns)
            for policy in policies
            for name, condition in read_constraints(connection, policy.table).items()
        ),
        *(duplicate_ids(policy) for policy in policies if has_own_id(policy)),
        *(check for archive in archives for check in archive_rows(archive, columns)),
    ]


def has_own_id(policy: Policy) -> bool:
    """Return whether no unique index can promise that the ids of a table's rows are unique."""
    return policy.key not in policy.row_id


_ESTIMATE = text("""
    SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint
    FROM pg_partition_tree(to_regclass(:table)) JOIN pg_class ON oid = relid WHERE isleaf
""")


def _estimate(connection: Connection, check: RowCheck) -> int:
    return int(connection.execute(_ESTIMATE, {"table": relation(check.subject)}).scalar_one())


def _run(
    connection: Connection, check: RowCheck, size: WindowSize, count: int, progress: Callable[[int], None]
) -> Iterator[PartitionFinding]:
    """Check one window after the other, and add up what each kind of fault has."""

    def read(window: Window) -> list[tuple[str, Keys]]:
        keys = [f"key_{number}" for number, _ in enumerate(check.row_id, start=1)]
        printed = ", ".join(f"{key}::text" for key in keys)
        query = (
            f"SELECT kind, count(*), (array_agg(ARRAY[{printed}] ORDER BY {', '.join(keys)}))[1:{EXAMPLES}] "
            f"FROM ({check.query(window)}) AS wrong GROUP BY kind"
        )
        rows = connection.exec_driver_sql(query, execution_options={"no_parameters": True})
        return [(kind, Keys(found, tuple(map(tuple, examples)))) for kind, found, examples in rows]

    wrong: dict[str, Keys] = {}
    rows = 0
    for in_window, found in walk_windows(connection, check.source, check.row_id, read, size=size):
        for kind, keys in found:
            before = wrong.get(kind, Keys(0, ()))
            wrong[kind] = Keys(before.count + keys.count, (before.examples + keys.examples)[:EXAMPLES])
        rows += in_window
        progress(min(rows, count))
    progress(count)
    return (check.findings[kind](keys) for kind, keys in sorted(wrong.items()))
