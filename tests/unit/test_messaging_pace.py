"""Relay and consumer go on after errors, and end when they are told to."""

import asyncio

import pytest
import structlog
from psycopg import Error
from psycopg.errors import FeatureNotSupported, UndefinedTable
from sqlalchemy.exc import DBAPIError

from app.messaging.backoff import repeat_with_backoff
from readreplica.errors import is_outage, is_unsupported

log: structlog.stdlib.BoundLogger = structlog.get_logger("test")


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_that_a_step_has_swallowed_ends_the_work(fails: bool) -> None:
    steps = 0

    async def step() -> None:
        nonlocal steps
        steps += 1
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        # The cancellation comes between the end of the work and the moment when wait_for is told of it.
        work: asyncio.Future[None] = loop.create_future()
        loop.call_soon(work.set_result, None)
        loop.call_soon(task.cancel)
        await asyncio.wait_for(work, timeout=10)
        if fails:
            raise ConnectionError("luck")

    stop = asyncio.Event()
    working = asyncio.create_task(repeat_with_backoff(step, stop=stop, log=log))
    await asyncio.wait([working], timeout=1)
    stop.set()
    await asyncio.wait([working], timeout=10)
    assert working.cancelled()
    assert steps == 1


async def test_what_no_wait_mends_ends_the_work() -> None:
    async def step() -> None:
        raise LookupError

    keep = repeat_with_backoff(
        step, stop=asyncio.Event(), log=log, ends_on=lambda error: isinstance(error, LookupError)
    )
    with pytest.raises(LookupError):
        await asyncio.wait_for(keep, timeout=10)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (FeatureNotSupported("subqueries are not supported within INSERT queries"), True),
        (FeatureNotSupported("cached plan must not change result type"), False),
        (UndefinedTable("relation does not exist"), False),
    ],
)
def test_what_the_server_does_not_support_is_no_outage(fault: Error, expected: bool) -> None:
    error = DBAPIError("SELECT 1", {}, fault)
    assert is_unsupported(error) is expected
    assert not is_outage(error)
