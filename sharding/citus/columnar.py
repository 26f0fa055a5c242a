"""Archive months by column: a tenth of the space, and nothing in them can be changed any more."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from partitions.bounds import KeyRange, parse_bound
from partitions.sql import identifier, literal
from sharding.citus.catalog import read_extensions
from sharding.errors import CitusMissing, ColumnarRefused

_FOUND = text("""
    SELECT c.relname AS name, parent.relname AS parent, pg_get_expr(c.relpartbound, c.oid) AS bound,
           am.amname AS access_method
    FROM pg_class c
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    LEFT JOIN pg_class parent ON parent.oid = i.inhparent
    LEFT JOIN pg_am am ON am.oid = c.relam
    WHERE c.oid = to_regclass(:name)
""")
_SIZE = text("SELECT citus_total_relation_size(to_regclass(:name))")


@dataclass(frozen=True, slots=True)
class StoredPartition:
    """A partition of an archive: its parent, its keys and how it is stored (`heap` or `columnar`)."""

    name: str
    parent: str
    keys: KeyRange
    access_method: str


def read_stored(connection: Connection, partition: str) -> StoredPartition:
    """Read how a month is stored.

    Raises:
        ColumnarRefused: there is no such partition, or it is not one of a RANGE.
    """
    row = connection.execute(_FOUND, {"name": identifier(partition)}).one_or_none()
    if row is None:
        raise ColumnarRefused(partition, "there is no such table")
    bound = None if row.bound is None else parse_bound(row.name, row.bound)
    if not isinstance(bound, KeyRange):
        raise ColumnarRefused(partition, "it is no month of an archive")
    return StoredPartition(row.name, row.parent, bound, row.access_method)


def refusal(
    stored: StoredPartition, *, to: str, ended_at: datetime, now: datetime, grace: timedelta, live_orders: int
) -> str | None:
    """Return why a month cannot be stored otherwise; None if it can. Pure.

    The archive job writes a row into the month in which its order was made, whenever that order is finished
    and past the grace period. So a month is at rest when it is over and no order of it is live any more.

    Parameters:
        stored: the partition.
        to: `columnar` or `heap`.
        ended_at: when the month was over.
        now: the current instant.
        grace: how long after its end an order leaves for the archive.
        live_orders: orders of that month that are still in the live tables.
    """
    if stored.access_method == to:
        return f"it is {to} already"
    if to == "heap":
        return None
    if now < ended_at + grace:
        return (
            f"rows of it may still come: the month ended {ended_at:%Y-%m-%d}, and the archive job moves "
            f"them {grace.days} days after they are finished"
        )
    if live_orders:
        return (
            f"{live_orders} rows of that month are still live, and the archive job will write them there; "
            "columnar refuses UPDATE and DELETE"
        )
    return None


def require_columnar(connection: Connection, database: str) -> None:
    """Refuse to go on without the extension, which a superuser makes.

    Raises:
        CitusMissing: it is not there.
    """
    if "citus_columnar" not in read_extensions(connection):
        raise CitusMissing(database, "citus_columnar")


def store_statement(partition: str, to: str) -> str:
    """Return the statement that copies a partition into another way of storing; readers and writers wait."""
    return f"SELECT alter_table_set_access_method({literal(identifier(partition))}, {literal(to)})"


def read_size(connection: Connection, partition: str) -> int:
    """Return the bytes of a partition on all nodes, with its indexes."""
    return connection.scalar(_SIZE, {"name": identifier(partition)}) or 0
