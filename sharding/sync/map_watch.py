# Generated from sharding/map_watch.py by `make sync`: change that file, not this one.
"""The shard map that is in force: loaded from the directory, and again as soon as it has changed.

Changes come by LISTEN on a connection of its own, with polling behind it. A notification can be lost (the
connection broke, a pooler stood between), so the map is also loaded every few seconds. While the directory
cannot be reached, the process keeps the map that it has.
"""

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, text

from readreplica.pool import shut
from readreplica.sync.concurrency import BackgroundThread, Event, deadline, wait_for
from sharding.errors import ShardMapMissing
from sharding.shard_map import ShardMap

log = logging.getLogger("sharding.map")

ANSWER_SECONDS = 2.0
"""How long the directory may take to answer; a frozen one never would."""

MAP_CHANNEL = "shard_map"
"""The channel of the notifications; their payload is the name of the tree."""

_LOAD_MAP = text("""
    SELECT version, owners FROM shard_map_versions WHERE tree = :tree ORDER BY version DESC LIMIT 1
""")
_FIRST_PAUSE_SECONDS = 0.2
_NOTIFIES_SECONDS = 5.0


def is_about(payload: str, tree: str) -> bool:
    """Return whether a notification on the channel is about a tree's map.

    It names the tree; before version 0.2 it was the version of the one map that there was.
    """
    return payload == tree or payload.isdigit()


class MapReader:
    """The shard map of a tree, in the directory behind `engine`."""

    def __init__(self, engine: Engine, tree: str) -> None:
        self.tree = tree
        self._engine = engine

    def load_map(self) -> ShardMap:
        """Load the shard map that is in force: the one of the highest version.

        Raises:
            ShardMapMissing: none was saved yet.
            ShardMapInvalid: what was saved is no map.
            sqlalchemy.exc.DBAPIError: the directory cannot be reached, or did not answer in time.
        """
        with self._begin() as connection:
            row = (connection.execute(_LOAD_MAP, {"tree": self.tree})).one_or_none()
        if row is None:
            raise ShardMapMissing(self.tree)
        return ShardMap(row.version, tuple(row.owners.split(",")))

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """Begin a transaction that fails with OperationalError if it does not end soon."""
        with self._engine.connect() as connection:
            made: Any = getattr(connection, "sync_connection", connection)  # for threads it is the connection
            with (
                deadline(made.connection.driver_connection, timeout_seconds=ANSWER_SECONDS),
                connection.begin(),
            ):
                yield connection


@contextmanager
def watch_map(
    url: URL,
    load: Callable[[], object],
    *,
    tree: str,
    wanted: Event,
    poll_seconds: float = 5.0,
    max_pause_seconds: float = 30.0,
    rng: random.Random | None = None,
) -> Iterator[None]:
    """Call `load` whenever the map may have changed, until the block ends.

    Parameters:
        url: the directory itself; a pooler in transaction mode would drop the LISTEN.
        load: loads the map; its errors are logged, once until it succeeds again.
        tree: whose map it is; changes of others in the same directory are ignored.
        wanted: set it to have the map loaded at once; it is cleared before that.
        poll_seconds: how long after a load the next one is, if there is no notification.
        max_pause_seconds: the longest pause before the directory is connected to again.
        rng: spreads the attempts of many processes.
    """
    watch = _Watch(
        url,
        load,
        tree=tree,
        wanted=wanted,
        poll_seconds=poll_seconds,
        max_pause_seconds=max_pause_seconds,
        rng=rng or random.Random(),
    )
    watch.start()
    try:
        yield
    finally:
        watch.stop()


class _Watch:
    def __init__(
        self,
        url: URL,
        load: Callable[[], object],
        *,
        tree: str,
        wanted: Event,
        poll_seconds: float,
        max_pause_seconds: float,
        rng: random.Random,
    ) -> None:
        self._conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._load = load
        self._tree = tree
        self._wanted = wanted
        self._poll_seconds = poll_seconds
        self._max_pause_seconds = max_pause_seconds
        self._rng = rng
        self._has_failed = False
        self._stopping = Event()
        self._listening: psycopg.Connection | None = None
        self._loops = (
            BackgroundThread(self._listen, name="shard map listener"),
            BackgroundThread(self._keep_loaded, name="shard map reader"),
        )

    def start(self) -> None:
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wanted.set()
        if self._listening is not None:
            shut(self._listening)
        for loop in self._loops:
            loop.stop()

    def _keep_loaded(self) -> None:
        while not self._stopping.is_set():
            wait_for(self._wanted, timeout_seconds=self._poll_seconds)
            if self._stopping.is_set():
                return
            self._wanted.clear()
            try:
                self._load()
                self._has_failed = False
            except Exception as error:  # whatever it is, the process goes on with the map that it has
                if not self._has_failed:
                    log.warning(
                        "shard map not read; going on with the one at hand", extra={"error": str(error)}
                    )
                self._has_failed = True

    def _listen(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            try:
                with psycopg.Connection.connect(
                    self._conninfo, autocommit=True, application_name="shard map", connect_timeout=3
                ) as connection:
                    self._listening = connection
                    connection.execute(f"LISTEN {MAP_CHANNEL}")
                    # There is no notification of what was changed before the LISTEN.
                    self._wanted.set()
                    pause = _FIRST_PAUSE_SECONDS
                    self._receive(connection)
            except (psycopg.Error, OSError) as error:
                if not self._stopping.is_set():
                    log.info("no word of the shard map for now", extra={"error": str(error)})
            finally:
                self._listening = None
            # Random, so that not all processes connect at once to a directory that comes back.
            wait_for(self._stopping, timeout_seconds=pause * (0.5 + self._rng.random()))
            pause = min(pause * 2, self._max_pause_seconds)

    def _receive(self, connection: psycopg.Connection) -> None:
        # With a timeout, for `stop` may have come before there was a connection to shut.
        while not self._stopping.is_set():
            for notification in connection.notifies(timeout=_NOTIFIES_SECONDS):
                if is_about(notification.payload, self._tree):
                    self._wanted.set()
