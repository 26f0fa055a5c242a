"""The fixtures that every other test stands on."""

import psycopg
import pytest

from sharding.topology import Topology
from tests.servers import PostgresServers, ValkeyServer


def test_replica_shows_what_the_primary_committed(postgres: PostgresServers) -> None:
    with psycopg.connect(postgres.conninfo(), autocommit=True) as primary:
        primary.execute("CREATE TABLE seen AS SELECT 42 AS answer")
    postgres.wait_for_replica()
    with psycopg.connect(postgres.conninfo(replica=True), autocommit=True) as replica:
        assert replica.execute("SELECT answer, pg_is_in_recovery() FROM seen").fetchone() == (42, True)
    with psycopg.connect(postgres.conninfo(), autocommit=True) as primary:
        primary.execute("DROP TABLE seen")


@pytest.mark.parametrize("attempt", ["first", "second"])
def test_each_test_has_databases_of_its_own(topology: Topology, attempt: str) -> None:
    url = topology.url(topology.databases["shop"], role="shop").set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
        connection.execute(
            "INSERT INTO outbox (order_id, message_id, destination, type, data)"
            " VALUES (1, gen_random_uuid(), 'mes', 'order.submitted', '{}')"
        )


def test_shop_cannot_connect_to_crm(topology: Topology, postgres: PostgresServers) -> None:
    crm = topology.databases["crm"].dbname
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(postgres.conninfo(crm, role="shop"))


def test_valkey_is_empty(valkey: ValkeyServer) -> None:
    valkey.flush()
    assert valkey.url.startswith("redis://127.0.0.1:")
