"""What `mesctl shards` shows: who owns which share of the orders, its size, where an order belongs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select, text

from app.models.mes import MesArchivedOrder, MesOrder
from ops.fleet import open_engine
from sharding.citus.coordinator import whole_map
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.hashing import bucket_of
from sharding.ids import instant_of
from sharding.ownership import read_identity
from sharding.shard_map import ShardMap
from sharding.topology import Topology

EXACT_BELOW_ROWS = 1_000_000
"""Smaller tables are counted; counting a larger one takes longer than anybody wants to wait for a list."""

# PostgreSQL keeps these numbers up as transactions end, a moment late; a crash resets them.
ESTIMATE = text("""
    SELECT coalesce(sum(n_live_tup), 0)
    FROM pg_partition_tree(CAST(:parent AS regclass)) AS part
    JOIN pg_stat_user_tables AS stat ON stat.relid = part.relid
    WHERE part.isleaf
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
    live_orders: int
    archived_orders: int
    exact: bool
    bytes: int
    map_version: int | None


@dataclass(frozen=True, slots=True)
class OrderPlace:
    """Where an order belongs. `made_at` is told by the id, and its month is the archive partition's."""

    order_id: int
    bucket: int
    shard: str
    made_at: datetime

    @property
    def month(self) -> str:
        """The month in which the order was made, in UTC, as YYYY-MM."""
        return f"{self.made_at:%Y-%m}"


async def load_shard_map(topology: Topology) -> ShardMap:
    """Load the shard map that is in force; with Citus it is one that gives everything to the coordinator.

    Raises:
        ShardMapMissing: the directory holds none.
    """
    if topology.backend == "citus":
        return whole_map(topology)
    (name,) = topology.databases_of("directory")
    async with open_cluster(topology, name, role="mes", application_name="mesctl", direct=True) as cluster:
        return await Directory(cluster.primary).load_map()


def locate(shard_map: ShardMap, order_id: int) -> OrderPlace:
    """Tell where an order belongs, whether or not it exists.

    Raises:
        ValueError: the number is no order id.
    """
    made_at = instant_of(order_id)
    return OrderPlace(order_id, bucket_of(order_id, shard_map.buckets), shard_map.shard_of(order_id), made_at)


def list_shards(topology: Topology, shard_map: ShardMap, *, exact: bool) -> list[ShardRow]:
    """List the shards of the map with their orders.

    Parameters:
        exact: count large tables too, and do not believe PostgreSQL's statistics.
    """
    rows = []
    # A shard that owns nothing yet, or nothing any more, is one all the same.
    for shard, database in topology.databases_of("mes").items():
        with open_engine(topology, database, role=database.role) as engine, engine.connect() as connection:
            live, archived = (_count(connection, model, exact) for model in (MesOrder, MesArchivedOrder))
            size = connection.scalar(text("SELECT pg_database_size(current_database())")) or 0
            told = read_identity(connection)
        address = f"{database.primary.host}:{database.primary.port}"
        counted = live.exact and archived.exact
        buckets = shard_map.owners.count(shard)
        rows.append(
            ShardRow(
                shard,
                address,
                buckets,
                live.rows,
                archived.rows,
                exact=counted,
                bytes=size,
                map_version=told.map_version if told else None,
            )
        )
    return rows


def skew(rows: Sequence[ShardRow]) -> float:
    """Give the orders of the fullest shard as a multiple of the mean; 1 is even."""
    orders = [row.live_orders + row.archived_orders for row in rows]
    return max(orders) * len(orders) / sum(orders) if any(orders) else 1.0


@dataclass(frozen=True, slots=True)
class _Count:
    rows: int
    exact: bool


def _count(connection: Connection, model: type[MesOrder | MesArchivedOrder], exact: bool) -> _Count:
    estimate = int(connection.scalar(ESTIMATE, {"parent": model.__tablename__}) or 0)
    if not exact and estimate >= EXACT_BELOW_ROWS:
        return _Count(estimate, exact=False)
    return _Count(connection.scalar(select(func.count()).select_from(model)) or 0, exact=True)
