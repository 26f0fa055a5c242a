"""`mesctl` and a server that has stopped answering: it is named, and nothing waits for it without end."""

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
from ops.connect import NoAnswer, Watch, open_connection
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
    head, name, rest = topology_path.read_text().partition("[databases.mes_1]")
    own, replicas, others = rest.partition("replicas")
    port = str(topology.database("mes_1").primary.port)
    assert own.count(port) == 1
    topology_path.write_text(head + name + own.replace(port, str(frozen_port)) + replicas + others)
    return topology_path


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
    assert isinstance(raised.value.orig, NoAnswer)


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
    monkeypatch.setattr(connect, "LOOK_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(connect, "SILENT_SECONDS", 1.0)
    database = topology.database("mes_0")
    with open_engine(topology, database, role=database.owner) as engine, engine.connect() as connection:
        assert connection.scalar(text("SELECT true FROM pg_sleep(2.5)"))


def test_a_server_that_refuses_the_second_connection_answers(
    postgres: PostgresServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "LOOK_EVERY_SECONDS", 0.01)
    refused = []

    def refuse() -> psycopg.Connection:
        refused.append(True)
        raise psycopg.OperationalError("FATAL: sorry, too many clients already")

    with Watch(refuse) as watch, open_connection(postgres.conninfo()) as connection:
        watch.add(connection)
        assert wait_until(lambda: len(refused) > 3, timeout_seconds=60)
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert not watch.has_cut


def test_a_machine_that_was_frozen_before_it_was_watched_is_found_out(
    postgres: PostgresServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "LOOK_EVERY_SECONDS", 0.01)
    again = partial(open_connection, postgres.conninfo(replica=True), connect_timeout=2)
    with (
        Watch(again) as watch,
        open_connection(postgres.conninfo(replica=True)) as connection,
        frozen(postgres.replica),
    ):
        watch.add(connection)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        assert watch.has_cut
