"""The SQL of one batch of the archive job, with parameters of a driver or variables of psql. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from partitions.archive_policy import ArchivePolicy, Child
from partitions.sql import identifier, relation

_LOCK = "FOR UPDATE OF live SKIP LOCKED"
"""SKIP LOCKED: the session that holds a row is working on it, and neither waits for the other."""


@dataclass(frozen=True)
class ArchiveColumns:
    """What the statements must know of the tables.

    Parameters:
        types: the types of the live table's columns, as SQL has them.
        shared: the columns of each live table that its archive has too.
        filled: the column of a child's archive that takes the parent's range key, by live table.
    """

    types: Mapping[str, str]
    shared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    filled: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ArchiveStatements:
    """The statements of a batch.

    Parameters:
        policy: what is archived.
        columns: what the tables have.
        cutoff: an SQL expression of type timestamptz; rows that were finished before it are due.
    """

    policy: ArchivePolicy
    columns: ArchiveColumns
    cutoff: str

    @property
    def returned(self) -> tuple[str, ...]:
        """What its children need of a moved row: its id, and the range key where one is filled."""
        key = self.policy.range_key
        extra = (key,) if self.columns.filled and key is not None and key not in self.policy.row_id else ()
        return (*self.policy.row_id, *extra)

    def arrays(self, prefix: str, suffix: str = "") -> tuple[str, ...]:
        """Name a parameter for each of these columns."""
        return tuple(f"{prefix}{number}{suffix}" for number, _ in enumerate(self.returned, start=1))

    def due(self) -> str:
        """Return the condition under which a row of the live table (named `live`) may leave."""
        owed = "".join(
            f"\n      AND NOT EXISTS (SELECT FROM {relation(link.table)} AS owed "
            f"WHERE {_equal('owed', link.key, 'live', self.policy.row_id)})"
            for link in self.policy.unless_exists
        )
        return f"{self.past_grace()}{owed}"

    def past_grace(self) -> str:
        """Return the condition that a row was finished long enough ago."""
        return f"live.{identifier(self.policy.finished_at)} < {self._cutoff()}"

    def _cutoff(self) -> str:
        # A value without a time zone is one of UTC, whatever the TimeZone of the session says.
        in_utc = f"CAST({self.cutoff} AS timestamptz) AT TIME ZONE 'UTC'"
        kind = self.columns.types.get(self.policy.finished_at, "")
        if kind == "date":
            return f"CAST({in_utc} AS date)"
        return (
            f"({in_utc})"
            if kind.startswith("timestamp") and kind.endswith("without time zone")
            else self.cutoff
        )

    def select_batch(self, *, batch_rows: str, but: Sequence[str] = ()) -> str:
        """Select the ids of a batch, those that were finished first, without a lock.

        Parameters:
            batch_rows: how many at most.
            but: an array for each column of the ids that are left out.
        """
        others = f"\n      AND NOT {self._among(but, self.policy.row_id)}" if but else ""
        return (
            f"SELECT {self._ids()}\n"
            f"    FROM {relation(self.policy.live)} AS live\n"
            f"    WHERE {self.due()}{others}\n"
            f"    ORDER BY live.{identifier(self.policy.finished_at)}\n"
            f"    LIMIT {batch_rows}"
        )

    def lock_batch(self, *, batch_rows: str) -> str:
        """Select and lock the ids of a batch, those that were finished first."""
        return f"{self.select_batch(batch_rows=batch_rows)}\n    {_LOCK}"

    def lock_row(self, values: Sequence[str]) -> str:
        """Lock a row by its id, unless it is locked or not due: where a lock may not be over many shards."""
        id_is = " AND ".join(
            f"live.{identifier(column)} = {value}"
            for column, value in zip(self.policy.row_id, values, strict=True)
        )
        return (
            f"SELECT {self._ids()}\n"
            f"    FROM {relation(self.policy.live)} AS live\n"
            f"    WHERE {id_is}\n"
            f"      AND {self.due()}\n"
            f"    {_LOCK}"
        )

    def move_finished(self, ids: Sequence[str]) -> str:
        """Move the locked rows of the live table, and return what their children need.

        The condition stands here again: while the lock was being taken, its last holder may have come to owe
        something. This statement sees that (READ COMMITTED), and under the lock no session can add to it.
        """
        live, names = self.policy.live, self.columns.shared[self.policy.live]
        using, condition = self._chosen(ids[: len(self.policy.row_id)], self.policy.row_id)
        keys = "".join(
            f",\n       ARRAY(SELECT {identifier(column)} FROM kept) AS keys_{number}"
            for number, column in enumerate(self.returned, start=1)
        )
        kept = ", ".join(map(identifier, self.returned))
        rows = f"{using}\n    WHERE {condition}\n      AND {self.due()}"
        return self._move(live, self.policy.archive, _same(names), rows, kept) + keys

    def move_child(self, child: Child, ids: Sequence[str]) -> str:
        """Move the rows of a child table that belong to moved rows."""
        filled = self.columns.filled.get(child.table)
        names = tuple(name for name in self.columns.shared[child.table] if name != filled)
        wanted = ids if filled is not None else ids[: len(child.key)]
        using, condition = self._chosen(wanted, child.key, unnested=filled is not None)
        columns = _same(names)
        if filled is not None:
            number = self.returned.index(self.policy.range_key or "") + 1
            columns[filled] = f"chosen.key_{number} AS {identifier(filled)}"
        rows = f"{using}\n    WHERE {condition}"
        return self._move(child.table, child.archive, columns, rows, identifier(child.key[0]))

    def _move(self, live: str, archive: str, columns: Mapping[str, str], rows: str, kept: str) -> str:
        """Render the move of rows to an archive; each column there has an expression here."""
        # By name: the two tables need not have their columns in the same order.
        written = ", ".join(map(identifier, columns))
        return (
            f"WITH gone AS (\n"
            f"    DELETE FROM {relation(live)} AS live{rows}\n"
            f"    RETURNING {', '.join(columns.values())}\n"
            f"), kept AS (\n"
            f"    INSERT INTO {relation(archive)} ({written})\n"
            f"    SELECT {written} FROM gone\n"
            f"    RETURNING {kept}\n"
            f")\n"
            f"SELECT (SELECT count(*) FROM gone) AS deleted,\n"
            f"       (SELECT count(*) FROM kept) AS inserted"
        )

    def _ids(self) -> str:
        return ", ".join(f"live.{identifier(column)}" for column in self.policy.row_id)

    def array_types(self) -> Iterator[str]:
        """Return the type of each array of ids."""
        return (f"{self.columns.types[column]}[]" for column in self.returned)

    def _chosen(
        self, ids: Sequence[str], columns: Sequence[str], *, unnested: bool = False
    ) -> tuple[str, str]:
        """Return USING, where it is needed, and the condition that a row's columns are chosen."""
        if len(ids) == 1 and not unnested:
            return "", self._among(ids, columns)
        names = ", ".join(f"key_{number}" for number, _ in enumerate(ids, start=1))
        condition = " AND ".join(
            f"live.{identifier(column)} = chosen.key_{number}"
            for number, column in enumerate(columns, start=1)
        )
        return f"\n    USING {self._unnest(ids)} AS chosen ({names})", condition

    def _among(self, ids: Sequence[str], columns: Sequence[str]) -> str:
        """Return the condition that the id of a row is one of those in some arrays."""
        if len(columns) == 1:
            [kind, *_] = self.array_types()
            return f"live.{identifier(columns[0])} = ANY (CAST({ids[0]} AS {kind}))"
        names = ", ".join(f"key_{number}" for number, _ in enumerate(columns, start=1))
        row = ", ".join(f"live.{identifier(column)}" for column in columns)
        return f"(({row}) IN (SELECT {names} FROM {self._unnest(ids)} AS chosen ({names})))"

    def _unnest(self, ids: Sequence[str]) -> str:
        arrays = ", ".join(
            f"CAST({each} AS {kind})" for each, kind in zip(ids, self.array_types(), strict=False)
        )
        return f"unnest({arrays})"

    def script(self, *, batch_rows: int, lock_by_key: bool = False) -> str:
        """Return one batch as a script for psql; its `gset` carries the ids on."""
        ids = self.arrays(":'keys_", "'")
        lock = self._lock_each if lock_by_key else self._lock_at_once
        lines = [
            "BEGIN;",
            lock(str(batch_rows)),
            f"{self.move_finished(ids)} \\gset",
            *(f"{self.move_child(child, ids)};" for child in self.policy.children),
            "COMMIT;",
        ]
        return "\n".join(lines) + "\n"

    def _lock_at_once(self, batch_rows: str) -> str:
        arrays = ", ".join(
            f"coalesce(array_agg({identifier(column)}), '{{}}') AS keys_{number}"
            for number, column in enumerate(self.policy.row_id, start=1)
        )
        return f"SELECT {arrays} FROM (\n    {self.lock_batch(batch_rows=batch_rows)}\n) AS locked \\gset"

    def _lock_each(self, batch_rows: str) -> str:
        columns = list(enumerate(self.policy.row_id, start=1))
        lock = self.lock_row([f"chosen.{identifier(column)}" for _, column in columns]).removeprefix("SELECT")
        declared = "".join(
            f" locked_{number} {self.columns.types[column]}[] := '{{}}';" for number, column in columns
        )
        noted = "".join(
            f" locked_{number} := array_append(locked_{number}, chosen.{identifier(column)});"
            for number, column in columns
        )
        kept = "".join(
            f"    PERFORM set_config('archive.keys_{number}', locked_{number}::text, true);\n"
            for number, _ in columns
        )
        read = ", ".join(
            f"current_setting('archive.keys_{number}') AS keys_{number}" for number, _ in columns
        )
        return (
            f"DO $lock$\n"
            f"DECLARE chosen record;{declared}\n"
            f"BEGIN\n"
            f"    FOR chosen IN\n"
            f"    {self.select_batch(batch_rows=batch_rows)}\n"
            f"    LOOP\n"
            f"    PERFORM{lock};\n"
            f"    IF FOUND THEN{noted} END IF;\n"
            f"    END LOOP;\n"
            f"{kept}"
            f"END $lock$;\n"
            f"SELECT {read} \\gset"
        )


def _same(names: Sequence[str]) -> dict[str, str]:
    return {name: f"live.{identifier(name)}" for name in names}


def _equal(one: str, columns: Sequence[str], other: str, others: Sequence[str]) -> str:
    return " AND ".join(
        f"{one}.{identifier(mine)} = {other}.{identifier(its)}"
        for mine, its in zip(columns, others, strict=True)
    )
