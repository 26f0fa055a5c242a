"""The SQL of a batch: the mover runs it with parameters, a dry run shows it to psql with variables."""

from collections.abc import Mapping

from partitions.archive.policy import ArchivePolicy

Columns = Mapping[str, tuple[str, ...]]
"""The columns of each live table, which its archive has too."""


def due(policy: ArchivePolicy, cutoff: str) -> str:
    """Give the condition under which a row of the live table (named `live`) may leave.

    Parameters:
        policy: what is archived.
        cutoff: an SQL expression; rows that were finished before it are due.
    """
    owed = "".join(
        f"\n      AND NOT EXISTS (SELECT FROM {table} WHERE {table}.{policy.key} = live.{policy.key})"
        for table in policy.unless_exists
    )
    return f"live.{policy.finished_at} < {cutoff}{owed}"


def choose(policy: ArchivePolicy, *, cutoff: str, batch_rows: str, but: str | None = None) -> str:
    """Select the keys of a batch, those that were finished first, without a lock.

    Parameters:
        policy: what is archived.
        cutoff: an SQL expression; rows that were finished before it are due.
        batch_rows: how many at most.
        but: an array of keys that are left out.
    """
    others = "" if but is None else f"\n      AND live.{policy.key} <> ALL (CAST({but} AS bigint[]))"
    return (
        f"SELECT live.{policy.key}\n"
        f"    FROM {policy.live} AS live\n"
        f"    WHERE {due(policy, cutoff)}{others}\n"
        f"    ORDER BY live.{policy.finished_at}\n"
        f"    LIMIT {batch_rows}"
    )


_LOCK = "FOR UPDATE OF live SKIP LOCKED"
"""SKIP LOCKED: whoever holds a row is working on it, and neither waits for the other."""


def lock_batch(policy: ArchivePolicy, *, cutoff: str, batch_rows: str) -> str:
    """Select and lock the keys of a batch, those that were finished first."""
    return f"{choose(policy, cutoff=cutoff, batch_rows=batch_rows)}\n    {_LOCK}"


def lock_key(policy: ArchivePolicy, *, cutoff: str, key: str) -> str:
    """Lock a row by its key, unless it is locked or is not due: where a lock may not be over many shards."""
    return (
        f"SELECT live.{policy.key}\n"
        f"    FROM {policy.live} AS live\n"
        f"    WHERE live.{policy.key} = {key}\n"
        f"      AND {due(policy, cutoff)}\n"
        f"    {_LOCK}"
    )


def move_finished(policy: ArchivePolicy, columns: Columns, *, cutoff: str, keys: str) -> str:
    """Move the locked rows of the live table.

    The condition stands here again: while the lock was being taken, its last holder may have come to owe
    something. This statement sees that (READ COMMITTED), and under the lock nobody can add to it.
    """
    return _move(policy, columns, policy.live, keys, f"\n      AND {due(policy, cutoff)}")


def move_child(policy: ArchivePolicy, columns: Columns, live: str, *, keys: str) -> str:
    """Move the rows of a child table that belong to moved keys."""
    return _move(policy, columns, live, keys, "")


def _move(policy: ArchivePolicy, columns: Columns, live: str, keys: str, condition: str) -> str:
    # By name: the two tables need not have their columns in the same order.
    names = ", ".join(columns[live])
    return (
        f"WITH gone AS (\n"
        f"    DELETE FROM {live} AS live\n"
        f"    WHERE live.{policy.key} = ANY (CAST({keys} AS bigint[])){condition}\n"
        f"    RETURNING {names}\n"
        f"), kept AS (\n"
        f"    INSERT INTO {policy.moves[live]} ({names})\n"
        f"    SELECT {names} FROM gone\n"
        f"    RETURNING {policy.key}\n"
        f")\n"
        f"SELECT (SELECT count(*) FROM gone) AS deleted,\n"
        f"       (SELECT count(*) FROM kept) AS inserted,\n"
        f"       ARRAY(SELECT {policy.key} FROM kept) AS keys"
    )


def script(
    policy: ArchivePolicy, columns: Columns, *, cutoff: str, batch_rows: int, lock_by_key: bool = False
) -> str:
    """Return one batch as a script for psql; its \\gset carries the keys from one statement to the next.

    Parameters:
        policy: what is archived.
        columns: the columns of each live table.
        cutoff: an SQL literal.
        batch_rows: how many rows of the live table at most.
        lock_by_key: lock each row by a statement of its own.
    """
    keys = ":'keys'"
    lock = _lock_each if lock_by_key else _lock_at_once
    lines = [
        "BEGIN;",
        lock(policy, cutoff=cutoff, batch_rows=str(batch_rows)),
        f"{move_finished(policy, columns, cutoff=cutoff, keys=keys)} \\gset",
        *(f"{move_child(policy, columns, live, keys=keys)};" for live in policy.children),
        "COMMIT;",
    ]
    return "\n".join(lines) + "\n"


def _lock_at_once(policy: ArchivePolicy, *, cutoff: str, batch_rows: str) -> str:
    locked = lock_batch(policy, cutoff=cutoff, batch_rows=batch_rows)
    return (
        f"SELECT coalesce(array_agg({policy.key}), '{{}}') AS keys FROM (\n    {locked}\n) AS locked \\gset"
    )


def _lock_each(policy: ArchivePolicy, *, cutoff: str, batch_rows: str) -> str:
    lock = lock_key(policy, cutoff=cutoff, key="chosen").removeprefix("SELECT")
    return (
        f"DO $lock$\n"
        f"DECLARE chosen bigint; locked bigint[] := '{{}}';\n"
        f"BEGIN\n"
        f"    FOR chosen IN\n"
        f"    {choose(policy, cutoff=cutoff, batch_rows=batch_rows)}\n"
        f"    LOOP\n"
        f"    PERFORM{lock};\n"
        f"    IF FOUND THEN locked := locked || chosen; END IF;\n"
        f"    END LOOP;\n"
        f"    PERFORM set_config('archive.keys', locked::text, true);\n"
        f"END $lock$;\n"
        f"SELECT current_setting('archive.keys') AS keys \\gset"
    )
