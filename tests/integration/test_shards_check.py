"""`mesctl shards init`, `check` and `plan`; and processes with an old map under load, checked by `check`."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import insert, text

from app.models.mes import MesOrder
from app.models.status import Channel, Status
from ops.errors import ExitStatus
from ops.shard_guard import check_shards, init_shards
from readreplica.sessions import WriteSession
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.errors import BucketNotOwned, OwnershipNotChanged
from sharding.ownership import Ownership, bucket_sql, read_guard, read_identity
from sharding.sessions import ShardedSessions, open_sessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.integration.mesctl_rig import Mesctl
from tests.integration.shards_rig import (
    EVEN,
    FIRST,
    as_owner,
    give,
    key_in,
    moved,
    new_order,
    orders_on,
    save,
)
from tests.project import MES
from tests.psql import psql
from tests.servers import PostgresServers


@pytest.fixture
def mesctl(topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    return Mesctl(topology_path, capsys)


def put(topology: Topology, shard: str, *order_ids: int) -> None:
    """Write rows as if the guard had not been there."""
    with as_owner(topology, shard) as connection:
        guard = text("ALTER TABLE pricing_jobs DROP CONSTRAINT IF EXISTS shard_owns_check")
        connection.execute(guard)
        for order_id in order_ids:
            connection.execute(text("INSERT INTO pricing_jobs (order_id) VALUES (:id)"), {"id": order_id})
        connection.commit()


def test_init_then_check_then_every_kind_of_finding(
    mesctl: Mesctl, topology: Topology, postgres: PostgresServers
) -> None:
    asyncio.run(save(topology, EVEN))
    script = mesctl("shards", "init", "--dry-run").out
    psql(postgres.conninfo(), script)
    with as_owner(topology, "mes_0") as connection:
        assert read_identity(connection) == Ownership.of(EVEN, "mes_0")
    told = mesctl("shards", "init", "--json").json
    assert [(row["shard"], row["buckets"], row["changed"]) for row in told] == [
        ("mes_0", 32, False),
        ("mes_1", 32, False),
    ]
    fine = mesctl("shards", "check")
    assert (fine.status, fine.out) == (ExitStatus.DONE, "all 0 rows are where map version 1 has them\n")

    put(topology, "mes_0", key_in(3), key_in(40))
    found = mesctl("shards", "check", "--json")
    assert found.status == ExitStatus.FAILED
    [finding] = found.json["findings"]
    assert (finding["shard"], finding["table"], finding["misplaced"]) == ("mes_0", "pricing_jobs", 1)
    assert finding["examples"] == [str(key_in(40))]
    assert f"mesctl shards locate {key_in(40)}" in finding["fix"]
    assert "mes_0: pricing_jobs: 2 rows, 1 misplaced" in found.err

    with as_owner(topology, "mes_1") as connection:
        connection.execute(text("UPDATE shard_identity SET shard = 'mes_9'"))
        connection.commit()
    assert "is the database of shard mes_9" in mesctl("shards", "check").out
    assert mesctl("shards", "init").status == ExitStatus.FAILED
    with as_owner(topology, "mes_1") as connection:
        connection.execute(text("UPDATE shard_identity SET shard = 'mes_1', owned = repeat('1', 64)"))
        connection.commit()
    said = mesctl("shards", "check").out
    assert "was told of other buckets than version 1 gives it" in said
    assert "has a guard that goes by other buckets" in said
    with as_owner(topology, "mes_1") as connection:
        connection.execute(text("DELETE FROM shard_identity"))
        connection.commit()
    assert "was never told its name" in mesctl("shards", "check").out


def test_a_bucket_is_taken_from_all_before_it_is_given_to_anybody(
    mesctl: Mesctl, topology: Topology, postgres: PostgresServers
) -> None:
    """The winner comes first by name, and the loser cannot be told: a writer has its tables."""
    init_shards(topology, MES, EVEN)
    later = moved(EVEN, 40, "mes_0")
    conninfo = postgres.conninfo(topology.database("mes_1").dbname, role="mes")
    with psycopg.connect(conninfo) as writer:
        writer.execute("INSERT INTO pricing_jobs (order_id) VALUES (%s)", [key_in(40)])
        with pytest.raises(OwnershipNotChanged, match="mes_1"):
            init_shards(topology, MES, later, lock_timeout_seconds=0.2, attempts=1)
        with as_owner(topology, "mes_0") as connection:
            assert read_identity(connection) == Ownership.of(EVEN, "mes_0")
            assert read_guard(connection) == Ownership.of(EVEN, "mes_0").owned
    asyncio.run(save(topology, EVEN))
    asyncio.run(save(topology, later))
    lines = mesctl("shards", "init", "--dry-run").out.splitlines()
    names = [topology.database(shard).dbname for shard in ("mes_1", "mes_0", "mes_1")]
    connects = [line for line in lines if line.startswith("\\connect")]
    assert [name in line for name, line in zip(names, connects, strict=True)] == [True] * 3
    assert [told.changed for told in init_shards(topology, MES, later)] == [True, True]
    for shard in ("mes_0", "mes_1"):
        with as_owner(topology, shard) as connection:
            assert read_identity(connection) == Ownership.of(later, shard)
            assert read_guard(connection) == Ownership.of(later, shard).owned


def test_plan_weighs_rows_and_empties_a_shard(mesctl: Mesctl, topology: Topology) -> None:
    owners = ShardMap(1, ("mes_0",) * 48 + ("mes_1",) * 16)
    asyncio.run(save(topology, owners))
    put(topology, "mes_0", *(key_in(bucket) for bucket in range(8)))
    planned = mesctl("shards", "plan", "--json").json
    assert planned["before"] == {"mes_0": 8, "mes_1": 0}
    assert planned["after"] == {"mes_0": 4, "mes_1": 4}
    assert len(planned["moves"]) == 4
    emptied = mesctl("shards", "plan", "--without", "mes_1", "--by", "bytes", "--json").json
    assert {move["source"] for move in emptied["moves"]} == {"mes_1"}
    assert len(emptied["moves"]) == 16
    assert "mes_0: 8 rows before, 4 after" in mesctl("shards", "plan", "--by", "rows").out
    assert mesctl("shards", "plan", "--by", "load").status == ExitStatus.DONE
    assert mesctl("shards", "plan", "--without", "mes_7").status == ExitStatus.FAILED
    with_metrics = topology.path.with_name("shards.prom")
    assert mesctl("shards", "list", "--metrics-file", str(with_metrics)).status == ExitStatus.DONE
    assert 'mes_storage_shard_buckets{tree="mes",shard="mes_0"} 48' in with_metrics.read_text()


async def test_writers_with_old_maps_misplace_nothing_while_buckets_move(
    sessions: ShardedSessions, topology: Topology
) -> None:
    """Three processes' worth of routers, one of which never hears of a map until it is refused."""
    stop, written, refused = asyncio.Event(), set[int](), []
    numbers: Iterator[int] = iter(range(FIRST, FIRST + 10_000_000))

    async def keep_writing(router: ShardedSessions) -> None:
        while not stop.is_set():
            order_id = next(numbers)

            async def work(session: WriteSession, order_id: int = order_id) -> None:
                session.add(new_order(order_id))

            try:
                await router.transact(order_id, work)
                written.add(order_id)
            except BucketNotOwned as refusal:
                refused.append(refusal)

    async def move_buckets() -> ShardMap:
        chance, shard_map = random.Random(4), EVEN
        for _ in range(8):
            bucket = chance.randrange(64)
            target = "mes_1" if shard_map.owners[bucket] == "mes_0" else "mes_0"
            later = moved(shard_map, bucket, target)
            await asyncio.to_thread(move_bucket, topology, later, bucket, shard_map.owners[bucket])
            await save(topology, later)
            shard_map = later
        return shard_map

    async with (
        open_sessions(topology, role="mes", application_name="polling", poll_seconds=0.3) as polling,
        open_cluster(topology, "directory", role="mes", application_name="deaf") as directory,
    ):
        deaf = ShardedSessions(EVEN, sessions.clusters, directory=Directory(directory.primary, "mes"))
        routers = (sessions, polling, deaf)
        writers = [asyncio.create_task(keep_writing(each)) for each in routers for _ in range(2)]
        try:
            last = await move_buckets()
        finally:
            stop.set()
            await asyncio.gather(*writers)
    assert check_shards(topology, MES, last).findings == ()
    on_mes_0, on_mes_1 = orders_on(topology, "mes_0"), orders_on(topology, "mes_1")
    assert on_mes_0 | on_mes_1 == written
    assert not on_mes_0 & on_mes_1
    assert len(written) > 100


def move_bucket(topology: Topology, later: ShardMap, bucket: int, source: str) -> None:
    """Move a bucket in the order that a move has: its shard loses it, the rows go, the other one gets it."""
    give(topology, later, source)
    in_bucket = text(f"DELETE FROM orders WHERE {bucket_sql('order_id', 64)} = {bucket} RETURNING order_id")
    with as_owner(topology, source) as connection:
        order_ids = list(connection.scalars(in_bucket))
        connection.commit()
    give(topology, later, later.owners[bucket])
    with as_owner(topology, later.owners[bucket]) as connection:
        for order_id in order_ids:
            row = {"status": Status.SUBMITTED, "channel": Channel.B2C, "summary": "ring", "version": 1}
            connection.execute(insert(MesOrder).values(order_id=order_id, **row))
        connection.commit()
