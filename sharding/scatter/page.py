"""What a caller gives and gets: a page, and the bounds within which it is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from sqlalchemy import Select

T = TypeVar("T")
AnySelect: TypeAlias = Select[*tuple[Any, ...]]


@dataclass(frozen=True)
class Page(Generic[T]):
    """Rows in the order of the SELECT, and where the next page begins; None after the last.

    `missing` names the shards that did not answer, and is empty unless the caller allowed it: rows of
    theirs are not on the page, and those that would stand before its end are on no later page either.
    `fetched_rows` counts what the shards sent.
    """

    rows: Sequence[T]
    next_cursor: str | None
    missing: tuple[str, ...] = ()
    fetched_rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much one call may take.

    Parameters:
        concurrency: how many shards are asked at once.
        timeout_seconds: how long a shard may take for its part, connecting included.
        rows: the largest page.
        groups: how many groups one shard may send for a GROUP BY without the shard key.
    """

    concurrency: int = 16
    timeout_seconds: float = 30.0
    rows: int = 10_000
    groups: int = 100_000
