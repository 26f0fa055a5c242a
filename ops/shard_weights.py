"""What each bucket weighs, measured on the shards that hold it."""

from collections import Counter
from enum import StrEnum

from sqlalchemy import Connection, text

from ops.fleet import open_engine
from ops.shard_guard import GUARDED
from sharding.guard import GuardedTable, bucket_sql
from sharding.shard_map import ShardMap
from sharding.topology import Topology


class By(StrEnum):
    """By what buckets are weighed."""

    ROWS = "rows"
    BYTES = "bytes"
    LOAD = "load"


# A row's share of its table with indexes and TOAST; rows of one table are much alike.
_BYTES_PER_ROW = text("""
    SELECT coalesce(sum(pg_total_relation_size(relid)), 0) FROM pg_partition_tree(CAST(:name AS regclass))
    WHERE isleaf
""")
# What was done lately says most about what will be done: a line of history is written with every change.
_LATELY = "WHERE at > now() - interval '1 day'"
_LOAD = GuardedTable("order_events", "order_id")


def weigh_buckets(topology: Topology, shard_map: ShardMap, by: By) -> list[float]:
    """Weigh the buckets of a map: one query for each table, on each shard.

    Parameters:
        by: rows and bytes of all tables, or the changes of orders within the last day.
    """
    weights: Counter[int] = Counter()
    for database in topology.databases_of("mes").values():
        with open_engine(topology, database, role=database.role) as engine, engine.connect() as connection:
            for guarded in [_LOAD] if by is By.LOAD else GUARDED:
                weights.update(_weigh(connection, guarded, shard_map.buckets, by))
    return [float(weights[bucket]) for bucket in range(shard_map.buckets)]


def _weigh(connection: Connection, guarded: GuardedTable, buckets: int, by: By) -> dict[int, int]:
    condition = _LATELY if by is By.LOAD else ""
    bucket = bucket_sql(guarded.key, buckets)
    query = f"SELECT {bucket} AS bucket, count(*) FROM {guarded.table} {condition} GROUP BY 1"
    rows: dict[int, int] = {int(bucket): int(count) for bucket, count in connection.execute(text(query))}
    if by is not By.BYTES or not rows:
        return rows
    size = connection.scalar(_BYTES_PER_ROW, {"name": guarded.table}) or 0
    total = sum(rows.values())
    return {bucket: count * int(size) // total for bucket, count in rows.items()}
