"""Hearing of changes of the shard map: LISTEN on a connection of its own, and polling behind it.

A notification can be lost (the connection broke, a pooler stood between), so the map is also read every few
seconds. While the directory is away the process goes on with the map that it has.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
import structlog
from sqlalchemy import URL

log: structlog.stdlib.BoundLogger = structlog.get_logger("shard map")

Look = Callable[[], Awaitable[object]]


@asynccontextmanager
async def watch_map(
    url: URL,
    look: Look,
    *,
    tree: str,
    wanted: asyncio.Event,
    poll_seconds: float = 5.0,
    max_pause_seconds: float = 30.0,
    rng: random.Random | None = None,
) -> AsyncIterator[None]:
    """Call `look` whenever the map may have changed, until the block ends.

    Parameters:
        url: the directory itself; a pooler in transaction mode would drop the LISTEN.
        look: reads the map; its errors are logged, once until it succeeds again.
        tree: whose map it is; changes of the others in the same directory are left alone.
        wanted: somebody wants a look now: set it, and it is cleared by the look.
        poll_seconds: how long to trust that no notification was lost.
        max_pause_seconds: the longest pause before the directory is tried again.
        rng: spreads the attempts of many processes.
    """
    watch = _Watch(
        url,
        look,
        tree=tree,
        wanted=wanted,
        poll_seconds=poll_seconds,
        max_pause_seconds=max_pause_seconds,
        rng=rng or random.Random(),
    )
    tasks = [asyncio.create_task(watch.keep_listening()), asyncio.create_task(watch.keep_looking())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class _Watch:
    def __init__(
        self,
        url: URL,
        look: Look,
        *,
        tree: str,
        wanted: asyncio.Event,
        poll_seconds: float,
        max_pause_seconds: float,
        rng: random.Random,
    ) -> None:
        self._conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._look = look
        self._tree = tree
        self._wanted = wanted
        self._poll_seconds = poll_seconds
        self._max_pause_seconds = max_pause_seconds
        self._rng = rng
        self._away = False

    async def keep_looking(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._poll_seconds):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            try:
                await self._look()
                self._away = False
            except Exception as error:  # whatever it is, the process goes on with the map that it has
                if not self._away:
                    log.warning("shard map not read; going on with the one at hand", error=str(error))
                self._away = True

    async def keep_listening(self) -> None:
        pause = 0.2
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._conninfo, autocommit=True, application_name="shard map", connect_timeout=3
                ) as connection:
                    await connection.execute(f"LISTEN {MAP_CHANNEL}")
                    # What was changed before the LISTEN was told to nobody here.
                    self._wanted.set()
                    pause = 0.2
                    async for heard in connection.notifies():
                        if is_about(heard.payload, self._tree):
                            self._wanted.set()
            except (psycopg.Error, OSError) as error:
                log.info("no word of the shard map for now", error=str(error))
            # Random, or a directory that comes back would be met by all processes at once.
            await asyncio.sleep(pause * (0.5 + self._rng.random()))
            pause = min(pause * 2, self._max_pause_seconds)
