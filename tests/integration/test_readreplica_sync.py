"""The twin for threads, on the same servers: what it shares with its source is tested there."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from readreplica.cluster import PRIMARY
from readreplica.metrics import Reason
from readreplica.options import ReplicaOptions
from readreplica.sync import Cluster, ReadSession
from tests.integration.replicas_rig import (
    COUNT,
    HAS,
    INSERT,
    QUICK,
    frozen,
    make_table,
    paused_replay,
    sync_cluster_at,
)
from tests.servers import PostgresServers

PID = text("SELECT pg_backend_pid()")
TIMESTAMP = text("SELECT transaction_timestamp()")


@pytest.fixture
def cluster(nodes: PostgresServers) -> Iterator[Cluster]:
    make_table(nodes)
    with sync_cluster_at(nodes) as cluster:
        yield cluster


def test_a_read_sees_what_was_written_before(cluster: Cluster) -> None:
    served = set()
    for n in range(100):
        with cluster.write() as session:
            session.execute(INSERT, {"n": n})
        assert session.token.positions["main"].timeline == 1
        with cluster.read(after=session.token) as reader:
            assert reader.execute(HAS, {"n": n}).scalar_one() == 1
        served.add((reader.node, reader.reason))
    assert served <= {("replica", Reason.WAITED), ("replica", Reason.FRESH)}


def test_the_token_is_of_this_unit_and_not_of_the_next_one_on_its_connection(cluster: Cluster) -> None:
    later = cluster.write()

    def write_again(*_: Any) -> None:
        with later:
            later.execute(INSERT, {"n": 2})
            pids.append(later.execute(PID).scalar_one())

    with cluster.write() as session:
        session.execute(INSERT, {"n": 1})
        pids = [session.execute(PID).scalar_one()]
        # The pool has the connection by then, and the unit has not looked at its position yet.
        event.listen(session, "after_transaction_end", write_again, once=True)
    assert pids[0] == pids[1]
    assert session.token.positions["main"].lsn < later.token.positions["main"].lsn


def test_a_write_session_rolls_back_on_an_error(cluster: Cluster) -> None:
    def unit() -> None:
        with session:
            session.execute(INSERT, {"n": 1})
            raise RuntimeError("on purpose")

    session = cluster.write()
    with pytest.raises(RuntimeError, match="on purpose"):
        unit()
    assert not session.token
    with cluster.write() as session:
        assert session.execute(COUNT).scalar_one() == 0


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_reader_cannot_write_and_has_the_snapshot_that_it_asked_for(
    cluster: Cluster, autocommit: bool
) -> None:
    with cluster.read(autocommit=autocommit) as session:
        begun = {session.execute(TIMESTAMP).scalar_one() for _ in range(3)}
        assert len(begun) == (3 if autocommit else 1)
        with pytest.raises(DBAPIError, match="read-only transaction"):
            session.execute(text("DELETE FROM notes"))


def test_threads_wait_together_and_are_served_by_one_answer(cluster: Cluster, nodes: PostgresServers) -> None:
    found: list[str | None] = []
    with cluster.read() as session:
        session.execute(COUNT)

    def read() -> None:
        with cluster.read(after=token) as reader:
            reader.execute(COUNT)
        found.append(reader.node)

    with paused_replay(nodes):
        with cluster.write() as writer:
            writer.execute(INSERT, {"n": 1})
        token = writer.token
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert set(found) <= {"replica", PRIMARY}


def test_a_frozen_replica_holds_no_thread_up(nodes: PostgresServers) -> None:
    make_table(nodes)
    options: ReplicaOptions = replace(QUICK, answer_seconds=0.3, replay_wait_seconds=0.05)
    served = []

    def work(session: ReadSession) -> int:
        found = int(session.execute(COUNT).scalar_one())
        served.append(session.node)
        return found

    with sync_cluster_at(nodes, options=options) as cluster:
        with cluster.read() as session:
            session.execute(COUNT)
        with frozen(nodes.replica):
            assert cluster.transact_read(work) == 0
        assert served == [PRIMARY]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("watch of main")]
