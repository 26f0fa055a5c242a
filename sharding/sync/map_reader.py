# Generated from sharding/map_reader.py by `make twins`: change that file, not this one.
"""Reading the shard map that is in force: all that routing needs of the directory."""

from sqlalchemy import Engine

from sharding import directory_sql as sql
from sharding.errors import ShardMapMissing
from sharding.shard_map import ShardMap


class MapReader:
    """The shard map, in the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load_map(self) -> ShardMap:
        """Load the shard map that is in force: the one of the highest version.

        Raises:
            ShardMapMissing: none was saved yet.
            ShardMapInvalid: what was saved is no map.
        """
        with self._engine.connect() as connection:
            row = (connection.execute(sql.LOAD_MAP)).one_or_none()
        if row is None:
            raise ShardMapMissing
        return ShardMap(row.version, tuple(row.owners.split(",")))
