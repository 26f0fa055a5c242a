"""The shards of a tree: their rows and sizes, where a key belongs, what each bucket weighs, and metrics."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial

from sqlalchemy import Connection, text

from ops.errors import ExitStatus, OpsError
from ops.fleet import Outcome, attempt, connect_line, naming, open_engine
from ops.partitions.archiving import months_of
from ops.project.project import ProjectTree
from partitions.bounds import Month
from partitions.models import table_name
from partitions.policy import ListPartitions, MonthlyRange
from partitions.sql import identifier, relation
from sharding.citus.distribute import coordinator_map
from sharding.directory import Directory, save_first_map
from sharding.engines import open_cluster
from sharding.ids import first_id_at, instant_of
from sharding.keys import GuardedTable, change_log_of, guarded_tables
from sharding.ownership import bucket_sql, read_identity
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


# A row's share of its table with indexes and TOAST; rows of one table are much alike.
_BYTES = text(f"SELECT coalesce(sum(pg_total_relation_size(relid)), 0) FROM {STORED_IN}")

_HELP = {
    "rows": "Rows, live and archived.",
    "bytes": "Size of the database.",
    "buckets": "Buckets that the map gives to the shard.",
    "told_map_version": "The map version that the shard was told of last.",
}


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One shard as `mesctl shards list` shows it.

    `exact` is false if an estimate is among the numbers, `bytes` is the whole database, and `map_version` is
    what was set on the shard last; None for a shard that was never initialised.
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
class KeyLocation:
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


def first_map(topology: Topology, tree: str) -> ShardMap:
    """Return the map that a tree begins with: each shard has as many buckets as the next."""
    return ShardMap.even(list(topology.databases_of(tree)), topology.trees[tree].buckets)


async def ensure_shard_map(topology: Topology, tree: str) -> ShardMap:
    """Return the shard map in force; if there is none, put the first one in force, as the directory's owner.

    Raises:
        DirectoryMissing: the tree has no directory.
        DatabasesFailed: the directory does not answer, or has no table for it.
    """
    if topology.trees[tree].backend == "citus":
        return coordinator_map(topology, tree)
    directory = topology.directory_of(tree)
    with naming(directory):
        async with (
            asyncio.timeout(MAP_SECONDS),
            open_cluster(
                topology, directory.name, role=directory.owner, application_name="mesctl", direct=True
            ) as cluster,
        ):
            return await Directory(cluster.primary, tree).ensure_map(first_map(topology, tree))


def script_first_map(topology: Topology, tree: str) -> str:
    """Return what puts the first shard map in force, as psql accepts it, where there is none yet."""
    directory = topology.directory_of(tree)
    line = connect_line(topology, directory, role=directory.owner)
    return f"{line}{save_first_map(tree, first_map(topology, tree))};\n"


def locate(tree: ProjectTree, shard_map: ShardMap, key: int, *, now: datetime) -> KeyLocation:
    """Return where a key belongs, whether or not there are rows of it."""
    monthly = _archive_months(tree)
    latest = Month.of(now).later(monthly.months_ahead) if monthly else None
    month = monthly.month_at(key, latest=latest) if monthly and latest else None
    is_ours = month is not None and monthly is not None and monthly.key_at is first_id_at
    return KeyLocation(
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
    return next(
        (
            monthly
            for monthly in months
            if shard_keys.get(monthly.table) == monthly.key and not monthly.key_type.is_time
        ),
        None,
    )


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
    look = partial(look_at_shard, topology, tree, shard_map, exact=exact)
    databases = topology.databases_of(tree.name).values()
    return [attempt(database, partial(look, database)) for database in databases]


def look_at_shard(
    topology: Topology, tree: ProjectTree, shard_map: ShardMap, database: Database, *, exact: bool
) -> ShardRow:
    """Read one shard, as `list_shards` reads all of them."""
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
    estimate = int(connection.scalar(ESTIMATE, {"name": relation(table)}) or 0)
    if not exact and estimate >= EXACT_BELOW_ROWS:
        return _Count(estimate, exact=False)
    counted = connection.scalar(text(f"SELECT count(*) FROM {relation(table)}")) or 0
    return _Count(counted, exact=True)


class WeightBy(StrEnum):
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


def weigh_buckets(topology: Topology, tree: ProjectTree, shard_map: ShardMap, by: WeightBy) -> list[float]:
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


def conditions_of(tree: ProjectTree, by: WeightBy) -> Mapping[GuardedTable, str]:
    """Return the tables whose rows are counted, each with the condition on its rows. Pure.

    Raises:
        LoadUnknown: no table of the tree says what was changed lately.
    """
    guarded = guarded_tables(tree.metadata)
    if by is not WeightBy.LOAD:
        return dict.fromkeys(guarded, "")
    columns = {table_name(table): change_log_of(table) for table in tree.metadata.tables.values()}
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
    connection: Connection, guarded: GuardedTable, buckets: int, by: WeightBy, condition: str
) -> dict[int, int]:
    bucket = bucket_sql(identifier(guarded.key), buckets)
    table = relation(guarded.table)
    query = f"SELECT {bucket} AS bucket, count(*) FROM {table} {condition} GROUP BY 1"
    rows: dict[int, int] = {int(bucket): int(count) for bucket, count in connection.execute(text(query))}
    if by is not WeightBy.BYTES or not rows:
        return rows
    size = connection.scalar(_BYTES, {"name": table}) or 0
    total = sum(rows.values())
    return {bucket: count * int(size) // total for bucket, count in rows.items()}


def render_shard_metrics(tree: str, shard_map: ShardMap, rows: Sequence[ShardRow]) -> str:
    """Return the file: a gauge for each thing that `mesctl shards list` shows, and the skew over all."""
    lines = []
    for name, meaning in _HELP.items():
        lines += [f"# HELP mes_storage_shard_{name} {meaning}", f"# TYPE mes_storage_shard_{name} gauge"]
        for row in rows:
            value = {
                "rows": row.live_rows + row.archived_rows,
                "bytes": row.bytes,
                "buckets": row.buckets,
                "told_map_version": row.map_version or 0,
            }[name]
            lines.append(f'mes_storage_shard_{name}{{tree="{tree}",shard="{row.shard}"}} {value}')
    for name, meaning, number in (
        ("shard_map_version", "The map version in force.", shard_map.version),
        ("shard_skew_ratio", "Rows of the fullest shard over the mean.", round(skew(rows), 4)),
    ):
        lines += [f"# HELP mes_storage_{name} {meaning}", f"# TYPE mes_storage_{name} gauge"]
        lines.append(f'mes_storage_{name}{{tree="{tree}"}} {number}')
    return "\n".join([*lines, ""])
