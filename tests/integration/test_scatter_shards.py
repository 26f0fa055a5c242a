"""A scattered SELECT and its shards: which are asked, how much, and what happens when one does not answer."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    Double,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    cast,
    collate,
    func,
    select,
    type_coerce,
)

from ops.waiting import wait_until
from readreplica.cluster import Cluster
from sharding.errors import (
    CursorMalformed,
    CursorOfAnotherQuery,
    InvalidShardKey,
    ScatterRefused,
    ShardFailed,
    ShardTimedOut,
    TooManyGroups,
)
from sharding.keys import shard_key
from sharding.scatter import Bounds, CursorKeys, scatter
from tests.integration.scatter_rig import (
    KEYS,
    SHARDS,
    Order,
    Rig,
    open_one,
    orders,
    run_rig,
    shard_of,
)
from tests.servers import PostgresServers, run_postgres

o = orders.c
newest = select(o.order_id).order_by(o.order_id.desc())
COUNT = 400
# The view waits for long where it is told to; a SELECT of its own may hold no pg_sleep.
waiting = Table(
    "waiting",
    MetaData(),
    Column("order_id", BigInteger, primary_key=True),
    Column("status", Text),
    info=shard_key("order_id"),
)
WAITING = "CREATE VIEW waiting AS SELECT orders.* FROM (SELECT pg_sleep(600) OFFSET 0) AS once, orders"


def order(order_id: int, **values: Any) -> Mapping[str, Any]:
    return {"order_id": order_id, "status": "a", "n": order_id % 7, **values}


@pytest.fixture(scope="module")
async def rig(postgres: PostgresServers) -> AsyncIterator[Rig]:
    with run_rig(postgres, prefix="scatter_shards") as rig:
        rig.fill({orders: [order(order_id) for order_id in range(COUNT)]})
        for name in SHARDS:
            rig.writers[name].execute(WAITING)
        yield rig
        for cluster in (*rig.clusters.values(), rig.whole):
            await cluster.close()


def newest_of(shards: set[str]) -> list[int]:
    return [order_id for order_id in reversed(range(COUNT)) if shard_of(order_id) in shards]


async def test_a_page_asks_each_shard_for_little_more_than_its_share(rig: Rig) -> None:
    page = await rig.page(newest, limit=50)
    assert page.rows == list(range(COUNT - 1, COUNT - 51, -1))
    assert page.fetched_rows <= 4 * 50


async def test_rows_that_are_all_on_one_shard_are_fetched_in_a_second_question(rig: Rig) -> None:
    keys = newest_of({"s2"})
    page = await rig.page(newest.where(o.order_id.in_(keys)), limit=50, shard_of=None)
    assert page.rows == keys[:50]
    assert 51 <= page.fetched_rows <= 4 * 50
    assert await rig.pages(newest.where(o.order_id.in_(keys)), limit=7, shard_of=None) == keys


async def test_entities_are_readable_when_their_session_is_gone(rig: Rig) -> None:
    page = await rig.page(select(Order).order_by(o.order_id), limit=3)
    assert [(each.order_id, each.status) for each in page.rows] == [(0, "a"), (1, "a"), (2, "a")]


async def test_only_the_shards_of_the_keys_are_asked(rig: Rig, postgres: PostgresServers) -> None:
    nowhere = open_one(postgres, "s1", "not_there")
    clusters = {**rig.clusters, "s1": nowhere}
    own, other = newest_of({"s0", "s2"})[:6], newest_of({"s1"})[:1]
    options: Any = {"limit": 10, "shard_of": shard_of, "keys": KEYS}
    assert (await scatter(clusters, newest.where(o.order_id.in_(own)), **options)).rows == own
    counted = select(func.count()).where(o.order_id == own[0])
    assert (await scatter(clusters, counted, **options)).rows == [1]
    assert (await scatter(clusters, newest.where(o.order_id.in_([])), **options)).rows == []
    with pytest.raises(ShardFailed, match="shard s1 failed"):
        await scatter(clusters, newest.where(o.order_id.in_(own + other)), **options)
    await nowhere.close()


@pytest.mark.parametrize("key", [True, 2**63])
async def test_a_key_that_is_none_is_refused(rig: Rig, key: Any) -> None:
    def located(key: int) -> str:
        if type(key) is not int or abs(key) >= 2**63:
            raise InvalidShardKey(key)
        return shard_of(key)

    with pytest.raises(InvalidShardKey, match=repr(key)):
        await rig.page(newest.where(o.order_id.in_([1, key])), shard_of=located)


async def test_a_cursor_is_good_for_its_query_and_its_signer(rig: Rig) -> None:
    cursor = (await rig.page(newest, limit=5)).next_cursor
    assert cursor is not None
    again = await rig.page(newest, limit=7, cursor=cursor)
    assert again.rows == list(range(COUNT - 6, COUNT - 13, -1))
    for other in (newest.where(o.n == 1), newest.order_by(None).order_by(o.order_id), newest.where(o.n == 2)):
        with pytest.raises(CursorOfAnotherQuery):
            await rig.page(other, cursor=cursor)
    with pytest.raises(CursorMalformed):
        await rig.page(newest, cursor=cursor, keys=CursorKeys.random())


async def test_too_many_groups_are_refused(rig: Rig) -> None:
    with pytest.raises(TooManyGroups, match=r"more than 3 groups: .* Bounds.groups"):
        await rig.page(select(o.n, func.count()).group_by(o.n), bounds=Bounds(groups=3))


async def test_one_shard_after_the_other_gives_the_same(rig: Rig) -> None:
    page = await rig.page(newest, limit=20, bounds=Bounds(concurrency=1))
    assert page.rows == list(range(COUNT - 1, COUNT - 21, -1))


async def test_text_in_an_order_that_only_the_server_knows_is_refused(rig: Rig) -> None:
    key = Column("order_id", BigInteger, primary_key=True)
    odd = Table("odd", MetaData(), key, Column("name", Text), info=shard_key("order_id"))
    for name in SHARDS:
        rig.writers[name].execute("CREATE COLLATION own (provider = libc, locale = 'C.UTF-8')")
        rig.writers[name].execute("CREATE TABLE odd (order_id bigint PRIMARY KEY, name text COLLATE own)")
        rig.writers[name].execute(
            "INSERT INTO odd VALUES (%s, 'b'), (%s, 'a')", [int(name[1]), 10 + int(name[1])]
        )
    with pytest.raises(ScatterRefused, match=r"collation 'own' .* order by collate"):
        await rig.page(select(odd.c.order_id).order_by(odd.c.name))
    page = await rig.page(select(odd.c.name).order_by(collate(odd.c.name, "C")))
    assert page.rows == ["a"] * 4 + ["b"] * 4
    with pytest.raises(ScatterRefused, match=r"collation 'own', which is lost"):
        await rig.page(select(func.max(odd.c.name)))
    # Of a table that stands in a subquery only.
    name_of = select(odd.c.name).where(odd.c.order_id == o.order_id).scalar_subquery()
    with pytest.raises(ScatterRefused, match=r"collation 'own' .* order by collate"):
        await rig.page(newest.order_by(None).order_by(name_of))


async def test_a_column_that_is_another_type_than_declared_is_refused(rig: Rig) -> None:
    declared = [Column("name", Text), Column("mood", Text), Column("price", Double), Column("day", Date)]
    key = Column("order_id", BigInteger, primary_key=True)
    bad = Table("bad", MetaData(), key, *declared, info=shard_key("order_id"))
    for name in SHARDS:
        rig.writers[name].execute("CREATE TYPE mood AS ENUM ('sad', 'glad')")
        rig.writers[name].execute(
            "CREATE TABLE bad (order_id bigint PRIMARY KEY, name char(5), mood mood, price numeric, day text)"
        )
        rig.writers[name].execute("INSERT INTO bad VALUES (%s, 'a', 'sad', 1, '')", [int(name[1])])
        rig.writers[name].execute("INSERT INTO bad VALUES (%s, 'a', 'glad', 2, '')", [10 + int(name[1])])
    for clause, real in {
        bad.c.name: "bpchar",
        bad.c.mood: "mood",
        func.coalesce(bad.c.mood, "sad"): "mood",
        type_coerce(bad.c.mood, Text): "mood",
        bad.c.price: "numeric",
        bad.c.day: "text",
    }.items():
        with pytest.raises(ScatterRefused, match=f"is of type {real} on shard s"):
            await rig.page(select(bad.c.order_id).order_by(clause))
    page = await rig.page(select(bad.c.order_id).order_by(cast(bad.c.mood, Text), cast(bad.c.name, Text)))
    assert page.rows == [10, 11, 12, 13, 0, 1, 2, 3]


async def test_a_key_whose_type_sends_another_value_is_asked_of_all_shards(rig: Rig) -> None:
    class Shifted(TypeDecorator[int]):
        impl = BigInteger
        cache_ok = True

        def process_bind_param(self, value: int | None, dialect: object) -> int | None:
            return None if value is None else value - 1_000

    key = Column("order_id", Shifted, primary_key=True)
    shifted = Table("orders", MetaData(), key, info=shard_key("order_id")).c.order_id
    assert (await rig.page(select(shifted).where(shifted.in_([1_000, 1_001, 1_002])))).rows == [0, 1, 2]
    assert (await rig.page(select(func.count()).where(shifted == 1_007))).rows == [1]


async def test_a_shard_that_refuses_the_statement_is_never_merely_missing(rig: Rig) -> None:
    none = Table("none_such", MetaData(), Column("order_id", BigInteger, primary_key=True))
    with pytest.raises(ShardFailed, match="does not exist"):
        await rig.page(select(none), allow_missing=True, key="order_id")


# A shard of its own server, for stopping and freezing.


@pytest.fixture
async def broken(rig: Rig, tmp_path: Path) -> AsyncIterator[tuple[Mapping[str, Cluster], PostgresServers]]:
    with run_postgres(tmp_path) as own:
        with psycopg.connect(own.conninfo(), autocommit=True) as admin:
            admin.execute("CREATE TABLE orders (order_id bigint PRIMARY KEY, status text, n int)")
            admin.execute(
                "INSERT INTO orders SELECT id, 'a', id %% 7 FROM unnest(%s) AS id", [newest_of({"s3"})]
            )
        cluster = open_one(own, "s3", "postgres")
        yield {**rig.clusters, "s3": cluster}, own
        await cluster.close()


@contextmanager
def frozen(servers: PostgresServers) -> Iterator[None]:
    """Stop every process of a primary, as a machine that hangs does."""
    pid = servers.primary.pid()
    assert pid is not None
    found = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    try:
        for each in found:
            os.kill(each, signal.SIGSTOP)
        yield
    finally:
        for each in reversed(found):
            os.kill(each, signal.SIGCONT)


def checked_out(clusters: Mapping[str, Cluster]) -> int:
    nodes = [node for cluster in clusters.values() for node in cluster._nodes]
    return sum(node.engine.pool.checkedout() for node in nodes)  # type: ignore[attr-defined]


async def test_a_shard_that_is_frozen_or_stopped_is_named_or_left_out(
    broken: tuple[Mapping[str, Cluster], PostgresServers],
) -> None:
    clusters, own = broken
    options: Any = {"limit": 30, "keys": KEYS, "shard_of": shard_of}
    whole = list(range(COUNT - 1, COUNT - 31, -1))
    assert (await scatter(clusters, newest, **options)).rows == whole
    brief = Bounds(timeout_seconds=3.0)
    with frozen(own):
        begun = time.monotonic()
        with pytest.raises(ShardTimedOut, match="shard s3 failed: it did not answer within 3 s"):
            await scatter(clusters, newest, bounds=brief, **options)
        # Far from psycopg's own ten seconds, whose cancel waits for a server that is frozen.
        assert time.monotonic() - begun < 9
        page = await scatter(clusters, newest, bounds=brief, allow_missing=True, **options)
        counted = await scatter(
            clusters, select(func.count()).select_from(orders), bounds=brief, allow_missing=True, **options
        )
    rest = newest_of({"s0", "s1", "s2"})
    assert (page.rows, page.missing) == (rest[:30], ("s3",))
    assert (counted.rows, counted.missing) == ([len(rest)], ("s3",))
    assert checked_out(clusters) == 0
    # The cursor of a partial page goes on, with the shard back or not.
    after = await scatter(clusters, newest, cursor=page.next_cursor, **options)
    assert after.missing == ()
    assert after.rows == [order_id for order_id in reversed(range(COUNT)) if order_id < page.rows[-1]][:30]
    own.primary.stop()
    with pytest.raises(ShardFailed, match="shard s3 failed"):
        await scatter(clusters, newest, **options)
    page = await scatter(clusters, newest, allow_missing=True, **options)
    assert (page.rows, page.missing) == (rest[:30], ("s3",))
    assert checked_out(clusters) == 0


async def test_all_shards_missing_is_no_answer(postgres: PostgresServers) -> None:
    nowhere = {name: open_one(postgres, name, "not_there") for name in SHARDS}
    with pytest.raises(ShardFailed):
        await scatter(nowhere, newest, limit=10, allow_missing=True)
    for cluster in nowhere.values():
        await cluster.close()


def running(postgres: PostgresServers, rig: Rig) -> int:
    names = [rig.dbnames[name] for name in SHARDS]
    asked = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = ANY(%s) AND state = 'active' AND query ~ 'waiting'
    """
    with postgres.primary.connect() as connection:
        [count] = connection.execute(asked, [names]).fetchone() or [0]
    return int(count)


@pytest.mark.parametrize("how", ["cancelled", "timed out", "another failed"])
async def test_queries_end_on_the_servers_with_the_call(
    rig: Rig, postgres: PostgresServers, how: str
) -> None:
    seconds = 3.0 if how == "timed out" else 60.0
    clusters = dict(rig.clusters)
    if how == "another failed":
        # It fails when the others run: it is asked last, and cannot be connected to.
        clusters["s4"] = open_one(postgres, "s4", "not_there")
    call = asyncio.create_task(
        scatter(clusters, select(waiting.c.order_id), limit=5, bounds=Bounds(timeout_seconds=seconds))
    )
    if how == "cancelled":
        assert await asyncio.to_thread(wait_until, lambda: running(postgres, rig) == 4, timeout_seconds=50)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    else:
        with pytest.raises(ShardFailed):
            await call
    assert await asyncio.to_thread(wait_until, lambda: running(postgres, rig) == 0, timeout_seconds=50)
    assert checked_out(rig.clusters) == 0
    assert (await rig.page(newest, limit=2)).rows == [COUNT - 1, COUNT - 2]
    if how == "another failed":
        await clusters["s4"].close()
