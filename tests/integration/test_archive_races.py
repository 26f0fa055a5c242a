"""The archive job against everybody else: killed at any point, raced by a writer, run twice."""

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from sqlalchemy import Connection, Engine, event

import partitions
from app.models.policies import ARCHIVE, ARCHIVE_MONTHS
from ops.waiting import wait_until
from partitions import Month
from partitions.archive import move
from sharding.topology import Topology
from tests.integration.archive_rig import NOW, add_orders, assert_whole, order_ids, rows, shard

ROOT = Path(__file__).parent.parent.parent
IDS = order_ids(60)


@pytest.fixture
def owner(topology: Topology) -> Iterator[Engine]:
    """Connect to the shard as its owner; sixty orders are due."""
    with shard(topology, role="mes_owner") as engine:
        partitions.apply(engine, ARCHIVE_MONTHS, NOW, since=Month(2026, 9))
        with engine.begin() as connection:
            add_orders(connection, IDS)
        yield engine


@contextmanager
def job(topology_path: Path) -> Iterator[IO[str]]:
    """Run the archive job as a process, ten orders a batch, and kill it at the end; give what it prints."""
    command = [sys.executable, "-m", "tests.integration.archive_rig", str(topology_path), "mes_0", "10"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


def is_gone(connection: Connection) -> bool:
    """Tell whether the server has noticed that the job is dead and has rolled its transaction back."""
    connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
    left = "SELECT FROM pg_stat_activity WHERE usename = 'mes' AND datname = current_database()"
    return connection.exec_driver_sql(left).first() is None


def waits_for_lock(connection: Connection) -> bool:
    """Tell whether somebody waits for a lock in this database."""
    waiting = (
        "SELECT FROM pg_locks JOIN pg_database d ON d.oid = database "
        "WHERE NOT granted AND datname = current_database()"
    )
    return connection.exec_driver_sql(waiting).first() is not None


# Each is the first table that the killed job cannot reach: what came before it was already moved.
@pytest.mark.parametrize(
    "table", ["orders_done", "orders_archive", "order_items", "order_items_archive", "order_events_archive"]
)
def test_job_that_is_killed_inside_a_batch_has_moved_nothing_of_it(
    topology_path: Path, owner: Engine, table: str
) -> None:
    with owner.connect() as gate:
        gate.exec_driver_sql(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        with job(topology_path):
            assert wait_until(lambda: waits_for_lock(gate), timeout_seconds=60)
    with owner.connect() as connection:
        assert wait_until(lambda: is_gone(connection), timeout_seconds=60)
    assert rows(owner, "orders") == Counter(IDS)
    assert_whole(owner, IDS)
    assert move(owner, ARCHIVE, NOW)["orders_done"] == len(IDS)
    assert_whole(owner, IDS)


def test_job_that_is_killed_between_batches_is_taken_up_by_the_next(
    topology_path: Path, owner: Engine
) -> None:
    with job(topology_path) as printed:
        assert printed.readline() == "10\n"
    with owner.connect() as connection:
        assert wait_until(lambda: is_gone(connection), timeout_seconds=60)
    left = rows(owner, "orders").total()
    assert left % 10 == 0
    assert left <= 50
    assert_whole(owner, IDS)
    assert move(owner, ARCHIVE, NOW)["orders_done"] == left
    assert_whole(owner, IDS)


@pytest.mark.parametrize("by_key", [False, True], ids=["at once", "by key"])
def test_two_jobs_at_once_share_the_work(owner: Engine, by_key: bool) -> None:
    moved: list[int] = []

    def run() -> None:
        moved.append(move(owner, ARCHIVE, NOW, batch_rows=3, lock_by_key=by_key)["orders_done"])

    jobs = [threading.Thread(target=run) for _ in range(2)]
    for thread in jobs:
        thread.start()
    for thread in jobs:
        thread.join(timeout=60)
    moved.append(move(owner, ARCHIVE, NOW)["orders_done"])  # what one skipped while the other held it
    assert sum(moved) == len(IDS)
    assert_whole(owner, IDS)


def test_order_that_comes_to_owe_a_message_while_it_is_being_locked_stays(owner: Engine) -> None:
    """The snapshot that found the order is older than its lock: another look is needed under the lock."""
    raced, owed = IDS[0], list[str]()

    def owe(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("WITH gone") and not owed:
            owed.append(statement)
            with owner.begin() as writer:
                writer.exec_driver_sql(
                    "INSERT INTO outbox (order_id, message_id, destination, type, data) "
                    f"VALUES ({raced}, gen_random_uuid(), 'crm', 'order.cancel_refused', '{{}}')"
                )

    event.listen(owner, "before_cursor_execute", owe)
    move(owner, ARCHIVE, NOW)
    assert "orders_done" in owed[0]
    assert rows(owner, "orders") == Counter([raced])
    assert_whole(owner, IDS)
