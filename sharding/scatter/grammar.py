"""What a scattered SELECT may hold, and the check of it, element by element.

Every expression is evaluated by the servers, each on its own rows. That is right as long as it sees nothing
but its own row, rows of the same shard key, and tables of which every shard holds a copy. What is not known
to be right is refused.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BinaryExpression, BindParameter, Column, ColumnClause, FromClause, ScalarSelect, Select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import Grouping, UnaryExpression
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import custom_op
from sqlalchemy.sql.selectable import Join

from sharding.errors import ScatterRefused
from sharding.private_api import (
    correlation,
    group_by_clauses,
    having_criteria,
    order_by_clauses,
    raw_columns,
    refused_clauses,
    where_criteria,
)
from sharding.scatter.tables import (
    Clause,
    Source,
    Sources,
    are_linked,
    check_linked,
    collect,
    conjuncts,
    is_key_of,
    is_star,
    is_table,
    key_links,
    names,
)


def _names_in(text: str) -> frozenset[str]:
    return frozenset(text.split())


ELEMENTS = _names_in(
    """
    binary bindparam case cast clauselist collation expression_clauselist extract false function
    funcfilter grouping is_false_unary_operator is_true_unary_operator label label_reference
    null true tuple type_coerce typeclause unary
    """
)
"""SQLAlchemy's names of its elements; columns and subqueries are judged one by one."""

REASONS = {
    "over": "a window function sees all rows, and each shard has only its own",
    "withingroup": "an ordered-set aggregate (percentile, mode) needs all values in one place",
    "aggregateorderby": "an aggregate with ORDER BY needs all values in one place",
    "aggregate_order_by": "an aggregate with ORDER BY needs all values in one place",
    "textclause": "text() cannot be read: write it with SQLAlchemy's functions and operators",
    "textual_select": "text() cannot be read: write it with SQLAlchemy's functions and operators",
    "compound_select": "a UNION, INTERSECT or EXCEPT is several queries: scatter each of them",
    "cte": "a common table expression (WITH) is not looked into",
    "lateral": "LATERAL is not looked into",
    "subquery": "a subquery in FROM is not looked into: write it as a join or as EXISTS",
    "sequence": "a sequence belongs to one shard",
}
"""Why these are not among ELEMENTS."""

FUNCTIONS = _names_in(
    """
    abs btrim cardinality ceil ceiling char_length character_length coalesce concat concat_ws
    date_part date_trunc div exp floor greatest hashint8 initcap jsonb_array_length
    jsonb_extract_path jsonb_extract_path_text jsonb_typeof least left length ln log lower lpad
    ltrim md5 mod nullif octet_length position power regexp_replace repeat replace reverse right
    round rpad rtrim sign split_part sqrt starts_with strpos substr substring translate trim
    trunc upper width_bucket
    """
)
"""Functions whose value depends on their arguments alone."""

VOLATILE = _names_in(
    """
    clock_timestamp current_date current_time current_timestamp gen_random_uuid localtime
    localtimestamp nextval now random random_normal statement_timestamp sysdate timeofday
    transaction_timestamp uuidv4 uuidv7
    """
)
"""Functions whose value differs from shard to shard, or from page to page."""

MERGED_AGGREGATES = frozenset({"count", "sum", "min", "max", "avg", "bool_and", "bool_or", "every"})
"""Aggregates whose values over the shards make the value over all."""

LOCAL_AGGREGATES = MERGED_AGGREGATES | frozenset(
    ["bit_and", "bit_or", "stddev", "stddev_pop", "stddev_samp", "var_pop", "var_samp", "variance"]
)
"""Aggregates that are right where every row that they see is on one shard."""

OPERATORS = frozenset(
    {
        operators.add,
        operators.and_,
        operators.any_op,
        operators.all_op,
        operators.asc_op,
        operators.between_op,
        operators.collate,
        operators.concat_op,
        operators.contains_op,
        operators.desc_op,
        operators.distinct_op,
        operators.endswith_op,
        operators.eq,
        operators.exists,
        operators.floordiv,
        operators.ge,
        operators.getitem,
        operators.gt,
        operators.icontains_op,
        operators.iendswith_op,
        operators.ilike_op,
        operators.in_op,
        operators.inv,
        operators.is_,
        operators.is_distinct_from,
        operators.is_false,
        operators.is_not,
        operators.is_not_distinct_from,
        operators.is_true,
        operators.istartswith_op,
        operators.json_getitem_op,
        operators.json_path_getitem_op,
        operators.le,
        operators.like_op,
        operators.lt,
        operators.mod,
        operators.mul,
        operators.ne,
        operators.neg,
        operators.not_between_op,
        operators.not_contains_op,
        operators.not_endswith_op,
        operators.not_ilike_op,
        operators.not_in_op,
        operators.not_like_op,
        operators.not_regexp_match_op,
        operators.not_startswith_op,
        operators.nulls_first_op,
        operators.nulls_last_op,
        operators.or_,
        operators.regexp_match_op,
        operators.startswith_op,
        operators.sub,
        operators.truediv,
    }
)

OWN_OPERATORS = frozenset({"@>", "<@", "&&", "?", "?|", "?&", "->", "->>", "#>", "#>>", "||"})
"""PostgreSQL's operators on arrays, ranges and JSON, which SQLAlchemy knows by their text."""


@dataclass(frozen=True)
class Scope:
    """The tables that an expression may name, and how far its rows reach."""

    key: str | None
    froms: tuple[FromClause, ...]
    sources: Sources
    outer: "Scope | None" = None
    is_local: bool = False
    """Whether all rows that an aggregate sees here are on one shard."""

    def chain(self) -> "Iterator[Scope]":
        """Yield this scope and those around it."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.outer


def open_scope(statement: Any, *, key: str | None) -> Scope:
    """Read the FROM clause of the SELECT as a whole.

    Raises:
        ScatterRefused: it cannot be scattered.
    """
    check_select(statement)
    froms = _froms_of(statement)
    if not froms:
        raise ScatterRefused("it has no FROM, so it needs no shard")
    sources = collect(froms, key=key)
    where = list(conjuncts(where_criteria(statement)))
    check_linked(sources.sharded, [*sources.links, *key_links(where, sources.all, sources.all)])
    return Scope(key, tuple(froms), sources)


def check_select(statement: Any) -> None:
    """Refuse clauses that each shard would apply to its own rows only."""
    if not isinstance(statement, Select):
        name = getattr(statement, "__visit_name__", "")
        raise ScatterRefused(REASONS.get(name, f"it is a {type(statement).__name__}, not a select()"))
    for what in refused_clauses(statement):
        raise ScatterRefused(f"it has {what}")


def check(clause: Clause, scope: Scope) -> None:
    """Check an expression, with everything in it.

    Raises:
        ScatterRefused: it names what is not known to be right.
    """
    match clause:
        case ColumnClause():
            _check_column(clause, scope)
        case BindParameter():
            return
        case BinaryExpression(left=left, operator=operator, right=right) if _is_select(right):
            _check_operator(operator)
            check(left, scope)
            in_which = left if operator in {operators.in_op, operators.not_in_op} else None
            check_subquery(_select_in(right), scope, in_which)
        case ScalarSelect() | Select():
            check_subquery(_select_in(clause), scope, None)
        case FunctionElement():
            _check_function(clause, scope)
        case _:
            _check_element(clause)
            for child in clause.get_children():
                check(child, scope)


def _check_element(clause: Clause) -> None:
    name = clause.__visit_name__
    if name not in ELEMENTS:
        raise ScatterRefused(REASONS.get(name, f"{name} ({clause}) is not known to be right on shards"))
    for operator in (getattr(clause, "operator", None), getattr(clause, "modifier", None)):
        if operator is not None:
            _check_operator(operator)


def _check_operator(operator: Any) -> None:
    if isinstance(operator, custom_op):
        is_known = operator.opstring in OWN_OPERATORS
    else:
        is_known = operator in OPERATORS or operator is operators.comma_op
    if not is_known:
        name = getattr(operator, "opstring", None) or getattr(operator, "__name__", operator)
        raise ScatterRefused(f"the operator {name} is not known to be right on shards")


def _check_column(column: ColumnClause[Any], scope: Scope) -> None:
    if not isinstance(column, Column):
        raise ScatterRefused(f"{column.name!r} is text or belongs to no table: use a table's column")
    if not any(column.table == source.selectable for each in scope.chain() for source in each.sources.all):
        raise ScatterRefused(f"{column} belongs to no table of FROM")


def _check_function(function: FunctionElement[Any], scope: Scope) -> None:
    name = function.name.lower()
    aggregates = LOCAL_AGGREGATES if scope.is_local else MERGED_AGGREGATES
    if getattr(function, "packagenames", ()) or name not in FUNCTIONS | aggregates:
        raise ScatterRefused(_why_not(name))
    arguments = list(function.clauses)
    if name == "count" and len(arguments) == 1 and is_star(arguments[0]):
        return
    for argument in arguments:
        if _is_distinct(argument) and not scope.is_local and name not in {"min", "max"}:
            raise ScatterRefused(
                f"{name}(DISTINCT ...) counts a value once for each shard that has it: "
                "select the values with .distinct() and count the rows"
            )
        check(argument, scope)
    if scope.outer is not None and name in aggregates:
        _check_level(function, scope)


def _check_level(aggregate: FunctionElement[Any], scope: Scope) -> None:
    """Refuse an aggregate of outer columns alone: by SQL's rule it is one of the query around it."""
    columns = [each for each in visitors.iterate(aggregate) if isinstance(each, Column)]
    if columns and not any(
        column.table == source.selectable for column in columns for source in scope.sources.all
    ):
        raise ScatterRefused(
            f"{aggregate} stands in a subquery and is over columns outside of it alone, so it would be an "
            "aggregate of the query around it"
        )


def _why_not(name: str) -> str:
    if name in VOLATILE:
        return f"{name}() gives another value on every shard and page: compute it once and pass it along"
    if name in LOCAL_AGGREGATES:
        return f"{name}() over all cannot be made from each shard's {name}(): group by the shard key as well"
    return f"the function {name}() is not known to be right on shards"


def _is_distinct(clause: Clause) -> bool:
    return isinstance(clause, UnaryExpression) and clause.operator is operators.distinct_op


def check_subquery(select: Any, outer: Scope, in_which: Clause | None) -> None:
    """Check a subquery in an expression: all rows that it sees must be on the shard of the row outside.

    Parameters:
        select: the subquery.
        outer: where it stands.
        in_which: the left side of IN or NOT IN.
    """
    check_select(select)
    froms = tuple(_own_froms(select, outer))
    sources = collect(froms, key=outer.key)
    scope = Scope(outer.key, froms, sources, outer, is_local=True)
    if sources.sharded:
        _check_correlated(select, scope, in_which)
    clauses = [*raw_columns(select), *where_criteria(select), *having_criteria(select)]
    for clause in [*clauses, *group_by_clauses(select), *order_by_clauses(select)]:
        if not (is_table(clause) or is_star(clause)):
            check(clause, scope)
        elif in_which is not None:
            raise ScatterRefused("IN (subquery) selects a whole table: select one column")
    for onclause in onclauses(scope.froms):
        check(onclause, scope)


def _check_correlated(select: Any, scope: Scope, in_which: Clause | None) -> None:
    own = scope.sources.sharded
    around = [source for each in scope.chain() if each is not scope for source in each.sources.sharded]
    where = list(conjuncts(where_criteria(select)))
    links = [*scope.sources.links, *key_links(where, scope.sources.all, scope.sources.all)]
    check_linked(own, links)
    to_outer = key_links(where, own, around) or _membership(select, own, around, in_which)
    if not to_outer or not are_linked(own, links):
        raise ScatterRefused(
            f"the subquery over {names(own)} is not bound to the row outside by the shard key, so it needs "
            f"rows of other shards: add .where({own[0].table.name}.{own[0].key} == the shard key outside)"
        )


def _membership(select: Any, own: list[Source], around: list[Source], in_which: Clause | None) -> list[Any]:
    """Find `outer.key IN (SELECT own.key ...)`: an equality of shard keys, written as membership."""
    if in_which is None or len(raw_columns(select)) != 1 or any(source.is_nullable for source in own):
        return []
    # After GROUP BY or HAVING the rows that make the answer need not be those of the outer row's key.
    if group_by_clauses(select) or having_criteria(select):
        return []
    selected = raw_columns(select)[0]
    # NULL IN (nothing) is false and NULL IN (something) is NULL, and a shard may have nothing.
    certain = [source for source in around if not source.is_nullable]
    return [(a, b) for a in own for b in certain if is_key_of(selected, a) and is_key_of(in_which, b)]


def _is_select(clause: Clause) -> bool:
    while isinstance(clause, Grouping):
        clause = clause.element
    return isinstance(clause, (ScalarSelect, Select)) or getattr(clause, "__visit_name__", "") in {
        "compound_select",
        "select_statement_grouping",
    }


def _select_in(clause: Clause) -> Any:
    while (
        isinstance(clause, (Grouping, ScalarSelect)) or clause.__visit_name__ == "select_statement_grouping"
    ):
        clause = clause.element
    return clause


def _froms_of(statement: Any) -> list[FromClause]:
    try:
        return list(statement.get_final_froms())
    except SQLAlchemyError as error:
        raise ScatterRefused(f"its FROM cannot be read: {error}") from error


def _own_froms(select: Any, outer: Scope) -> list[FromClause]:
    """Leave out what a subquery takes from the query around it, by the rules of SQLAlchemy's correlation."""
    froms = _froms_of(select)
    all_around = _flat(from_ for scope in outer.chain() for from_ in scope.froms)
    correlated = correlation(select)
    if correlated.only:
        froms = [each for each in froms if not (each in all_around and each in set(correlated.only))]
    if correlated.all_but is not None:
        kept = set(correlated.all_but)
        froms = [each for each in froms if not (each in all_around and each not in kept)]
    if correlated.is_automatic and len(froms) > 1:
        around = _flat(outer.froms)
        froms = [each for each in froms if each not in around]
    return froms


def _flat(froms: Iterable[FromClause]) -> set[FromClause]:
    found: set[FromClause] = set()
    for each in froms:
        found.add(each)
        if isinstance(each, Join):
            found |= _flat([each.left, each.right])
    return found


def onclauses(froms: Iterable[FromClause]) -> Iterator[Clause]:
    """Yield the conditions of all joins in a FROM clause."""
    for each in froms:
        if isinstance(each, Join):
            yield each.onclause
            yield from onclauses([each.left, each.right])
