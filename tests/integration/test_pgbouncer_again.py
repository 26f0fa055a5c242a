"""What the sessions do without a pooler, they do through one: the same tests on another topology."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sharding.topology import Topology
from tests.integration.test_sharding_sessions import (  # noqa: F401  # pytest collects them here, too
    sessions,
    test_a_key_is_written_and_read_on_its_shard,
    test_a_unit_of_work_runs_on_the_shard_of_its_key,
    test_orders_that_came_meanwhile_do_not_disturb_the_pages,
    test_pages_over_all_shards_give_every_order_once_newest_first,
    test_the_shard_that_fails_is_named,
    token,
)
from tests.pooler import run_pooler


@pytest.fixture
def topology(topology_path: Path, tmp_path: Path, pgbouncer: Path) -> Iterator[Topology]:
    """Give a topology that leads through a pooler of this test's own."""
    with run_pooler(topology_path, tmp_path / "pgbouncer", program=pgbouncer) as running:
        assert running.topology.url("mes_0", role="mes").port == running.port
        yield running.topology
