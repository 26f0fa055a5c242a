"""Another type for a column: a new column beside it, written by both, filled in batches, then swapped.

ALTER COLUMN ... TYPE rewrites the table under ACCESS EXCLUSIVE. Here only renames happen under that lock.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from partitions.errors import ColumnInUse, NoPrimaryKey, TriggersUnsupported
from partitions.online.backfill import CREATE_PROGRESS, PROGRESS_TABLE, Backfill
from partitions.online.change import (
    MARK,
    Change,
    ChangeStep,
    ObjectNames,
    Precondition,
    both,
    either,
    has_column,
    has_columns,
    mark,
    negated,
    raise_unmet,
)
from partitions.online.columns import (
    ColumnFacts,
    copy_grants,
    copy_storage,
    dependents,
    dependents_text,
    later_triggers,
    restore_comment,
    transfer_properties,
)
from partitions.online.constraints import plan_not_null
from partitions.online.types import cut_by, has_type, may_be, may_be_same
from partitions.sql import RelationName, dollar_quoted, identifier, literal, object_name, unquoted
from partitions.steps import do_block

DualWrite = Literal["trigger", "application"]


@dataclass(frozen=True, slots=True)
class TypeChange:
    """The parts of a change of type, to be done in this order.

    Parameters:
        expand: adds the new column, and a trigger that writes it. It can be undone.
        backfill: fills the new column of the rows that stand.
        swap: returns the new column the name of the old one. No way back: the old one is written no more.
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
        table: the table, as the catalogue has its name or as SQL has it, with or without its schema.
        column: the column.
        to: the new type: `bigint`, `numeric(12,2)`.
        facts: what `read_column` found.
        using: returns the new value, from the old column's name: `quantity::bigint`, which is the default.
        dual_write: who keeps the new column until the swap: a trigger, or, where Citus refuses triggers, the
            application, which must write both columns before the change begins.

    Raises:
        ColumnInUse: views, policies, indexes, constraints and the like would be lost with the old column.
        TriggersUnsupported: the table is Citus's, and `dual_write` is `trigger`.
        NoPrimaryKey: there is nothing that a backfill could go along.
    """
    column = unquoted(column)
    parts = _Parts(table, column, to, using, facts, dual_write)
    # When it has begun, or is done, the parts themselves say what is in their way; the way back is open.
    is_new = parts.new not in facts.columns and (facts.type is None or not may_be_same(to, facts.type))
    if facts.dependents and is_new:
        raise ColumnInUse(table, column, facts.dependents)
    if facts.citus and dual_write == "trigger":
        raise TriggersUnsupported(table)
    if not facts.keyed:
        raise NoPrimaryKey(table)
    return TypeChange(parts.expand(), parts.backfill(), parts.swap(0), parts.contract())


@dataclass(frozen=True, slots=True)
class _Parts:
    shown: str
    column: str
    to: str
    using: str | None
    facts: ColumnFacts
    dual_write: DualWrite

    @property
    def table(self) -> RelationName:
        return self.facts.table or RelationName.of(self.shown)

    @property
    def new(self) -> str:
        return self._beside("_new")

    @property
    def old(self) -> str:
        return self._beside("_old")

    def _beside(self, suffix: str) -> str:
        """Return the name of a column that is absent, or that this change has made."""
        names = (object_name(self.column, suffix, number=number) for number in itertools.count())
        columns = self.facts.columns
        return next(name for name in names if name not in columns or self._is_own(columns[name]))

    def _is_own(self, comment: str | None) -> bool:
        """Return whether by its comment an object belongs to this change."""
        return (comment or "").startswith(MARK) and f".{self.column} to " in (comment or "").split("\n")[0]

    @property
    def name(self) -> str:
        return f"{self.facts.shown or self.table}.{self.column} to {self.to}"

    @property
    def _backfill(self) -> str:
        return f"{self.facts.shown or self.table}.{self.new}"

    @property
    def function(self) -> RelationName:
        return self.table.beside(object_name(f"{self.table.name}_{self.column}", "_dual_write"))

    @property
    def trigger(self) -> str:
        """The trigger's name, which is the last one: it takes the value that the other triggers leave."""
        triggers = self.facts.triggers
        own = next((name for name, comment in triggers.items() if self._is_own(comment)), None)
        # Another column's change writes its own new column, and no other.
        others = [name.encode() for name in triggers if not (triggers[name] or "").startswith(MARK)]
        names = self._trigger_names(max(others, default=b"").decode())
        last = (name for name in names if all(name.encode() > other for other in others))
        return own or next(last, self.function.name)

    def _trigger_names(self, last: str) -> Iterator[str]:
        yield self.function.name
        yield object_name(f"zz_{self.function.name}")
        yield object_name(last, "_dual_write")
        yield object_name(f"~~_{self.function.name}")

    @property
    def value(self) -> str:
        return f"CAST(({self.using or identifier(self.column)}) AS {self.to})"

    # Where the change stands, by what the catalogue shows: nothing is new, expanded, swapped, contracted.
    @property
    def expanded(self) -> str:
        return both(has_column(self.table, self.new), has_type(self.table, self.new, self.to))

    @property
    def swapped(self) -> str:
        return both(has_column(self.table, self.old), has_type(self.table, self.column, self.to))

    @property
    def contracted(self) -> str:
        others = either(has_column(self.table, self.new), has_column(self.table, self.old))
        return both(has_type(self.table, self.column, self.to), negated(others))

    @property
    def begun(self) -> Precondition:
        return Precondition(
            either(self.expanded, self.swapped, self.contracted),
            f"{self.new} is not there: apply `expand` first",
        )

    def expand(self) -> Change:
        done = either(self.expanded, self.swapped, self.contracted)
        add = ChangeStep(
            f"add {self.new} {self.to}",
            (
                CREATE_PROGRESS,
                self._forget(),
                self._add(),
                copy_storage(self.table, self.column, self.new),
                *self._write_both(),
                mark("COLUMN", f"{self.table}.{identifier(self.new)}", self.name),
            ),
            done=done,
        )
        drop = ChangeStep(
            f"drop {self.new}",
            (
                *self._write_one(),
                f"ALTER TABLE {self.table} DROP COLUMN IF EXISTS {identifier(self.new)}",
                self._forget(),
            ),
            done=negated(done),
        )
        not_swapped = Precondition(
            negated(either(self.swapped, self.contracted)),
            f"{self.column} is swapped already: the way back is another change of type",
        )
        return Change(
            self.shown,
            f"{self.column} to {self.to}: expand",
            steps=(add,),
            undo=(drop,),
            preconditions=tuple(self._may_begin()),
            undo_preconditions=(not_swapped,),
        )

    def backfill(self) -> Backfill:
        return Backfill(
            name=self._backfill,
            table=str(self.table),
            assign=f"{identifier(self.new)} = {self.value}",
            where=self._differs(),
            over=either(self.swapped, self.contracted),
            preconditions=(self.begun,),
        )

    def _differs(self) -> str:
        # As text: json and others have no =.
        return f"CAST({identifier(self.new)} AS text) IS DISTINCT FROM CAST({self.value} AS text)"

    def swap(self, number: int) -> Change:
        not_null = plan_not_null(self.table, self.new, number=number)
        swapped = either(self.swapped, self.contracted)
        old, column, new = map(identifier, (self.old, self.column, self.new))
        rename = ChangeStep(
            f"swap {self.column} and {self.new}",
            (
                f"LOCK TABLE {self.table} IN ACCESS EXCLUSIVE MODE",
                # A view may have been made since the change began, or a moment ago.
                raise_unmet(self._unused()),
                *self._write_one(),
                copy_storage(self.table, self.column, self.new),
                transfer_properties(self.table, self.column, self.new, self.to, self.name),
                # From now on it is not written.
                f"ALTER TABLE {self.table} ALTER COLUMN {column} DROP DEFAULT",
                f"ALTER TABLE {self.table} ALTER COLUMN {column} DROP NOT NULL",
                f"ALTER TABLE {self.table} RENAME COLUMN {column} TO {old}",
                f"ALTER TABLE {self.table} RENAME COLUMN {new} TO {column}",
                mark("COLUMN", f"{self.table}.{old}", self.name),
            ),
            done=swapped,
        )
        # Once swapped, there is no new column whose constraints could be looked at.
        before = (replace(step, done=either(swapped, step.done)) for step in not_null.steps)
        return Change(
            self.shown,
            f"{self.column} to {self.to}: swap",
            steps=(*(before if self.facts.not_null else ()), rename),
            preconditions=(
                self.begun,
                self._filled(),
                self._unused(),
                *self._as_planned(),
                *self._written(),
                self._same(),
            ),
            names=ObjectNames(
                f"SELECT CASE WHEN NOT ({swapped}) THEN ({not_null.names.taken}) END"
                if not_null.names and self.facts.not_null
                else "SELECT NULL",
                lambda _, other: self.swap(other),
            ),
        )

    def contract(self) -> Change:
        drop = ChangeStep(
            f"drop {self.old}",
            (
                f"ALTER TABLE {self.table} DROP COLUMN {identifier(self.old)}",
                restore_comment(self.table, self.column),
                self._forget(),
            ),
            done=self.contracted,
        )
        swapped = Precondition(
            self.swapped,
            f"{self.column} is not swapped yet: apply `swap` first",
        )
        return Change(
            self.shown,
            f"{self.column} to {self.to}: contract",
            steps=(drop,),
            preconditions=(self.begun, swapped),
        )

    def _add(self) -> str:
        add = f"ALTER TABLE {self.table} ADD COLUMN {identifier(self.new)} {self.to}"
        if self.facts.collation is None:
            return add
        collated = f"{add} COLLATE {self.facts.collation}"
        has_collation = f"(SELECT typcollation <> 0 FROM pg_type WHERE oid = to_regtype({literal(self.to)}))"
        choice = f"IF {has_collation} THEN\n        {collated};\n    ELSE\n        {add};\n    END IF"
        return do_block(choice)

    def _write_both(self) -> tuple[str, ...]:
        if self.dual_write == "application":
            return (copy_grants(self.table, self.column, self.new),)
        column, trigger = identifier(self.column), identifier(self.trigger)
        body = (
            # A column may be called `found`, which is PL/pgSQL's as well.
            "\n#variable_conflict use_column\n"
            f"BEGIN\n    NEW.{identifier(self.new)} := "
            f"(SELECT {self.value} FROM (SELECT NEW.{column}) AS given ({column}));\n"
            "    RETURN NEW;\nEND\n"
        )
        return (
            # What a cast means may depend on these: it means the same in every session that writes.
            f"CREATE FUNCTION {self.function}() RETURNS trigger LANGUAGE plpgsql\n"
            "    SET search_path FROM CURRENT SET timezone FROM CURRENT SET datestyle FROM CURRENT\n"
            f"    AS {dollar_quoted(body, 'write')}",
            f"CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON {self.table}\n"
            f"    FOR EACH ROW EXECUTE FUNCTION {self.function}()",
            # Rows that a subscription brings, as well.
            f"ALTER TABLE {self.table} ENABLE ALWAYS TRIGGER {trigger}",
            mark("FUNCTION", f"{self.function}()", self.name),
            mark("TRIGGER", f"{trigger} ON {self.table}", self.name),
        )

    def _write_one(self) -> tuple[str, ...]:
        if self.dual_write == "application":
            return ()
        return (
            f"DROP TRIGGER IF EXISTS {identifier(self.trigger)} ON {self.table}",
            f"DROP FUNCTION IF EXISTS {self.function}()",
        )

    def _may_begin(self) -> Iterator[Precondition]:
        """Return what must hold before the first change."""
        yield Precondition(
            negated(either(has_column(self.table, self.new), has_column(self.table, self.old))),
            f"another change of {self.column} is under way: finish it, or undo it, first",
        )
        # The facts may be old.
        for name in (self.new, self.old):
            yield Precondition(
                negated(has_columns(self.table, name, "true")),
                f"there is a column {name} already: read the facts of {self.column} again, and plan again",
            )
        yield Precondition(
            may_be(self.to),
            f"{self.to} is no type that a column can be given without a rewrite of the table: name one that "
            f"PostgreSQL has (bigint, not bigserial), and put a CHECK on the column, not on a domain",
        )
        yield self._unused()
        if self.dual_write == "trigger":
            yield self._last()
        yield from self._as_planned()

    def _as_planned(self) -> Iterator[Precondition]:
        """Return what the plan takes for granted: what goes over, and that no value is cut."""
        facts = self.facts
        cut = None if self.using else cut_by(self.to, identifier(self.column))
        if cut is not None:
            yield Precondition(
                f"SELECT NOT EXISTS (SELECT FROM {self.table} WHERE {cut})",
                f"{self.to} would cut a value of {self.column}: shorten it first, or say with `using` what "
                f"is to be left of it",
            )
        if facts.type is not None:
            default = "NULL" if facts.default is None else literal(facts.default)
            yield Precondition(
                has_columns(
                    self.table,
                    self.column,
                    f"attnotnull = {facts.not_null} AND (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef "
                    f"WHERE adrelid = attrelid AND adnum = attnum) IS NOT DISTINCT FROM {default}",
                ),
                f"{self.column} has another default or NOT NULL than its facts: read them, and plan again",
            )
        if facts.default is not None:
            yield Precondition(
                self._gives_default(facts.default),
                f"its default {facts.default} is not what `{self.using}` gives of it: "
                f"drop the default first, and set the right one after the swap",
            )

    def _gives_default(self, default: str) -> str:
        """Render the query whether the default can be cast, and is what `using` makes of it."""
        cast = f"CAST(CAST(({default}) AS {self.to}) AS text)"
        if self.using is None:
            # It must not be asked of a sequence; and to_regclass says nothing of other values.
            return "SELECT true" if "nextval(" in default else f"SELECT count({cast}) >= 0"
        given = f"(SELECT CAST(({default}) AS {self.facts.type})) AS given ({identifier(self.column)})"
        return f"SELECT {cast} IS NOT DISTINCT FROM (SELECT CAST({self.value} AS text) FROM {given})"

    def _unused(self) -> Precondition:
        return Precondition(
            f"SELECT NOT EXISTS ({dependents(self.table, self.column)})",
            f"what uses {self.column} would be lost in a swap of columns: drop it first, and make it again "
            f"on the new column: ",
            detail=dependents_text(self.table, self.column),
        )

    def _last(self) -> Precondition:
        later = later_triggers(self.table, self.trigger)
        return Precondition(
            f"SELECT ({later}) IS NULL",
            f"what fires after {self.trigger} could change {self.column} once more: "
            f"ALTER TRIGGER ... RENAME TO a name that comes before it: ",
            detail=later,
        )

    def _written(self) -> tuple[Precondition, ...]:
        """Return what must have held since the change began."""
        if self.dual_write == "application":
            return ()
        stands = (
            f"SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = {self.table.regclass} "
            f"AND tgname = {literal(self.trigger)} AND tgenabled = 'A')"
        )
        otherwise = f"the trigger {self.trigger} is gone, or disabled: undo `expand` and begin again"
        return Precondition(stands, otherwise), self._last()

    def _same(self) -> Precondition:
        return Precondition(
            f"SELECT NOT EXISTS (SELECT FROM {self.table} WHERE {self._differs()})",
            f"{self.new} is not what {self.column} gives in every row: something wrote {self.column} alone, "
            f"or kept the backfill from a row; DELETE FROM {PROGRESS_TABLE} WHERE name = "
            f"{literal(self._backfill)}, then run the backfill again",
        )

    def _filled(self) -> Precondition:
        finished = (
            f"SELECT EXISTS (SELECT FROM {PROGRESS_TABLE} "
            f"WHERE name = {literal(self._backfill)} AND finished_at IS NOT NULL)"
        )
        return Precondition(finished, f"the backfill {self._backfill} is not finished: run it")

    def _forget(self) -> str:
        return f"DELETE FROM {PROGRESS_TABLE} WHERE name = {literal(self._backfill)}"
