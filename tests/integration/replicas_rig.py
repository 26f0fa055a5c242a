"""Clusters of the library over a primary and a replica of the tests, and what is done to those servers."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import URL, text

from ops.embedded.postgres import PostgresCluster
from ops.ports import LOOPBACK
from ops.waiting import wait_until
from readreplica import engines
from readreplica.cluster import Cluster
from readreplica.options import ReplicaOptions
from readreplica.sync import cluster as sync_cluster
from readreplica.sync import engines as sync_engines
from readreplica.token import CausalToken
from tests.servers import PostgresServers

QUICK = ReplicaOptions(poll_seconds=0.05, replay_wait_seconds=10)
"""Polls often, so that a test sees their effect soon, and waits long for replay on a busy machine."""

INSERT = text("INSERT INTO notes VALUES (:n)")
COUNT = text("SELECT count(*) FROM notes")
HAS = text("SELECT count(*) FROM notes WHERE n = :n")


def url_of(servers: PostgresServers, port: int) -> URL:
    """The way of clients to the server at a port: through its pooler, if it has one."""
    return URL.create(
        "postgresql+psycopg",
        username="postgres",
        host=LOOPBACK,
        port=servers.way_to(port),
        database="postgres",
        query={"passfile": str(servers.passfile)},
    )


def parts(servers: PostgresServers, make: Any, ports: Mapping[str, int], **options: Any) -> dict[str, Any]:
    """The engines of a cluster whose primary is the primary, with replicas at these ports."""
    url = url_of(servers, servers.primary_port)
    words = engine_words(servers)
    return {
        "primary": make.writer_engine(url, **words, **options),
        "primary_reader": make.reader_engine(url, **words),
        "replicas": {
            name: make.reader_engine(url_of(servers, port), **words) for name, port in ports.items()
        },
    }


def engine_words(servers: PostgresServers) -> dict[str, Any]:
    """What every engine of a test is told; behind a pooler nothing may be prepared."""
    return {"application_name": "test", "prepare_threshold": None if servers.ways else 5}


@asynccontextmanager
async def cluster_at(
    servers: PostgresServers,
    *,
    options: ReplicaOptions = QUICK,
    replicas: Mapping[str, int] | None = None,
    **words: Any,
) -> AsyncIterator[Cluster]:
    ports = {"replica": servers.replica_port} if replicas is None else replicas
    cluster = Cluster("main", options=options, **parts(servers, engines, ports, **words))
    try:
        yield cluster
    finally:
        await cluster.close()


@contextmanager
def sync_cluster_at(
    servers: PostgresServers, *, options: ReplicaOptions = QUICK, **words: Any
) -> Iterator[sync_cluster.Cluster]:
    ports = {"replica": servers.replica_port}
    cluster = sync_cluster.Cluster("main", options=options, **parts(servers, sync_engines, ports, **words))
    try:
        yield cluster
    finally:
        cluster.close()


def make_table(servers: PostgresServers) -> None:
    """An empty table `notes (n)`, on the replica too."""
    with servers.primary.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS notes; CREATE TABLE notes (n bigint PRIMARY KEY)")
    servers.wait_for_replica()


async def insert(cluster: Cluster, n: int) -> CausalToken:
    async with cluster.write() as session:
        await session.execute(INSERT, {"n": n})
    return session.token


async def check_own_writes(cluster: Cluster, *, units: range, reads: int) -> int:
    """Write, and read often what was just written; give how many reads did not see it."""
    stale = 0
    for n in units:
        token = await insert(cluster, n)
        for _ in range(reads):
            async with cluster.read(after=token, autocommit=True) as session:
                stale += (await session.execute(HAS, {"n": n})).scalar_one() != 1
    return stale


async def until(condition: Callable[[], bool], *, what: str, timeout_seconds: float = 60) -> None:
    found = await asyncio.to_thread(
        wait_until, condition, timeout_seconds=timeout_seconds, every_seconds=0.01
    )
    assert found, f"{what}: not in {timeout_seconds:g} s"


def set_parameters(server: PostgresCluster, **parameters: str | None) -> None:
    """Set parameters that hold after a reload; None takes one back."""
    with server.connect() as connection:
        for name, value in parameters.items():
            change = sql.SQL("ALTER SYSTEM RESET {}" if value is None else "ALTER SYSTEM SET {} = {}")
            words = [sql.Identifier(name)] if value is None else [sql.Identifier(name), sql.Literal(value)]
            connection.execute(change.format(*words))
        connection.execute("SELECT pg_reload_conf()")
        for name, value in parameters.items():
            if value is not None:
                shown = sql.SQL("SELECT setting FROM pg_settings WHERE name = {} AND source <> 'default'")
                query = shown.format(sql.Literal(name))
                assert wait_until(lambda q=query: bool(connection.execute(q).fetchall()), timeout_seconds=20)  # type: ignore[misc]


@contextmanager
def parameters(server: PostgresCluster, **values: str) -> Iterator[None]:
    set_parameters(server, **values)
    try:
        yield
    finally:
        set_parameters(server, **dict.fromkeys(values))


@contextmanager
def standby_missing(server: PostgresCluster) -> Iterator[None]:
    """A primary whose commits wait for a standby that is not there."""
    with (
        parameters(server, synchronous_standby_names="missing"),
        server.connect() as connection,
        server.connect() as probe,
    ):
        # The checkpointer tells the others of the setting, which is a moment after they show it: until then
        # a commit waits for nothing.
        for _ in range(PROBES):
            probe.pgconn.send_query(b"SELECT pg_logical_emit_message(true, 'probe', '')")
            wait_until(lambda: not is_busy(probe) or commits_waiting(connection) == 1, timeout_seconds=20)
            if is_busy(probe):
                break
            finish(probe)
        else:
            raise AssertionError(f"{PROBES} commits did not wait for the standby")
        probe.cancel()
        finish(probe)
        yield


PROBES = 1000


def is_busy(connection: psycopg.Connection) -> bool:
    connection.pgconn.consume_input()
    return bool(connection.pgconn.is_busy())


def finish(connection: psycopg.Connection) -> None:
    while connection.pgconn.get_result() is not None:
        pass


def commits_waiting(connection: psycopg.Connection) -> int:
    """How many commits wait for their standby."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    return int(connection.execute(waiting).fetchall()[0][0])


@contextmanager
def paused_replay(servers: PostgresServers) -> Iterator[None]:
    with servers.replica.connect() as connection:
        connection.execute("SELECT pg_wal_replay_pause()")
        paused = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
        assert wait_until(lambda: connection.execute(paused).fetchone() == (True,), timeout_seconds=20)
        try:
            yield
        finally:
            connection.execute("SELECT pg_wal_replay_resume()")


def processes_of(server: PostgresCluster) -> list[int]:
    """The postmaster and its children."""
    pid = server.pid()
    assert pid is not None
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


@contextmanager
def frozen(server: PostgresCluster) -> Iterator[None]:
    """A server that takes connections and says nothing: SIGSTOP to all of its processes."""
    stopped = []
    try:
        for pid in processes_of(server):
            with suppress(ProcessLookupError):  # one of its children has just ended by itself
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
        yield
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def kill(server: PostgresCluster) -> None:
    """End a server as a power cut would."""
    for pid in processes_of(server):
        with suppress(ProcessLookupError):  # one of its children has just ended by itself
            os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: server.pid() is None, timeout_seconds=20)


def promote(server: PostgresCluster) -> None:
    with server.connect() as connection:
        assert connection.execute("SELECT pg_promote(true, 60)").fetchone() == (True,)
