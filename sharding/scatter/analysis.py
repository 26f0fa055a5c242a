"""What a SELECT is, read once for each shape: its tables, unique key and fingerprint, and its shards.

Reading a SELECT costs a few milliseconds, most of it in SQLAlchemy's compiler, so what was found is kept by
SQLAlchemy's cache key, which is the same for statements that differ in parameters only. A statement with
aliases is read each time: its aliases are objects of its own.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from sqlalchemy import BinaryExpression, BindParameter, Column, Date, DateTime, Integer, Table, Time
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import ClauseList, Grouping

from sharding.errors import ScatterRefused
from sharding.private_api import (
    annotations_of,
    cache_key_of,
    group_by_clauses,
    having_criteria,
    order_by_clauses,
    raw_columns,
    where_criteria,
    with_where,
)
from sharding.scatter.grammar import Scope, check, onclauses, open_scope
from sharding.scatter.kinds import DIALECT
from sharding.scatter.order import resolve, split_order
from sharding.scatter.pages import fingerprint_of
from sharding.scatter.tables import Clause, Source, conjuncts, is_key_of, is_table

_KEPT = 512
_TIMES = (Date, DateTime, Time)
_CLOCK = r"\s*([\d:.]*|allballs|zulu|utc|z)\s*"
_MOVING = re.compile(rf"{_CLOCK}\b(now|today|tomorrow|yesterday)\b{_CLOCK}", re.IGNORECASE)


@dataclass(frozen=True)
class Analysis:
    """A SELECT that may be scattered, whatever its parameters are."""

    scope: Scope
    unique: tuple[Clause, ...]
    """Columns that together identify a row of the FROM clause, on all shards."""
    named: frozenset[Table]
    """Every table that it names, in subqueries too."""
    sql: str
    has_local_groups: bool
    """Whether each group of its GROUP BY is on one shard: it has a shard key in it that is never NULL."""
    kept: list[Any] = field(default_factory=list)
    """The plan, where it is the same for every statement of this shape."""

    @cached_property
    def tables(self) -> frozenset[str]:
        """The names of its tables, as they stand in SQL."""
        format_table = DIALECT.identifier_preparer.format_table
        return frozenset(format_table(table) for table in self.named)

    def may_be_null(self, clause: Clause) -> bool:
        """Return whether an expression may be NULL; True if that is not known."""
        source = self.source_of(clause)
        return source is None or source.is_nullable or clause.nullable

    def source_of(self, clause: Clause) -> Source | None:
        """Find the table that a column belongs to."""
        if not isinstance(clause, Column):
            return None
        return next((each for each in self.scope.sources.all if each.selectable == clause.table), None)


_analyses: OrderedDict[Hashable, Analysis] = OrderedDict()


def analyse(statement: Any, *, key: str | None) -> Analysis:
    """Read a SELECT.

    Parameters:
        statement: what the caller wants of all shards.
        key: the name of the shard key's column, for tables that declare none.

    Raises:
        ScatterRefused: it cannot be answered exactly, and why.
    """
    cache_key = cache_key_of(statement)
    if cache_key is None:
        return _read(statement, key)
    known = (key, cache_key.key)
    if (found := _analyses.get(known)) is None:
        found = _read(statement, key)
        if all(isinstance(source.selectable, Table) for source in found.scope.sources.all):
            _analyses[known] = found
            if len(_analyses) > _KEPT:
                _analyses.popitem(last=False)
    else:
        _analyses.move_to_end(known)
    return found


def fingerprint(statement: Any, analysis: Analysis) -> bytes:
    """Hash a query, its order and its parameters; the same in every process."""
    cache_key = cache_key_of(statement)
    if cache_key is not None:
        parameters = [parameter.effective_value for parameter in cache_key.bindparams]
    else:
        elements: Iterable[Any] = visitors.iterate(statement)
        parameters = [each.effective_value for each in elements if each.__visit_name__ == "bindparam"]
    return fingerprint_of(analysis.sql, *(repr(value) for value in parameters))


def check_parameters(statement: Any) -> None:
    """Refuse a parameter without a value, for `scatter` takes none apart, and one that each shard reads anew.

    Raises:
        ScatterRefused: it names the parameter.
    """
    cache_key = cache_key_of(statement)
    for parameter in cache_key.bindparams if cache_key else ():
        if parameter.required:
            raise ScatterRefused(f"the parameter {parameter.key} has no value: put the value into the SELECT")
        value = parameter.effective_value
        for each in value if isinstance(value, list | tuple) else [value]:
            _check_moving(each, parameter.type)


def _check_moving(value: Any, type_: Any) -> None:
    # 'now', 'today' and 'yesterday 10:00' are values of these types, to each server at another instant.
    if isinstance(value, str) and (isinstance(type_, _TIMES) or _MOVING.fullmatch(value)):
        raise ScatterRefused(
            f"{value!r} is text for a value of time, which may be another on every shard ('now'): give a "
            "date, time or datetime"
        )


def _read(statement: Any, key: str | None) -> Analysis:
    scope = open_scope(statement, key=key)
    mappers = _mappers(statement)
    for mapper in mappers.values():
        _check_mapper(mapper)
    groups = [resolve(each, namer(statement)) for each in group_by_clauses(statement)]
    for each, group in zip(group_by_clauses(statement), groups, strict=True):
        _check_group_name(each, group, scope)
    has_local_groups = any(
        is_key_of(group, source) and not source.is_nullable
        for group in groups
        for source in scope.sources.all
    )
    scope = replace(scope, is_local=has_local_groups)
    _check_clauses(statement, scope)
    unique = tuple(
        column for source in scope.sources.all for column in _unique_of(source, mappers.get(source.table))
    )
    named = {getattr(each.table, "element", each.table) for each in _columns_in(statement)}
    tables = frozenset(each for each in named if isinstance(each, Table))
    return Analysis(scope, unique, tables, str(statement.compile(dialect=DIALECT)), has_local_groups)


def _columns_in(statement: Any) -> Iterable[Column[Any]]:
    return (each for each in visitors.iterate(statement) if isinstance(each, Column))


def _check_clauses(statement: Any, scope: Scope) -> None:
    named = namer(statement)
    if any(each.__visit_name__ == "clauselist" for each in raw_columns(statement)):
        raise ScatterRefused("it selects a list of columns (a Bundle): select the columns")
    ordered = [resolve(each, named) for each in (*order_by_clauses(statement), *group_by_clauses(statement))]
    for clause in ordered:
        _check_no_position(split_order(clause)[0])
    for clause in (
        *raw_columns(statement),
        *where_criteria(statement),
        *having_criteria(statement),
        *ordered,
    ):
        # A FROM element among the columns is an entity or a table: all of its columns.
        if not is_table(clause):
            check(clause, scope)
        elif not any(clause == source.selectable for source in scope.sources.all):
            raise ScatterRefused(f"it selects {clause}, which is no table of FROM")
    for clause in ordered:
        if isinstance(split_order(clause)[0], ClauseList):
            raise ScatterRefused(f"it is ordered or grouped by {clause}, a composite: name its columns")
    for onclause in onclauses(scope.froms):
        check(onclause, scope)


def _check_group_name(clause: Clause, group: Clause, scope: Scope) -> None:
    """Refuse a name of a label that is a column too: PostgreSQL would group by the column."""
    if clause.__visit_name__ != "textual_label_reference":
        return
    for source in scope.sources.all:
        for column in source.selectable.columns:
            if column.name == clause.element and not group.compare(column):
                raise ScatterRefused(
                    f"GROUP BY {clause.element!r} is a label and a column of {source.table.name}, by which "
                    "the server would group: group by the expression, or name the label otherwise"
                )


def _check_no_position(clause: Clause) -> None:
    while isinstance(clause, Grouping):
        clause = clause.element
    if isinstance(clause, BindParameter) and clause.literal_execute:
        raise ScatterRefused(
            f"it is ordered or grouped by {clause.effective_value!r}, which is written into the SQL, where a "
            "number is the position of a column: name the column"
        )


def namer(statement: Any) -> Callable[[str], Clause | None]:
    """Return a function that finds a selected column by its name in SQL; an attribute's may be another."""
    columns = [each for raw in raw_columns(statement) for each in (raw.columns if is_table(raw) else [raw])]

    def find(name: str) -> Clause | None:
        found = [each for each in columns if getattr(each, "name", None) == name]
        if not found:
            return None
        if not all(each.key == name and each.compare(found[0]) for each in found):
            raise ScatterRefused(
                f"{name!r} names several selected columns, or one by another name: use the column"
            )
        return found[0]

    return find


def selected(statement: Any) -> list[Clause]:
    """Return what a row holds: an entity is one element, a table's columns are many."""
    found: list[Clause] = []
    for each in raw_columns(statement):
        is_entity = "parententity" in annotations_of(each)
        found += each.columns if is_table(each) and not is_entity else [each]
    return found


def _mappers(statement: Any) -> dict[Table, Mapper[Any]]:
    """Find which tables are asked for through mapped classes."""
    found = (annotations_of(each).get("parentmapper") for each in visitors.iterate(statement))
    return {mapper.local_table: mapper for mapper in found if mapper is not None}


def _check_mapper(mapper: Mapper[Any]) -> None:
    name = mapper.class_.__name__
    if mapper.inherits is not None or mapper.polymorphic_on is not None:
        raise ScatterRefused(f"{name} is mapped with inheritance, which adds joins: select from its table")
    for relation in mapper.relationships:
        if relation.lazy in {"joined", "subquery", "selectin", "immediate", False}:
            raise ScatterRefused(
                f"{name}.{relation.key} is loaded eagerly, which adds joins or queries: declare it "
                "lazy='raise', or select columns"
            )
    for attribute in mapper.column_attrs:
        if not isinstance(attribute.expression, Column):
            raise ScatterRefused(f"{name}.{attribute.key} is an SQL expression: select columns instead")


def _unique_of(source: Source, mapper: Mapper[Any] | None) -> list[Clause]:
    """Return a table's primary key, or its mapper's if it has one; with the shard key if it lacks it."""
    primary = list(mapper.primary_key if mapper is not None else source.table.primary_key)
    if not primary:
        raise ScatterRefused(
            f"table {source.table.name} has no primary key, so its pages would not be stable"
        )
    names = [column.name for column in primary]
    # Unique on each shard is not unique on all, unless the shard key is a part of it.
    if source.key is not None and source.key not in names:
        names.insert(0, source.key)
    columns = {column.name: column for column in source.selectable.columns}
    return [columns[name] for name in names]


def split(
    statement: Any, scope: Scope, shards: Sequence[str], shard_of: Callable[[int], str] | None
) -> dict[str, Any]:
    """Make each shard's own SELECT, with the keys that it has; a shard that has none is left out.

    Parameters:
        statement: the SELECT.
        scope: its tables.
        shards: every shard.
        shard_of: returns the shard of a key; None asks all shards for all keys.

    Returns:
        The statement of each shard that is asked; of one at least, for even a count of nothing is 0.
    """
    if not scope.sources.sharded:
        return {shards[0]: statement}
    if shard_of is None:
        return dict.fromkeys(shards, statement)
    criteria = list(conjuncts(where_criteria(statement)))
    lists = {i: keys for i, each in enumerate(criteria) if (keys := _keys(each, scope)) is not None}
    if not lists:
        return dict.fromkeys(shards, statement)
    by_list = {i: _by_shard(keys, shard_of) for i, keys in lists.items()}
    concerned = [shard for shard in shards if all(shard in each for each in by_list.values())]
    return {
        shard: _with(statement, criteria, {i: each.get(shard, []) for i, each in by_list.items()})
        for shard in concerned or shards[:1]
    }


def _keys(clause: Clause, scope: Scope) -> list[Any] | None:
    """Return the keys that a condition names; None if it names none."""
    if not (isinstance(clause, BinaryExpression) and isinstance(clause.right, BindParameter)):
        return None
    if not any(is_key_of(clause.left, source) for source in scope.sources.sharded):
        return None
    # A type of the caller's own may send another value than the one that is given.
    if not isinstance(clause.right.type, Integer):
        return None
    if clause.operator is operators.eq:
        return [clause.right.effective_value]
    return list(clause.right.effective_value or ()) if clause.operator is operators.in_op else None


def _by_shard(keys: Iterable[Any], shard_of: Callable[[int], str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for key in keys:
        # NULL is in no list, so it is on no shard.
        if key is not None:
            found.setdefault(shard_of(key), []).append(key)
    return found


def _with(statement: Any, criteria: Sequence[Clause], own: dict[int, list[int]]) -> Any:
    """Put a shard's own keys in the place of all; a single key stays as it is."""
    return with_where(
        statement,
        [
            each.left.in_(own[i]) if i in own and each.operator is operators.in_op else each
            for i, each in enumerate(criteria)
        ],
    )
