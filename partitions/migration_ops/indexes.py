"""Indexes as autogenerate finds them, turned into the operations of this package. Pure."""

from typing import Any

from alembic.operations import MigrateOperation
from alembic.operations.ops import CreateIndexOp, DropIndexOp
from sqlalchemy import Index
from sqlalchemy.dialects import postgresql

from partitions.migration_ops.operations import (
    CreateIndexOnPartitions,
    CreatePartialIndex,
    DropIndexOnPartitions,
    DropPartialIndex,
    ReplacePartialIndex,
)
from partitions.migration_ops.standing import Standing

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def predicate_of(index: Index) -> str:
    """Give a partial index's predicate as PostgreSQL prints it, without its outer parentheses."""
    where = index.dialect_options["postgresql"].get("where")
    found = "" if where is None else _render(where).strip()
    return found[1:-1] if found.startswith("(") and found.endswith(")") else found


def columns_of(index: Index) -> list[str]:
    """Give an index's columns and expressions as SQL, with their order."""
    return [_render(expression) for expression in index.expressions]


def _render(clause: Any) -> str:
    if isinstance(clause, str):
        return clause
    options = {"literal_binds": True, "include_table": False}
    return str(clause.compile(dialect=_DIALECT, compile_kwargs=options)).replace("%%", "%")


def changed_predicate(found: Index, wanted: Index) -> ReplacePartialIndex | None:
    """Compare two indexes of one name; alembic compares their columns, and nothing of their predicates."""
    was, where = predicate_of(found), predicate_of(wanted)
    if was == where or columns_of(found) != columns_of(wanted) or wanted.table is None:
        return None
    return ReplacePartialIndex(
        str(wanted.name),
        table=wanted.table.name,
        columns=columns_of(wanted),
        where=where or None,
        unique=bool(wanted.unique),
        concurrently=True,
        was=was or None,
    )


def online(operation: CreateIndexOp | DropIndexOp, standing: Standing) -> MigrateOperation:
    """Give the operation that does the same without stopping writers; others stay as alembic made them."""
    index = operation.to_index()
    table, where = operation.table_name or "", predicate_of(index)
    if not _is_simple(operation):
        return operation
    creates = isinstance(operation, CreateIndexOp)
    known: dict[str, Any] = {"table": table, "columns": columns_of(index), "unique": bool(index.unique)}
    if table in standing.keys:
        on_all = CreateIndexOnPartitions if creates else DropIndexOnPartitions
        return on_all(str(index.name), where=where or None, **known)
    if where:
        partial = CreatePartialIndex if creates else DropPartialIndex
        return partial(str(index.name), where=where, concurrently=table in standing.tables, **known)
    return operation


def _is_simple(operation: CreateIndexOp | DropIndexOp) -> bool:
    """Tell whether the operations here can say all that the index is."""
    others = (value for name, value in operation.kw.items() if name != "postgresql_where")
    return operation.schema is None and not any(others)
