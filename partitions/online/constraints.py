"""NOT NULL, foreign keys and unique constraints, without a scan under a lock. Pure."""

from collections.abc import Sequence

from partitions.online.change import (
    Change,
    Step,
    either,
    has_constraint,
    is_not_null,
    mark,
    negated,
    unmark,
)
from partitions.sql import literal


def require_not_null(table: str, column: str) -> Change:
    """Make a column NOT NULL.

    SET NOT NULL alone scans the table under ACCESS EXCLUSIVE. With a validated CHECK PostgreSQL knows that
    there is nothing to look for; VALIDATE scans while everybody reads and writes.
    """
    check = f"{table}_{column}_not_null_check"
    already, stands = is_not_null(table, column), has_constraint(table, check)
    forget = Step(
        f"drop {check}", (f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {check}",), done=negated(stands)
    )
    steps = (
        Step(
            f"add {check}, not validated",
            (
                f"ALTER TABLE {table} ADD CONSTRAINT {check} CHECK ({column} IS NOT NULL) NOT VALID",
                mark("CONSTRAINT", f"{check} ON {table}", f"{table}.{column} not null"),
            ),
            done=either(already, stands),
        ),
        Step(
            f"validate {check}",
            (f"ALTER TABLE {table} VALIDATE CONSTRAINT {check}",),
            done=either(already, has_constraint(table, check, validated=True)),
        ),
        Step(
            f"set {column} not null",
            (f"ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL",),
            done=already,
        ),
        forget,
    )
    allow = Step(
        f"allow null in {column}",
        (f"ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL",),
        done=negated(already),
    )
    return Change(table, f"{column} not null", steps=steps, undo=(allow, forget))


def add_foreign_key(
    table: str, columns: Sequence[str], *, references: str, referenced: Sequence[str], name: str | None = None
) -> Change:
    """Add a foreign key: new rows are checked at once, those that stand are checked without a lock.

    Parameters:
        table: whose rows refer. A partitioned one needs PostgreSQL 18 (0A000 before).
        columns: the columns that refer.
        references: the table that they refer to.
        referenced: its columns, which need a unique key.
        name: the constraint's; PostgreSQL's default when None.
    """
    constraint = name or f"{table}_{'_'.join(columns)}_fkey"
    keys = f"FOREIGN KEY ({', '.join(columns)}) REFERENCES {references} ({', '.join(referenced)})"
    steps = (
        Step(
            f"add {constraint}, not validated",
            (
                f"ALTER TABLE {table} ADD CONSTRAINT {constraint} {keys} NOT VALID",
                mark("CONSTRAINT", f"{constraint} ON {table}", f"{table} foreign key {constraint}"),
            ),
            done=has_constraint(table, constraint),
        ),
        Step(
            f"validate {constraint}",
            (
                f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}",
                unmark("CONSTRAINT", f"{constraint} ON {table}"),
            ),
            done=has_constraint(table, constraint, validated=True),
        ),
    )
    return Change(table, f"foreign key {constraint}", steps=steps, undo=(_drop(table, constraint),))


def add_unique(table: str, columns: Sequence[str], *, name: str | None = None) -> Change:
    """Add a unique constraint by an index that is built concurrently.

    Not for a partitioned table (0A000): build a unique index with `op.create_index_on_partitions`.
    """
    constraint = name or f"{table}_{'_'.join(columns)}_key"
    stands = has_constraint(table, constraint)
    steps = (
        Step(
            f"build {constraint}",
            (
                f"CREATE UNIQUE INDEX CONCURRENTLY {constraint} ON {table} ({', '.join(columns)})",
                mark("INDEX", constraint, f"{table} unique {constraint}"),
            ),
            done=either(
                stands,
                "SELECT EXISTS (SELECT FROM pg_index "
                f"WHERE indexrelid = to_regclass({literal(constraint)}) AND indisvalid AND indisunique)",
            ),
            alone=True,
            # A build that was cut off, or that met a duplicate, leaves its index INVALID.
            cleanup=(f"DROP INDEX CONCURRENTLY IF EXISTS {constraint}",),
        ),
        Step(
            f"make {constraint} a constraint",
            (
                unmark("INDEX", constraint),
                f"ALTER TABLE {table} ADD CONSTRAINT {constraint} UNIQUE USING INDEX {constraint}",
            ),
            done=stands,
        ),
    )
    unbuild = Step(
        f"drop the index {constraint}",
        (f"DROP INDEX CONCURRENTLY IF EXISTS {constraint}",),
        done=f"SELECT to_regclass({literal(constraint)}) IS NULL",
        alone=True,
    )
    return Change(table, f"unique {constraint}", steps=steps, undo=(_drop(table, constraint), unbuild))


def _drop(table: str, constraint: str) -> Step:
    return Step(
        f"drop {constraint}",
        (f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint}",),
        done=negated(has_constraint(table, constraint)),
    )
