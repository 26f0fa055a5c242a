"""The SQL of each operation, from the statements of `partitions.actions` and its like. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime

from partitions import actions
from partitions.bounds import KeyRange, ValueList
from partitions.check_constraints import drop_regroup_check
from partitions.errors import PartitionError
from partitions.range_key import key_of_value
from partitions.regroup import prove, restore_index_parts, save_index_parts
from partitions.sql import bare, identifier, literal, qualified, relation, relation_oid, value_list
from partitions.steps import SqlStep, do_block, raise_if

Groups = Mapping[str, Sequence[str]]
Bound = ValueList | KeyRange

# Actions mark what they detach with the time. What a migration detaches is in its tree, and gets no mark.
NEVER = datetime.min.replace(tzinfo=UTC)


class BoundMissing(PartitionError):
    """A partition operation has neither `values` nor `keys`, or has both."""

    def __init__(self, partition: str) -> None:
        self.partition = partition
        super().__init__(f"partition {partition}: give either values=[...] or keys=(start, end), of one type")


Key = int | date
"""An integer, a date, or a datetime (with a time zone for `timestamptz`)."""


def bound_of(partition: str, values: Sequence[str] | None, keys: tuple[Key, Key] | None) -> Bound:
    """Make a bound from what a migration says.

    Raises:
        BoundMissing: neither is given, or both are, or the two keys are of two types.
    """
    if (values is None) == (keys is None):
        raise BoundMissing(partition)
    if keys is None:
        return ValueList(frozenset(values or ()))
    (kind, start), (other, end) = map(key_of_value, keys)
    if kind is not other:
        raise BoundMissing(partition)
    return KeyRange(start, end, kind)


def create(partition: str, parent: str, bound: Bound) -> tuple[str, ...]:
    """Create an empty partition; ATTACH locks its parent less than CREATE TABLE ... PARTITION OF."""
    return (like(partition, parent), actions.attach(parent, partition, bound))


def like(partition: str, parent: str, *, how: str = "") -> str:
    """Create a table that can become a partition."""
    return f"CREATE TABLE {how}{relation(partition)} ({actions.copy_of(parent)})"


def drop(partition: str, parent: str) -> tuple[str, ...]:
    """Detach an empty partition and drop it; rows make it fail."""
    return (
        f"LOCK TABLE {relation(parent)} IN ACCESS EXCLUSIVE MODE",
        refuse_rows(partition),
        detach(partition, parent),
        *actions.DropTable(table=parent, partition=partition).statements(),
    )


def attach(partition: str, parent: str, bound: Bound, key: str | None) -> tuple[str, ...]:
    """Attach a table that may have rows; with `key`, it is scanned before its parent is locked."""
    made = actions.AttachPartition(table=parent, partition=partition, bound=bound, at=NEVER).statements()
    if key is None:
        return made
    table, check = relation(partition), identifier(f"{bare(partition)}_bound_check")
    return (
        f"ALTER TABLE {table} ADD CONSTRAINT {check} CHECK ({condition(key, bound)})",
        *made,
        # Of a LIST partition the action has dropped it, with what a DETACH CONCURRENTLY may have left.
        f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {check}",
    )


def detach(partition: str, parent: str) -> str:
    """Detach a partition, under ACCESS EXCLUSIVE for a moment."""
    return f"ALTER TABLE {relation(parent)} DETACH PARTITION {relation(partition)}"


def detach_concurrently(partition: str, parent: str, bound: Bound) -> tuple[SqlStep, ...]:
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
    """Render a bound as a CHECK, from which PostgreSQL proves that ATTACH need not scan."""
    name = identifier(key)
    match bound:
        case ValueList(values):
            return f"{name} IS NOT NULL AND {name} IN ({value_list(values)})"
        case KeyRange():
            return f"{name} IS NOT NULL AND {bound.condition(key)}"


def refuse_rows(partition: str) -> str:
    """Fail when a partition that is about to go has rows."""
    has_rows = f"EXISTS (SELECT FROM {relation(partition)})"
    return do_block(raise_if(has_rows, f"{partition} has rows: move them first"))


_LITERAL = "'((?:[^']|'')*)'"
"""A text in a bound, as PostgreSQL prints it."""

Move = tuple[str, str, list[str]]
"""The partition that rows leave, the one that they go to, and the values that they have."""


def regroup(
    table: str, key: str, existing: Groups, new: Groups, *, max_rows: int, drop_emptied: bool
) -> tuple[str, ...]:
    """Change the values of partitions of a LIST table, and move the rows whose value moved.

    What can be long (the scan that proves a bound) comes before the lock, see `proofs`. Under the lock at
    most `max_rows` rows move; a partition that loses a value is scanned.
    """
    changed = [name for name in existing if set(existing[name]) != set(new.get(name, ()))]
    attached = [name for name in new if set(existing.get(name, ())) != set(new[name])]
    gone = [name for name in existing if name not in new]
    return (
        # First of all: a second lock that is waited for while one is held is a deadlock one day.
        f"LOCK TABLE {relation(table)} IN ACCESS EXCLUSIVE MODE",
        refuse_unknown(existing, new),
        *(like(name, table, how="IF NOT EXISTS ") for name in new if name not in existing),
        *(do_block(save_index_parts(name)) for name in changed),
        *(detach(name, table) for name in changed),
        *(_move(table, key, move, max_rows) for move in moves(existing, new)),
        *(actions.attach(table, name, ValueList(frozenset(new[name]))) for name in attached),
        *(do_block(restore_index_parts(name)) for name in attached if name in changed),
        *map(drop_regroup_check, growing(existing, new)),
        *_leave(table, gone, drop_emptied=drop_emptied),
    )


def growing(existing: Groups, new: Groups) -> list[str]:
    """List the partitions that get values and lose none."""
    return [name for name in existing if set(existing[name]) < set(new.get(name, ()))]


def proofs(key: str, existing: Groups, new: Groups) -> tuple[SqlStep, ...]:
    """Render CHECKs that prove the bounds to ATTACH: validated while queries read and write the table."""
    steps = [step for name in growing(existing, new) for step in prove(key, name, frozenset(new[name]))]
    # The CHECK would refuse rows of such a value from now on.
    return (SqlStep((refuse_unknown(existing, new),)), *steps) if steps else ()


def refuse_unknown(existing: Groups, new: Groups) -> str:
    """Fail when a partition holds a value that the revision does not name: it would be taken away.

    A DBA may have added it after the revision was written, on one shard perhaps.
    """
    known = value_list(
        {value for groups in (existing, new) for values in groups.values() for value in values}
    )
    return do_block(*(raise_if(*_unknown(name, known)) for name in existing))


def _unknown(partition: str, known: str) -> tuple[str, str]:
    twice, once = literal("''"), literal("'")
    of_bound = (
        f"SELECT replace(held[1], {twice}, {once}) FROM pg_class, "
        f"regexp_matches(pg_get_expr(relpartbound, oid), {literal(_LITERAL)}, 'g') AS held "
        f"WHERE oid = {relation_oid(partition)}"
    )
    condition = f"EXISTS ({of_bound} EXCEPT SELECT unnest(ARRAY[{known}]))"
    fix = "add them to `existing` and `new`, or let autogenerate write the revision anew"
    return condition, f"{partition} holds values that this revision does not name and would take away: {fix}"


def moves(existing: Groups, new: Groups) -> Iterator[Move]:
    """List which values go from which partition to which."""
    for source, held in existing.items():
        for target, wanted in new.items():
            values = sorted(set(held) & set(wanted))
            if source != target and values:
                yield source, target, values


def _leave(table: str, gone: list[str], *, drop_emptied: bool) -> Iterator[str]:
    for name in gone:
        yield refuse_rows(name)
        if drop_emptied:
            yield from actions.DropTable(table=table, partition=name).statements()


def _move(table: str, key: str, move: Move, max_rows: int) -> str:
    source, target, values = move
    rows_of, rows_to, has_key = relation(source), relation(target), identifier(key)
    # Columns by name: a partition that was attached once may have them in another order.
    begin = literal(
        f"WITH moved AS (DELETE FROM {rows_of} WHERE {has_key} IN ({value_list(values)}) RETURNING "
    )
    middle = literal(f") INSERT INTO {rows_to} (")
    refusal = literal(
        f"{source}: more than {max_rows} rows have {key} {' or '.join(values)}: too many to move "
        f"to {target} under a lock; wait until fewer have it, or raise max_rows"
    )
    return f"""DO $$
DECLARE
    names text := (
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = {relation_oid(table)} AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    );
    found bigint := (
        SELECT count(*) FROM (
            SELECT FROM {rows_of} WHERE {has_key} IN ({value_list(values)}) LIMIT {max_rows + 1}
        ) AS few
    );
BEGIN
    IF found > {max_rows} THEN
        RAISE EXCEPTION {refusal};
    END IF;
    EXECUTE {begin} || names || {middle} || names
        || ') OVERRIDING SYSTEM VALUE SELECT ' || names || ' FROM moved';
END $$"""
