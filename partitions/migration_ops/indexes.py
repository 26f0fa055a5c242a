"""Indexes as autogenerate finds them, turned into the operations of this package."""

from collections.abc import Mapping
from typing import Any

from alembic.operations import MigrateOperation
from alembic.operations.ops import CreateIndexOp, DropIndexOp
from sqlalchemy import Connection, Index, Table, TextClause, text
from sqlalchemy.dialects import postgresql

from partitions.deparse import predicate_sql, same_predicates
from partitions.migration_ops.operations import (
    CreateIndexOnPartitions,
    CreatePartialIndex,
    DropIndexOnPartitions,
    DropPartialIndex,
    ReplacePartialIndex,
)
from partitions.migration_ops.standing import Standing
from partitions.sql import literal, regclass
from partitions.steps import block

# With this style of parameters % is a sign like any other.
_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]

_SAME = "mes_storage.same_predicate"


def predicate_of(index: Index, *, reflected: bool = False) -> str:
    """Render an index's predicate; an empty text when it has none.

    Parameters:
        index: the index.
        reflected: SQLAlchemy read it in the database: a colon in its text is no parameter.
    """
    where = index.dialect_options["postgresql"].get("where")
    return "" if where is None else _render(where, reflected=reflected).strip()


def columns_of(index: Index, *, reflected: bool = False) -> list[str]:
    """Render an index's columns and expressions, with their order."""
    return [_render(expression, reflected=reflected) for expression in index.expressions]


def _render(clause: Any, *, reflected: bool) -> str:
    if isinstance(clause, str):
        return clause
    if reflected and isinstance(clause, TextClause):
        return clause.text
    options = {"literal_binds": True, "include_table": False}
    return str(clause.compile(dialect=_DIALECT, compile_kwargs=options))


def changed_predicates(
    connection: Connection, table: Table, changed: frozenset[str | None]
) -> list[ReplacePartialIndex]:
    """Compare the predicates of a table's indexes, which alembic does not.

    Parameters:
        connection: to the database that has the table.
        table: as it is declared.
        changed: the indexes which alembic found to differ otherwise: it makes those anew.
    """
    standing = _read_predicates(connection, table)
    declared = {str(index.name): predicate_of(index) for index in table.indexes if index.name not in changed}
    return [
        ReplacePartialIndex(
            name,
            table=table.name,
            where=where or None,
            concurrently=True,
            was=_legible(connection, table, *standing[name]) or None,
            schema=table.schema,
        )
        for name, where in sorted(declared.items())
        if name in standing
        and where not in standing[name]
        and not _same(connection, table, where, standing[name][0])
    ]


def _read_predicates(connection: Connection, table: Table) -> Mapping[str, tuple[str, str]]:
    """Read the predicates of a table's indexes, as PostgreSQL prints them: whole, and for a reader."""
    query = text(f"""
        SELECT relname, {predicate_sql("pg_index")} AS whole,
               coalesce(pg_get_expr(indpred, indrelid, true), '') AS pretty
        FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indrelid = {regclass(table.name, table.schema).replace(":", chr(92) + ":")}
    """)
    return {row.relname: (row.whole, row.pretty) for row in connection.execute(query)}


def _legible(connection: Connection, table: Table, whole: str, pretty: str) -> str:
    """Choose what a revision says: printed for a reader, a predicate may lack parentheses that matter."""
    return pretty if _same(connection, table, pretty, whole) else whole


def _same(connection: Connection, table: Table, one: str, standing: str) -> bool:
    """Tell whether PostgreSQL reads two predicates as the same; `one` may need what is yet to be added."""
    if not one or not standing:
        return one == standing
    candidates = f"SELECT {literal(standing)}"
    find = same_predicates(table.name, table.schema, one, candidates, setting=_SAME, may_lack=True)
    connection.exec_driver_sql(block(find), execution_options={"no_parameters": True})
    query = f"SELECT current_setting('{_SAME}')::text[]"
    return standing in connection.exec_driver_sql(query).scalar_one()


def online(operation: CreateIndexOp | DropIndexOp, standing: Standing) -> MigrateOperation:
    """Give the operation that does the same without stopping writers; others stay as alembic made them."""
    creates = isinstance(operation, CreateIndexOp)
    index = operation.to_index()
    table, where = operation.table_name or "", predicate_of(index, reflected=not creates)
    if not _is_simple(operation):
        return operation
    known: dict[str, Any] = {
        "table": table,
        "columns": columns_of(index, reflected=not creates),
        "unique": bool(index.unique),
    }
    if table in standing.keys:
        on_all = CreateIndexOnPartitions if creates else DropIndexOnPartitions
        return on_all(str(index.name), where=where or None, **known)
    if where:
        partial = CreatePartialIndex if creates else DropPartialIndex
        return partial(str(index.name), where=where, concurrently=table in standing.tables, **known)
    return operation


def _is_simple(operation: CreateIndexOp | DropIndexOp) -> bool:
    """Tell whether the operations here can say all that the index is."""
    others = (value for name, value in operation.kw.items() if name not in {"postgresql_where", "unique"})
    return operation.schema is None and not any(others)
