"""`mesctl` and a server that is down or has stopped answering: it is named, and no verb waits without end."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from ops import connect
from ops.connect import ServerUnresponsive, Watchdog, open_connection
from ops.embedded.errors import ClusterSilent
from ops.fleet import open_engine
from ops.waiting import wait_until
from sharding.topology import Topology
from tests.integration.audit_rig import Clerk
from tests.integration.mesctl_rig import Mesctl
from tests.integration.replicas_rig import frozen
from tests.servers import PostgresServers

NAMED = "it does not answer: nothing came within"
SOON_SECONDS = 30.0
"""Ten are what a person is to wait; the rest is this machine's."""


@pytest.fixture
def frozen_port() -> Iterator[int]:
    """Give a port where connections are taken by the kernel, and by nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture
def half_frozen(topology_path: Path, frozen_port: int) -> Path:
    """Give a topology whose shard mes_1 is frozen; the other databases hold an order."""
    topology = Topology.load(topology_path)
    clerk = Clerk(topology)
    clerk.shard_map()
    clerk.orders(1)
    move_primary(topology, "mes_1", frozen_port)
    return topology_path


def move_primary(topology: Topology, database: str, port: int) -> None:
    """Have the topology file name another port for a database's primary."""
    head, name, rest = topology.path.read_text().partition(f"[databases.{database}]")
    old = f"port = {topology.database(database).primary.port}"
    assert old in rest
    topology.path.write_text(head + name + rest.replace(old, f"port = {port}", 1))


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Give a port at which nothing listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


@pytest.mark.parametrize(
    ("database", "verb"),
    [
        ("directory", "shards list"),
        ("directory", "shards in-doubt list"),
        ("directory", "migrate status"),
        ("mes_1", "shards list"),
        ("mes_1", "partitions check"),
        ("mes_1", "archive run"),
        ("shop", "orders audit"),
        ("shop", "orders trace 1"),
        ("mes_1", "orders audit"),
    ],
)
def test_a_database_that_is_down_is_named(
    topology: Topology, closed_port: int, capsys: pytest.CaptureFixture[str], database: str, verb: str
) -> None:
    Clerk(topology).shard_map()
    move_primary(topology, database, closed_port)
    said = Mesctl(topology.path, capsys)(*verb.split())
    assert said.status == 1
    last = said.err.splitlines()[-1]
    assert last.startswith(f"mesctl: {database}")
    assert "Connection refused" in last


def test_the_list_of_replicas_fails_when_nothing_answers(
    topology: Topology, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Mesctl(topology.path, capsys)("replicas", "list").status == 0
    text = topology.path.read_text()
    for database in topology.databases.values():
        for place in (database.primary, *database.replicas):
            text = text.replace(f"port = {place.port}", f"port = {closed_port}")
    topology.path.write_text(text)
    for verb in (["list"], ["lag", "--looks", "2", "--every-seconds", "0.05"]):
        said = Mesctl(topology.path, capsys)("replicas", *verb, "--json")
        assert said.status == 1
        assert {row["role"] for row in said.json} == {"-"}


def test_the_list_of_replicas_fails_when_a_database_has_no_primary(
    topology: Topology, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    move_primary(topology, "mes_0", closed_port)
    said = Mesctl(topology.path, capsys)("replicas", "list", "mes_0", "--json")
    assert (said.status, [row["role"] for row in said.json]) == (1, ["-", "replica"])


@pytest.mark.parametrize(
    ("verb", "shown"),
    [
        ("shards list", "mes_0"),
        ("shards check", "all"),
        ("partitions list", "mes_0"),
        ("partitions check", ""),
        ("archive status", "mes_0"),
        ("archive run", ""),
        ("migrate status", "mes_0"),
        ("replicas list", "mes_0"),
        ("orders audit", ""),
    ],
)
def test_a_frozen_database_is_named_and_the_others_are_shown(
    half_frozen: Path, capsys: pytest.CaptureFixture[str], verb: str, shown: str
) -> None:
    began = time.monotonic()
    said = Mesctl(half_frozen, capsys)(*verb.split())
    assert time.monotonic() - began < SOON_SECONDS
    assert said.status == 1
    everything = " ".join((said.out + said.err).split())
    assert "mes_1" in everything
    assert shown in said.out or shown == "all"


def test_the_trace_of_an_order_shows_what_the_other_databases_know(
    half_frozen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topology = Topology.load(half_frozen)
    shop = open_engine(topology, topology.database("shop"), role="shop")
    with shop as engine, engine.connect() as connection:
        order_id = connection.scalar(text("SELECT order_id FROM orders"))
    said = Mesctl(half_frozen, capsys)("orders", "trace", str(order_id), "--json")
    assert said.status == 1
    assert [each["place"]["service"] for each in said.json["standings"]][:2] == ["shop", "crm"]
    assert said.json["unread"].keys() == {"mes_1"}
    assert f"mes_1: {NAMED}" in said.err


def test_a_query_is_cut_when_its_server_freezes(topology: Topology, postgres: PostgresServers) -> None:
    database = topology.database("mes_0")

    def wait() -> None:
        with open_engine(topology, database, role=database.owner) as engine, engine.connect() as connection:
            connection.execute(text("SELECT pg_sleep(600)"))

    def is_asleep() -> bool:
        with postgres.primary.connect() as connection:
            query = (
                "SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600%' AND state = 'active'"
            )
            return connection.execute(query).rowcount == 1

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(wait)
        assert wait_until(is_asleep, timeout_seconds=60)
        with frozen(postgres.primary), pytest.raises(OperationalError) as raised:
            waiting.result(timeout=SOON_SECONDS)
    assert isinstance(raised.value.orig, ServerUnresponsive)


def test_a_cluster_that_freezes_is_named(postgres: PostgresServers) -> None:
    with (
        frozen(postgres.replica),
        pytest.raises(ClusterSilent, match=f"replica \\(port .*\\): {NAMED}"),
        postgres.replica.connect(),
    ):
        pytest.fail("it has answered")


def test_work_goes_on_for_as_long_as_its_server_answers(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "PROBE_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(connect, "SILENT_SECONDS", 1.0)
    database = topology.database("mes_0")
    with open_engine(topology, database, role=database.owner) as engine, engine.connect() as connection:
        assert connection.scalar(text("SELECT true FROM pg_sleep(2.5)"))


def test_a_server_that_refuses_the_second_connection_answers(
    postgres: PostgresServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "PROBE_EVERY_SECONDS", 0.01)
    refused = []

    def refuse() -> psycopg.Connection:
        refused.append(True)
        raise psycopg.OperationalError("FATAL: sorry, too many clients already")

    with Watchdog(refuse) as watch, open_connection(postgres.conninfo()) as connection:
        watch.add(connection)
        assert wait_until(lambda: len(refused) > 3, timeout_seconds=60)
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert not watch.has_shut


def test_a_machine_that_was_frozen_before_it_was_watched_is_found_out(
    postgres: PostgresServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "PROBE_EVERY_SECONDS", 0.01)
    again = partial(open_connection, postgres.conninfo(replica=True), connect_timeout=2)
    with (
        Watchdog(again) as watch,
        open_connection(postgres.conninfo(replica=True)) as connection,
        frozen(postgres.replica),
    ):
        watch.add(connection)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        assert watch.has_shut
