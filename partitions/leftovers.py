"""CHECKs that DETACH CONCURRENTLY leaves on a LIST partition, which stay when it is attached again.

PostgreSQL gives the detached table its bound as a CHECK (`DetachAddConstraintIfNeeded` in tablecmds.c): the
rows must not change while old snapshots still see them in the parent. It lets the next ATTACH skip its scan.
After that it is in the way: a value that is added to the partition later would be refused, row by row.

On a month it does no harm, for a month's bound never changes; and it is what `CreateMonth` puts there anyway.
"""

from partitions.sql import identifier, literal, regclass


def leftover_checks(table: str, partition: str) -> str:
    """Render the query of their names.

    Parameters:
        table: an SQL expression, the oid of the partitioned table.
        partition: an SQL expression, the oid of a table that is, or was, its partition.
    """
    # A CHECK of somebody's own is on another column, or is not written as a bound is.
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


def drop_leftovers(table: str, partition: str) -> str:
    """Render their removal, as a statement for `steps.block`, under a lock that is held by then."""
    drop = literal(f"ALTER TABLE {identifier(partition)} DROP CONSTRAINT ")
    return (
        "DECLARE leftover name; BEGIN\n"
        f"        FOR leftover IN {leftover_checks(regclass(table), regclass(partition))}\n"
        f"        LOOP EXECUTE {drop} || quote_ident(leftover); END LOOP;\n"
        "    END"
    )
