"""NOT NULL, foreign keys and unique constraints, without a scan under a lock. Pure."""

from collections.abc import Sequence

from partitions.online.change import (
    MARK,
    Change,
    ChangeStep,
    ObjectNames,
    either,
    has_columns,
    has_constraint,
    is_not_null,
    mark,
    name_is_free,
    negated,
    quoted,
    raise_unmet,
    unmark,
)
from partitions.sql import RelationName, identifier, literal, object_name, texts, unquoted


def require_not_null(table: str, column: str) -> Change:
    """Make a column NOT NULL.

    SET NOT NULL alone scans the table under ACCESS EXCLUSIVE. With a validated CHECK PostgreSQL knows that
    there is nothing to look for; VALIDATE scans while queries read and write the table.
    """
    return plan_not_null(RelationName.of(table), unquoted(column), shown=table)


def plan_not_null(table: RelationName, column: str, *, shown: str | None = None, number: int = 0) -> Change:
    """Plan NOT NULL, with a CHECK of that number until it is there.

    Parameters:
        table: the table.
        column: the column, as the catalogue has it.
        shown: the table as it is named in reports.
        number: distinguishes the CHECK's name from others.
    """
    shown = shown or str(table)
    check = object_name(f"{table.name}_{column}", "_not_null_check", number=number)
    quoted_check = identifier(check)
    definition = f"format('CHECK ((%I IS NOT NULL))', {literal(column)})"
    already, stands = is_not_null(table, column), has_constraint(table, definition, name=check)
    # Somebody's own CHECK of that name, were it the same, is not there to be dropped.
    own = (
        f"pg_get_constraintdef(oid) IN ({definition}, {definition} || ' NOT VALID') "
        f"AND starts_with(obj_description(oid, 'pg_constraint'), {literal(MARK)})"
    )
    taken = _constraint_taken(table, check, own)
    drop = f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {quoted_check}"
    forget = ChangeStep(f"drop {check}", (raise_unmet(name_is_free(taken)), drop), done=negated(stands))
    steps = (
        ChangeStep(
            f"add {check}, not validated",
            (
                f"ALTER TABLE {table} ADD CONSTRAINT {quoted_check} "
                f"CHECK ({identifier(column)} IS NOT NULL) NOT VALID",
                mark("CONSTRAINT", f"{quoted_check} ON {table}", f"{shown}.{column} not null"),
            ),
            done=either(already, stands),
        ),
        ChangeStep(
            f"validate {check}",
            (f"ALTER TABLE {table} VALIDATE CONSTRAINT {quoted_check}",),
            done=either(already, has_constraint(table, definition, name=check, validated=True)),
        ),
        ChangeStep(
            f"set {column} not null",
            (f"ALTER TABLE {table} ALTER COLUMN {identifier(column)} SET NOT NULL",),
            done=already,
        ),
        forget,
    )
    allow = ChangeStep(
        f"allow null in {column}",
        (f"ALTER TABLE {table} ALTER COLUMN {identifier(column)} DROP NOT NULL",),
        done=negated(has_columns(table, column, "attnotnull")),
    )
    return Change(
        shown,
        f"{column} not null",
        steps=steps,
        undo=(allow, forget),
        names=ObjectNames(
            taken,
            lambda found, other: plan_not_null(found, column, shown=shown, number=other),
        ),
    )


def add_foreign_key(
    table: str, columns: Sequence[str], *, references: str, referenced: Sequence[str], name: str | None = None
) -> Change:
    """Add a foreign key: new rows are checked at once, those that stand are checked without a lock.

    Parameters:
        table: whose rows refer. A partitioned one needs PostgreSQL 18 (0A000 before).
        columns: the columns that refer.
        references: the table that they refer to.
        referenced: its columns, which need a unique key.
        name: the constraint's; None is PostgreSQL's default, with a number when that is another's, and then
            the same key under any name is enough.
    """
    to = RelationName.of(references), _columns(referenced)
    chosen = None if name is None else unquoted(name)
    return _plan_foreign_key(RelationName.of(table), _columns(columns), *to, chosen, shown=table, number=0)


def _plan_foreign_key(
    table: RelationName,
    columns: tuple[str, ...],
    references: RelationName,
    referenced: tuple[str, ...],
    name: str | None,
    *,
    shown: str,
    number: int,
) -> Change:
    constraint = name or object_name(f"{table.name}_{'_'.join(columns)}", "_fkey", number=number)
    quoted_constraint = identifier(constraint)
    definition = (
        f"format('FOREIGN KEY (%s) REFERENCES %s(%s)', {_quoted_list(columns)}, "
        f"{references.regclass}::regclass, {_quoted_list(referenced)})"
    )
    keys = f"FOREIGN KEY ({quoted(columns)}) REFERENCES {references} ({quoted(referenced)})"
    stands = has_constraint(table, definition, name=constraint)
    valid = has_constraint(table, definition, name=name, validated=True)
    steps = (
        ChangeStep(
            f"add {constraint}, not validated",
            (
                f"ALTER TABLE {table} ADD CONSTRAINT {quoted_constraint} {keys} NOT VALID",
                mark("CONSTRAINT", f"{quoted_constraint} ON {table}", f"{shown} foreign key {constraint}"),
            ),
            done=either(valid, stands),
        ),
        ChangeStep(
            f"validate {constraint}",
            (
                f"ALTER TABLE {table} VALIDATE CONSTRAINT {quoted_constraint}",
                unmark("CONSTRAINT", f"{quoted_constraint} ON {table}"),
            ),
            done=valid,
        ),
    )

    def choose(found: RelationName, other: int) -> Change | None:
        if name is not None and other:
            return None
        return _plan_foreign_key(found, columns, references, referenced, name, shown=shown, number=other)

    own = f"replace(pg_get_constraintdef(oid), ' NOT VALID', '') = {definition}"
    return Change(
        shown,
        f"foreign key {constraint}",
        steps=steps,
        undo=(_drop(table, constraint, has_constraint(table, definition, name=name)),),
        names=ObjectNames(_constraint_taken(table, constraint, own), choose),
    )


def add_unique(table: str, columns: Sequence[str], *, name: str | None = None) -> Change:
    """Add a unique constraint by an index that is built concurrently.

    Not for a partitioned table (0A000): build a unique index with `op.create_index_on_partitions`.

    Parameters:
        table: the table.
        columns: the columns.
        name: the constraint's; None is PostgreSQL's default, with a number when that is another's, and then
            the same constraint under any name is enough.
    """
    chosen = None if name is None else unquoted(name)
    return _plan_unique(RelationName.of(table), _columns(columns), chosen, shown=table, number=0)


def _plan_unique(
    table: RelationName, columns: tuple[str, ...], name: str | None, *, shown: str, number: int
) -> Change:
    constraint = name or object_name(f"{table.name}_{'_'.join(columns)}", "_key", number=number)
    quoted_constraint, index = identifier(constraint), table.beside(constraint)
    definition = f"format('UNIQUE (%s)', {_quoted_list(columns)})"
    stands = has_constraint(table, definition, name=name)
    own_index = (
        f"pg_get_indexdef(indexrelid) = format('CREATE UNIQUE INDEX %I ON %s USING btree (%s)', relname, "
        f"(SELECT format('%I.%I', nspname, t.relname) FROM pg_class t "
        f"JOIN pg_namespace n ON n.oid = t.relnamespace WHERE t.oid = indrelid), {_quoted_list(columns)})"
    )
    other_relation = f"""
        SELECT concat(pg_describe_object('pg_class'::regclass, c.oid, 0), ': ' || pg_get_indexdef(indexrelid))
        FROM pg_class c LEFT JOIN pg_index ON indexrelid = c.oid
        WHERE relname = {literal(constraint)}
          AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = {table.regclass})
          AND NOT coalesce(indrelid = {table.regclass} AND {own_index}, false)
    """
    other_constraint = _constraint_taken(table, constraint, f"pg_get_constraintdef(oid) = {definition}")
    taken = f"SELECT coalesce(({other_constraint}), ({other_relation}))"
    built = (
        f"SELECT EXISTS (SELECT FROM pg_index JOIN pg_class c ON c.oid = indexrelid "
        f"WHERE indrelid = {table.regclass} AND relname = {literal(constraint)} AND indisvalid "
        f"AND {own_index})"
    )
    steps = (
        ChangeStep(
            f"build {constraint}",
            (
                f"CREATE UNIQUE INDEX CONCURRENTLY {quoted_constraint} ON {table} ({quoted(columns)})",
                mark("INDEX", str(index), f"{shown} unique {constraint}"),
            ),
            done=either(stands, built),
            autocommit=True,
            # A build that was cut off, or that met a duplicate, leaves its index INVALID.
            cleanup=(f"DROP INDEX CONCURRENTLY IF EXISTS {index}",),
        ),
        ChangeStep(
            f"make {constraint} a constraint",
            (
                raise_unmet(name_is_free(taken)),
                unmark("INDEX", str(index)),
                f"ALTER TABLE {table} ADD CONSTRAINT {quoted_constraint} "
                f"UNIQUE USING INDEX {quoted_constraint}",
            ),
            done=stands,
        ),
    )
    unbuild = ChangeStep(
        f"drop the index {constraint}",
        (f"DROP INDEX CONCURRENTLY IF EXISTS {index}",),
        done=f"SELECT {index.regclass} IS NULL",
        autocommit=True,
    )

    def choose(found: RelationName, other: int) -> Change | None:
        if name is not None and other:
            return None
        return _plan_unique(found, columns, name, shown=shown, number=other)

    return Change(
        shown,
        f"unique {constraint}",
        steps=steps,
        undo=(_drop(table, constraint, stands), unbuild),
        names=ObjectNames(taken, choose),
    )


def _columns(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(unquoted, names))


def _quoted_list(columns: tuple[str, ...]) -> str:
    """Render an expression that returns columns as PostgreSQL prints them."""
    return (
        "(SELECT string_agg(quote_ident(name), ', ' ORDER BY place) "
        f"FROM unnest({texts(columns)}) WITH ORDINALITY AS part (name, place))"
    )


def _constraint_taken(table: RelationName, constraint: str, own: str) -> str:
    """Render the query that returns the constraint which has a name, when it is not the change's."""
    return (
        f"SELECT concat('constraint ', quote_ident(conname), ': ', pg_get_constraintdef(oid)) "
        f"FROM pg_constraint WHERE conrelid = {table.regclass} AND conname = {literal(constraint)} "
        f"AND NOT coalesce({own}, false)"
    )


def _drop(table: RelationName, constraint: str, stands: str) -> ChangeStep:
    return ChangeStep(
        f"drop {constraint}",
        (f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {identifier(constraint)}",),
        done=negated(stands),
    )
