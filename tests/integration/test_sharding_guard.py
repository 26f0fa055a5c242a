"""A shard refuses what it does not own, whoever writes, and however ownership changes meanwhile."""

import subprocess
import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

from ops.embedded.programs import postgres_bin
from ops.fleet import open_engine
from ops.waiting import wait_until
from sharding.errors import OwnershipConflict, OwnershipNotChanged, WrongShard
from sharding.ids import instant_of
from sharding.keys import GuardedTable
from sharding.ownership import (
    REFUSED,
    Ownership,
    bucket_sql,
    read_guard,
    read_identity,
    read_refusal,
    set_ownership,
)
from sharding.shard_map import ShardMap, bucket_of
from sharding.topology import Topology
from tests.integration.shards_rig import EVEN, as_owner, give, key_in, moved, orders_on
from tests.project import GUARDED
from tests.psql import psql
from tests.servers import PostgresServers

INSERT = (
    "INSERT INTO orders (order_id, status, channel, summary, version) "
    "VALUES (%s, 'SUBMITTED', 'B2C', 'ring', 1)"
)
OWN, FOREIGN = key_in(3), key_in(40)


@pytest.fixture
def mes_0(topology: Topology, postgres: PostgresServers) -> Iterator[psycopg.Connection]:
    """Give a service's own connection to mes_0, which owns the lower half."""
    give(topology, EVEN, "mes_0")
    conninfo = postgres.conninfo(topology.database("mes_0").dbname, role="mes")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection


def test_a_row_of_another_shard_is_refused_with_facts(mes_0: psycopg.Connection) -> None:
    mes_0.execute(INSERT, [OWN])
    with pytest.raises(psycopg.Error) as caught:
        mes_0.execute(INSERT, [FOREIGN])
    assert caught.value.sqlstate == REFUSED
    refusal = read_refusal(caught.value.diag.message_detail)
    assert refusal is not None
    assert (refusal.shard, refusal.key, refusal.bucket, refusal.map_version) == ("mes_0", FOREIGN, 40, 1)
    assert "mesctl shards locate" in (caught.value.diag.message_hint or "")


def test_every_guarded_table_refuses_and_every_keyed_table_is_guarded(topology: Topology) -> None:
    give(topology, EVEN, "mes_0")
    with as_owner(topology, "mes_0") as connection:
        checked = connection.execute(
            text("""
                SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
                WHERE conname = 'shard_owns_check' AND conislocal
            """)
        )
        found = {row[0]: row[1] for row in checked}
    for table, key in GUARDED:
        assert found[table] == f"CHECK (shard_owns({key})) NOT VALID"
    assert {table for table, _ in GUARDED} == found.keys()


def test_an_update_of_a_row_that_came_before_is_refused(
    mes_0: psycopg.Connection, topology: Topology
) -> None:
    mes_0.execute(INSERT, [OWN])
    give(topology, moved(EVEN, 3, "mes_1"), "mes_0")
    with pytest.raises(psycopg.Error, match="does not own bucket 3 of 64"):
        mes_0.execute("UPDATE orders SET summary = 'bangle' WHERE order_id = %s", [OWN])


def test_what_finds_no_row_and_what_deletes_is_not_refused(
    mes_0: psycopg.Connection, topology: Topology
) -> None:
    """What docs/explanation/sharding.md says of who writes past the library: only the rowcount shows it."""
    mes_0.execute(INSERT, [OWN])
    give(topology, moved(EVEN, 3, "mes_1"), "mes_0")
    delete = "DELETE FROM orders WHERE order_id = %s"
    assert mes_0.execute(delete, [OWN]).rowcount == 1
    assert mes_0.execute(delete, [OWN]).rowcount == 0
    update = "UPDATE orders SET summary = 'bangle' WHERE order_id = %s"
    assert mes_0.execute(update, [OWN]).rowcount == 0


def test_new_months_of_the_archive_carry_the_guard(topology: Topology) -> None:
    give(topology, EVEN, "mes_0")
    month = f"orders_archive_{instant_of(FOREIGN):%Y_%m}"
    with as_owner(topology, "mes_0") as connection:
        connection.exec_driver_sql(f"CREATE TABLE {month} (LIKE orders_archive INCLUDING ALL)")
        connection.exec_driver_sql(
            f"ALTER TABLE orders_archive ATTACH PARTITION {month} FOR VALUES FROM (0) TO ({2**62})"
        )
        with pytest.raises(Exception, match="does not own bucket 40"):
            connection.exec_driver_sql(INSERT.replace("orders", "orders_archive"), (FOREIGN,))


def test_a_prepared_statement_meets_the_newest_ownership(
    mes_0: psycopg.Connection, topology: Topology
) -> None:
    keys = [key_in(3, number=number) for number in range(12)]
    for key in keys[:10]:
        mes_0.execute(INSERT, [key], prepare=True)
    give(topology, moved(EVEN, 3, "mes_1"), "mes_0")
    with pytest.raises(psycopg.Error) as caught:
        mes_0.execute(INSERT, [keys[10]], prepare=True)
    assert caught.value.sqlstate == REFUSED


def test_a_serializable_transaction_that_began_before_meets_it_too(
    mes_0: psycopg.Connection, topology: Topology
) -> None:
    mes_0.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    with mes_0.transaction(force_rollback=True):
        mes_0.execute("SELECT count(*) FROM pricing_jobs")
        give(topology, moved(EVEN, 3, "mes_1"), "mes_0")
        with pytest.raises(psycopg.Error, match="does not own"):
            mes_0.execute(INSERT, [OWN])


def test_a_change_waits_for_who_writes_and_not_for_who_reads(
    mes_0: psycopg.Connection, topology: Topology, postgres: PostgresServers
) -> None:
    reader = psycopg.connect(postgres.conninfo(topology.database("mes_0").dbname, role="mes"))
    reader.execute("SELECT count(*) FROM orders")
    later = moved(EVEN, 3, "mes_1")
    with mes_0.transaction():
        mes_0.execute(INSERT, [OWN])
        with pytest.raises(OwnershipNotChanged, match="pg_stat_activity"):
            give(topology, later, "mes_0", seconds=0.2, attempts=1)
        change = threading.Thread(target=give, args=(topology, later, "mes_0"))
        change.start()
    change.join(30)
    with as_owner(topology, "mes_0") as connection:
        assert read_identity(connection) == Ownership.of(later, "mes_0")
        assert read_guard(connection) == Ownership.of(later, "mes_0").owned
    assert orders_on(topology, "mes_0") == {OWN}
    reader.close()


def test_writers_in_flight_are_committed_before_the_change_or_refused(
    topology: Topology, postgres: PostgresServers
) -> None:
    """Eight writers, while the bucket goes away and comes back: nothing is written while it is away."""
    give(topology, EVEN, "mes_0")
    conninfo = postgres.conninfo(topology.database("mes_0").dbname, role="mes")
    spread = iter([key for key in range(OWN, OWN + 400_000) if bucket_of(key, 64) == 3])
    stop, lock = threading.Event(), threading.Lock()
    refusals: list[str | None] = []

    def write() -> None:
        with psycopg.connect(conninfo) as connection:
            while not stop.is_set():
                with lock:
                    key = next(spread)
                try:
                    with connection.transaction():
                        connection.execute(INSERT, [key])
                        connection.execute("INSERT INTO pricing_jobs (order_id) VALUES (%s)", [key])
                except psycopg.Error as error:
                    refusals.append(error.sqlstate)

    def more_refusals(than: int) -> bool:
        return wait_until(lambda: len(refusals) > than + 20, timeout_seconds=60)

    def more_orders(than: int) -> bool:
        return wait_until(lambda: len(orders_on(topology, "mes_0")) > than + 20, timeout_seconds=60)

    writers = [threading.Thread(target=write) for _ in range(8)]
    for writer in writers:
        writer.start()
    shard_map: ShardMap = EVEN
    try:
        for _ in range(3):
            before = len(refusals)
            shard_map = moved(shard_map, 3, "mes_1")
            give(topology, shard_map, "mes_0")
            at_change = orders_on(topology, "mes_0")
            assert more_refusals(before)
            assert orders_on(topology, "mes_0") == at_change
            shard_map = moved(shard_map, 3, "mes_0")
            give(topology, shard_map, "mes_0")
            assert more_orders(len(at_change))
    finally:
        stop.set()
        for writer in writers:
            writer.join(30)
    assert set(refusals) <= {REFUSED, "40P01"}


def test_an_older_map_and_another_name_are_refused(topology: Topology) -> None:
    later = moved(EVEN, 3, "mes_1")
    give(topology, later, "mes_0")
    with pytest.raises(OwnershipConflict, match="version 2 already"):
        give(topology, EVEN, "mes_0")
    database = topology.database("mes_0")
    with (
        open_engine(topology, database, role="mes_owner") as engine,
        pytest.raises(WrongShard, match="is the database of shard mes_0, not of mes_9"),
    ):
        set_ownership(engine, Ownership("mes_9", 9, "1"), tables=[GuardedTable("orders", "order_id")])


def test_what_is_known_is_not_told_again(topology: Topology) -> None:
    give(topology, EVEN, "mes_0")
    database = topology.database("mes_0")
    with open_engine(topology, database, role="mes_owner") as engine:
        assert not set_ownership(engine, Ownership.of(EVEN, "mes_0"), tables=GUARDED)


def test_a_dump_is_restored_with_its_guard(
    mes_0: psycopg.Connection, topology: Topology, postgres: PostgresServers
) -> None:
    """pg_restore has an empty search_path, and rows of an older ownership must not hold it up."""
    mes_0.execute(INSERT, [OWN])
    give(topology, moved(EVEN, 3, "mes_1"), "mes_0")
    source = postgres.conninfo(topology.database("mes_0").dbname)
    dump = subprocess.run(
        [str(postgres_bin() / "pg_dump"), source], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    with postgres.primary.connect() as server:
        server.execute("CREATE DATABASE restored")
        try:
            psql(postgres.conninfo("restored"), dump)
            with psycopg.connect(postgres.conninfo("restored"), autocommit=True) as restored:
                assert restored.execute("SELECT order_id FROM orders").fetchall() == [(OWN,)]
                with pytest.raises(psycopg.Error) as caught:
                    restored.execute(INSERT, [key_in(3, number=1)])
                assert caught.value.sqlstate == REFUSED
        finally:
            server.execute("DROP DATABASE restored WITH (FORCE)")


@pytest.mark.parametrize("buckets", [1, 2, 64, 4096])
def test_the_server_computes_the_same_buckets(postgres: PostgresServers, buckets: int) -> None:
    keys = [0, 1, -1, 2**63 - 1, -(2**63), *range(OWN, OWN + 200)]
    query = sql.SQL("SELECT key, {} FROM unnest(%s::int8[]) AS key").format(
        sql.SQL(bucket_sql("key", buckets))
    )
    with postgres.primary.connect() as connection:
        for key, bucket in connection.execute(query, [keys]).fetchall():
            assert bucket == bucket_of(key, buckets), key
