"""What `alembic check` compares beyond its own rules: partitions are data, partial indexes are schema."""

from collections.abc import Callable, MutableMapping
from typing import Any

from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import CreateIndexOp, DropIndexOp, ModifyTableOps
from alembic.runtime.plugins import Plugin
from alembic.util import PriorityDispatchResult
from sqlalchemy import Connection, Index, MetaData, Table, text

IncludeName = Callable[[str | None, Any, MutableMapping[Any, Any]], bool]
PLUGINS = ("alembic.autogenerate.*", "migrations.partial_indexes")


def ignore_undeclared_partitions(connection: Connection, metadata: MetaData) -> IncludeName:
    """Make alembic's `include_name`: it leaves out the partitions that the models do not declare.

    Months come and go by policy. `orders_hot` and `orders_done` are declared: they have indexes of their own.
    """
    found = connection.scalars(text("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"))
    undeclared = frozenset(found) - frozenset(metadata.tables)
    connection.commit()
    return lambda name, kind, _parents: not (kind == "table" and name in undeclared)


def predicate_of(index: Index) -> str:
    """Give a partial index's predicate as PostgreSQL prints it, without its outer parentheses."""
    where = index.dialect_options["postgresql"].get("where")
    found = "" if where is None else str(where).strip()
    return found[1:-1] if found.startswith("(") and found.endswith(")") else found


def compare_partial_indexes(
    _context: AutogenContext,
    modify_ops: ModifyTableOps,
    _schema: str | None,
    _name: str,
    conn_table: Table | None,
    metadata_table: Table | None,
) -> PriorityDispatchResult:
    """Find indexes whose predicate differs; alembic compares their columns only."""
    if conn_table is None or metadata_table is None:
        return PriorityDispatchResult.CONTINUE
    existing = {index.name: index for index in conn_table.indexes}
    for wanted in metadata_table.indexes:
        found = existing.get(wanted.name)
        if found is not None and predicate_of(found) != predicate_of(wanted):
            modify_ops.ops.extend([DropIndexOp.from_index(found), CreateIndexOp.from_index(wanted)])
    return PriorityDispatchResult.CONTINUE


# alembic keeps a registry of plugins for the process, and loads env.py anew for each command.
Plugin("migrations.partial_indexes").add_autogenerate_comparator(compare_partial_indexes, "table")
