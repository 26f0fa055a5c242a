"""The SQL of each operation, from the statements of `partitions.actions` and its like. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from partitions import actions
from partitions.bounds import ValueList
from partitions.errors import PartitionError
from partitions.months import KeyRange
from partitions.sql import identifier, qualified, value_list
from partitions.steps import Step, block, refuse_if

Groups = Mapping[str, Sequence[str]]
Bound = ValueList | KeyRange

# Actions mark what they detach with the time. What a migration detaches is in its tree, and gets no mark.
NEVER = datetime.min.replace(tzinfo=UTC)


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
    return ValueList(frozenset(values)) if values is not None else KeyRange(*(keys or (0, 0)))


def create(partition: str, parent: str, bound: Bound) -> tuple[str, ...]:
    """Create an empty partition; ATTACH locks its parent less than CREATE TABLE ... PARTITION OF."""
    return (like(partition, parent), actions.attach(parent, partition, bound))


def like(partition: str, parent: str, *, how: str = "") -> str:
    """Create a table that can become a partition."""
    return f"CREATE TABLE {how}{identifier(partition)} ({actions.copy_of(parent)})"


def drop(partition: str, parent: str) -> tuple[str, ...]:
    """Detach an empty partition and drop it; rows make it fail."""
    return (
        f"LOCK TABLE {identifier(parent)} IN ACCESS EXCLUSIVE MODE",
        refuse_rows(partition),
        detach(partition, parent),
        *actions.DropTable(table=parent, partition=partition).statements(),
    )


def attach(partition: str, parent: str, bound: Bound, key: str | None) -> tuple[str, ...]:
    """Attach a table that may have rows; with `key`, it is scanned before its parent is locked."""
    made = actions.AttachPartition(table=parent, partition=partition, bound=bound, at=NEVER).statements()
    if key is None:
        return made
    table, check = identifier(partition), identifier(f"{partition}_bound_check")
    return (
        f"ALTER TABLE {table} ADD CONSTRAINT {check} CHECK ({condition(key, bound)})",
        *made,
        # Of a LIST partition the action has dropped it, with what a DETACH CONCURRENTLY may have left.
        f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {check}",
    )


def detach(partition: str, parent: str) -> str:
    """Detach a partition, under a lock that stops everybody for a moment."""
    return f"ALTER TABLE {identifier(parent)} DETACH PARTITION {identifier(partition)}"


def detach_concurrently(partition: str, parent: str, bound: Bound) -> tuple[Step, ...]:
    """Detach a partition, or finish what a killed run left pending."""
    _mark, *steps = actions.DetachPartition(table=parent, partition=partition, bound=bound, at=NEVER).steps()
    return tuple(steps)


def index(
    name: str,
    table: str,
    columns: Sequence[str],
    where: str | None,
    *,
    unique: bool,
    schema: str | None,
    how: str = "",
) -> str:
    """Render CREATE INDEX on one table."""
    kind = "UNIQUE INDEX" if unique else "INDEX"
    on = qualified(table, schema)
    return f"CREATE {kind} {how}{identifier(name)} ON {on} {definition(columns, where)}"


def definition(columns: Sequence[str], where: str | None) -> str:
    """Render what stands behind the table's name."""
    return f"({', '.join(columns)})" + (f" WHERE {where}" if where else "")


def condition(key: str, bound: Bound) -> str:
    """Say what a bound says as a CHECK, from which PostgreSQL proves that ATTACH need not scan."""
    key = identifier(key)
    match bound:
        case ValueList(values):
            return f"{key} IS NOT NULL AND {key} IN ({value_list(values)})"
        case KeyRange(start, end):
            return f"{key} IS NOT NULL AND {key} >= {start} AND {key} < {end}"


def refuse_rows(partition: str) -> str:
    """Fail when a partition that is about to go has rows."""
    has_rows = f"EXISTS (SELECT FROM {identifier(partition)})"
    return block(refuse_if(has_rows, f"{partition} has rows: move them first"))
