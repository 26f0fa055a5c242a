"""Every action while orders go through their life: none fails, and none waits longer than lock_timeout."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine

import partitions
from ops.fleet import open_engine
from partitions import RetryPolicy
from partitions.steps import LockTimeouts
from sharding.topology import Topology
from tests.integration.partitions_load import under_load
from tests.integration.partitions_rig import MES, NOW, catalog_of, online_actions

LOCK_TIMEOUT_SECONDS = 1.0


@pytest.fixture
def owner(topology: Topology) -> Iterator[Engine]:
    """Connect to a shard with its months as its owner."""
    with open_engine(topology, topology.databases["mes_0"], role="mes_owner") as engine:
        partitions.apply(engine, MES, NOW)
        yield engine


@pytest.fixture
def service(topology: Topology) -> Iterator[Engine]:
    """Connect to the same shard as the service does."""
    engine = create_engine(topology.url("mes_0", role="mes"))
    yield engine
    engine.dispose()


def test_no_query_fails_or_waits_longer_than_lock_timeout(owner: Engine, service: Engine) -> None:
    waiting = RetryPolicy(
        timeouts=LockTimeouts(lock_timeout_seconds=LOCK_TIMEOUT_SECONDS), attempts=20, backoff_seconds=0.05
    )
    done = []
    with under_load(service, NOW) as load, partitions.open_executor(owner, waiting) as executor:
        for action in online_actions(owner):
            executor.run(action)
            done.append(type(action).__name__)
            load.wait_for_more(20)
    assert load.errors == []
    assert load.longest_seconds <= LOCK_TIMEOUT_SECONDS
    assert {"CreateMonth", "DetachPartition", "AttachPartition", "DropTable", "ChangeValues"} < set(done)
    assert {"SplitPartition", "MergePartition", "CreateIndex", "DropIndex", "Analyze"} < set(done)
    # Each order that has ended is in the archive, and nowhere twice.
    with owner.connect() as connection:
        count = "SELECT count(*), count(DISTINCT order_id) FROM orders_archive"
        rows, ids = connection.exec_driver_sql(count).one()
    assert rows == ids >= load.orders > 0
    assert catalog_of(owner)["orders"].detached == ()
