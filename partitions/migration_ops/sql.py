"""The SQL of each operation. Pure.

`partitions.actions` renders the same changes for the executor; where both know a change, the statements are
to become one (create and attach, detach, index on all partitions, a status that changes its partition).
"""

from collections.abc import Mapping, Sequence

from partitions.errors import PartitionError
from partitions.migration_ops.steps import Step
from partitions.months import KeyRange
from partitions.sql import literal, value_list

Groups = Mapping[str, Sequence[str]]
Bound = frozenset[str] | KeyRange


class BoundMissing(PartitionError):
    """A partition operation has neither `values` nor `keys`, or has both."""

    def __init__(self, partition: str) -> None:
        self.partition = partition
        super().__init__(f"partition {partition}: give either values=[...] or keys=(start, end)")


def bound_of(partition: str, values: Sequence[str] | None, keys: tuple[int, int] | None) -> Bound:
    """Make a bound from what a migration says.

    Raises:
        BoundMissing: neither is given, or both are.
    """
    if (values is None) == (keys is None):
        raise BoundMissing(partition)
    return frozenset(values) if values is not None else KeyRange(*(keys or (0, 0)))


def lock_timeout(seconds: float) -> Step:
    """Limit the wait: whoever comes after a waiting DDL statement queues behind it."""
    return Step(f"SET LOCAL lock_timeout = '{round(seconds * 1000)}ms'")


def create(partition: str, parent: str, bound: Bound) -> tuple[Step, ...]:
    """Create an empty partition; ATTACH locks its parent less than CREATE TABLE ... PARTITION OF."""
    # A partition takes identity values from its parent; one with an identity of its own cannot be attached.
    like = f"CREATE TABLE {partition} (LIKE {parent} INCLUDING ALL EXCLUDING IDENTITY)"
    return (Step(like), _attach(partition, parent, bound))


def drop(partition: str, parent: str) -> tuple[Step, ...]:
    """Detach an empty partition and drop it; rows make it fail."""
    return (
        Step(f"LOCK TABLE {parent} IN ACCESS EXCLUSIVE MODE"),
        refuse_rows(partition),
        Step(f"ALTER TABLE {parent} DETACH PARTITION {partition}"),
        Step(f"DROP TABLE {partition}"),
    )


def attach(partition: str, parent: str, bound: Bound, key: str | None) -> tuple[Step, ...]:
    """Attach a table that may have rows; with `key`, it is scanned before its parent is locked."""
    if key is None:
        return (_attach(partition, parent, bound), _drop_repetition(partition))
    check = f"{partition}_bound_check"
    return (
        Step(f"ALTER TABLE {partition} ADD CONSTRAINT {check} CHECK ({condition(key, bound)})"),
        _attach(partition, parent, bound),
        Step(f"ALTER TABLE {partition} DROP CONSTRAINT {check}"),
        _drop_repetition(partition),
    )


def detach(partition: str, parent: str, *, concurrently: bool) -> tuple[Step, ...]:
    """Detach a partition; concurrently, one that a killed run left pending is finished."""
    if not concurrently:
        return (Step(f"ALTER TABLE {parent} DETACH PARTITION {partition}"),)
    how = "CASE WHEN inhdetachpending THEN 'FINALIZE' ELSE 'CONCURRENTLY' END"
    query = (
        f"SELECT 'ALTER TABLE {parent} DETACH PARTITION {partition} ' || {how}\n"
        f"FROM pg_inherits WHERE inhrelid = '{partition}'::regclass AND inhparent = '{parent}'::regclass"
    )
    return (Step(query, alone=True, generates=True),)


def create_index(
    name: str, table: str, columns: Sequence[str], *, where: str | None, unique: bool, concurrently: bool
) -> tuple[Step, ...]:
    """Create an index on one table."""
    if not concurrently:
        return (Step(index(name, f"ON {table}", columns, where, unique=unique)),)
    return (
        # What a killed run left is INVALID, and IF NOT EXISTS would be content with it.
        Step(f"DROP INDEX CONCURRENTLY IF EXISTS {name}", alone=True),
        Step(index(name, f"ON {table}", columns, where, unique=unique, how="CONCURRENTLY "), alone=True),
    )


def drop_index(name: str, *, concurrently: bool) -> tuple[Step, ...]:
    """Drop an index of one table."""
    return (
        Step(f"DROP INDEX {'CONCURRENTLY IF EXISTS ' if concurrently else ''}{name}", alone=concurrently),
    )


def replace_index(
    name: str, table: str, columns: Sequence[str], *, where: str | None, unique: bool, concurrently: bool
) -> tuple[Step, ...]:
    """Put an index in the place of another, which serves queries until then."""
    fresh = f"{name}_new"
    return (
        *create_index(fresh, table, columns, where=where, unique=unique, concurrently=concurrently),
        *drop_index(name, concurrently=concurrently),
        Step(f"ALTER INDEX {fresh} RENAME TO {name}", alone=concurrently),
    )


def index(
    name: str, on: str, columns: Sequence[str], where: str | None, *, unique: bool, how: str = ""
) -> str:
    """Render CREATE INDEX."""
    predicate = f" WHERE {where}" if where else ""
    return f"CREATE {'UNIQUE ' if unique else ''}INDEX {how}{name} {on} ({', '.join(columns)}){predicate}"


def condition(key: str, bound: Bound) -> str:
    """Say what a bound says as a CHECK, from which PostgreSQL proves that ATTACH need not scan."""
    match bound:
        case frozenset() as values:
            return f"{key} IS NOT NULL AND {key} IN ({value_list(values)})"
        case KeyRange(start, end):
            return f"{key} IS NOT NULL AND {key} >= {start} AND {key} < {end}"


def refuse_rows(partition: str) -> Step:
    """Fail when a partition that is about to go has rows."""
    message = literal(f"{partition} has rows: move them first")
    return Step(
        f"DO $$ BEGIN IF EXISTS (SELECT FROM {partition}) THEN RAISE EXCEPTION {message}; END IF; END $$"
    )


def _attach(partition: str, parent: str, bound: Bound) -> Step:
    match bound:
        case frozenset() as values:
            rows = f"IN ({value_list(values)})"
        case KeyRange(start, end):
            rows = f"FROM ({start}) TO ({end})"
    return Step(f"ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES {rows}")


def _drop_repetition(partition: str) -> Step:
    # DETACH CONCURRENTLY leaves a CHECK that says what the bound said. Attached again, it is of no use, and
    # would refuse the values that the partition is given later.
    query = (
        f"SELECT 'ALTER TABLE {partition} DROP CONSTRAINT ' || quote_ident(conname) FROM pg_constraint\n"
        f"WHERE conrelid = '{partition}'::regclass AND contype = 'c'\n"
        f"    AND pg_get_constraintdef(oid) = 'CHECK (' || pg_get_partition_constraintdef(conrelid) || ')'"
    )
    return Step(query, generates=True)
