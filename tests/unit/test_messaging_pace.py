"""Relay and consumer go on after errors, and end when they are told to."""

import asyncio

import pytest
import structlog

from app.messaging.pace import keep_going

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
    working = asyncio.create_task(keep_going(step, stop=stop, log=log))
    await asyncio.wait([working], timeout=1)
    stop.set()
    await asyncio.wait([working], timeout=10)
    assert working.cancelled()
    assert steps == 1
