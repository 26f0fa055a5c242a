"""Backfills: bounded, throttled by the replicas, and content with rows that others hold."""

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Engine, text

from partitions.errors import OnlineChangeRefused
from partitions.online import Backfill, BackfillResult, Lag, backfill
from tests.integration.online_rig import ROWS, START
from tests.integration.operations_rig import scratch_database
from tests.servers import PostgresServers

TASK = Backfill("notes", table="items", assign="note = 'seen at ' || serial::text", where="note = 'n'")


@pytest.fixture
def database(postgres: PostgresServers) -> Iterator[tuple[Engine, str]]:
    """Give a database with a table of order items."""
    with scratch_database(postgres, START) as found:
        yield found


def left(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM items WHERE note = 'n'")) or 0)


def test_rows_bound_a_run_and_the_next_goes_on(database: tuple[Engine, str]) -> None:
    engine, _ = database
    assert backfill(engine, TASK, batch_rows=100, max_rows=250) == BackfillResult(250, 250, finished=False)
    assert left(engine) == ROWS - 250
    assert backfill(engine, TASK) == BackfillResult(ROWS - 250, ROWS - 250, finished=True)
    assert left(engine) == 0
    assert backfill(engine, TASK) == BackfillResult(0, 0, finished=True)


def test_time_bounds_a_run(database: tuple[Engine, str]) -> None:
    engine, _ = database
    seconds = iter(range(100))
    done = backfill(engine, TASK, batch_rows=10, max_seconds=5, clock=lambda: float(next(seconds)))
    assert done == BackfillResult(40, 40, finished=False)


def test_row_that_is_right_already_is_not_written(database: tuple[Engine, str]) -> None:
    engine, _ = database
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE items SET note = 'other' WHERE line_no = 1")
    assert backfill(engine, TASK) == BackfillResult(ROWS, ROWS // 2, finished=True)


@pytest.mark.parametrize("behind", [Lag(2_000, 0.0), Lag(0, 9.0)])
def test_replica_that_is_behind_is_waited_for(database: tuple[Engine, str], behind: Lag) -> None:
    engine, _ = database
    looks = iter([behind, behind, *[Lag(1_000, 1.0)] * 100])
    pauses: list[float] = []
    done = backfill(
        engine,
        TASK,
        lag=lambda: next(looks),
        max_lag_bytes=1_000,
        max_lag_seconds=1.0,
        pause_seconds=2.0,
        sleep=pauses.append,
        jitter=lambda: 0.5,
    )
    assert done.finished
    assert pauses == [2.0, 2.0]


def test_wait_for_replicas_ends_with_the_time_of_the_run(database: tuple[Engine, str]) -> None:
    engine, _ = database
    seconds = iter(range(100))
    clock = {"max_seconds": 5.0, "clock": lambda: float(next(seconds)), "sleep": lambda _: None}
    done = backfill(engine, TASK, lag=lambda: Lag(10**9, 0.0), **clock)  # type: ignore[arg-type]
    assert done == BackfillResult(0, 0, finished=False)
    assert left(engine) == ROWS


def test_row_that_another_holds_is_tried_again_in_smaller_batches(database: tuple[Engine, str]) -> None:
    engine, conninfo = database
    batches: list[int] = []
    with psycopg.connect(conninfo) as other:
        other.execute("UPDATE items SET quantity = 9 WHERE order_id = 900 AND line_no = 1")
        done = backfill(
            engine,
            TASK,
            batch_rows=1_000,
            lock_timeout_seconds=0.05,
            sleep=lambda _: other.rollback(),
            report=lambda so_far: batches.append(so_far.rows_seen),
        )
    assert done == BackfillResult(ROWS, ROWS, finished=True)
    assert batches[:3] == [1_000, 1_500, 2_500]


def test_row_that_is_never_free_is_an_error_and_the_rows_before_it_stay(database: tuple[Engine, str]) -> None:
    engine, conninfo = database
    with psycopg.connect(conninfo) as other:
        other.execute("UPDATE items SET quantity = 9 WHERE order_id = 900 AND line_no = 1")
        with pytest.raises(OnlineChangeRefused, match=r"items: backfill notes: .*lock timeout"):
            backfill(engine, TASK, attempts=3, lock_timeout_seconds=0.05, sleep=lambda _: None)
    assert 0 < left(engine) < ROWS
    backfill(engine, TASK)
    assert left(engine) == 0


def test_table_partitioned_by_status_is_gone_through_by_its_whole_key(database: tuple[Engine, str]) -> None:
    engine, _ = database
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE orders (order_id bigint, status text, note text, PRIMARY KEY (order_id, status))"
            "    PARTITION BY LIST (status);"
            "CREATE TABLE orders_hot PARTITION OF orders FOR VALUES IN ('NEW');"
            "CREATE TABLE orders_done PARTITION OF orders FOR VALUES IN ('CLOSED');"
            "INSERT INTO orders SELECT id, CASE WHEN id %% 3 = 0 THEN 'NEW' ELSE 'CLOSED' END, 'n'"
            "    FROM generate_series(1, 1000) AS id"
        )
    task = Backfill("orders", table="orders", assign="note = status", where="note = 'n'")
    assert backfill(engine, task, batch_rows=7) == BackfillResult(1_000, 1_000, finished=True)
