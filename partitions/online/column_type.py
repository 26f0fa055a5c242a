"""Another type for a column: a new column beside it, written by both, filled in batches, then swapped.

ALTER COLUMN ... TYPE rewrites the table under ACCESS EXCLUSIVE. Here only renames happen under that lock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import Connection, text

from partitions.online.backfill import CREATE_PROGRESS, PROGRESS_TABLE, Backfill
from partitions.online.change import (
    Change,
    Need,
    Step,
    both,
    either,
    has_column,
    has_type,
    mark,
    negated,
    unmark,
)
from partitions.online.constraints import require_not_null
from partitions.online.errors import ColumnInUse, NoPrimaryKey, NoSuchColumn, TriggersRefused
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
        keyed: whether the table has a primary key, along which a backfill goes.
    """

    not_null: bool
    default: str | None = None
    users: Sequence[str] = ()
    citus: bool = False
    keyed: bool = True


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
           EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') AS citus,
           EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisprimary) AS keyed
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = to_regclass(:table) AND attname = :column AND NOT attisdropped
""")


def read_column(connection: Connection, table: str, column: str) -> ColumnFacts:
    """Read what `change_type` must know.

    Raises:
        NoSuchColumn: the column is absent.
    """
    found = connection.execute(_FACTS, {"table": table, "column": column}).one_or_none()
    if found is None:
        raise NoSuchColumn(table, column)
    return ColumnFacts(found.not_null, found.default, tuple(found.users), found.citus, found.keyed)


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
        NoPrimaryKey: there is nothing that a backfill could go along.
    """
    if facts.users:
        raise ColumnInUse(table, column, facts.users)
    if facts.citus and dual_write == "trigger":
        raise TriggersRefused(table)
    if not facts.keyed:
        raise NoPrimaryKey(table)
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
    def _backfill(self) -> str:
        return f"{self.table}.{self.new}"

    @property
    def trigger(self) -> str:
        return f"{self.table}_{self.column}_dual_write"

    @property
    def name(self) -> str:
        return f"{self.table}.{self.column} to {self.to}"

    # Where the change stands, by what the catalogue shows: nothing is new, expanded, swapped, contracted.
    @property
    def expanded(self) -> str:
        return has_column(self.table, self.new)

    @property
    def swapped(self) -> str:
        return has_column(self.table, self.old)

    @property
    def contracted(self) -> str:
        has_it = has_type(self.table, self.column, self.to)
        return both(has_it, negated(self.expanded), negated(self.swapped))

    @property
    def begun(self) -> Need:
        return Need(
            either(self.expanded, self.swapped, self.contracted),
            f"{self.new} is not there: apply `expand` first",
        )

    def expand(self) -> Change:
        add = Step(
            f"add {self.new} {self.to}",
            (
                CREATE_PROGRESS,
                self._forget(),
                f"ALTER TABLE {self.table} ADD COLUMN {self.new} {self.to}",
                mark("COLUMN", f"{self.table}.{self.new}", self.name),
                *self._write_both(),
            ),
            done=either(self.expanded, self.swapped, self.contracted),
        )
        drop = Step(
            f"drop {self.new}",
            (
                *self._write_one(),
                f"ALTER TABLE {self.table} DROP COLUMN IF EXISTS {self.new}",
                self._forget(),
            ),
            done=negated(either(self.expanded, self.swapped, self.contracted)),
        )
        not_swapped = Need(
            negated(either(self.swapped, self.contracted)),
            f"{self.column} is swapped already: the way back is another change of type",
        )
        return Change(
            self.table,
            f"{self.column} to {self.to}: expand",
            steps=(add,),
            undo=(drop,),
            undo_needs=(not_swapped,),
        )

    def backfill(self) -> Backfill:
        return Backfill(
            name=self._backfill,
            table=self.table,
            assign=f"{self.new} = {self.value}",
            where=f"{self.new} IS DISTINCT FROM {self.value}",
            over=either(self.swapped, self.contracted),
            needs=(self.begun,),
        )

    def swap(self) -> Change:
        steps = require_not_null(self.table, self.new).steps if self.facts.not_null else ()
        swapped = either(self.swapped, self.contracted)
        rename = Step(
            f"swap {self.column} and {self.new}",
            (
                f"LOCK TABLE {self.table} IN ACCESS EXCLUSIVE MODE",
                *self._write_one(),
                # From now on nobody writes it.
                f"ALTER TABLE {self.table} ALTER COLUMN {self.column} DROP DEFAULT",
                f"ALTER TABLE {self.table} ALTER COLUMN {self.column} DROP NOT NULL",
                f"ALTER TABLE {self.table} RENAME COLUMN {self.column} TO {self.old}",
                f"ALTER TABLE {self.table} RENAME COLUMN {self.new} TO {self.column}",
                mark("COLUMN", f"{self.table}.{self.old}", self.name),
                *self._default(),
            ),
            done=swapped,
        )
        # Once swapped, there is no new column whose constraints could be looked at.
        before = tuple(replace(step, done=either(swapped, step.done)) for step in steps)
        return Change(
            self.table,
            f"{self.column} to {self.to}: swap",
            steps=(*before, rename),
            needs=(self.begun, self._filled()),
        )

    def contract(self) -> Change:
        drop = Step(
            f"drop {self.old}",
            (
                f"ALTER TABLE {self.table} DROP COLUMN {self.old}",
                unmark("COLUMN", f"{self.table}.{self.column}"),
                self._forget(),
            ),
            done=self.contracted,
        )
        swapped = Need(
            self.swapped,
            f"{self.column} is not swapped yet: apply `swap` first",
        )
        return Change(
            self.table,
            f"{self.column} to {self.to}: contract",
            steps=(drop,),
            needs=(self.begun, swapped),
        )

    def _write_both(self) -> tuple[str, ...]:
        if self.dual_write == "application":
            return ()
        value = f"(SELECT {self.value} FROM (SELECT NEW.{self.column}) AS given ({self.column}))"
        return (
            f"CREATE FUNCTION {self.trigger}() RETURNS trigger LANGUAGE plpgsql AS $$\n"
            f"BEGIN\n    NEW.{self.new} := {value};\n    RETURN NEW;\nEND $$",
            f"CREATE TRIGGER {self.trigger} BEFORE INSERT OR UPDATE ON {self.table}\n"
            f"    FOR EACH ROW EXECUTE FUNCTION {self.trigger}()",
            mark("FUNCTION", f"{self.trigger}()", self.name),
            mark("TRIGGER", f"{self.trigger} ON {self.table}", self.name),
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

    def _filled(self) -> Need:
        finished = (
            f"SELECT EXISTS (SELECT FROM {PROGRESS_TABLE} "
            f"WHERE name = {literal(self._backfill)} AND finished_at IS NOT NULL)"
        )
        return Need(finished, f"the backfill {self._backfill} is not finished: run it")

    def _forget(self) -> str:
        return f"DELETE FROM {PROGRESS_TABLE} WHERE name = {literal(self._backfill)}"
