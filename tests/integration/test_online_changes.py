"""Online changes on a real table, while others read and write it, and killed at every commit."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy import Engine, text

from partitions import RetryPolicy
from partitions.errors import (
    ColumnInUse,
    NoPrimaryKey,
    NoSuchColumn,
    OnlineChangeRefused,
    PreconditionFailed,
    TableLocked,
    TriggersUnsupported,
)
from partitions.online import (
    Backfill,
    BackfillResult,
    Change,
    ColumnFacts,
    add_unique,
    apply,
    backfill,
    change_type,
    read_column,
    render,
    require_not_null,
)
from partitions.steps import LockTimeouts
from tests.integration.online_rig import CHANGES, RUNS, START, load_on, run_type_change, type_change
from tests.integration.operations_rig import scratch_database
from tests.kill_points import kill_points
from tests.psql import psql
from tests.servers import PostgresServers

LOCK_TIMEOUT_SECONDS = 3.0

_SCHEMA = text("""
    SELECT attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull || ' '
           || coalesce(pg_get_expr(adbin, adrelid), '')
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = 'items'::regclass AND attnum > 0 AND NOT attisdropped
    UNION SELECT conname || pg_get_constraintdef(oid) || convalidated FROM pg_constraint
    WHERE conrelid = 'items'::regclass AND contype <> 'n'
    UNION SELECT indexrelid::regclass || ' ' || indisvalid FROM pg_index WHERE indrelid = 'items'::regclass
    UNION SELECT tgname FROM pg_trigger WHERE tgrelid = 'items'::regclass AND NOT tgisinternal
""")


@pytest.fixture
def database(postgres: PostgresServers) -> Iterator[tuple[Engine, str]]:
    """Give a database with a table of order items."""
    with scratch_database(postgres, START) as found:
        yield found


def schema(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(_SCHEMA))


def count(engine: Engine, query: str) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(query)) or 0)


WANTED = {
    "not null": {"note text true "},
    "foreign key": {"items_model_id_fkeyFOREIGN KEY (model_id) REFERENCES models(model_id)true"},
    "unique": {"items_serial_keyUNIQUE (serial)true", "items_serial_key true"},
    "type": {"quantity bigint true (1)::bigint"},
}


@pytest.mark.parametrize("name", RUNS)
def test_change_is_made_under_load_and_nobody_notices(database: tuple[Engine, str], name: str) -> None:
    engine, conninfo = database
    before = schema(engine)
    with load_on(conninfo) as load:
        RUNS[name](engine)
    assert load.faults == []
    assert load.longest_seconds < LOCK_TIMEOUT_SECONDS
    assert schema(engine) - before == WANTED[name]
    RUNS[name](engine)
    assert schema(engine) - before == WANTED[name]


@pytest.mark.kills
@pytest.mark.parametrize("name", RUNS)
def test_killed_at_any_commit_it_is_finished_by_the_next_run(postgres: PostgresServers, name: str) -> None:
    for point in kill_points(every=2):
        if not _is_killed_and_mended(postgres, name, commit=point + 1):
            break
        assert point < 50
    assert point >= 2


def _is_killed_and_mended(postgres: PostgresServers, name: str, *, commit: int) -> bool:
    """Kill a run before a commit and run it again; false when it has no so many commits."""
    with scratch_database(postgres, START) as (engine, conninfo):
        before = schema(engine)
        command = [sys.executable, "-m", "tests.integration.online_rig", conninfo, name, str(commit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode in {0, -signal.SIGKILL}, done.stderr
        RUNS[name](engine)
        assert schema(engine) - before == WANTED[name]
    return done.returncode != 0


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_change_is_undone_and_psql_runs_what_a_dry_run_prints(
    database: tuple[Engine, str], change: Change
) -> None:
    engine, conninfo = database
    before = schema(engine)
    apply(engine, change)
    after = schema(engine)
    apply(engine, change.reverse())
    assert schema(engine) == before
    psql(conninfo, render(change))
    assert schema(engine) == after
    assert apply(engine, change) == []


def test_type_change_keeps_every_value_and_is_undone_before_the_swap(database: tuple[Engine, str]) -> None:
    engine, conninfo = database
    before, total = schema(engine), count(engine, "SELECT sum(quantity) FROM items")
    plan = type_change(engine)
    apply(engine, plan.expand)
    backfill(engine, plan.backfill)
    apply(engine, plan.expand.reverse())
    assert schema(engine) == before

    with load_on(conninfo):
        apply(engine, plan.expand)
        backfill(engine, plan.backfill)
    assert count(engine, "SELECT count(*) FROM items WHERE quantity IS DISTINCT FROM quantity_new") == 0
    assert count(engine, "SELECT sum(quantity) FROM items") > total
    apply(engine, plan.swap)
    assert count(engine, "SELECT count(*) FROM items WHERE quantity IS DISTINCT FROM quantity_old") == 0
    with pytest.raises(ValueError, match="items: quantity to bigint: swap: there is no way back"):
        plan.swap.reverse()


def test_swap_before_the_end_of_the_backfill_is_refused(database: tuple[Engine, str]) -> None:
    engine, conninfo = database
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE items ALTER COLUMN quantity DROP NOT NULL")
    plan = type_change(engine)
    apply(engine, plan.expand)
    backfill(engine, plan.backfill, max_rows=100)
    with pytest.raises(PreconditionFailed, match=r"the backfill items.quantity_new is not finished: run it"):
        apply(engine, plan.swap)
    with pytest.raises(subprocess.CalledProcessError):
        psql(conninfo, render(plan.swap))
    backfill(engine, plan.backfill)
    apply(engine, plan.swap)


def test_every_other_part_out_of_order_is_refused_and_changes_nothing(database: tuple[Engine, str]) -> None:
    engine, _ = database
    plan = type_change(engine)
    parts: dict[str, Callable[[], object]] = {
        "undo": lambda: apply(engine, plan.expand.reverse()),
        "backfill": lambda: backfill(engine, plan.backfill),
        "swap": lambda: apply(engine, plan.swap),
        "contract": lambda: apply(engine, plan.contract),
    }

    def refuses(**wanted: str) -> None:
        before = schema(engine)
        for part, why in wanted.items():
            with pytest.raises(PreconditionFailed, match=f"items: .*nothing was done: {why}"):
                parts[part]()
        assert schema(engine) == before

    not_begun = "quantity_new is not there: apply `expand` first"
    too_late = "quantity is swapped already: the way back is another change of type"
    refuses(backfill=not_begun, swap=not_begun, contract=not_begun)
    assert parts["undo"]() == []
    apply(engine, plan.expand)
    refuses(swap="the backfill items.quantity_new is not finished", contract="quantity is not swapped yet")
    parts["backfill"]()
    refuses(contract="quantity is not swapped yet: apply `swap` first")
    parts["swap"]()
    refuses(undo=too_late)
    assert parts["backfill"]() == BackfillResult(0, 0, finished=True)
    parts["contract"]()
    refuses(undo=too_late)
    assert [parts[part]() for part in ("swap", "contract")] == [[], []]
    assert count(engine, "SELECT count(*) FROM backfill_progress") == 0


def test_rows_that_are_wrong_are_named_and_mended_before_it_resumes(database: tuple[Engine, str]) -> None:
    engine, _ = database
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE items SET note = NULL, serial = 2 WHERE order_id < 3")
    not_null, unique = require_not_null("items", "note"), add_unique("items", ["serial"])
    with pytest.raises(OnlineChangeRefused, match=r"items: validate items_note_not_null_check: .* violated"):
        apply(engine, not_null)
    with pytest.raises(OnlineChangeRefused, match=r"items: build items_serial_key: .*is duplicated"):
        apply(engine, unique)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE items SET note = 'y', serial = order_id * 2 + line_no")
    told: list[str] = []
    apply(engine, not_null, report=lambda step: told.append(step.summary))
    apply(engine, unique)
    assert told == [
        "validate items_note_not_null_check",
        "set note not null",
        "drop items_note_not_null_check",
    ]
    assert schema(engine) >= WANTED["not null"] | WANTED["unique"]


def test_who_is_in_the_way_is_named(database: tuple[Engine, str]) -> None:
    engine, conninfo = database
    pauses: list[float] = []
    with psycopg.connect(conninfo) as other:
        other.execute("SELECT count(*) FROM items")
        with pytest.raises(TableLocked) as found:
            apply(
                engine,
                CHANGES["not null"],
                retry=RetryPolicy(LockTimeouts(1.0), attempts=3, sleep=pauses.append, jitter=lambda: 0.5),
            )
        assert f"no lock in 3 attempts; in the way: pid {other.info.backend_pid} (" in str(found.value)
        assert re.search(r"idle in transaction for \d+ s: SELECT count", str(found.value))
    assert pauses == [0.25, 0.5]
    assert len(apply(engine, CHANGES["not null"])) == 4


def test_lock_that_becomes_free_is_taken_in_a_later_attempt(database: tuple[Engine, str]) -> None:
    engine, conninfo = database
    with psycopg.connect(conninfo) as other:
        other.execute("SELECT count(*) FROM items")
        waiting = RetryPolicy(LockTimeouts(0.1), sleep=lambda _: other.rollback())
        apply(engine, CHANGES["not null"], retry=waiting)
    assert schema(engine) >= WANTED["not null"]


def test_column_that_an_index_uses_is_refused(database: tuple[Engine, str]) -> None:
    engine, _ = database
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE INDEX items_some_idx ON items (order_id) WHERE quantity > 5")
        facts = read_column(connection, "items", "quantity")
        with pytest.raises(NoSuchColumn, match="items has no column colour"):
            read_column(connection, "items", "colour")
    with pytest.raises(ColumnInUse, match=r"items.quantity is used by index items_some_idx, which"):
        change_type("items", "quantity", "bigint", facts=facts)


def test_citus_gets_no_trigger() -> None:
    citus = ColumnFacts(not_null=True, citus=True)
    with pytest.raises(TriggersUnsupported, match="let the application write both columns"):
        change_type("items", "quantity", "bigint", facts=citus)
    plan = change_type("items", "quantity", "bigint", facts=citus, dual_write="application")
    assert "TRIGGER" not in render(plan.expand)


def test_table_without_primary_key_is_refused(database: tuple[Engine, str]) -> None:
    engine, _ = database
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE loose (quantity int)")
        facts = read_column(connection, "loose", "quantity")
    with pytest.raises(NoPrimaryKey, match="loose has no primary key"):
        change_type("loose", "quantity", "bigint", facts=facts)
    task = Backfill("loose", table="loose", assign="quantity = 1", where="quantity IS NULL")
    with pytest.raises(NoPrimaryKey, match="loose has no primary key"):
        backfill(engine, task)


def test_whole_type_change_can_be_run_again(database: tuple[Engine, str]) -> None:
    engine, _ = database
    for _ in range(2):
        run_type_change(engine)
    assert schema(engine) >= WANTED["type"]
