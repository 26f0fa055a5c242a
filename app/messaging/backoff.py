"""Back-off: a step is repeated, with growing pauses while something is away."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from redis.exceptions import RedisError, ResponseError
from sqlalchemy.exc import SQLAlchemyError

from app.kit.tasks import sleep_unless
from app.messaging.errors import StreamUnusable
from readreplica.errors import is_unsupported

_FORESEEN = (RedisError, SQLAlchemyError, OSError, StreamUnusable)


def delay_seconds(attempts: int, *, base_seconds: float, cap_seconds: float, jitter: float) -> float:
    """Return how long to wait after attempt number `attempts`: doubling from the base, up to the cap.

    Parameters:
        attempts: how many have been made, from 1.
        base_seconds: the wait after the first.
        cap_seconds: the longest wait.
        jitter: from 0 to 1; takes up to a quarter off, so that what failed together returns apart.
    """
    # 2 ** 32 times any base is past every sensible cap, and a float power would overflow in the end.
    doubled: float = base_seconds * 2 ** min(attempts - 1, 32)
    return min(doubled, cap_seconds) * (1 - jitter / 4)


async def repeat_with_backoff(
    step: Callable[[], Awaitable[None]],
    *,
    stop: asyncio.Event,
    log: structlog.stdlib.BoundLogger,
    first_pause_seconds: float = 0.1,
    longest_pause_seconds: float = 5.0,
    ends_on: Callable[[Exception], bool] = lambda _: False,
) -> None:
    """Repeat `step` until `stop` is set; an error pauses it, and ends it only if `ends_on` says so of it.

    An outage is logged when it begins, when it changes its kind, and when it is over.
    """
    failures = 0
    logged: tuple[type[Exception], str] | None = None
    while not stop.is_set():
        try:
            await _heeding_cancel(step)
        except Exception as error:
            if ends_on(error):
                log.critical("given_up", error=str(error), exc_info=True)
                raise
            failures += 1
            if _kind_of(error) != logged:
                log.error("interrupted", error=str(error), exc_info=not _is_foreseen(error))
                logged = _kind_of(error)
            pause = delay_seconds(
                failures, base_seconds=first_pause_seconds, cap_seconds=longest_pause_seconds, jitter=0
            )
            await sleep_unless(stop, pause)
        else:
            if failures:
                log.info("resumed", failures=failures)
            failures, logged = 0, None


def _is_foreseen(error: Exception) -> bool:
    return isinstance(error, _FORESEEN) and not is_unsupported(error)


def _kind_of(error: Exception) -> tuple[type[Exception], str]:
    """Return what differs between outages: of Redis the text too, for OOM and MISCONF are of one class."""
    said = str(error) if isinstance(error, (ResponseError, StreamUnusable)) else ""
    return type(error), said


async def _heeding_cancel(step: Callable[[], Awaitable[None]]) -> None:
    """Run a step, and raise `CancelledError` at its end if the task was cancelled meanwhile.

    `asyncio.wait_for`, by which the Redis client sends, drops a cancellation that comes in the moment in
    which it has done its work (Python before 3.12). The task goes on, and knows only by this count.
    """
    try:
        await step()
    finally:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
