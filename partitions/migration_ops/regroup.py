"""Values that change their partition: a status that moves, a new status, a new group. Pure."""

from collections.abc import Iterator

from partitions.migration_ops.sql import Groups, condition, refuse_rows
from partitions.migration_ops.steps import Step
from partitions.sql import literal, value_list

Move = tuple[str, str, list[str]]
"""The partition that rows leave, the one that they go to, and the values that they have."""


def regroup(
    table: str, key: str, was: Groups, becomes: Groups, *, max_rows: int, drop_emptied: bool, timeout: Step
) -> tuple[Step, ...]:
    """Give partitions of a LIST table other values, and move the rows whose value moved.

    What can be long (the scan that proves a bound) comes before the lock. Under the lock at most `max_rows`
    rows move; a partition that loses a value is scanned.
    """
    changed = [name for name in was if set(was[name]) != set(becomes.get(name, ()))]
    attached = [name for name in becomes if set(was.get(name, ())) != set(becomes[name])]
    gone = [name for name in was if name not in becomes]
    growing = [name for name in changed if set(was[name]) < set(becomes.get(name, ()))]
    return (
        *_prove(growing, key, becomes, timeout),
        timeout,
        # First of all: a second lock that is waited for while one is held is a deadlock one day.
        Step(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"),
        *(
            Step(f"CREATE TABLE IF NOT EXISTS {name} (LIKE {table} INCLUDING ALL EXCLUDING IDENTITY)")
            for name in becomes
            if name not in was
        ),
        *(Step(f"ALTER TABLE {table} DETACH PARTITION {name}") for name in changed),
        *(Step(_move(table, key, move, max_rows)) for move in moves(was, becomes)),
        *(
            Step(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES IN ({value_list(becomes[name])})")
            for name in attached
        ),
        *(Step(f"ALTER TABLE {name} DROP CONSTRAINT {_check(name)}") for name in growing),
        *_leave(gone, drop_emptied=drop_emptied),
    )


def moves(was: Groups, becomes: Groups) -> Iterator[Move]:
    """List which values go from which partition to which."""
    for source, old in was.items():
        for target, new in becomes.items():
            values = sorted(set(old) & set(new))
            if source != target and values:
                yield source, target, values


def _check(partition: str) -> str:
    return f"{partition}_regroup_check"


def _prove(partitions: list[str], key: str, becomes: Groups, timeout: Step) -> Iterator[Step]:
    """Let ATTACH find its bound proved: a CHECK is validated while everybody reads and writes."""
    if partitions:
        yield Step(timeout.sql.replace("SET LOCAL", "SET"), alone=True)
    for name in partitions:
        bound = condition(key, frozenset(becomes[name]))
        # A killed run may have left it.
        yield Step(f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {_check(name)}", alone=True)
        yield Step(f"ALTER TABLE {name} ADD CONSTRAINT {_check(name)} CHECK ({bound}) NOT VALID", alone=True)
        yield Step(f"ALTER TABLE {name} VALIDATE CONSTRAINT {_check(name)}", alone=True)


def _leave(gone: list[str], *, drop_emptied: bool) -> Iterator[Step]:
    for name in gone:
        yield refuse_rows(name)
        if drop_emptied:
            yield Step(f"DROP TABLE {name}")


def _move(table: str, key: str, move: Move, max_rows: int) -> str:
    source, target, values = move
    # Columns by name: a partition that was attached once may have them in another order.
    wanted = literal(f" WHERE {key} IN ({value_list(values)}) RETURNING ")
    refusal = literal(
        f"{source}: more than {max_rows} rows have {key} {' or '.join(values)}: too many to move "
        f"to {target} under a lock; wait until fewer have it, or raise max_rows"
    )
    return f"""DO $$
DECLARE
    names text := (
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    );
    found bigint := (
        SELECT count(*) FROM (
            SELECT FROM {source} WHERE {key} IN ({value_list(values)}) LIMIT {max_rows + 1}
        ) AS few
    );
BEGIN
    IF found > {max_rows} THEN
        RAISE EXCEPTION {refusal};
    END IF;
    EXECUTE 'WITH moved AS (DELETE FROM {source}' || {wanted} || names || ') INSERT INTO {target} (' || names
        || ') OVERRIDING SYSTEM VALUE SELECT ' || names || ' FROM moved';
END $$"""
