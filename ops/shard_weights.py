"""What each bucket weighs, measured on the shards that hold it."""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from sqlalchemy import Connection, text

from ops.errors import ExitStatus, OpsError
from ops.fleet import naming, open_engine
from ops.project import ProjectTree
from ops.shards import STORED_IN
from partitions.sql import identifier
from sharding.keys import GuardedTable, change_log_of, guarded_tables
from sharding.ownership import bucket_sql
from sharding.shard_map import ShardMap
from sharding.topology import Topology


class By(StrEnum):
    """By what buckets are weighed."""

    ROWS = "rows"
    BYTES = "bytes"
    LOAD = "load"


class LoadUnknown(OpsError):
    """No table of the tree says what was changed lately."""

    exit_status = ExitStatus.USAGE

    def __init__(self, tree: str) -> None:
        self.tree = tree
        super().__init__(
            f"no table of the tree {tree} says that its rows are changes: give one that has a shard key "
            '`info=change_log("COLUMN")` (sharding.keys), or weigh by rows or bytes'
        )


# A row's share of its table with indexes and TOAST; rows of one table are much alike.
_BYTES = text(f"SELECT coalesce(sum(pg_total_relation_size(relid)), 0) FROM {STORED_IN}")


def weigh_buckets(topology: Topology, tree: ProjectTree, shard_map: ShardMap, by: By) -> list[float]:
    """Weigh the buckets of a map: one query for each table, on each shard.

    Parameters:
        topology: where the shards are.
        tree: says which tables have a shard key, and in which of them a row is a change.
        shard_map: the buckets.
        by: rows and bytes of all tables, or the changes within the last day.

    Raises:
        LoadUnknown: no table of the tree says what was changed lately.
        DatabasesFailed: a shard does not answer.
    """
    weights: Counter[int] = Counter()
    measured = conditions_of(tree, by)
    for database in topology.databases_of(tree.name).values():
        with (
            naming(database),
            open_engine(topology, database, role=database.role) as engine,
            engine.connect() as connection,
        ):
            for guarded, condition in measured.items():
                weights.update(_weigh(connection, guarded, shard_map.buckets, by, condition))
    return [float(weights[bucket]) for bucket in range(shard_map.buckets)]


def conditions_of(tree: ProjectTree, by: By) -> Mapping[GuardedTable, str]:
    """Return the tables whose rows are counted, each with the condition on its rows. Pure.

    Raises:
        LoadUnknown: no table of the tree says what was changed lately.
    """
    guarded = guarded_tables(tree.metadata)
    if by is not By.LOAD:
        return dict.fromkeys(guarded, "")
    columns = {table.name: change_log_of(table) for table in tree.metadata.tables.values()}
    # What was done lately says most about what will be done.
    found = {
        each: f"WHERE {identifier(column)} > now() - interval '1 day'"
        for each in guarded
        if (column := columns[each.table])
    }
    if not found:
        raise LoadUnknown(tree.name)
    return found


def _weigh(
    connection: Connection, guarded: GuardedTable, buckets: int, by: By, condition: str
) -> dict[int, int]:
    bucket = bucket_sql(identifier(guarded.key), buckets)
    table = identifier(guarded.table)
    query = f"SELECT {bucket} AS bucket, count(*) FROM {table} {condition} GROUP BY 1"
    rows: dict[int, int] = {int(bucket): int(count) for bucket, count in connection.execute(text(query))}
    if by is not By.BYTES or not rows:
        return rows
    size = connection.scalar(_BYTES, {"name": table}) or 0
    total = sum(rows.values())
    return {bucket: count * int(size) // total for bucket, count in rows.items()}
