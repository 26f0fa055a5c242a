"""Relays and consumers beside a service's API: started with it, watched, restarted, stopped with it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Self

import structlog

from app.messaging.pace import sleep_unless

Work = Callable[[asyncio.Event], Awaitable[None]]
"""Runs until the event is set."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("background")


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
        """Run once; None if it ended because it was told to."""
        try:
            await work(self._stop)
        except Exception as error:
            log.exception("background_task_died", task=name)
            return f"{type(error).__name__}: {error}"
        if self._stop.is_set():
            return None
        log.error("background_task_ended", task=name)
        return "it ended although nobody stopped it"

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
