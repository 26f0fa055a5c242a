"""kill -9 before each statement of each action; the next `apply` ends clean."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from itertools import count

import pytest
from sqlalchemy import Engine, event

import partitions
from app.models.policies import ARCHIVE_MONTHS
from partitions import RetryPolicy, manual
from partitions.actions import Action, DropTable
from partitions.catalog import TableIndex
from partitions.errors import ActionBlocked
from partitions.manual import add, drop_index
from partitions.steps import LockTimeouts
from tests.integration.partitions_rig import (
    MES,
    NOW,
    catalog_of,
    detach_of,
    index_of,
    insert_order,
    run,
    split_of,
    where_orders_are,
)
from tests.integration.partitions_shard import engine_of, own_shard
from tests.kill_points import kill_points
from tests.servers import PostgresServers

CURRENT = "orders_archive_2026_11"
[MONTHS] = [policy for policy in ARCHIVE_MONTHS if policy.table == "orders_archive"]
FORK = multiprocessing.get_context("fork")
ORDERS = 5


@pytest.fixture(scope="module")
def owner(postgres: PostgresServers, templates: Mapping[str, str]) -> Iterator[Engine]:
    """Connect to a shard with its months as its owner; every test ends clean, or fails."""
    with own_shard(postgres, templates, prefix="killed") as dbname:
        engine = engine_of(postgres.conninfo(dbname, role="mes_owner"))
        partitions.apply(engine, MES, NOW)
        with engine.begin() as connection:
            for number in range(ORDERS):
                insert_order(connection, number, "SUBMITTED")
        yield engine


def _value(engine: Engine) -> Action:
    [action] = add(catalog_of(engine)["orders"], "orders_hot", ["ON_HOLD"], key="status")
    return action


def _drop_index(engine: Engine) -> Action:
    with engine.connect() as connection:
        return drop_index(connection, catalog_of(engine)["orders"], "orders_channel_idx")


def _month(engine: Engine) -> Action:
    create, *_ = partitions.plan([MONTHS], catalog_of(engine), NOW + timedelta(days=31))
    return create


def _attach(engine: Engine) -> Action:
    run(engine, detach_of(engine, CURRENT))
    [attach] = manual.attach(catalog_of(engine)["orders_archive"], CURRENT, NOW)
    return attach


def _drop(engine: Engine) -> Action:
    run(engine, detach_of(engine, CURRENT))
    return DropTable(table="orders_archive", partition=CURRENT)


def _finish(engine: Engine) -> Action:
    # The server goes on with a detach after its client is gone, unless it must wait: here for this reader.
    with engine.connect() as reader:
        reader.exec_driver_sql("SELECT FROM orders_archive")
        brief = RetryPolicy(timeouts=LockTimeouts(concurrent_lock_timeout_seconds=0.2), attempts=1)
        with pytest.raises(ActionBlocked):
            run(engine, detach_of(engine, CURRENT), brief)
    finish, *_ = partitions.plan([MONTHS], catalog_of(engine), NOW)
    return finish


def _declared_index(engine: Engine) -> Action:
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX orders_hot_submitted_idx")
    [create] = partitions.plan(MES, catalog_of(engine), NOW)
    return create


ACTIONS: Mapping[str, Callable[[Engine], Action]] = {
    "detach": lambda engine: detach_of(engine, "orders_archive_2026_11"),
    "split": lambda engine: split_of(engine, "orders_hot", {"SUBMITTED"}, "orders_new"),
    "value": _value,
    "index": lambda engine: index_of(engine, "orders"),
    "month": _month,
    "attach": _attach,
    "drop": _drop,
    "finish": _finish,
    "declared_index": _declared_index,
}

INVERTED = ("split", "value", "index", "declared_index")
"""The inverse of these is killed as well; that of the others is one of the others."""


@pytest.mark.kills
@pytest.mark.parametrize("kind", ACTIONS)
def test_apply_ends_clean_after_a_kill_at_any_statement(kind: str, owner: Engine) -> None:
    for point in kill_points():
        action = ACTIONS[kind](owner)
        if not is_killed(owner, action, point):
            break
        mend(owner)
        if kind == "index" and any(each.name == "orders_channel_idx" for each in orders_indexes(owner)):
            run(owner, _drop_index(owner))
    assert point >= 5
    mend_months(owner, kind)
    if kind in INVERTED:
        inverse = action.inverse()
        assert inverse is not None
        for point in kill_points():
            if not is_killed(owner, inverse, point):
                break
            mend(owner)
    partitions.apply(owner, MES, NOW)
    assert partitions.check(MES, catalog_of(owner), NOW) == []


def mend_months(owner: Engine, kind: str) -> None:
    """Take away the month that was made before its time; the others are needed, and come back."""
    if kind == "month":
        name = "orders_archive_2027_03"
        assert catalog_of(owner)["orders_archive"].partition(name) is not None
        run(owner, detach_of(owner, name))
        run(owner, DropTable(table="orders_archive", partition=name))


def mend(owner: Engine) -> None:
    """Do what the next run of mesctl does, and see that it leaves nothing to do and loses no row."""
    partitions.apply(owner, MES, NOW)
    assert partitions.plan(MES, catalog_of(owner), NOW) == []
    assert sum(where_orders_are(owner).values()) == ORDERS


def orders_indexes(owner: Engine) -> tuple[TableIndex, ...]:
    return catalog_of(owner)["orders"].indexes


def is_killed(owner: Engine, action: Action, point: int) -> bool:
    """Run an action in a process that kills itself before its statement number `point`; False if it ended."""
    child = FORK.Process(target=_victim, args=(owner, action, point))
    child.start()
    child.join(timeout=60)
    assert child.exitcode in {0, -signal.SIGKILL}
    return child.exitcode != 0


def _victim(owner: Engine, action: Action, point: int) -> None:
    with partitions.open_executor(owner) as executor:
        sent = count()

        @event.listens_for(owner, "before_cursor_execute")
        def _count(*_facts: object) -> None:
            if next(sent) == point:
                os.kill(os.getpid(), signal.SIGKILL)

        executor.run(action)
