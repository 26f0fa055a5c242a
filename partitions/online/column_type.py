"""Another type for a column: a new column beside it, written by both, filled in batches, then swapped.

ALTER COLUMN ... TYPE rewrites the table under ACCESS EXCLUSIVE. Here only renames happen under that lock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, text

from partitions.online.backfill import CREATE_PROGRESS, PROGRESS_TABLE, Backfill
from partitions.online.change import Change, Step, either, has_column, negated
from partitions.online.constraints import require_not_null
from partitions.online.errors import ColumnInUse, NoSuchColumn, TriggersRefused
from partitions.sql import literal

DualWrite = Literal["trigger", "application"]


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """What must be known of a column.

    Parameters:
        not_null: whether it refuses NULL.
        default: its default, as SQL.
        users: the indexes and constraints that use it.
        citus: whether the table is Citus's.
    """

    not_null: bool
    default: str | None = None
    users: Sequence[str] = ()
    citus: bool = False


_FACTS = text("""
    SELECT attnotnull AS not_null, pg_get_expr(adbin, adrelid) AS default,
           ARRAY(
               SELECT indexrelid::regclass::text FROM pg_index
               WHERE indrelid = attrelid AND (
                   attnum = ANY (indkey) OR pg_get_indexdef(indexrelid) ~ ('\\m' || attname || '\\M')
               )
               UNION
               SELECT conname FROM pg_constraint
               WHERE conrelid = attrelid AND attnum = ANY (conkey) AND contype <> 'n'
               UNION
               SELECT conname FROM pg_constraint WHERE confrelid = attrelid AND attnum = ANY (confkey)
               ORDER BY 1
           ) AS users,
           EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') AS citus
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = CAST(:table AS regclass) AND attname = :column AND NOT attisdropped
""")


def read_column(connection: Connection, table: str, column: str) -> ColumnFacts:
    """Read what `change_type` must know.

    Raises:
        NoSuchColumn: the column is absent.
    """
    found = connection.execute(_FACTS, {"table": table, "column": column}).one_or_none()
    if found is None:
        raise NoSuchColumn(table, column)
    return ColumnFacts(found.not_null, found.default, tuple(found.users), citus=found.citus)


@dataclass(frozen=True, slots=True)
class TypeChange:
    """The parts of a change of type, to be done in this order.

    Parameters:
        expand: adds the new column, and a trigger that writes it. It can be undone.
        backfill: fills the new column of the rows that stand.
        swap: gives the new column the name of the old one. No way back: the old one is written no more.
        contract: drops the old column.
    """

    expand: Change
    backfill: Backfill
    swap: Change
    contract: Change


def change_type(
    table: str,
    column: str,
    to: str,
    *,
    facts: ColumnFacts,
    using: str | None = None,
    dual_write: DualWrite = "trigger",
) -> TypeChange:
    """Plan another type for a column. Pure.

    Parameters:
        table: the table.
        column: the column.
        to: the new type, as PostgreSQL prints it: `bigint`, `numeric(12,2)`.
        facts: what `read_column` found before the change began.
        using: gives the new value, from the old column's name: `quantity::bigint`, which is the default.
        dual_write: who keeps the new column until the swap: a trigger, or, where Citus refuses triggers, the
            application, which must write both columns before the change begins.

    Raises:
        ColumnInUse: indexes or constraints would be lost with the old column.
        TriggersRefused: the table is Citus's, and `dual_write` is `trigger`.
    """
    if facts.users:
        raise ColumnInUse(table, column, facts.users)
    if facts.citus and dual_write == "trigger":
        raise TriggersRefused(table)
    parts = _Parts(table, column, to, using or f"{column}::{to}", facts, dual_write)
    return TypeChange(parts.expand(), parts.backfill(), parts.swap(), parts.contract())


@dataclass(frozen=True, slots=True)
class _Parts:
    table: str
    column: str
    to: str
    value: str
    facts: ColumnFacts
    dual_write: DualWrite

    @property
    def new(self) -> str:
        return f"{self.column}_new"

    @property
    def old(self) -> str:
        return f"{self.column}_old"

    @property
    def trigger(self) -> str:
        return f"{self.table}_{self.column}_dual_write"

    @property
    def swapped(self) -> str:
        return has_column(self.table, self.old)

    def expand(self) -> Change:
        add = Step(
            f"add {self.new} {self.to}",
            (
                CREATE_PROGRESS,
                self._forget(),
                f"ALTER TABLE {self.table} ADD COLUMN {self.new} {self.to}",
                *self._write_both(),
            ),
            done=either(has_column(self.table, self.new), self.swapped, self._has_type()),
        )
        drop = Step(
            f"drop {self.new}",
            (
                *self._write_one(),
                f"ALTER TABLE {self.table} DROP COLUMN IF EXISTS {self.new}",
                self._forget(),
            ),
            done=either(negated(has_column(self.table, self.new)), self.swapped),
        )
        return Change(self.table, f"{self.column} to {self.to}: expand", steps=(add,), undo=(drop,))

    def backfill(self) -> Backfill:
        return Backfill(
            name=f"{self.table}.{self.new}",
            table=self.table,
            assign=f"{self.new} = {self.value}",
            where=f"{self.new} IS DISTINCT FROM {self.value}",
        )

    def swap(self) -> Change:
        steps = require_not_null(self.table, self.new).steps if self.facts.not_null else ()
        rename = Step(
            f"swap {self.column} and {self.new}",
            (
                f"LOCK TABLE {self.table} IN ACCESS EXCLUSIVE MODE",
                self._is_filled(),
                *self._write_one(),
                # From now on nobody writes it.
                f"ALTER TABLE {self.table} ALTER COLUMN {self.column} DROP DEFAULT",
                f"ALTER TABLE {self.table} ALTER COLUMN {self.column} DROP NOT NULL",
                f"ALTER TABLE {self.table} RENAME COLUMN {self.column} TO {self.old}",
                f"ALTER TABLE {self.table} RENAME COLUMN {self.new} TO {self.column}",
                *self._default(),
            ),
            done=negated(has_column(self.table, self.new)),
        )
        # Once swapped, there is no new column whose constraints could be looked at.
        before = tuple(
            Step(
                step.summary,
                step.statements,
                done=either(negated(has_column(self.table, self.new)), step.done),
            )
            for step in steps
        )
        return Change(self.table, f"{self.column} to {self.to}: swap", steps=(*before, rename))

    def contract(self) -> Change:
        drop = Step(
            f"drop {self.old}",
            (f"ALTER TABLE {self.table} DROP COLUMN {self.old}",),
            done=negated(self.swapped),
        )
        return Change(self.table, f"{self.column} to {self.to}: contract", steps=(drop,))

    def _write_both(self) -> tuple[str, ...]:
        if self.dual_write == "application":
            return ()
        value = f"(SELECT {self.value} FROM (SELECT NEW.{self.column}) AS given ({self.column}))"
        return (
            f"CREATE FUNCTION {self.trigger}() RETURNS trigger LANGUAGE plpgsql AS $$\n"
            f"BEGIN\n    NEW.{self.new} := {value};\n    RETURN NEW;\nEND $$",
            f"CREATE TRIGGER {self.trigger} BEFORE INSERT OR UPDATE ON {self.table}\n"
            f"    FOR EACH ROW EXECUTE FUNCTION {self.trigger}()",
        )

    def _write_one(self) -> tuple[str, ...]:
        return (
            f"DROP TRIGGER IF EXISTS {self.trigger} ON {self.table}",
            f"DROP FUNCTION IF EXISTS {self.trigger}()",
        )

    def _default(self) -> tuple[str, ...]:
        if self.facts.default is None:
            return ()
        default = f"({self.facts.default})::{self.to}"
        return (f"ALTER TABLE {self.table} ALTER COLUMN {self.column} SET DEFAULT {default}",)

    def _is_filled(self) -> str:
        name = self.backfill().name
        message = literal(f"the backfill {name} is not finished")
        finished = f"SELECT FROM {PROGRESS_TABLE} WHERE name = {literal(name)} AND finished_at IS NOT NULL"
        return f"DO $$ BEGIN IF NOT EXISTS ({finished}) THEN RAISE EXCEPTION {message}; END IF; END $$"

    def _forget(self) -> str:
        return f"DELETE FROM {PROGRESS_TABLE} WHERE name = {literal(self.backfill().name)}"

    def _has_type(self) -> str:
        return (
            f"SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = {literal(self.table)}::regclass "
            f"AND attname = {literal(self.column)} AND format_type(atttypid, atttypmod) = {literal(self.to)})"
        )
