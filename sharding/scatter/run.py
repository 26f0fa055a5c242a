"""One page out of all shards: see `scatter`."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from readreplica.cluster import Cluster
from readreplica.freshness import ANY, Freshness
from readreplica.token import CausalToken
from sharding.errors import ScatterRefused, ShardFailed, TooManyGroups, ValueUnreadable
from sharding.scatter.analysis import Analysis, analyse, check_parameters, fingerprint, split
from sharding.scatter.groups import GroupsPlan
from sharding.scatter.order import (
    ShardFacts,
    check_defaults,
    check_legible,
    check_order,
    check_settings,
    facts_of,
)
from sharding.scatter.pages import AnySelect, Bounds, CursorKeys, Page
from sharding.scatter.plan import RowsPlan, Run, Unread, merge, plan, share
from sharding.shard_call import ShardReader, all_of, is_down


async def scatter(
    clusters: Mapping[str, Cluster],
    statement: AnySelect,
    *,
    limit: int,
    cursor: str | None = None,
    after: CausalToken | None = None,
    freshness: Freshness = ANY,
    allow_missing: bool = False,
    key: str | None = None,
    shard_of: Callable[[int], str] | None = None,
    keys: CursorKeys | None = None,
    bounds: Bounds | None = None,
) -> Page[Any]:
    """Run a SELECT on all shards at once, and return what one database with all rows would return.

    Parameters:
        clusters: the shards, by name.
        statement: the SELECT; docs/explanation/scatter.md says what it may hold.
        limit: how many rows a page has at most.
        cursor: `next_cursor` of the page before; None for the first page.
        after: what the reads must have seen.
        freshness: a policy of `readreplica.freshness`, for every shard; it holds together with `after`.
        allow_missing: return what the other shards have when some do not answer; the page names these.
        key: the column by which tables are sharded that declare none; it must be of their primary key.
        shard_of: returns the shard of a key, so that `key IN (...)` asks only the shards of its keys.
        keys: what signs cursors. None for a key that no other process has.
        bounds: how much this call may take.

    Returns:
        The page. A SELECT of one entity or column gives these, one of several gives tuples. Equal rows of
        the order are ordered by their primary keys, so that pages neither miss nor repeat a row.

    Raises:
        ScatterRefused: the SELECT cannot be answered exactly from the shards' answers.
        ShardFailed: a shard failed, or did not answer in time; the error names it.
        ValueUnreadable: the page holds a value that Python has not.
        CursorMalformed: the cursor is forged, or one of another query.
        TooManyGroups: a GROUP BY has more groups than `bounds` allows.
        InvalidShardKey: the SELECT asks for a shard key that is none.
    """
    bounds = bounds or Bounds()
    if not 1 <= limit <= bounds.rows:
        raise ScatterRefused(f"limit is {limit}; a page has from 1 to {bounds.rows} rows (Bounds.rows)")
    analysis = analyse(statement, key=key)
    check_parameters(statement)
    print_ = fingerprint(statement, analysis)
    keys = keys or process_keys()
    position = None if cursor is None else keys.open(cursor, print_)
    how = plan(statement, analysis)
    if not clusters:
        return Page([], None)
    call = _Call(analysis, how, limit, position, allow_missing, partial(keys.seal, print_))
    parts = split(statement, analysis.scope, list(clusters), shard_of)
    slots = asyncio.Semaphore(bounds.concurrency)
    for shard in parts:
        reader = ShardReader(
            shard,
            clusters[shard],
            after=after,
            freshness=freshness,
            slots=slots,
            timeout_seconds=bounds.timeout_seconds,
        )
        call.readers[shard] = reader
    try:
        return await (
            _rows(call, how, parts) if isinstance(how, RowsPlan) else _groups(call, how, parts, bounds)
        )
    finally:
        await all_of([reader.close for reader in call.readers.values()])


@cache
def process_keys() -> CursorKeys:
    """Return a key of this process alone: any other process refuses cursors that it signed."""
    return CursorKeys.random()


@dataclass
class _Call:
    """What one call knows while it runs."""

    analysis: Analysis
    plan: RowsPlan | GroupsPlan
    limit: int
    position: list[Any] | None
    allow_missing: bool
    seal: Callable[[Sequence[Any]], str]
    readers: dict[str, ShardReader] = field(default_factory=dict)
    missing: dict[str, ShardFailed] = field(default_factory=dict)
    first_facts: ShardFacts | None = None

    async def shard_facts(self, reader: ShardReader) -> ShardFacts:
        """Return the facts of a shard; its settings must be those of the shards that have answered."""
        facts = await facts_of(reader.cluster, self.analysis.tables, reader.ask)
        self.first_facts = self.first_facts or facts
        check_settings(facts, self.first_facts, shard=reader.shard)
        return facts

    async def each(self, shards: Sequence[str], ask: Callable[[ShardReader], Any]) -> None:
        """Ask several shards at once; one that is down is noted as missing, where that is allowed."""
        await all_of([partial(self._one, self.readers[shard], ask) for shard in shards])
        if len(self.missing) == len(self.readers):
            # Nothing at all is no partial answer.
            raise next(iter(self.missing.values()))

    async def _one(self, reader: ShardReader, ask: Callable[[ShardReader], Any]) -> None:
        try:
            await ask(reader)
        except ShardFailed as error:
            if not (self.allow_missing and is_down(error)):
                raise
            self.missing[reader.shard] = error

    def page(self, rows: Sequence[Any]) -> Page[Any]:
        """Make the page; one row more than it holds means that there is a next one."""
        given = self.plan.given(rows[: self.limit])
        is_last = len(rows) <= self.limit
        next_cursor = None if is_last else self.seal(self.plan.values(rows[self.limit - 1]))
        fetched = sum(reader.fetched_rows for reader in self.readers.values())
        return Page(given, next_cursor, tuple(self.missing), fetched)


async def _rows(call: _Call, how: RowsPlan, parts: Mapping[str, Any]) -> Page[Any]:
    wanted = call.limit + 1
    runs = {shard: Run() for shard in parts}
    count = share(wanted, len(parts))
    # Made once for all that are asked the same: SQLAlchemy keeps with a statement what finds it in its cache.
    firsts = {id(each): how.part(each, after=call.position, limit=count) for each in _different(parts)}

    async def first(reader: ShardReader) -> None:
        facts = await call.shard_facts(reader)
        if facts not in how.checked:
            check_order(how.terms, facts, shard=reader.shard)
            how.checked.add(facts)
        part = parts[reader.shard]
        order = partial(how.order_alone, part, after=call.position, limit=count)
        runs[reader.shard].add(await _fetch(reader, how, firsts[id(part)], order), asked=count)

    async def again(reader: ShardReader) -> None:
        run, more = runs[reader.shard], wanting[reader.shard]
        # If it is missing now, it is not asked a third time.
        run.is_open = False
        part, last = parts[reader.shard], how.values(run.rows[-1])
        order = partial(how.order_alone, part, after=last, limit=more)
        run.add(await _fetch(reader, how, how.part(part, after=last, limit=more), order), asked=more)

    await call.each(list(parts), first)
    while True:
        shards = list(runs)
        merged = merge(how, list(runs.values()), wanted=wanted)
        wanting = {shards[i]: more for i, more in merged.wanting.items()}
        if not wanting:
            return call.page(await _read(call, how, parts, runs, merged.rows[:wanted]))
        await call.each(list(wanting), again)


async def _fetch(reader: ShardReader, how: RowsPlan, asked: Any, order: Callable[[], Any]) -> Sequence[Any]:
    """Fetch rows, or, where Python has not all of their values, their order alone.

    More is fetched than the page holds, and what is not on it must not fail it.
    """
    try:
        return await reader.fetch(asked)
    except ValueUnreadable:
        return [how.unread(values) for values in await reader.fetch(order())]


async def _read(
    call: _Call, how: RowsPlan, parts: Mapping[str, Any], runs: Mapping[str, Run], rows: Sequence[Any]
) -> Sequence[Any]:
    """Fetch the rows of the page of which only the order is known: the first of each shard's snapshot."""
    unread = {id(row) for row in rows[: call.limit] if isinstance(row, Unread)}
    counts = {shard: _last_of(run.rows, unread) for shard, run in runs.items()}
    found: dict[int, Any] = {}

    async def read(reader: ShardReader) -> None:
        asked = how.part(parts[reader.shard], after=call.position, limit=counts[reader.shard])
        found.update(zip(map(id, runs[reader.shard].rows), await reader.fetch(asked), strict=False))

    await all_of([partial(read, call.readers[shard]) for shard, count in counts.items() if count])
    return [found[id(row)] if id(row) in unread else row for row in rows]


def _last_of(rows: Sequence[Any], wanted: set[int]) -> int:
    return max((i + 1 for i, row in enumerate(rows) if id(row) in wanted), default=0)


def _different(parts: Mapping[str, Any]) -> list[Any]:
    return list({id(each): each for each in parts.values()}.values())


async def _groups(call: _Call, how: GroupsPlan, parts: Mapping[str, Any], bounds: Bounds) -> Page[Any]:
    sent: dict[str, Sequence[Any]] = {}
    facts: dict[str, ShardFacts] = {}

    async def ask(reader: ShardReader) -> None:
        facts[reader.shard] = await call.shard_facts(reader)
        check_legible(facts[reader.shard], shard=reader.shard)
        rows = await reader.fetch(how.part(parts[reader.shard], limit=bounds.groups + 1))
        if len(rows) > bounds.groups:
            raise TooManyGroups(reader.shard, groups=bounds.groups)
        sent[reader.shard] = rows

    await call.each(list(parts), ask)
    first = facts[next(iter(sent))]
    for shard in sent:
        check_defaults(how.compared(), facts[shard], first, shard=shard)
    rows = [row for shard in parts if shard in sent for row in sent[shard]]
    if not rows:
        return call.page([])
    return call.page(await _whole(call, how, list(sent), rows))


async def _whole(call: _Call, how: GroupsPlan, shards: Sequence[str], rows: Sequence[Any]) -> Sequence[Any]:
    """Have the groups put together: those of the page, and something in place of a next one."""
    whole = partial(how.whole, rows, after=call.position)
    try:
        return await _by_one_of(call, shards, whole(limit=call.limit + 1))
    except ValueUnreadable:
        # Perhaps in the group behind the page, of which nothing is given.
        found = await _by_one_of(call, shards, whole(limit=call.limit))
    if len(found) < call.limit:
        return found
    [[has_more]] = await _by_one_of(call, shards, how.has_more(rows, after=how.values(found[-1])))
    return [*found, None] if has_more else found


async def _by_one_of(call: _Call, shards: Sequence[str], whole: Any) -> Sequence[Any]:
    """Have one shard compute the second stage; which one does not matter."""
    for shard in shards[:-1]:
        try:
            return await call.readers[shard].ask(whole)
        except ShardFailed as error:
            if not is_down(error):
                raise
    return await call.readers[shards[-1]].ask(whole)


__all__ = ["scatter"]
