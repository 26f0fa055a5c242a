"""CHECKs that a table got while a partition of it was away: ATTACH wants them there, and adds none itself.

A month that was detached before a migration guarded its table could not come back; and on PostgreSQL 18 a
detach that was cut off before that could not even be finished (`RemoveInheritance` in tablecmds.c counts).
"""

from typing import NamedTuple

from partitions.sql import identifier, literal, regclass


class ParentCheck(NamedTuple):
    """A CHECK of a partitioned table, and whether it is valid."""

    name: str
    valid: bool


def lacked_checks(table: str, partition: str) -> str:
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


def adopt(table: str, partition: str) -> str:
    """Render their addition, as a statement for `block`: as valid as the table has them, for ATTACH."""
    add = literal(f"ALTER TABLE {identifier(partition)} ADD CONSTRAINT ")
    return (
        "DECLARE lacked record; BEGIN\n"
        f"        FOR lacked IN {lacked_checks(regclass(table), regclass(partition))}\n"
        f"        LOOP EXECUTE {add} || quote_ident(lacked.conname) || ' ' || lacked.definition; END LOOP;\n"
        "    END"
    )


def finalize_without(table: str, partition: str, finalize: str) -> str:
    """Render the end of a pending detach as a statement for `block`; the table loses those CHECKs meanwhile.

    They come back NOT VALID, without a scan under that lock.
    """
    drop, add = (literal(f"ALTER TABLE {identifier(table)} {verb} CONSTRAINT ") for verb in ("DROP", "ADD"))
    return (
        "DECLARE lacked record; again text[] := '{}'; addition text; BEGIN\n"
        f"        FOR lacked IN {lacked_checks(regclass(table), regclass(partition))} LOOP\n"
        f"            again := again || ({add} || quote_ident(lacked.conname) || ' ' || lacked.definition\n"
        "                || CASE WHEN lacked.convalidated THEN ' NOT VALID' ELSE '' END);\n"
        f"            EXECUTE {drop} || quote_ident(lacked.conname);\n"
        "        END LOOP;\n"
        f"        {finalize};\n"
        "        FOREACH addition IN ARRAY again LOOP EXECUTE addition; END LOOP;\n"
        "    END"
    )
