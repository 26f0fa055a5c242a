"""What a policy is declared with: models, columns and indexes of SQLAlchemy, as names and SQL."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import BigInteger, Column, Date, DateTime, FromClause, Index, Integer, MetaData, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, QueryableAttribute
from sqlalchemy.schema import CreateIndex
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.visitors import replacement_traverse
from sqlalchemy.types import TypeEngine

from partitions.policy_errors import ColumnNotDeclared
from partitions.range_key import KeyType
from partitions.sql import RelationName, canonical

TableLike = type[DeclarativeBase] | type[Any] | FromClause | str
"""A mapped class, a table, or a name: `payments`, `pay.payments`; one with a dot in it stands in quotes."""

ColumnLike = QueryableAttribute[Any] | Column[Any] | str
"""An attribute of a mapped class, a column, or the name of a column."""

# With this style of parameters % is a sign like any other.
_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call] # SQLAlchemy left it untyped


def table_of(given: TableLike) -> Table | None:
    """Return the table of a mapped class, or a table itself; None for a name."""
    found = given if isinstance(given, FromClause | str) else getattr(given, "__table__", None)
    if isinstance(found, Table):
        return found
    if isinstance(found, str):
        return None
    raise TypeError(f"{given!r} is no mapped class, no table, and no name of one")


def table_name(given: TableLike) -> str:
    """Return a table's name, with its schema where it has one."""
    found = table_of(given)
    return canonical(str(given)) if found is None else RelationName(found.name, found.schema).text


def column_name(given: ColumnLike) -> str:
    """Return the name that a column has in the database."""
    if isinstance(given, str):
        return given
    column = column_of(given)
    assert column is not None, "only a name has no column"
    return str(column.name)


def column_of(given: ColumnLike, table: Table | None = None) -> Column[Any] | None:
    """Return a column, looked up in a table by its name; None where that is not known."""
    if isinstance(given, Column):
        return given
    if isinstance(given, str):
        return None if table is None else table.columns.get(given)
    found = given.property.columns[0]
    assert isinstance(found, Column), "an attribute of a column"
    return found


def column_names(given: ColumnLike | Iterable[ColumnLike], table: TableLike, *, use: str) -> tuple[str, ...]:
    """Return the names of one column or several.

    Raises:
        ColumnNotDeclared: the table is known, and has no such column.
    """
    single = isinstance(given, str | Column | QueryableAttribute)
    names = tuple(map(column_name, [given] if single else given))
    for name in names:
        require_column(table, name, use=use)
    return names


def require_column(table: TableLike, name: str, *, use: str) -> None:
    """Look for a column in a table that is known.

    Raises:
        ColumnNotDeclared: it has no such column.
    """
    known = table_of(table)
    if known is not None and name not in {column.name for column in known.columns}:
        raise ColumnNotDeclared(table_name(table), name, use=use)


def key_type_of(given: TypeEngine[Any] | type[TypeEngine[Any]]) -> KeyType | None:
    """Return what a RANGE key of a type of SQLAlchemy is; None when no months can be made of it."""
    kind = given() if isinstance(given, type) else given
    match kind:
        case DateTime():
            return KeyType.TIMESTAMPTZ if kind.timezone else KeyType.TIMESTAMP
        case Date():
            return KeyType.DATE
        case BigInteger() | Integer():
            return KeyType.INTEGER
    return None


def bind_index(index: Index, table: Table) -> Index:
    """Return an index as it is on another table: the columns there take the place of those of its own."""

    def there(element: Any, **_options: Any) -> Any:
        is_other = isinstance(element, Column) and element.table is not table
        return table.columns.get(element.name) if is_other else None

    def moved(value: Any) -> Any:
        return replacement_traverse(value, {}, there) if isinstance(value, ClauseElement) else value

    options = {name: moved(value) for name, value in index.kwargs.items()}
    expressions = [moved(expression) for expression in index.expressions]
    return Index(index.name, *expressions, unique=bool(index.unique), **options)


def index_of_partition(index: Index, parent: Table | None, partition: str) -> Index:
    """Return an index as it is on a partition of that name, which no metadata but its own has.

    Parameters:
        index: of columns of the partitioned table, or of their names.
        parent: the partitioned table; None where it is known by its name only.
        partition: the partition's name.

    Raises:
        TypeError: its columns are names, and the table is one too.
    """
    home = index.table if index.table is not None else parent
    if home is None:
        raise TypeError(f"index {index.name}: name its table by the model, or declare it as DeclaredIndex")
    columns = [Column(column.name, column.type) for column in home.columns]
    there = RelationName.of(partition)
    if index.table is None:  # its columns are names, which are looked up when it gets its table
        Table(there.name, MetaData(), *columns, index, schema=there.schema)
        return index
    # SQLAlchemy has given an index of the model's columns to the model's table.
    index.table.indexes.discard(index)
    return bind_index(index, Table(there.name, MetaData(), *columns, schema=there.schema))


def definition_of(index: Index) -> str:
    """Return what stands behind the table's name in CREATE INDEX."""
    statement = str(CreateIndex(index).compile(dialect=_DIALECT))
    assert index.table is not None, "it is bound to a partition"
    preparer = _DIALECT.identifier_preparer
    kind = "UNIQUE INDEX" if index.unique else "INDEX"
    head = f"CREATE {kind} {preparer.quote(str(index.name))} ON {preparer.format_table(index.table)} "
    return statement.removeprefix(head)
