"""The order system where Citus keeps the shards: an order from its submission to the archive."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text

from app.kit.clock import utc_now
from app.models.mes import MesOrder, MesOrderEvent, PricingJob
from app.models.policies import ARCHIVE
from app.models.status import Channel, Status
from app.orders import MES, append_event
from app.pricing import jobs
from ops.fleet import members, open_engine
from ops.migrate import run
from ops.partitions.archiving import archive_database, read_state, render_database
from partitions import Month
from sharding.ids import first_id_at
from sharding.sessions import ShardedSessions, open_sessions
from sharding.topology import Topology
from tests.citus_servers import DBNAME, CitusServers, run_citus
from tests.integration.archive_rig import add_orders
from tests.integration.life_rig import WHOLE_LIFE, make_and_close, pricing, submit
from tests.integration.mesctl_rig import Mesctl, Said
from tests.integration.messaging_rig import until
from tests.integration.services_rig import ok, open_services
from tests.project import PRICE_LIST, PROJECT
from tests.psql import psql
from tests.servers import ValkeyServer


@pytest.fixture(scope="module")
def citus(tmp_path_factory: pytest.TempPathFactory, valkey_server: ValkeyServer) -> Iterator[CitusServers]:
    with run_citus(tmp_path_factory.mktemp("citus"), redis_url=valkey_server.url) as servers:
        for tree in PROJECT.trees.values():
            run.upgrade(servers.topology, tree)
        yield servers


@pytest.fixture
def mesctl(citus: CitusServers, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    return Mesctl(citus.topology_path, capsys)


def done(said: Said) -> Said:
    assert said.status == 0, f"{said.out}\n{said.err}"
    return said


async def test_orders_go_from_their_submission_to_the_archive(citus: CitusServers, mesctl: Mesctl) -> None:
    topology = citus.topology

    async def ask(*words: str) -> Any:
        mesctl.capsys.readouterr()  # what the services have logged
        return done(await asyncio.to_thread(mesctl, *words, "--json")).json

    await ask("shards", "reference", "load", str(PRICE_LIST))
    async with open_services(topology) as services, pricing(topology):
        orders = [await submit(services, channel) for channel in ("B2C", "B2B")]
        await asyncio.gather(*(make_and_close(services, order_id) for order_id in orders))
        await until(lambda: asyncio.to_thread(are_due, topology, len(orders)))
    moved = await ask("archive", "run", "--grace", "0s")
    assert moved == {"mes": {"orders_done": 2, "order_items": 2, "order_events": 2 * len(WHOLE_LIFE)}}
    month = f"orders_archive_{Month.of(utc_now())}".replace("-", "_")
    assert (await ask("archive", "status"))["mes"]["orders_archive"]["archived"] == {month: 2}

    async with open_services(topology) as services:
        for order_id in orders:
            found = ok(await services.mes.get(f"/v1/orders/{order_id}"))
            assert [line["status"] for line in found["history"]] == WHOLE_LIFE
            assert found["price"] is not None
    for order_id in orders:
        places = [each["place"] for each in (await ask("orders", "trace", order_id))["standings"]]
        [table] = [place["table"] for place in places if place["service"] == "mes"]
        assert table == "orders_archive"
    audit = await ask("orders", "audit")
    assert (audit["orders"], audit["clean"], audit["in_flight"]) == (2, True, 0)


def are_due(topology: Topology, orders: int) -> bool:
    """Whether the live orders can all be archived: a message about one may still be owed."""
    [member] = members(topology, PROJECT, tree="mes")
    waiting = read_state(topology, member, replace(ARCHIVE, grace=timedelta(0)), utc_now()).waiting
    return (waiting.rows, waiting.owed) == (orders, 0)


@pytest.fixture
async def sessions(citus: CitusServers) -> AsyncIterator[ShardedSessions]:
    async with open_sessions(citus.topology, role="mes", application_name="test") as sessions:
        yield sessions


async def test_workers_take_different_jobs_and_do_not_wait_for_each_other(sessions: ShardedSessions) -> None:
    """The leases are taken in transactions that are open at the same time; there are two jobs for three."""
    orders = {1000, 1001}
    for order_id in orders:
        async with sessions.write(order_id) as session:
            session.add(PricingJob(order_id=order_id))
    [cluster] = sessions.clusters.values()
    async with asyncio.timeout(20), cluster.write() as anna, cluster.write() as bert, cluster.write() as carl:
        held = [await jobs.lease(each, holder="h", lease_seconds=60) for each in (anna, bert, carl)]
    assert {each.order_id for each in held if each} == orders
    assert held[2] is None
    for each in held[:2]:
        assert each is not None
        async with sessions.write(each.order_id) as session:
            assert await jobs.finish(session, each)


async def test_a_history_is_numbered_by_a_prepared_statement_as_well(sessions: ShardedSessions) -> None:
    """The driver prepares a statement when it comes again and again."""
    order = MesOrder(order_id=1000, status=Status.SUBMITTED, channel=Channel.B2C, summary="ring", version=1)
    async with sessions.write(1000) as session:
        for _ in range(20):
            await append_event(session, MES, order, actor="test", now=utc_now(), detail={"a": [1, "b"]})
        lines = select(MesOrderEvent).where(MesOrderEvent.order_id == 1000).order_by(MesOrderEvent.event_no)
        found = (await session.scalars(lines)).all()
        assert [line.event_no for line in found] == [*range(1, 21)]
        assert {line.detail["a"][1] for line in found} == {"b"}
        await session.rollback()


def test_a_row_that_is_held_stays_and_the_other_orders_of_its_batch_are_archived(citus: CitusServers) -> None:
    [member] = members(citus.topology, PROJECT, tree="mes")
    database = member.database
    ids = [first_id_at(utc_now()) + (number << 12) for number in range(20)]
    with open_engine(citus.topology, database, role="mes") as engine, engine.connect() as holder:
        with engine.begin() as connection:
            add_orders(connection, ids, changed_at=utc_now() - ARCHIVE.grace - timedelta(days=1))
        holder.exec_driver_sql(f"SELECT FROM orders WHERE order_id = {ids[3]} FOR UPDATE")
        moved = archive_database(citus.topology, member, ARCHIVE, utc_now(), batch_rows=6)
        assert moved == {"orders_done": 19, "order_items": 38, "order_events": 57}
        holder.rollback()
        script = render_database(citus.topology, member, ARCHIVE, utc_now(), batch_rows=6)
        words = f"host=127.0.0.1 port={citus.ports['coordinator']} dbname={DBNAME} user=mes"
        psql(words, script)
        with engine.begin() as connection:
            archived = set(connection.scalars(text("SELECT order_id FROM orders_archive")))
            assert set(ids) <= archived
            assert connection.scalars(text("SELECT order_id FROM orders")).all() == []
