"""Reading the shard map that is in force: all that routing needs of the directory."""

from sqlalchemy.ext.asyncio import AsyncEngine

from sharding import directory_sql as sql
from sharding.errors import ShardMapMissing
from sharding.shard_map import ShardMap


class MapReader:
    """The shard map, in the database behind `engine`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def load_map(self) -> ShardMap:
        """Load the shard map that is in force: the one of the highest version.

        Raises:
            ShardMapMissing: none was saved yet.
            ShardMapInvalid: what was saved is no map.
        """
        async with self._engine.connect() as connection:
            row = (await connection.execute(sql.LOAD_MAP)).one_or_none()
        if row is None:
            raise ShardMapMissing
        return ShardMap(row.version, tuple(row.owners.split(",")))
