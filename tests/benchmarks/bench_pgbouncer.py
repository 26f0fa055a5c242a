"""Errors of the library through PgBouncer's transaction pooling, more clients than server connections."""

import tempfile
from pathlib import Path

from ops.pgbouncer.versions import ask_version
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.sessions import open_sessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.benchmarks.harness import CannotRun, Measured, benchmark, platform
from tests.needs import NEEDS
from tests.pooler import run_pooler
from tests.pooler_load import run_load

TRANSACTIONS = 100_000
WORKERS = 16
SERVICES = "[pgbouncer.services.mes]\npool_size = 4\n"


@benchmark(name="pgbouncer_errors", target=0, unit="errors")
async def pgbouncer_errors() -> Measured:
    """Count errors and stale reads of one's own writes in 100,000 seeded transactions."""
    program = NEEDS["pgbouncer"].find()
    if program is None:
        raise CannotRun("PgBouncer is not here; apt-get install pgbouncer")
    with (
        platform() as topology,
        tempfile.TemporaryDirectory(prefix="mes-storage-pooler-") as folder,
        run_pooler(topology.path, Path(folder), program=program, services=SERVICES) as pooler,
    ):
        await _save_map(pooler.topology)
        async with open_sessions(pooler.topology, role="mes", application_name="bench") as sessions:
            load = await run_load(sessions, transactions=TRANSACTIONS, workers=WORKERS, seed=1)
    detail = f"PgBouncer {ask_version(program)}, {WORKERS} clients on 4 connections a pool: {load}"
    if load.errors:
        detail += f"; {load.errors.most_common(3)}"
    return Measured(load.errors.total() + load.stale, detail)


async def _save_map(topology: Topology) -> None:
    async with open_cluster(topology, "directory", role="mes", application_name="bench") as cluster:
        shard_map = ShardMap.even(["mes_0", "mes_1"], topology.trees["mes"].buckets)
        await Directory(cluster.primary, "mes").save_map(shard_map, expected_version=0)
