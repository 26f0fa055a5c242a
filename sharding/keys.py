"""How a table is spread over the shards: declared with the table, in `Table.info`.

class Order(Base):
    __table__ = Table("orders", Base.metadata, ..., info=shard_key("order_id"))

or `__table_args__ = ({"info": shard_key("order_id")},)`. A table of which every shard has a whole copy says
`info=reference_table()`: it may be joined with any other, on whatever shard. A table that says neither is
nobody's to route (its rows belong to no key), and is not checked.
"""

from collections.abc import Iterable

from sqlalchemy import MetaData, Table

from sharding.guard import GuardedTable

_INFO = "shard_key"
_REFERENCE = "reference"


def shard_key(column: str) -> dict[str, str]:
    """Make the entry of `Table.info` that declares a table's shard key."""
    return {_INFO: column}


def shard_key_of(table: object) -> str | None:
    """Name the shard key of a table; None when it has none, or is no table."""
    key: str | None = getattr(table, "info", {}).get(_INFO)
    return key


def reference_table() -> dict[str, bool]:
    """Make the entry of `Table.info` that declares a table of which every shard has a whole copy."""
    return {_REFERENCE: True}


def is_reference(table: object) -> bool:
    """Tell whether every shard has a whole copy of a table."""
    return bool(getattr(table, "info", {}).get(_REFERENCE))


def reference_tables(metadata: MetaData) -> list[Table]:
    """List the tables of which every shard has a whole copy, in the order of their declaration."""
    return [table for table in metadata.tables.values() if is_reference(table)]


def guarded_tables(metadata: MetaData, *, apart: Iterable[str] = ()) -> list[GuardedTable]:
    """List the tables that have a shard key, in the order of their declaration.

    Parameters:
        metadata: the tables of a tree.
        apart: names to leave out: partitions, whose parent stands for them.
    """
    left_out = set(apart)
    found = ((table.name, shard_key_of(table)) for table in metadata.tables.values())
    return [GuardedTable(name, key) for name, key in found if key and name not in left_out]
