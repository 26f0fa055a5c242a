"""What of SQLAlchemy `scatter` reads and SQLAlchemy does not promise, all in one place.

There is no public way to ask a SELECT for its clauses: these are the attributes that SQLAlchemy's own
compiler reads. A test holds `PRIVATE_NAMES` to the version that is installed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

PRIVATE_NAMES: Mapping[str, Sequence[str]] = {
    "sqlalchemy.sql.selectable:Select": (
        "_annotations",
        "_auto_correlate",
        "_correlate",
        "_correlate_except",
        "_distinct",
        "_distinct_on",
        "_execution_options",
        "_for_update_arg",
        "_generate",
        "_generate_cache_key",
        "_group_by_clauses",
        "_has_row_limiting_clause",
        "_having_criteria",
        "_hints",
        "_independent_ctes",
        "_order_by_clauses",
        "_params",
        "_post_body_clause",
        "_post_criteria_clause",
        "_post_select_clause",
        "_pre_columns_clause",
        "_prefixes",
        "_raw_columns",
        "_statement_hints",
        "_suffixes",
        "_where_criteria",
        "_with_options",
    ),
    "sqlalchemy.types:TypeEngine": ("_has_column_expression",),
    "sqlalchemy.dialects.postgresql.psycopg:AsyncAdapt_psycopg_cursor": ("_cursor",),
}
"""Each name that is used, by MODULE:CLASS."""


class Correlation(NamedTuple):
    """What a subquery takes from the query around it."""

    only: Sequence[Any]
    """From `.correlate()`."""

    all_but: Sequence[Any] | None
    """From `.correlate_except()`."""

    is_automatic: bool


def raw_columns(select: Any) -> Sequence[Any]:
    """Return what a SELECT selects; a table or an entity is one element."""
    return select._raw_columns  # type: ignore[no-any-return]


def where_criteria(select: Any) -> Sequence[Any]:
    """Return the conditions of WHERE, which AND joins."""
    return select._where_criteria  # type: ignore[no-any-return]


def having_criteria(select: Any) -> Sequence[Any]:
    """Return the conditions of HAVING, which AND joins."""
    return select._having_criteria  # type: ignore[no-any-return]


def group_by_clauses(select: Any) -> Sequence[Any]:
    """Return the elements of GROUP BY."""
    return select._group_by_clauses  # type: ignore[no-any-return]


def order_by_clauses(select: Any) -> Sequence[Any]:
    """Return the elements of ORDER BY."""
    return select._order_by_clauses  # type: ignore[no-any-return]


def is_distinct(select: Any) -> bool:
    """Return whether it is SELECT DISTINCT."""
    return bool(select._distinct)


def correlation(select: Any) -> Correlation:
    """Return how a subquery is correlated."""
    return Correlation(select._correlate, select._correlate_except, select._auto_correlate)


def with_where(select: Any, criteria: Sequence[Any]) -> Any:
    """Return a copy of a SELECT with other conditions of WHERE."""
    changed = select._generate()
    changed._where_criteria = tuple(criteria)
    return changed


def refused_clauses(select: Any) -> Iterator[str]:
    """Yield what a SELECT has that each shard would apply to its own rows only, or as text."""
    found = {
        "LIMIT or OFFSET: pass limit and cursor to scatter": select._has_row_limiting_clause,
        "FOR UPDATE: the sessions only read; lock a row by sessions.write(key)": select._for_update_arg
        is not None,
        "DISTINCT ON: which row stays depends on the other shards' rows": select._distinct_on,
        "a prefix, a suffix or a hint, which are text": (
            select._prefixes or select._suffixes or select._hints or select._statement_hints
        ),
        ".execution_options(): they may change what is read": select._execution_options,
        ".params(): put the values into the SELECT": select._params,
        "an extension (.ext()), such as DISTINCT ON": any(
            each is not None
            for each in (
                select._pre_columns_clause,
                select._post_select_clause,
                select._post_criteria_clause,
                select._post_body_clause,
            )
        ),
        "WITH: a common table expression is not looked into": select._independent_ctes,
        ".options(): a loader may add joins and queries; select the columns that you want": (
            select._with_options
        ),
    }
    yield from (what for what, is_there in found.items() if is_there)


def cache_key_of(statement: Any) -> Any:
    """Return SQLAlchemy's cache key, with `key` and `bindparams`; None for what has none."""
    make = getattr(statement, "_generate_cache_key", None)
    return make() if make is not None else None


def annotations_of(element: Any) -> Mapping[str, Any]:
    """Return what the ORM has noted of an element: `parententity`, `parentmapper`."""
    return getattr(element, "_annotations", {})


def has_column_expression(type_: Any) -> bool:
    """Return whether a column of a type is selected as an SQL expression."""
    return bool(type_._has_column_expression)


def driver_cursor(cursor: Any) -> Any:
    """Return psycopg's cursor behind the one that SQLAlchemy has of an asyncio connection."""
    return getattr(cursor, "_cursor", cursor)
