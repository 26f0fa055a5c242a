"""How a table is spread over the shards: declared with the table, in `Table.info`.

class Order(Base):
    __table__ = Table("orders", Base.metadata, ..., info=shard_key("order_id"))

or `__table_args__ = ({"info": shard_key("order_id")},)`. A table of which every shard has a whole copy says
`info=reference_table()`: it may be joined with any other, on every shard. A table that declares neither is
not routed (its rows belong to no key), and not checked.
"""

from typing import NamedTuple

from sqlalchemy import MetaData, Table

from partitions.models import table_name

_INFO = "shard_key"
_REFERENCE = "reference"
_CHANGES = "changes_at"


class GuardedTable(NamedTuple):
    """A table whose rows are guarded, with its schema where it has one, and the column that places them."""

    table: str
    key: str


def shard_key(column: str) -> dict[str, str]:
    """Make the entry of `Table.info` that declares a table's shard key."""
    return {_INFO: column}


def shard_key_of(table: object) -> str | None:
    """Name the shard key of a table; None when it has none, or is no table."""
    key: str | None = getattr(table, "info", {}).get(_INFO)
    return key


def change_log(column: str) -> dict[str, str]:
    """Make the entry of `Table.info` that says that each row is a change, made at the time in a column.

    How many changes a bucket had lately is its load, by which shards can be evened out.
    """
    return {_CHANGES: column}


def change_log_of(table: object) -> str | None:
    """Name the column that says when a row, which is a change, was made; None if rows are no changes."""
    column: str | None = getattr(table, "info", {}).get(_CHANGES)
    return column


def reference_table() -> dict[str, bool]:
    """Make the entry of `Table.info` that declares a table of which every shard has a whole copy."""
    return {_REFERENCE: True}


def is_reference(table: object) -> bool:
    """Return whether every shard has a whole copy of a table."""
    return bool(getattr(table, "info", {}).get(_REFERENCE))


def reference_tables(metadata: MetaData) -> list[Table]:
    """List the tables of which every shard has a whole copy, in the order of their declaration."""
    return [table for table in metadata.tables.values() if is_reference(table)]


def is_partition(table: object) -> bool:
    """Return whether a table is declared as a partition of another, by `info={"partition_of": PARENT}`."""
    return "partition_of" in getattr(table, "info", {})


def guarded_tables(metadata: MetaData) -> list[GuardedTable]:
    """List the tables that have a shard key, in the order of their declaration.

    A partitioned table stands for its partitions.
    """
    whole = (table for table in metadata.tables.values() if not is_partition(table))
    found = ((table_name(table), shard_key_of(table)) for table in whole)
    return [GuardedTable(name, key) for name, key in found if key]
