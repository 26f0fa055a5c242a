"""What earlier releases have left in the five databases is brought to this one's schema, and is used."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from app.console.audit.databases import OrderDatabases
from app.console.audit.report import audit
from app.models.mes import MesArchivedOrder, MesOrder
from app.models.status import Channel, Status
from ops.shards.service import load_shard_map
from sharding.directory import Directory, open_id_generator
from sharding.engines import open_cluster
from sharding.ownership import REFUSED
from sharding.sessions import open_sessions
from sharding.shard_map import ShardMap
from tests.integration.mesctl_rig import Mesctl
from tests.integration.services_rig import ok, open_services
from tests.integration.upgrade_rig import (
    RELEASES,
    Upgraded,
    read_drift,
    read_revisions,
    upgraded,
    wait_for_acknowledgements,
)
from tests.servers import PostgresServers, ValkeyServer

FILLED = {
    "directory": {"migration_ledger", "node_leases", "reference_contents", "two_phase_decisions"},
    "board": frozenset(),  # no release before had it
    "shop": {"orders", "order_events", "outbox", "inbox"},
    "crm": {"orders", "order_events", "inbox"},
    "mes": {
        *("orders", "order_items", "order_events", "pricing_jobs", "outbox", "inbox", "partner_requests"),
        *("orders_archive", "order_items_archive", "order_events_archive", "model_measurements"),
        *("materials", "finishes", "tariffs", "reference_versions", "shard_identity"),
    },
}
"""Tables that hold something in every dump, by tree: an empty one proves nothing."""

LOG = {"migration_ledger"}
"""An upgrade writes its own lines there."""


@pytest.fixture(scope="module", params=RELEASES, ids=lambda release: release.name)
def databases_of(
    request: pytest.FixtureRequest,
    postgres: PostgresServers,
    valkey_server: ValkeyServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Upgraded]:
    """Give the upgraded databases of each release in turn, for all tests of this file."""
    release: Path = request.param
    with upgraded(postgres, valkey_server, release, tmp_path_factory.mktemp(release.name)) as found:
        yield found


def test_dump_holds_what_the_tests_are_about(databases_of: Upgraded) -> None:
    for name, tables in databases_of.before.items():
        tree = databases_of.topology.database(name).tree
        assert not {table for table in FILLED[tree] if not tables[table]}, name
    shop = {status for (status,) in databases_of.query("shop", "SELECT status FROM orders")}
    assert shop == {str(status) for status in Status}
    live = databases_of.query_shards("SELECT status, channel FROM orders")
    # The MES learns of an order when it is submitted.
    made = [status for status in Status if status not in {Status.INITIATED, Status.FILE_UPLOADED}]
    assert {(str(status), str(channel)) for status in made for channel in Channel} <= set(live)
    months = databases_of.query_shards("SELECT DISTINCT tableoid::regclass::text FROM orders_archive")
    assert len(set(months)) > 1


def test_every_database_is_at_the_newest_revision(databases_of: Upgraded) -> None:
    found = read_revisions(databases_of.topology)
    assert found.keys() == databases_of.before.keys()
    for name, revisions in found.items():
        assert revisions.current == revisions.head, name


def test_schema_is_what_migrations_from_nothing_make(databases_of: Upgraded) -> None:
    assert read_drift(databases_of.topology) == {name: [] for name in databases_of.before}


def test_no_row_is_lost_or_doubled(databases_of: Upgraded) -> None:
    for name, tables in databases_of.before.items():
        kept = {table: rows for table, rows in databases_of.after[name].items() if table in tables}
        for table in LOG & tables.keys():
            assert kept[table] >= tables[table], name
            kept[table] = tables[table]
        assert kept == tables, name


async def test_live_and_archived_orders_are_found_by_id(databases_of: Upgraded) -> None:
    live = databases_of.query_shards("SELECT order_id, status FROM orders")
    archived = databases_of.query_shards("SELECT order_id, status FROM orders_archive")
    async with open_sessions(databases_of.topology, role="mes", application_name="test") as sessions:
        for order_id, status in live:
            async with sessions.read(order_id) as session:
                assert (await session.get_one(MesOrder, order_id)).status == status
        for order_id, status in archived:
            async with sessions.read(order_id) as session:
                assert (await session.get_one(MesArchivedOrder, order_id)).status == status


async def test_shard_map_is_read_and_ids_are_leased(databases_of: Upgraded) -> None:
    topology = databases_of.topology
    rows = databases_of.query("directory", "SELECT version, owners FROM shard_map_versions ORDER BY version")
    known = {order_id for (order_id,) in databases_of.query_shards("SELECT order_id FROM orders")}
    async with open_cluster(topology, "directory", role="mes", application_name="test") as cluster:
        directory = Directory(cluster.primary, "mes")
        version, owners = rows[-1]
        assert await directory.load_map() == ShardMap(version, tuple(owners.split(",")))
        async with open_id_generator(directory, holder="test") as ids:
            assert ids.next_id() not in known


def test_shard_refuses_what_belongs_to_another(databases_of: Upgraded) -> None:
    names = list(databases_of.topology.databases_of("mes"))
    for name, other in zip(names, reversed(names), strict=True):
        [(foreign,), *_] = databases_of.query(other, "SELECT order_id FROM orders_hot")
        with pytest.raises(psycopg.Error) as caught:
            databases_of.query(name, f"INSERT INTO pricing_jobs (order_id) VALUES ({foreign}) RETURNING 1")
        assert caught.value.sqlstate == REFUSED


def test_audit_finds_every_order(databases_of: Upgraded, capsys: pytest.CaptureFixture[str]) -> None:
    known = {
        *databases_of.query("shop", "SELECT order_id FROM orders"),
        *databases_of.query_shards("SELECT order_id FROM orders UNION SELECT order_id FROM orders_archive"),
    }
    said = Mesctl(databases_of.topology.path, capsys)("orders", "audit", "--json")
    assert (said.status, said.json["clean"], said.json["orders"]) == (0, True, len(known)), said.json


@pytest.mark.usefixtures("valkey")
async def test_services_go_on_with_what_was_under_way(databases_of: Upgraded) -> None:
    topology = databases_of.topology
    async with open_services(topology) as services:
        await asyncio.to_thread(wait_for_acknowledgements, topology)
        # A key of its own: those that the tests make up may be in the dump.
        order_id = str(ok(await services.start(key="after-the-upgrade"), 201)["order_id"])
        ok(await services.upload(order_id))
        ok(await services.shop.post(f"/v1/orders/{order_id}/submit"))
        await services.shows(services.crm, order_id, Status.SUBMITTED)
        await asyncio.to_thread(wait_for_acknowledgements, topology)
    shard_map = await load_shard_map(topology, "mes")
    report = await asyncio.to_thread(audit, OrderDatabases(topology), shard_of=shard_map.shard_of)
    assert (report.clean, report.in_flight) == (True, 0), report.findings
