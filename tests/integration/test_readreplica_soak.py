"""A million reads of own writes under lag that comes and goes; by `make soak`."""

import asyncio
from functools import partial

import pytest

from readreplica.options import ReplicaOptions
from tests.integration.replicas_rig import check_own_writes, cluster_at, make_table, parameters
from tests.servers import PostgresServers

READS_A_WRITE = 20
CHECKS = 1_000_000


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
async def test_a_million_reads_see_their_own_writes_under_changing_lag(postgres: PostgresServers) -> None:
    make_table(postgres)
    options = ReplicaOptions(replay_wait_seconds=0.02, fallback_per_second=10**6, fallback_burst=10**6)
    delays = ("0", "1ms", "4ms", "15ms", "50ms")
    units = CHECKS // READS_A_WRITE // len(delays)
    async with cluster_at(postgres, options=options) as cluster:
        check = partial(check_own_writes, cluster, reads=READS_A_WRITE)
        for turn, delay in enumerate(delays):
            with parameters(postgres.replica, recovery_min_apply_delay=delay):
                first = turn * units
                users = (check(units=range(first + user, first + units, 8)) for user in range(8))
                assert sum(await asyncio.gather(*users)) == 0
