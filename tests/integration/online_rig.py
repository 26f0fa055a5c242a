"""A table under a load of reads and writes, and a change of it; run as a program, a run that can be killed.

python -m tests.integration.online_rig CONNINFO CHANGE COMMITS kills itself instead of its COMMITS-th commit.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType

import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import NullPool

from ops.waiting import wait_until
from partitions.online import (
    Change,
    TypeChange,
    add_foreign_key,
    add_unique,
    apply,
    backfill,
    change_type,
    read_column,
    require_not_null,
)

ROWS = 3_000
START = f"""
    CREATE TABLE models (model_id bigint PRIMARY KEY);
    CREATE TABLE items (
        order_id bigint, line_no integer, model_id bigint NOT NULL, quantity integer NOT NULL DEFAULT 1,
        note text, serial bigint, PRIMARY KEY (order_id, line_no)
    );
    INSERT INTO models SELECT id FROM generate_series(0, 9) AS id;
    INSERT INTO items SELECT id, line, id %% 10, id %% 7, 'n', id * 2 + line
    FROM generate_series(1, {ROWS // 2}) AS id, generate_series(1, 2) AS line
"""


def type_change(engine: Engine) -> TypeChange:
    """Plan quantity's way from integer to bigint, from what stands."""
    with engine.connect() as connection:
        facts = read_column(connection, "items", "quantity")
    return change_type("items", "quantity", "bigint", facts=facts)


def run_type_change(engine: Engine) -> None:
    """Do all of it; run again, it does what is left."""
    plan = type_change(engine)
    apply(engine, plan.expand)
    backfill(engine, plan.backfill, batch_rows=1_000)
    apply(engine, plan.swap)
    apply(engine, plan.contract)


CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "not null": require_not_null("items", "note"),
        "foreign key": add_foreign_key("items", ["model_id"], references="models", referenced=["model_id"]),
        "unique": add_unique("items", ["serial"]),
    }
)

RUNS: Mapping[str, Callable[[Engine], object]] = MappingProxyType(
    {"type": run_type_change, **{name: partial(apply, change=change) for name, change in CHANGES.items()}}
)


def open_engine(conninfo: str) -> Engine:
    """Connect as libpq's words say."""
    return create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=NullPool
    )


class Load:
    """Reads and writes without a pause, and how they fared."""

    def __init__(self) -> None:
        self.done = 0
        self.longest_seconds = 0.0
        self.faults: list[str] = []
        self.stop = threading.Event()

    def work(self, conninfo: str, worker: int) -> None:
        """Insert, change and read rows of one's own until told to stop."""
        # A statement that was prepared before a swap fails once after it (0A000):
        # docs/how-to/online-changes.md
        with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection:
            number = 1_000_000 * (worker + 1)
            while not self.stop.is_set():
                number += 1
                key = {"id": number, "old": number % (ROWS // 2) + 1, "serial": -number}
                for statement in (
                    "INSERT INTO items (order_id, line_no, model_id, note, serial) "
                    "VALUES (%(id)s, 1, 1, 'x', %(serial)s)",
                    "UPDATE items SET quantity = quantity + 1 WHERE order_id = %(old)s",
                    "SELECT quantity, note FROM items WHERE order_id = %(id)s",
                ):
                    self._run(connection, statement, key)

    def _run(self, connection: psycopg.Connection, statement: str, key: Mapping[str, int]) -> None:
        began = time.monotonic()
        try:
            connection.execute(statement.encode(), key)
        except psycopg.Error as fault:
            self.faults.append(str(fault))
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
        self.done += 1


@contextmanager
def load_on(conninfo: str, *, workers: int = 3) -> Iterator[Load]:
    """Run a load meanwhile; it goes on before the change begins and after it has ended."""
    load = Load()
    threads = [threading.Thread(target=load.work, args=(conninfo, worker)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    try:
        assert wait_until(lambda: load.done > 50, timeout_seconds=60)
        yield load
        so_far = load.done
        assert wait_until(lambda: load.done > so_far + 50, timeout_seconds=60)
    finally:
        load.stop.set()
        for thread in threads:
            thread.join(timeout=60)


def main(conninfo: str, change: str, commits: str) -> None:
    """Run a change, and die by SIGKILL where a transaction would end for the COMMITS-th time."""
    engine, left = open_engine(conninfo), int(commits)

    def die() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @event.listens_for(engine, "commit")
    def _at_commit(_connection: object) -> None:
        die()

    @event.listens_for(engine, "before_cursor_execute")
    def _at_statement(*call: object) -> None:
        # The executor sends COMMIT itself; what is not in a transaction is killed before it starts.
        if str(call[2]).startswith(("COMMIT", "CREATE UNIQUE INDEX")):
            die()

    RUNS[change](engine)


if __name__ == "__main__":
    main(*sys.argv[1:])
