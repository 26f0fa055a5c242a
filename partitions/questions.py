"""What only the rows can tell, as questions: whose keys are walked, which of them are wrong, and the way out.

Pure: it renders SQL and words. `deep` asks.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from partitions.archive.policy import ArchivePolicy
from partitions.check import Finding
from partitions.policy import ListPartitions, Policy
from partitions.sql import identifier
from partitions.windows import Window

Columns = Mapping[str, tuple[str, ...]]
"""The columns of tables, by table."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that a question found wrong in one way: how many, and the smallest of them."""

    count: int
    examples: tuple[int, ...]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{', '.join(map(str, self.examples))}{more}"


Tell = Callable[[Keys], Finding]


@dataclass(frozen=True, slots=True)
class Question:
    """One reading of a table.

    Parameters:
        subject: the table or partition that is read.
        source: how it stands behind FROM.
        key: the integer column by which it is read.
        query: gives SQL whose rows are `(kind, key)`, of the keys that are wrong in a window.
        tell: makes a finding of each kind.
    """

    subject: str
    source: str
    key: str
    query: Callable[[Window], str]
    tell: Mapping[str, Tell]


def about_partition(policy: Policy, partition: str, condition: str, columns: Columns) -> Question:
    """Ask for rows outside their partition's bound, as a restore without constraints can leave them.

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

    def misplaced(keys: Keys) -> Finding:
        fault = f"{keys.count} rows are outside its bound: {key} {keys}"
        fix = _move(f"ONLY {name}", table, columns[policy.table], f"NOT ({condition})")
        return Finding(policy.table, partition, fault, fix)

    def twice(keys: Keys) -> Finding:
        fault = f"{keys.count} rows are outside its bound, and stand in another partition too: {key} {keys}"
        look = f"SELECT tableoid::regclass, * FROM ONLY {name} WHERE {column} = {keys.examples[0]}"
        fix = f"compare with the row in its place, then delete the one that is outside: {look}"
        return Finding(policy.table, partition, fault, fix)

    return Question(partition, f"ONLY {name}", key, query, {"misplaced": misplaced, "twice": twice})


def about_ids(policy: ListPartitions) -> Question:
    """Ask for ids that stand in a table twice, which no unique index can forbid without the partition key."""
    table, column = identifier(policy.table), identifier(policy.row_id)

    def query(window: Window) -> str:
        return (
            f"SELECT 'twice' AS kind, {column} AS key FROM {table} WHERE {window.holds(column)} "
            f"GROUP BY {column} HAVING count(*) > 1"
        )

    def twice(keys: Keys) -> Finding:
        fault = f"{keys.count} {policy.row_id} stand in it more than once: {keys}"
        look = f"SELECT tableoid::regclass, * FROM {table} WHERE {column} = {keys.examples[0]}"
        return Finding(
            policy.table, "", fault, f"keep the row with the newest history, delete the other: {look}"
        )

    return Question(policy.table, table, policy.row_id, query, {"twice": twice})


def about_archive(policy: ArchivePolicy, columns: Columns) -> Iterator[Question]:
    """Ask for rows that stand both live and archived, and for children that are not where their parent is.

    Parameters:
        policy: what is archived, and what travels along.
        columns: the columns of the tables of the policy's children.
    """
    yield _in_both(policy)
    for live, archived in policy.children.items():
        yield _about_children(
            policy, live, home=policy.tree, twin=archived, other=policy.archive, columns=columns
        )
        yield _about_children(
            policy, archived, home=policy.archive, twin=live, other=policy.tree, columns=columns
        )


def _in_both(policy: ArchivePolicy) -> Question:
    column = identifier(policy.key)

    def query(window: Window) -> str:
        return (
            f"SELECT DISTINCT 'both' AS kind, live.{column} AS key FROM {identifier(policy.tree)} AS live "
            f"WHERE {window.holds(f'live.{column}')} AND {_stands(policy, policy.archive, 'live', window)}"
        )

    def both(keys: Keys) -> Finding:
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
        return Finding(policy.tree, "", fault, fix)

    return Question(policy.tree, identifier(policy.tree), policy.key, query, {"both": both})


def _about_children(
    policy: ArchivePolicy, child: str, *, home: str, twin: str, other: str, columns: Columns
) -> Question:
    """Ask for rows of `child` without a parent in `home`; it may be in `other`, where `twin` belongs."""
    table, column = identifier(child), identifier(policy.key)
    at_home, elsewhere = _stands(policy, home, "child"), _stands(policy, other, "child")

    def query(window: Window) -> str:
        # The window is repeated for the parent: that lets the planner read as little of it.
        in_window = _stands(policy, home, "child", window)
        return (
            f"SELECT DISTINCT CASE WHEN {elsewhere} THEN 'stray' ELSE 'orphan' END AS kind, "
            f"child.{column} AS key FROM {table} AS child "
            f"WHERE {window.holds(f'child.{column}')} AND NOT {in_window}"
        )

    def stray(keys: Keys) -> Finding:
        fault = f"rows of {keys.count} {policy.key} that stand in {other}, not in {home}: {keys}"
        condition = f"NOT {at_home} AND {elsewhere}"
        return Finding(
            child, "", fault, _move(f"{table} AS child", identifier(twin), columns[child], condition)
        )

    def orphan(keys: Keys) -> Finding:
        fault = f"rows of {keys.count} {policy.key} that stand neither in {home} nor in {other}: {keys}"
        condition = f"NOT {at_home} AND NOT {elsewhere}"
        fix = (
            f"bring their rows of {home} back from a backup, or attach the month that was detached; "
            f"if they may go: DELETE FROM {table} AS child WHERE {condition}"
        )
        return Finding(child, "", fault, fix)

    return Question(child, table, policy.key, query, {"stray": stray, "orphan": orphan})


def _stands(policy: ArchivePolicy, table: str, child: str, window: Window | None = None) -> str:
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
