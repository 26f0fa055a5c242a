"""Values that change their partition: a status that moves, a new status, a new group. Pure."""

from collections.abc import Iterator

from partitions.actions import DropTable, attach
from partitions.bounds import ValueList
from partitions.migration_ops.sql import Groups, detach, like, refuse_rows
from partitions.regroup import drop_check, prove
from partitions.sql import identifier, literal, regclass, value_list
from partitions.steps import Step, block, refuse_if

_LITERAL = "'((?:[^']|'')*)'"
"""A text in a bound, as PostgreSQL prints it."""

Move = tuple[str, str, list[str]]
"""The partition that rows leave, the one that they go to, and the values that they have."""


def regroup(
    table: str, key: str, was: Groups, becomes: Groups, *, max_rows: int, drop_emptied: bool
) -> tuple[str, ...]:
    """Give partitions of a LIST table other values, and move the rows whose value moved.

    What can be long (the scan that proves a bound) comes before the lock, see `proofs`. Under the lock at
    most `max_rows` rows move; a partition that loses a value is scanned.
    """
    changed = [name for name in was if set(was[name]) != set(becomes.get(name, ()))]
    attached = [name for name in becomes if set(was.get(name, ())) != set(becomes[name])]
    gone = [name for name in was if name not in becomes]
    return (
        # First of all: a second lock that is waited for while one is held is a deadlock one day.
        f"LOCK TABLE {identifier(table)} IN ACCESS EXCLUSIVE MODE",
        refuse_unknown(was, becomes),
        *(like(name, table, how="IF NOT EXISTS ") for name in becomes if name not in was),
        *(detach(name, table) for name in changed),
        *(_move(table, key, move, max_rows) for move in moves(was, becomes)),
        *(attach(table, name, ValueList(frozenset(becomes[name]))) for name in attached),
        *map(drop_check, growing(was, becomes)),
        *_leave(table, gone, drop_emptied=drop_emptied),
    )


def growing(was: Groups, becomes: Groups) -> list[str]:
    """List the partitions that get values and lose none."""
    return [name for name in was if set(was[name]) < set(becomes.get(name, ()))]


def proofs(key: str, was: Groups, becomes: Groups) -> tuple[Step, ...]:
    """Let ATTACH find its bound proved: a CHECK is validated while everybody reads and writes."""
    steps = [step for name in growing(was, becomes) for step in prove(key, name, frozenset(becomes[name]))]
    # The CHECK would refuse rows of such a value from now on.
    return (Step((refuse_unknown(was, becomes),)), *steps) if steps else ()


def refuse_unknown(was: Groups, becomes: Groups) -> str:
    """Fail when a partition holds a value that the revision does not name: it would be taken away.

    A DBA may have added it after the revision was written, on one shard perhaps.
    """
    known = value_list({value for groups in (was, becomes) for values in groups.values() for value in values})
    return block(*(refuse_if(*_unknown(name, known)) for name in was))


def _unknown(partition: str, known: str) -> tuple[str, str]:
    twice, once = literal("''"), literal("'")
    of_bound = (
        f"SELECT replace(held[1], {twice}, {once}) FROM pg_class, "
        f"regexp_matches(pg_get_expr(relpartbound, oid), {literal(_LITERAL)}, 'g') AS held "
        f"WHERE oid = {regclass(partition)}"
    )
    condition = f"EXISTS ({of_bound} EXCEPT SELECT unnest(ARRAY[{known}]))"
    fix = "add them to was and becomes, or let autogenerate write the revision anew"
    return condition, f"{partition} holds values that this revision does not name and would take away: {fix}"


def moves(was: Groups, becomes: Groups) -> Iterator[Move]:
    """List which values go from which partition to which."""
    for source, old in was.items():
        for target, new in becomes.items():
            values = sorted(set(old) & set(new))
            if source != target and values:
                yield source, target, values


def _leave(table: str, gone: list[str], *, drop_emptied: bool) -> Iterator[str]:
    for name in gone:
        yield refuse_rows(name)
        if drop_emptied:
            yield from DropTable(table=table, partition=name).statements()


def _move(table: str, key: str, move: Move, max_rows: int) -> str:
    source, target, values = move
    rows_of, rows_to, has_key = identifier(source), identifier(target), identifier(key)
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
        WHERE attrelid = {regclass(table)} AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
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
