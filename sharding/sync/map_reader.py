# Generated from sharding/map_watch.py by `make sync`: change that file, not this one.
"""Reading the shard map that is in force: all that routing needs of the directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine

from readreplica.sync.concurrency import deadline
from sharding import map_watch as sql
from sharding.errors import ShardMapMissing
from sharding.shard_map import ShardMap

ANSWER_SECONDS = 2.0
"""How long the directory may take to answer; a frozen one never would."""


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
            row = (connection.execute(sql.LOAD_MAP, {"tree": self.tree})).one_or_none()
        if row is None:
            raise ShardMapMissing(self.tree)
        return ShardMap(row.version, tuple(row.owners.split(",")))

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """Begin a transaction that must be over soon: it fails with OperationalError if it is not."""
        with self._engine.connect() as connection:
            made: Any = getattr(connection, "sync_connection", connection)  # the twin's is one
            with (
                deadline(made.connection.driver_connection, timeout_seconds=ANSWER_SECONDS),
                connection.begin(),
            ):
                yield connection
