"""What a token says right after a promotion. These servers are the test's own: it breaks them."""

from pathlib import Path

from sqlalchemy import URL, text

from ops.ports import LOOPBACK
from readreplica.cluster import Cluster
from readreplica.engines import reader_engine, writer_engine
from readreplica.wal import Position
from tests.servers import PostgresServers, run_postgres


def cluster_at(servers: PostgresServers, port: int) -> Cluster:
    url = URL.create(
        "postgresql+psycopg",
        username="postgres",
        host=LOOPBACK,
        port=port,
        database="postgres",
        query={"passfile": str(servers.passfile)},
    )
    writer, reader = (make(url, application_name="test") for make in (writer_engine, reader_engine))
    return Cluster("main", primary=writer, primary_reader=reader, replicas={})


async def position_of_commit(servers: PostgresServers, port: int, statement: str) -> Position:
    cluster = cluster_at(servers, port)
    try:
        async with cluster.write() as session:
            await session.execute(text(statement))
        return session.token.positions["main"]
    finally:
        await cluster.close()


async def test_a_token_carries_the_new_timeline_right_after_a_promotion(tmp_path: Path) -> None:
    with run_postgres(tmp_path) as servers:
        before = await position_of_commit(servers, servers.primary_port, "CREATE TABLE t (n int)")
        servers.wait_for_replica()
        servers.primary.stop()
        with servers.replica.connect() as connection:
            connection.execute("SELECT pg_promote(true, 30)")
        after = await position_of_commit(servers, servers.replica_port, "INSERT INTO t VALUES (1)")
    assert (before.timeline, after.timeline) == (1, 2)
    assert after.system_identifier == before.system_identifier
    # Who followed the promotion has what survived of the old timeline; who did not has nothing of the new.
    assert after.covers(before)
    assert not before._replace(lsn=after.lsn).covers(after)
