"""What `mesctl shards` shows: who owns which share of the rows, its size, where a key belongs."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sqlalchemy import Connection, text

from ops.archiving import month_of, months_of
from ops.fleet import Outcome, attempt, naming, open_engine
from ops.project import ProjectTree
from partitions.bounds import Month
from partitions.policy import ListPartitions, MonthlyRange
from partitions.sql import identifier
from sharding.citus.distribute import coordinator_map
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.ids import first_id_at, instant_of
from sharding.keys import guarded_tables
from sharding.ownership import read_identity
from sharding.shard_map import ShardMap, bucket_of
from sharding.topology import Database, Topology

MAP_SECONDS = 6.0
EXACT_BELOW_ROWS = 1_000_000
"""Smaller tables are counted; counting a larger one takes longer than anybody wants to wait for a list."""

STORED_IN = """
    (SELECT relid FROM pg_partition_tree(CAST(:name AS regclass)) WHERE isleaf
     UNION SELECT CAST(:name AS regclass)) AS stored
"""
"""The tables in which the rows of a table are: its partitions, or itself; a partitioned one adds nothing."""

# PostgreSQL keeps these numbers up as transactions end, a moment late; a crash resets them.
ESTIMATE = text(f"""
    SELECT coalesce(sum(n_live_tup), 0) FROM {STORED_IN} JOIN pg_stat_user_tables AS stat USING (relid)
""")


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One shard as `mesctl shards list` shows it.

    `exact` is false if an estimate is among the numbers, `bytes` is the whole database, and `map_version` is
    what the shard was told of last; None when it was never told its name.
    """

    shard: str
    address: str
    buckets: int
    live_rows: int
    archived_rows: int
    exact: bool
    bytes: int
    map_version: int | None


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where a key belongs.

    `month` is the partition of an archive that holds it, as YYYY-MM, and `made_at` when it was made; None
    where no archive of the tree goes by such keys, or the key does not say.
    """

    tree: str
    key: int
    bucket: int
    shard: str
    month: str | None = None
    made_at: datetime | None = None


def live_tables(tree: ProjectTree) -> list[str]:
    """List the tables whose rows are the live ones; without a policy, all that have a shard key."""
    lists = [policy.table for policy in tree.policies if isinstance(policy, ListPartitions)]
    found = dict.fromkeys([*lists, *(archive.tree for archive in tree.archives)])
    return list(found) or [guarded.table for guarded in guarded_tables(tree.metadata)]


def archive_tables(tree: ProjectTree) -> list[str]:
    """List the tables that the archives of a tree fill with live rows; not those of their children."""
    return list(dict.fromkeys(archive.archive for archive in tree.archives))


async def load_shard_map(topology: Topology, tree: str) -> ShardMap:
    """Load the shard map of a tree; with Citus it is one that gives everything to the coordinator.

    Raises:
        DirectoryMissing: the tree has no directory.
        ShardMapMissing: the directory holds none.
        DatabasesFailed: the directory does not answer.
    """
    if topology.trees[tree].backend == "citus":
        return coordinator_map(topology, tree)
    directory, role = topology.directory_of(tree), topology.trees[tree].role
    with naming(directory):
        # A map is small. Its server may freeze between the connection and the answer.
        async with (
            asyncio.timeout(MAP_SECONDS),
            open_cluster(
                topology, directory.name, role=role, application_name="mesctl", direct=True
            ) as cluster,
        ):
            return await Directory(cluster.primary, tree).load_map()


def locate(tree: ProjectTree, shard_map: ShardMap, key: int, *, now: datetime) -> KeyPlace:
    """Return where a key belongs, whether or not there are rows of it."""
    monthly = _archive_months(tree)
    latest = Month.of(now).later(monthly.months_ahead) if monthly else None
    month = month_of(monthly, key, latest=latest) if monthly and latest else None
    is_ours = month is not None and monthly is not None and monthly.key_at is first_id_at
    return KeyPlace(
        tree.name,
        key,
        bucket_of(key, shard_map.buckets),
        shard_map.shard_of(key),
        month=None if month is None else str(month),
        made_at=instant_of(key) if is_ours else None,
    )


def _archive_months(tree: ProjectTree) -> MonthlyRange | None:
    """Return the months of the first archive that goes by the key by which its rows are placed."""
    shard_keys = {guarded.table: guarded.key for guarded in guarded_tables(tree.metadata)}
    months = (monthly for archive in tree.archives for monthly in months_of(tree, archive))
    return next((monthly for monthly in months if shard_keys.get(monthly.table) == monthly.key), None)


def list_shards(
    topology: Topology, tree: ProjectTree, shard_map: ShardMap, *, exact: bool
) -> list[Outcome[ShardRow]]:
    """List the shards of a tree with their rows.

    Parameters:
        topology: where the shards are. One that owns nothing yet, or nothing any more, is one all the same.
        tree: says which tables are counted.
        shard_map: who owns what.
        exact: count large tables too, and do not believe PostgreSQL's statistics.
    """

    def look(database: Database) -> ShardRow:
        with open_engine(topology, database, role=database.role) as engine, engine.connect() as connection:
            live, archived = (
                _count_all(connection, tables, exact) for tables in (live_tables(tree), archive_tables(tree))
            )
            size = connection.scalar(text("SELECT pg_database_size(current_database())")) or 0
            known = read_identity(connection)
        return ShardRow(
            database.name,
            f"{database.primary.host}:{database.primary.port}",
            shard_map.owners.count(database.name),
            live.rows,
            archived.rows,
            exact=live.exact and archived.exact,
            bytes=size,
            map_version=known.map_version if known else None,
        )

    databases = topology.databases_of(tree.name).values()
    return [attempt(database, partial(look, database)) for database in databases]


def skew(rows: Sequence[ShardRow]) -> float:
    """Return the rows of the fullest shard as a multiple of the mean; 1 is even."""
    counts = [row.live_rows + row.archived_rows for row in rows]
    return max(counts) * len(counts) / sum(counts) if any(counts) else 1.0


@dataclass(frozen=True, slots=True)
class _Count:
    rows: int
    exact: bool


def _count_all(connection: Connection, tables: Sequence[str], exact: bool) -> _Count:
    counts = [_count(connection, table, exact) for table in tables]
    return _Count(sum(each.rows for each in counts), all(each.exact for each in counts))


def _count(connection: Connection, table: str, exact: bool) -> _Count:
    estimate = int(connection.scalar(ESTIMATE, {"name": identifier(table)}) or 0)
    if not exact and estimate >= EXACT_BELOW_ROWS:
        return _Count(estimate, exact=False)
    counted = connection.scalar(text(f"SELECT count(*) FROM {identifier(table)}")) or 0
    return _Count(counted, exact=True)
