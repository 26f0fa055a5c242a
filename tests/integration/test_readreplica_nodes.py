"""What a process knows of its nodes, on servers that each test breaks: other histories, other servers."""

from dataclasses import replace
from pathlib import Path

from readreplica.health import Fault
from tests.integration.replicas_rig import HAS, QUICK, cluster_at, insert, make_table, promote, until
from tests.servers import run_postgres


async def test_a_standby_that_was_promoted_once_shows_nobody_less_than_he_wrote(tmp_path: Path) -> None:
    with run_postgres(tmp_path) as servers:
        make_table(servers)
        promote(servers.replica)
        with servers.replica.connect() as connection:
            connection.execute("CREATE TABLE junk AS SELECT generate_series(1, 20000)")
        servers.replica.stop()
        # Promoted by mistake, written to, and a standby again without a rewind.
        (servers.replica.data / "standby.signal").touch()
        servers.replica.start(port=servers.replica_port)
        async with cluster_at(servers, options=replace(QUICK, replay_wait_seconds=0.05)) as cluster:
            for n in range(5):
                token = await insert(cluster, n)
                async with cluster.read(after=token) as session:
                    assert (await session.execute(HAS, {"n": n})).scalar_one() == 1, session.node
            node = cluster.monitor.nodes["replica"]
            await until(lambda: node.health.out is Fault.NEWER_TIMELINE, what="the replica is taken out")
