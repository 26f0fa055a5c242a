"""Hearing of changes of the shard map in threads; written by hand. See `sharding.map_watch`.

Two daemon threads: one waits for notifications, the other reads the map.
"""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event

import psycopg
import structlog
from sqlalchemy import URL

from readreplica.pool import shut
from sharding.map_watch import MAP_CHANNEL, is_about

log: structlog.stdlib.BoundLogger = structlog.get_logger("shard map")

Look = Callable[[], object]

STOP_TIMEOUT_SECONDS = 10.0


@contextmanager
def watch_map(
    url: URL,
    look: Look,
    *,
    tree: str,
    wanted: Event,
    poll_seconds: float = 5.0,
    max_pause_seconds: float = 30.0,
    rng: random.Random | None = None,
) -> Iterator[None]:
    """Call `look` whenever the map may have changed, until the block ends; in a thread of its own.

    Parameters: as for `sharding.map_watch.watch_map`.
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
    threads = [
        threading.Thread(target=run, name=f"shard map {what}", daemon=True)
        for what, run in (("listener", watch.keep_listening), ("reader", watch.keep_looking))
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        watch.end()
        for thread in threads:
            thread.join(STOP_TIMEOUT_SECONDS)


class _Watch:
    def __init__(
        self,
        url: URL,
        look: Look,
        *,
        tree: str,
        wanted: Event,
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
        self._ended = Event()
        self._listening: psycopg.Connection | None = None

    def end(self) -> None:
        self._ended.set()
        self._wanted.set()
        if self._listening is not None:
            shut(self._listening)

    def keep_looking(self) -> None:
        while not self._ended.is_set():
            self._wanted.wait(self._poll_seconds)
            if self._ended.is_set():
                return
            self._wanted.clear()
            try:
                self._look()
                self._away = False
            except Exception as error:  # whatever it is, the process goes on with the map that it has
                if not self._away:
                    log.warning("shard map not read; going on with the one at hand", error=str(error))
                self._away = True

    def keep_listening(self) -> None:
        pause = 0.2
        while not self._ended.is_set():
            try:
                with psycopg.connect(
                    self._conninfo, autocommit=True, application_name="shard map", connect_timeout=3
                ) as connection:
                    self._listening = connection
                    connection.execute(f"LISTEN {MAP_CHANNEL}")
                    # What was changed before the LISTEN was told to nobody here.
                    self._wanted.set()
                    pause = 0.2
                    self._hear(connection)
            except (psycopg.Error, OSError) as error:
                if not self._ended.is_set():
                    log.info("no word of the shard map for now", error=str(error))
            finally:
                self._listening = None
            # Random, or a directory that comes back would be met by all processes at once.
            self._ended.wait(pause * (0.5 + self._rng.random()))
            pause = min(pause * 2, self._max_pause_seconds)

    def _hear(self, connection: psycopg.Connection) -> None:
        # With an end, for `end` may have come before there was a connection to shut.
        while not self._ended.is_set():
            for heard in connection.notifies(timeout=5.0):
                if is_about(heard.payload, self._tree):
                    self._wanted.set()
