"""The rows of a page out of the shards' rows, asking each for little more than its share.

Of n rows a shard is first asked for its share and some: keys are spread by a hash, so with n over s shards a
shard's part is n/s within a few square roots. Where that was too little, and only there, the shard is asked
again, in the same snapshot, for all that the page may still need of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

_DEVIATIONS = 4.0


@dataclass
class Run:
    """The rows that one shard has sent, in order."""

    rows: list[Any] = field(default_factory=list)
    is_open: bool = True
    """Whether the shard may have more."""

    def add(self, rows: Sequence[Any], *, asked: int) -> None:
        """Take what the shard answered to a question for so many rows."""
        self.rows += rows
        self.is_open = len(rows) == asked


def share(wanted: int, shards: int) -> int:
    """Tell how many rows to ask one shard for at first."""
    mean = wanted / shards
    deviation = math.sqrt(mean * (1 - 1 / shards))
    return min(wanted, math.ceil(mean + _DEVIATIONS * deviation) + (shards > 1))


@dataclass(frozen=True)
class Merged:
    """The rows in order, and how far that order is certain."""

    rows: list[Any]
    ready: int
    """So many rows of them come before all that was not fetched."""
    wanting: dict[int, int]
    """The runs that must be asked again, with the number of rows that the page may need of each."""


def merge(plan: Any, runs: Sequence[Run], *, wanted: int) -> Merged:
    """Merge runs, and tell what is missing for so many rows.

    Parameters:
        plan: sorts the rows, and tells equal ones if the SELECT is DISTINCT.
        runs: what each shard has sent.
        wanted: how many rows there should be.
    """
    rows: list[Any] = list(chain.from_iterable(run.rows for run in runs))
    plan.sort(rows)
    lasts = {id(run.rows[-1]): i for i, run in enumerate(runs) if run.is_open and run.rows}
    ends: dict[int, int] = {}
    if plan.is_distinct:
        rows = _distinct(plan, rows, lasts, ends)
    # No loop of Python over the rows where, as a rule, no run ends before the page does.
    elif not lasts.keys().isdisjoint(map(id, islice(rows, wanted - 1))):
        ends = {lasts[id(row)]: i + 1 for i, row in enumerate(rows) if id(row) in lasts}
    ready = min(ends.values(), default=len(rows))
    if ready >= wanted:
        return Merged(rows, ready, {})
    return Merged(rows, ready, {i: wanted - end for i, end in ends.items() if end < wanted})


def _distinct(plan: Any, rows: list[Any], lasts: dict[int, int], ends: dict[int, int]) -> list[Any]:
    """Leave one of several equal rows, which stand together; note where each run ends among those left."""
    left: list[Any] = []
    before: Any = None
    for row in rows:
        key = plan.identity(row)
        if key != before:
            left.append(row)
            before = key
        if id(row) in lasts:
            ends[lasts[id(row)]] = len(left)
    return left
