"""CHECK constraints of partitions: what ATTACH wants, what DETACH leaves, what proves a bound.

ATTACH wants every CHECK of the parent on the table, and adds none itself. A month that was detached before a
migration guarded its table could not come back; and on PostgreSQL 18 a detach that was cut off before that
could not even be finished (`RemoveInheritance` in tablecmds.c counts).

DETACH CONCURRENTLY leaves the bound of a LIST partition as a CHECK (`DetachAddConstraintIfNeeded` in
tablecmds.c), which stays when the table is attached again: the rows must not change while old snapshots still
see them in the parent. It lets the next ATTACH skip its scan. After that it is in the way: a value that is
added to the partition later would be refused, row by row. On a month it does no harm, for a month's bound
never changes; and it is what `CreateMonth` puts there anyway.
"""

from typing import NamedTuple

from partitions.sql import bare, identifier, literal, relation, relation_oid

REGROUP_CHECK_SUFFIX = "_regroup_check"


class ParentCheck(NamedTuple):
    """A CHECK of a partitioned table, and whether it is valid."""

    name: str
    valid: bool


def missing_checks(table: str, partition: str) -> str:
    """Render the query of what a table lacks: `conname`, `definition`, `convalidated`.

    Parameters:
        table: an SQL expression, the oid of the partitioned table.
        partition: an SQL expression, the oid of the other table.
    """
    return (
        "SELECT conname::text, pg_get_constraintdef(whole.oid) AS definition, convalidated\n"
        "        FROM pg_constraint AS whole\n"
        f"        WHERE conrelid = {table} AND contype = 'c' AND NOT connoinherit AND NOT EXISTS (\n"
        f"            SELECT FROM pg_constraint AS own WHERE own.conrelid = {partition}\n"
        "            AND own.contype = 'c' AND own.conname = whole.conname)\n"
        "        ORDER BY conname"
    )


def add_missing_checks(table: str, partition: str) -> str:
    """Render the addition of those CHECKs as a statement for `do_block`: as valid as the table has them."""
    add = literal(f"ALTER TABLE {relation(partition)} ADD CONSTRAINT ")
    return (
        "DECLARE missing record; BEGIN\n"
        f"        FOR missing IN {missing_checks(relation_oid(table), relation_oid(partition))}\n"
        f"        LOOP EXECUTE {add} || quote_ident(missing.conname) || ' ' || missing.definition;\n"
        "        END LOOP;\n"
        "    END"
    )


def finalize_without_checks(table: str, partition: str, finalize: str) -> str:
    """Render the end of a pending detach as a statement for `do_block`; the table loses the CHECKs meanwhile.

    They come back NOT VALID, without a scan under that lock.
    """
    drop, add = (literal(f"ALTER TABLE {relation(table)} {verb} CONSTRAINT ") for verb in ("DROP", "ADD"))
    return (
        "DECLARE missing record; again text[] := '{}'; addition text; BEGIN\n"
        f"        FOR missing IN {missing_checks(relation_oid(table), relation_oid(partition))} LOOP\n"
        f"            again := again || ({add} || quote_ident(missing.conname) || ' ' || missing.definition\n"
        "                || CASE WHEN missing.convalidated THEN ' NOT VALID' ELSE '' END);\n"
        f"            EXECUTE {drop} || quote_ident(missing.conname);\n"
        "        END LOOP;\n"
        f"        {finalize};\n"
        "        FOREACH addition IN ARRAY again LOOP EXECUTE addition; END LOOP;\n"
        "    END"
    )


def leftover_checks(table: str, partition: str) -> str:
    """Render the query of the names of the CHECKs that DETACH CONCURRENTLY left.

    Parameters:
        table: an SQL expression, the oid of the partitioned table.
        partition: an SQL expression, the oid of a table that is, or was, its partition.
    """
    # A CHECK of the application is on another column, or is not written as a bound is.
    return (
        "SELECT conname::text FROM pg_constraint\n"
        f"        JOIN pg_partitioned_table ON partrelid = {table} AND partstrat = 'l'\n"
        "        JOIN pg_attribute AS key ON key.attrelid = partrelid AND key.attnum = partattrs[0]\n"
        f"        WHERE conrelid = {partition} AND contype = 'c' AND coninhcount = 0\n"
        "          AND starts_with(pg_get_constraintdef(pg_constraint.oid),\n"
        "                          'CHECK (((' || quote_ident(attname) || ' IS NOT NULL) AND ('\n"
        "                          || quote_ident(attname) || ' = ')\n"
        "        ORDER BY 1"
    )


def drop_leftover_checks(table: str, partition: str) -> str:
    """Render the drop of those CHECKs, as a statement for `do_block`, under a lock that is held by then."""
    drop = literal(f"ALTER TABLE {relation(partition)} DROP CONSTRAINT ")
    return (
        "DECLARE leftover name; BEGIN\n"
        f"        FOR leftover IN {leftover_checks(relation_oid(table), relation_oid(partition))}\n"
        f"        LOOP EXECUTE {drop} || quote_ident(leftover); END LOOP;\n"
        "    END"
    )


def regroup_check_name(partition: str) -> str:
    """Return the name of the CHECK that proves to ATTACH what it would otherwise scan for."""
    return bare(partition) + REGROUP_CHECK_SUFFIX


def drop_regroup_check(partition: str) -> str:
    """Render the drop of that CHECK."""
    return drop_constraint(partition, regroup_check_name(partition))


def drop_constraint(partition: str, name: str) -> str:
    """Render the drop of a constraint, if there is one of that name."""
    return f"ALTER TABLE {relation(partition)} DROP CONSTRAINT IF EXISTS {identifier(name)}"
