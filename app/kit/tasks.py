"""Tasks of asyncio: in the background and supervised, and with a deadline."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

import structlog

Work = Callable[[asyncio.Event], Awaitable[None]]
"""Runs until the event is set."""

T = TypeVar("T")
_GRACE_SECONDS = 0.1

log: structlog.stdlib.BoundLogger = structlog.get_logger("background")
_deadline_log: structlog.stdlib.BoundLogger = structlog.get_logger("deadline")
_left: set[asyncio.Task[Any]] = set()


class Background:
    """Tasks that run as long as the `async with` block; what dies is reported in `down` and restarted."""

    def __init__(self, *, restart_after_seconds: float = 1.0, stop_seconds: float = 10.0) -> None:
        """Make an empty set of tasks.

        Parameters:
            restart_after_seconds: how long a task that died stays down.
            stop_seconds: how long a task may take to end before it is cancelled.
        """
        self._restart_after_seconds = restart_after_seconds
        self._stop_seconds = stop_seconds
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._down: dict[str, str] = {}

    @property
    def down(self) -> Mapping[str, str]:
        """The tasks that have died and wait for their restart, each with the reason."""
        return MappingProxyType(self._down)

    def start(self, name: str, work: Work) -> None:
        """Run `work` until the block ends; whenever it ends earlier, run it again."""
        self._tasks.add(asyncio.create_task(self._keep(name, work), name=name))

    async def _keep(self, name: str, work: Work) -> None:
        while not self._stop.is_set():
            fault = await self._run(name, work)
            if fault is None:
                return
            self._down[name] = fault
            await sleep_unless(self._stop, self._restart_after_seconds)
            del self._down[name]

    async def _run(self, name: str, work: Work) -> str | None:
        """Run once; None if it ended because the block ends."""
        try:
            await work(self._stop)
        except Exception as error:
            log.exception("background_task_died", task=name)
            return f"{type(error).__name__}: {error}"
        if self._stop.is_set():
            return None
        log.error("background_task_ended", task=name)
        return "it ended although it was not stopped"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=self._stop_seconds)
        for task in late:
            log.warning("background_task_cancelled", task=task.get_name())
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


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
        _deadline_log.info("late_work_ended", error=repr(error))


async def sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but wake at once when `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


@dataclass(eq=False, slots=True)
class Lane:
    """Where the requests of one caller go one at a time. `refused_at`: when one of them was refused last."""

    refused_at: float = -math.inf
    turns: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def let_others_pass(self) -> None:
        """Wait until everything else that is ready has had its turn.

        Of a flood a hundred requests come at a time, and each costs a millisecond. Here they wait for each
        other, and who asks now and then is worked on in between.
        """
        async with self.turns:
            await asyncio.sleep(0)
