"""kill -9 before each statement of each action; the next `apply` ends clean."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from itertools import count

import pytest
from sqlalchemy import Engine, event

import partitions
from ops.fleet import open_engine
from partitions.actions import Action
from partitions.byhand import add, drop_index
from partitions.indexes import TableIndex
from sharding.topology import Topology
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

FORK = multiprocessing.get_context("fork")
ORDERS = 5


@pytest.fixture
def owner(topology: Topology) -> Iterator[Engine]:
    """Connect to a shard with its months as its owner."""
    with open_engine(topology, topology.databases["mes_0"], role="mes_owner") as engine:
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


ACTIONS: Mapping[str, Callable[[Engine], Action]] = {
    "detach": lambda engine: detach_of(engine, "orders_archive_2026_11"),
    "split": lambda engine: split_of(engine, "orders_hot", {"SUBMITTED"}, "orders_new"),
    "value": _value,
    "index": lambda engine: index_of(engine, "orders"),
}
"""The inverse of each is killed as well."""


@pytest.mark.parametrize("kind", ACTIONS)
def test_apply_ends_clean_after_a_kill_at_any_statement(kind: str, owner: Engine) -> None:
    for point in count():
        action = ACTIONS[kind](owner)
        if not is_killed(owner, action, point):
            break
        mend(owner)
        if kind == "index" and any(each.name == "orders_channel_idx" for each in orders_indexes(owner)):
            run(owner, _drop_index(owner))
    assert point > 5
    inverse = action.inverse()
    assert inverse is not None
    for point in count():
        if kind == "detach":  # apply has attached the month, for it is the current one
            partitions.apply(owner, MES, NOW)
            break
        if not is_killed(owner, inverse, point):
            break
        mend(owner)
    assert partitions.check(MES, catalog_of(owner), NOW) == []


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
    child.join(timeout=30)
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
