"""One ordered page out of all shards: ask each for its first rows, and merge them.

Version 0.1 knows one shape: newest keys first, one row for each key, pages by keyset.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any, Generic, TypeAlias, TypeVar

from sqlalchemy import ColumnElement, Select, UnaryExpression
from sqlalchemy.sql.operators import desc_op

from readreplica.cluster import Cluster
from readreplica.token import CausalToken
from sharding.errors import CursorMalformed, ScatterFailed, ScatterRefused

KEY = "order_id"
T = TypeVar("T")
AnySelect: TypeAlias = Select[*tuple[Any, ...]]
_CURSOR = re.compile(r"k([0-7]?[0-9a-f]{1,15})")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Rows in the order of the SELECT, and where the next page begins; None after the last."""

    rows: Sequence[T]
    next_cursor: str | None


async def scatter(
    clusters: Mapping[str, Cluster],
    statement: AnySelect,
    *,
    limit: int,
    cursor: str | None = None,
    after: CausalToken | None = None,
) -> Page[Any]:
    """Run a SELECT on all shards at once and merge their rows into one page.

    Parameters:
        clusters: the shards, by name.
        statement: a SELECT with `ORDER BY order_id DESC` and nothing that counts or cuts rows.
        limit: how many rows a page has at most.
        cursor: `next_cursor` of the page before; None for the first page.
        after: what the reads must have seen.

    Returns:
        The page. A SELECT of one entity or column gives these, one of several gives tuples.

    Raises:
        ScatterRefused: the shards' rows of such a SELECT cannot simply be merged.
        ScatterFailed: a shard failed; the error names it.
        CursorMalformed: the cursor is none of `scatter`'s.
    """
    key = _key_of(statement)
    if limit < 1:
        raise ScatterRefused(f"limit is {limit}; a page has at least one row")
    if cursor is not None:
        statement = statement.where(key < _decode(cursor))
    # The key goes along as the last column. One row more than asked for tells whether there is a next page.
    part = statement.add_columns(key.label("scatter_key")).limit(limit + 1)
    shards = await _ask_all(clusters, part, after)
    rows = list(islice(merge(*shards, key=_last, reverse=True), limit + 1))
    next_cursor = _encode(rows[limit - 1][-1]) if len(rows) > limit else None
    is_single = len(statement.column_descriptions) == 1
    return Page([row[0] if is_single else tuple(row[:-1]) for row in rows[:limit]], next_cursor)


def _key_of(statement: AnySelect) -> ColumnElement[int]:
    """Find the key column in ORDER BY, and refuse what cannot be merged.

    SQLAlchemy has no public way to ask a SELECT for its clauses; the underscored ones are read here only.
    """
    cuts = {
        "LIMIT or OFFSET; pass limit and cursor to scatter": statement._has_row_limiting_clause,
        "GROUP BY or HAVING": bool(statement._group_by_clauses or statement._having_criteria),
        "DISTINCT": statement._distinct,
    }
    for clause, found in cuts.items():
        if found:
            raise ScatterRefused(f"it has {clause}, and each shard would apply it to its own rows only")
    match statement._order_by_clauses:
        case [UnaryExpression(modifier=modifier, element=element)] if modifier is desc_op:
            if getattr(element, "key", None) == KEY:
                return element
    raise ScatterRefused(f"it must be ordered by the key alone, newest first: .order_by(X.{KEY}.desc())")


async def _ask_all(
    clusters: Mapping[str, Cluster], part: AnySelect, after: CausalToken | None
) -> list[Sequence[Any]]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_ask(shard, clusters[shard], part, after)) for shard in clusters]
    except ExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__
    return [task.result() for task in tasks]


async def _ask(shard: str, cluster: Cluster, part: AnySelect, after: CausalToken | None) -> Sequence[Any]:
    try:
        async with cluster.read(after=after) as session:
            rows: Sequence[Any] = (await session.execute(part)).all()
            return rows
    except Exception as error:
        raise ScatterFailed(shard, error) from error


def _last(row: Sequence[Any]) -> int:
    key: int = row[-1]
    return key


def _encode(key: int) -> str:
    return f"k{key:x}"


def _decode(cursor: str) -> int:
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise CursorMalformed(cursor)
    return int(found[1], 16)
