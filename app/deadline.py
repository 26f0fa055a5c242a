"""Waiting for work only so long, even where it does not end when it is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

T = TypeVar("T")
_GRACE_SECONDS = 0.1

log: structlog.stdlib.BoundLogger = structlog.get_logger("deadline")
_left: set[asyncio.Task[Any]] = set()


async def within(work: Coroutine[Any, Any, T], *, seconds: float) -> T:
    """Return what `work` returns, or end it.

    It may not end at once: psycopg first asks the server to cancel a statement, and the server may be frozen.
    So it is cancelled a second time, which closes the connection, and left behind.

    Raises:
        TimeoutError: all that time has passed. What `work` had not begun to commit, it does not commit.
    """
    task = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=_GRACE_SECONDS)
            if not done or task.cancelled() or task.exception() is not None:
                raise TimeoutError
        return task.result()
    finally:
        if not task.done():  # also where this itself was cancelled
            task.cancel()
            _left.add(task)
            task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Any]) -> None:
    _left.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.info("late_work_ended", error=repr(error))
