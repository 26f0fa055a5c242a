"""The same models, migrations, sessions and verbs where Citus keeps the shards.

One Citus for the module; its tests run in their order, and each leaves the nodes as it found them.
"""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from app.messaging.message import Ack
from app.messaging.outbox import claim, settle
from app.models.mes import MesOrder, MesOrderEvent, MesOutbox
from app.models.status import Channel, Status
from ops.citus.service import open_coordinator, run_watched
from ops.migrate import citus as after_upgrade
from ops.migrate import run
from ops.migrate.drift import find_drift
from ops.migrate.errors import FleetFailed
from partitions.bounds import Month
from readreplica.sessions import WriteSession
from sharding.citus.catalog import fresh_index, is_fresh, locate, read_nodes, read_ranges, read_tables
from sharding.citus.distribute import Distribution
from sharding.citus.moving import read_job
from sharding.citus.preflight import check_schema, read_schema
from sharding.ids import first_id_at
from sharding.keys import GuardedTable
from sharding.sessions import ShardedSessions, open_sessions
from sharding.shard_map import hashint8
from tests.citus_servers import DBNAME, SHARD_COUNT, CitusServers, run_citus
from tests.integration.mesctl_rig import Mesctl, Said
from tests.project import MES, PROJECT
from tests.psql import psql

OLD = Month(2026, 3)
FIRST = first_id_at(OLD.start)
IDS = [FIRST + (number << 12) for number in range(40)]


@pytest.fixture(scope="module")
def citus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CitusServers]:
    with run_citus(tmp_path_factory.mktemp("citus")) as servers:
        for tree in ("directory", "mes"):
            run.upgrade(servers.topology, PROJECT.tree(tree))
        yield servers


@pytest.fixture
def mesctl(citus: CitusServers, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    return Mesctl(citus.topology_path, capsys)


@pytest.fixture(scope="module")
async def sessions(citus: CitusServers) -> AsyncIterator[ShardedSessions]:
    async with open_sessions(citus.topology, role="mes", application_name="test") as sessions:
        for order_id in IDS:
            async with sessions.write(order_id) as session:
                session.add(new_order(order_id))
        yield sessions


def new_order(order_id: int, status: Status = Status.SUBMITTED) -> MesOrder:
    return MesOrder(order_id=order_id, status=status, channel=Channel.B2C, summary="ring", version=1)


def worker(citus: CitusServers, number: int) -> str:
    return f"127.0.0.1:{citus.ports[f'worker_{number}']}"


def done(said: Said) -> Said:
    assert said.status == 0, f"{said.out}\n{said.err}"
    return said


# The schema


def test_every_table_stands_where_it_is_declared(citus: CitusServers) -> None:
    with open_coordinator(citus.topology, "mes") as engine, engine.connect() as connection:
        found = read_tables(connection)
    groups = {
        found[table].colocation_id for table, key in Distribution.of(MES.metadata).keyed if key == "order_id"
    }
    assert len(groups) == 1
    assert {name for name, table in found.items() if table.kind == "reference"} == Distribution.of(
        MES.metadata
    ).references
    for table, key in Distribution.of(MES.metadata).keyed:
        assert (found[table].kind, found[table].key) == ("distributed", key)
    assert not Distribution.of(MES.metadata).local & found.keys()


def test_a_downgrade_takes_the_tables_off_the_workers_and_an_upgrade_brings_them_back(
    citus: CitusServers,
) -> None:
    run.downgrade(citus.topology, PROJECT.tree("mes"), "base")
    with open_coordinator(citus.topology, "mes") as engine, engine.connect() as connection:
        assert read_tables(connection) == {}
    run.upgrade(citus.topology, PROJECT.tree("mes"))
    with open_coordinator(citus.topology, "mes") as engine, engine.connect() as connection:
        assert len(read_tables(connection)) >= len(Distribution.of(MES.metadata).keyed)


SHARD_OF_FINISHES = r"SELECT relname FROM pg_class WHERE relname ~ '^finishes_\d+$'"


def test_a_migration_waits_for_a_lock_on_a_worker_no_longer_than_its_lock_timeout(
    citus: CitusServers,
) -> None:
    with citus.connect("worker_0") as holder:
        holder.execute("SET citus.override_table_visibility = off")
        [shard] = holder.execute(SHARD_OF_FINISHES).fetchone() or [""]
        holder.execute("BEGIN")
        holder.execute(f"SELECT FROM {shard}")
        with pytest.raises(FleetFailed, match="lock timeout"):
            run.downgrade(citus.topology, PROJECT.tree("mes"), "0003")
        holder.execute("ROLLBACK")
    [outcome] = run.migrate(citus.topology, PROJECT.tree("mes"), "up", "head")
    assert outcome.ran == ()


def test_an_upgrade_again_changes_nothing_and_drift_finds_nothing(citus: CitusServers) -> None:
    [outcome] = run.migrate(citus.topology, PROJECT.tree("mes"), "up", "head")
    assert outcome.done
    with open_coordinator(citus.topology, "mes") as engine, engine.connect() as connection:
        assert after_upgrade.distribute(connection, citus.topology, MES, report=pytest.fail) == []
    [drift] = find_drift(citus.topology, PROJECT.tree("mes"))
    assert drift.uncompared is None
    assert list(drift.differences) == []


def test_the_dry_run_is_what_psql_accepts(citus: CitusServers, mesctl: Mesctl) -> None:
    script = done(mesctl("migrate", "upgrade", "--tree", "mes", "--dry-run")).out
    assert "create_distributed_table('order_items', 'order_id', colocate_with => 'orders')" in script
    words = f"host=127.0.0.1 port={citus.ports['coordinator']} dbname={DBNAME} user=mes_owner"
    assert psql(words, script) == ""


def test_a_coordinator_without_the_extension_is_refused(
    citus: CitusServers, capsys: pytest.CaptureFixture[str]
) -> None:
    path = citus.topology_path.with_name("other.toml")
    # The directory's database is in the same cluster, and is none.
    path.write_text(citus.topology_path.read_text().replace(f'dbname = "{DBNAME}"', 'dbname = "postgres"'))
    said = Mesctl(path, capsys)("shards", "citus", "health", "--json")
    assert said.status == 3
    assert "CREATE EXTENSION citus" in said.err


def test_what_a_worker_has_of_the_guard_lets_everything_pass(citus: CitusServers, mesctl: Mesctl) -> None:
    """Citus makes the guard's function on the workers; and `init`, `check` find it as it should be."""
    with citus.connect("worker_0") as connection:
        [body] = connection.execute(
            "SELECT pg_get_functiondef('shard_owns(bigint)'::regprocedure)"
        ).fetchone() or [""]
    assert "RETURN true" in body
    assert done(mesctl("shards", "init", "--json")).json == [
        {"shard": "mes", "map_version": 1, "buckets": 64, "changed": False}
    ]
    assert done(mesctl("shards", "check", "--json")).json["findings"] == []


def test_the_preflight_has_nothing_against_our_schema(mesctl: Mesctl) -> None:
    assert "would refuse nothing" in done(mesctl("shards", "citus", "preflight")).out


REFUSED = {
    "trigger": (
        "CREATE TABLE t (order_id bigint PRIMARY KEY);;"
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;;"
        "CREATE TRIGGER tr BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()"
    ),
    "two levels": (
        "CREATE TABLE t (order_id bigint, status text, PRIMARY KEY (order_id, status))"
        " PARTITION BY LIST (status);;"
        "CREATE TABLE t_hot PARTITION OF t FOR VALUES IN ('HOT') PARTITION BY RANGE (order_id);;"
        "CREATE TABLE t_hot_1 PARTITION OF t_hot FOR VALUES FROM (0) TO (10)"
    ),
    "unique key": "CREATE TABLE t (order_id bigint, id bigint PRIMARY KEY)",
    "on update cascade": (
        "CREATE TABLE p (order_id bigint PRIMARY KEY);;"
        "SELECT create_distributed_table('p', 'order_id', colocate_with => 'none');;"
        "CREATE TABLE t (order_id bigint PRIMARY KEY REFERENCES p ON UPDATE CASCADE)"
    ),
    "foreign key": (
        "CREATE TABLE p (order_id bigint PRIMARY KEY);;"
        "SELECT create_distributed_table('p', 'order_id', colocate_with => 'none');;"
        "CREATE TABLE t (order_id bigint PRIMARY KEY, other bigint REFERENCES p)"
    ),
}


@pytest.mark.parametrize("rule", REFUSED)
def test_what_the_preflight_objects_to_is_what_citus_refuses(citus: CitusServers, rule: str) -> None:
    declared = replace(Distribution.of(MES.metadata), keyed=(GuardedTable("t", "order_id"),))
    beside = "p" if "TABLE p " in REFUSED[rule] else "none"
    with open_coordinator(citus.topology, "mes") as engine, engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        for statement in REFUSED[rule].split(";;"):
            connection.exec_driver_sql(statement)
        objections = check_schema(read_schema(connection), declared)
        assert [each.rule for each in objections if each.where in ("t", "t_hot")] == [rule]
        with pytest.raises(Exception, match=r"(?i)cannot|not supported|trigger|identity|unique"):
            connection.exec_driver_sql(
                f"SELECT create_distributed_table('t', 'order_id', colocate_with => '{beside}')"
            )
        connection.exec_driver_sql("ROLLBACK")


# Sessions


async def test_the_same_sessions_read_and_write(sessions: ShardedSessions) -> None:
    order_id = IDS[0]

    async def price(session: WriteSession) -> None:
        order = await session.get_one(MesOrder, order_id, with_for_update=True)
        order.status, order.changed_at = Status.PRICE_CALCULATED, datetime.now(UTC)
        session.add(
            MesOrderEvent(
                order_id=order_id,
                event_no=1,
                status=Status.PRICE_CALCULATED,
                at=datetime.now(UTC),
                actor="test",
            )
        )

    await sessions.transact(order_id, price)
    async with sessions.read(order_id) as session:
        order = await session.get_one(MesOrder, order_id)
        assert order.status == Status.PRICE_CALCULATED
        events = select(func.count()).select_from(MesOrderEvent).where(MesOrderEvent.order_id == order_id)
        assert (await session.execute(events)).scalar_one() == 1


async def test_a_scatter_is_one_query_to_the_coordinator(sessions: ShardedSessions) -> None:
    newest = select(MesOrder).order_by(MesOrder.order_id.desc())
    first = await sessions.scatter(newest, limit=25)
    rest = await sessions.scatter(newest, limit=25, cursor=first.next_cursor)
    assert [order.order_id for order in [*first.rows, *rest.rows]] == IDS[::-1]
    assert rest.next_cursor is None
    assert sessions.shard_map.shards == ("mes",)


async def test_a_locked_row_on_a_worker_is_waited_for_no_longer_than_lock_timeout(
    sessions: ShardedSessions, citus: CitusServers
) -> None:
    change = text(f"UPDATE orders SET summary = 'x' WHERE order_id = {IDS[1]}")
    with citus.connect(role="mes_owner") as holder:
        holder.execute("BEGIN")
        holder.execute(str(change))
        async with sessions.write(IDS[1]) as session:
            await session.execute(text("SET LOCAL lock_timeout = '300ms'"))
            # The net under the test: it ends the wait where the other does not reach the worker.
            await session.execute(text("SET LOCAL statement_timeout = '20s'"))
            with pytest.raises(DBAPIError, match="lock timeout"):
                await session.execute(change)
            await session.rollback()
        holder.execute("ROLLBACK")


async def test_a_relay_takes_what_is_owed_and_settles_it(sessions: ShardedSessions) -> None:
    """The outbox over all shards, in one transaction on the coordinator."""
    [cluster] = sessions.clusters.values()
    for order_id in IDS[10:14]:
        async with sessions.write(order_id) as session:
            await session.get_one(MesOrder, order_id, with_for_update=True)
            for _ in range(2):
                session.add(owed(order_id))
    async with cluster.write() as session:
        rows = await claim(
            session,
            MesOutbox,
            destination="crm",
            lag=timedelta(0),
            now=datetime.now(UTC),
            limit=10,
            retry_after_seconds=lambda _: 60.0,
        )
        # The first of each order, for the second has to wait for it.
        assert sorted(row.order_id for row in rows) == IDS[10:14]
        acks = [Ack(row.message_id, "crm") for row in rows]
    async with cluster.write() as session:
        await settle(session, MesOutbox, acks)
    async with cluster.read() as session:
        left = (await session.scalars(select(MesOutbox.message_id))).all()
        assert len(left) == 4
        assert not set(left) & {ack.message_id for ack in acks}


def owed(order_id: int) -> MesOutbox:
    return MesOutbox(order_id=order_id, message_id=uuid4(), destination="crm", type="packaging", data={})


# Reference tables


def test_reference_tables_are_loaded_once_and_are_on_every_node(
    citus: CitusServers, mesctl: Mesctl, tmp_path: Path
) -> None:
    file = tmp_path / "reference.toml"
    file.write_text("""
        [[finishes]]
        finish = "polished"
        eur_per_cm2 = "0.5"
    """)
    done(mesctl("shards", "reference", "load", str(file)))
    for node in citus.ports:
        with citus.connect(node, role="mes_owner") as connection:
            assert connection.execute("SELECT finish FROM finishes").fetchall() == [("polished",)]
    assert mesctl("shards", "reference", "check").status == 0


# Placement


def test_a_fresh_table_places_keys_as_computed(citus: CitusServers) -> None:
    with open_coordinator(citus.topology, "mes") as engine, engine.connect() as connection:
        ranges = read_ranges(connection, "orders")
        ask = text("SELECT get_shard_id_for_distribution_column('orders', :key)")
        assert is_fresh(ranges)
        assert len(ranges) == SHARD_COUNT
        for key in (*IDS, 0, 1, 2**63 - 1):
            shard = connection.scalar(ask, {"key": key})
            assert shard == ranges[fresh_index(key, len(ranges))].shard_id
            assert shard == locate(connection, "orders", key).shard_id


def test_health_and_placements_of_a_citus_that_is_well(
    citus: CitusServers, mesctl: Mesctl, sessions: ShardedSessions
) -> None:
    health = done(mesctl("shards", "citus", "health", "--json")).json
    assert health["findings"] == []
    assert [node["group_id"] for node in health["nodes"]] == [0, 1, 2]
    with citus.connect(role="mes_owner") as connection:
        connection.execute("ANALYZE orders")
    coordinator, *workers = done(mesctl("shards", "citus", "placements", "--json")).json
    assert coordinator["shards"] == 0
    assert {node["copies"] for node in (coordinator, *workers)} == {
        len(Distribution.of(MES.metadata).references)
    }
    assert sum(node["rows"] for node in workers) >= len(IDS)
    assert sum(node["bytes_share"] for node in (coordinator, *workers)) == pytest.approx(1, abs=0.001)


# Moves


def test_a_shard_is_moved_under_its_orders_and_a_rebalance_brings_it_back(
    citus: CitusServers, mesctl: Mesctl, sessions: ShardedSessions
) -> None:
    place = done(mesctl("shards", "locate", str(IDS[0]), "--json")).json["citus"]
    shard, source = place["shard_id"], place["node"]
    target = worker(citus, 1) if source == worker(citus, 0) else worker(citus, 0)
    asked = ("shards", "citus", "move", str(shard), "--to")
    assert mesctl(*asked, source).status == 3
    assert mesctl(*asked, "127.0.0.1:1").status == 3
    assert "citus_move_shard_placement" in done(mesctl(*asked, target, "--dry-run")).out
    assert done(mesctl("shards", "citus", "plan", "--json")).json == []

    done(mesctl(*asked, target))
    assert done(mesctl("shards", "locate", str(IDS[0]), "--json")).json["citus"]["node"] == target
    [move] = done(mesctl("shards", "citus", "plan", "--json")).json
    assert (move["source"], move["target"]) == (target, source)

    said = done(mesctl("shards", "citus", "rebalance", "--mode", "block_writes", "--json"))
    assert said.json[0]["state"] == "finished"
    assert done(mesctl("shards", "citus", "plan", "--json")).json == []
    assert count_orders(citus) == len(IDS)


def test_an_interrupt_cancels_what_it_watched(citus: CitusServers) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt(line)

    with open_coordinator(citus.topology, "mes") as engine:
        with pytest.raises(KeyboardInterrupt):
            run_watched(engine, "SELECT pg_sleep(250)", report=interrupt)
        with engine.connect() as connection:
            active = "SELECT query FROM pg_stat_activity WHERE state = 'active'"
            assert not any("pg_sleep" in query for query in connection.scalars(text(active)))


def test_a_rebalance_is_stopped(citus: CitusServers, mesctl: Mesctl, sessions: ShardedSessions) -> None:
    stop = ("shards", "citus", "rebalance", "--stop")
    assert "citus_rebalance_stop()" in done(mesctl(*stop, "--dry-run")).out
    idle = mesctl(*stop)
    assert (idle.status, "no ongoing rebalance" in idle.err) == (1, True)

    place = done(mesctl("shards", "locate", str(IDS[0]), "--json")).json["citus"]
    target = worker(citus, 1) if place["node"] == worker(citus, 0) else worker(citus, 0)
    mode = ("--mode", "block_writes")
    done(mesctl("shards", "citus", "move", str(place["shard_id"]), "--to", target, *mode))
    with citus.connect(role="mes_owner") as holder:
        # A writer whom the move has to wait for.
        holder.execute("BEGIN")
        holder.execute(f"UPDATE orders SET summary = 'x' WHERE order_id = {IDS[0]}")
        done(mesctl("shards", "citus", "rebalance", "--no-wait", *mode))
        assert done(mesctl(*stop)).out == "stopped\n"
        holder.execute("ROLLBACK")
    with open_coordinator(citus.topology, "mes") as engine, engine.connect() as connection:
        found = locate(connection, "orders", IDS[0])
        job = read_job(connection)
    assert found.node == target
    assert job is not None
    assert job.state in ("cancelled", "cancelling")
    done(mesctl("shards", "citus", "rebalance", *mode))


def test_a_node_is_drained_by_a_superuser_only_and_undrained(
    citus: CitusServers, mesctl: Mesctl, sessions: ShardedSessions
) -> None:
    node = worker(citus, 1)
    refused = mesctl("shards", "citus", "drain", node)
    assert refused.status == 3
    assert "superuser" in refused.err
    drained = done(
        mesctl("shards", "citus", "drain", node, "--role", "postgres", "--mode", "block_writes", "--json")
    )
    [row] = [each for each in drained.json if each["node"] == node]
    assert (row["takes_shards"], row["shards"]) == (False, 0)
    # The last one that takes shards cannot be drained.
    assert mesctl("shards", "citus", "drain", worker(citus, 0), "--role", "postgres").status == 3
    done(mesctl("shards", "citus", "undrain", node, "--role", "postgres"))
    done(mesctl("shards", "citus", "rebalance", "--mode", "block_writes"))
    with open_coordinator(citus.topology, "mes") as engine, engine.connect() as connection:
        assert {each.node for each in read_ranges(connection, "orders")} == {worker(citus, 0), node}
        assert all(each.should_have_shards for each in read_nodes(connection) if not each.is_coordinator)
    assert count_orders(citus) == len(IDS)


def test_an_isolated_key_is_found_where_the_catalogue_has_it(
    citus: CitusServers, mesctl: Mesctl, sessions: ShardedSessions
) -> None:
    order_id = IDS[3]
    asked = ("shards", "citus", "isolate", str(order_id), "--mode", "block_writes")
    [row] = done(mesctl(*asked, "--json")).json
    assert row["shard"] != row["shard_before"]
    assert mesctl(*asked).status == 3
    with open_coordinator(citus.topology, "mes") as engine, engine.connect() as connection:
        found, ranges = locate(connection, "orders", order_id), read_ranges(connection, "orders")
        assert found.lowest == found.highest == hashint8(order_id)
        assert not is_fresh(ranges)
        assert len(ranges) == SHARD_COUNT + 2
        ask = text("SELECT get_shard_id_for_distribution_column('orders', :key)")
        for key in IDS:
            assert connection.scalar(ask, {"key": key}) == locate(connection, "orders", key).shard_id
    assert count_orders(citus) == len(IDS)


def count_orders(citus: CitusServers) -> int:
    with citus.connect(role="mes_owner") as connection:
        [count] = connection.execute("SELECT count(*) FROM orders").fetchone() or [0]
    return int(count)


# Partitions


def test_months_are_made_detached_and_attached_on_citus(citus: CitusServers, mesctl: Mesctl) -> None:
    done(mesctl("partitions", "apply"))
    assert done(mesctl("partitions", "plan", "--json")).json == []
    last = f"orders_archive_{Month.of(datetime.now(UTC)).later(3)}".replace("-", "_")
    script = done(mesctl("partitions", "detach", "orders_archive", last, "--dry-run")).out
    assert "CONCURRENTLY" not in script
    done(mesctl("partitions", "detach", "orders_archive", last))
    with open_coordinator(citus.topology, "mes") as engine, engine.connect() as connection:
        assert last in read_tables(connection)
    done(mesctl("partitions", "attach", "orders_archive", last))
    assert done(mesctl("partitions", "check", "--json")).json == []


def test_a_month_at_rest_is_stored_by_column_and_back(
    citus: CitusServers, mesctl: Mesctl, sessions: ShardedSessions
) -> None:
    partition = f"orders_archive_{OLD}".replace("-", "_")
    keys = OLD.keys(first_id_at)
    with citus.connect(role="mes_owner") as owner, citus.connect() as superuser:
        bound = f"FOR VALUES FROM ({keys.start}) TO ({keys.end})"
        owner.execute(f"CREATE TABLE {partition} PARTITION OF orders_archive {bound}")
        assert "citus_columnar" in mesctl("shards", "citus", "columnar", partition).err
        superuser.execute("CREATE EXTENSION IF NOT EXISTS citus_columnar")
        live = mesctl("shards", "citus", "columnar", partition)
        assert (live.status, "still live" in live.err) == (3, True)
        current = f"orders_archive_{Month.of(datetime.now(UTC))}".replace("-", "_")
        assert "may still come" in mesctl("shards", "citus", "columnar", current).err

        owner.execute(
            "INSERT INTO orders_archive (order_id, status, channel, summary, version)"
            " SELECT order_id, 'CLOSED', channel, summary, version FROM orders"
        )
        owner.execute("DELETE FROM orders")
        assert (
            "alter_table_set_access_method"
            in done(mesctl("shards", "citus", "columnar", partition, "--dry-run")).out
        )
        done(mesctl("shards", "citus", "columnar", partition))
        # What makes the refusals above necessary.
        with pytest.raises(psycopg.Error, match="not supported for ColumnarScan"):
            owner.execute("DELETE FROM orders_archive WHERE order_id = %s", [IDS[5]])
        assert mesctl("shards", "citus", "columnar", partition).status == 3
        done(mesctl("shards", "citus", "columnar", partition, "--heap"))
        assert owner.execute("DELETE FROM orders_archive WHERE order_id = %s", [IDS[5]]).rowcount == 1
        assert owner.execute("SELECT count(*) FROM orders_archive").fetchone() == (len(IDS) - 1,)


# At the end: a node goes away


def test_a_worker_that_is_down_is_named(citus: CitusServers, mesctl: Mesctl) -> None:
    citus.workers[1].stop()
    said = mesctl("shards", "citus", "health", "--json")
    assert said.status == 1
    assert worker(citus, 1) in {finding["what"] for finding in json.loads(said.out)["findings"]}
