"""The catalog of Citus, read from the coordinator: nodes, tables, shards, where a key is, what nodes hold.

Citus places a key by the ranges of hashes in `pg_dist_shard`. The hash is PostgreSQL's `hashint8`, as for our
own buckets. Source of the rule for fresh tables: the loop in CreateHashDistributedTableShards,
src/backend/distributed/operations/create_shards.c of Citus.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from sharding.errors import CitusMissing, UnknownNode, UnknownPlacement
from sharding.shard_map import hashint8

_HASHES = 1 << 32
_LOWEST = -(1 << 31)
_HIGHEST = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class ShardRange:
    """A shard of a distributed table, the hashes that it holds, and where it is."""

    shard_id: int
    lowest: int
    highest: int
    node: str

    def holds(self, key: int) -> bool:
        """Return whether the rows of a key are here."""
        return self.lowest <= hashint8(key) <= self.highest


def fresh_index(key: int, shards: int) -> int:
    """Find the place of a key's shard among the shards of a table that was never split.

    Parameters:
        key: a signed 64-bit number.
        shards: how many shards the table was made with; any number, not only a power of two.

    Returns:
        From 0 to `shards - 1`, in the order of their hashes. The last one takes what a division leaves over.
    """
    return min((hashint8(key) - _LOWEST) // (_HASHES // shards), shards - 1)


def fresh_ranges(shards: int) -> list[tuple[int, int]]:
    """Return the lowest and the highest hash of each shard of a fresh table."""
    width = _HASHES // shards
    lows = [_LOWEST + number * width for number in range(shards)]
    return [(low, low + width - 1) for low in lows[:-1]] + [(lows[-1], _HIGHEST)]


def find_range(ranges: Iterable[ShardRange], key: int) -> ShardRange | None:
    """Find the shard of a key; after a split or an isolation only the catalogue knows the ranges."""
    return next((found for found in ranges if found.holds(key)), None)


def is_fresh(ranges: Iterable[ShardRange]) -> bool:
    """Return whether nothing was split or isolated, so that `fresh_index` holds."""
    found = sorted((each.lowest, each.highest) for each in ranges)
    return bool(found) and found == fresh_ranges(len(found))


# In an application's own schema nothing is named like these.
_EXTENSIONS = text("SELECT extname, extversion FROM pg_extension WHERE extname LIKE 'citus%'")

_NODES = text("""
    SELECT nodeid AS node_id, groupid AS group_id, nodename AS host, nodeport AS port, isactive AS active,
           hasmetadata AS has_metadata, metadatasynced AS metadata_synced, noderole::text AS role,
           shouldhaveshards AS should_have_shards
    FROM pg_dist_node ORDER BY groupid, nodeid
""")

_RANGES = text("""
    SELECT s.shardid AS shard_id, s.shardminvalue::integer AS lowest, s.shardmaxvalue::integer AS highest,
           n.nodename || ':' || n.nodeport AS node
    FROM pg_dist_shard s
    JOIN pg_dist_placement p USING (shardid)
    JOIN pg_dist_node n ON n.groupid = p.groupid AND n.noderole = 'primary'
    WHERE s.logicalrelid = to_regclass(:table) AND p.shardstate = 1 AND s.shardminvalue IS NOT NULL
    ORDER BY 2
""")

_TABLES = text("""
    SELECT p.logicalrelid::regclass::text AS name, p.colocationid AS colocation_id,
           CASE p.partmethod WHEN 'h' THEN 'distributed'
                ELSE CASE p.repmodel WHEN 't' THEN 'reference' ELSE 'local' END END AS kind,
           CASE WHEN p.partmethod = 'h' THEN column_to_column_name(p.logicalrelid, p.partkey) END AS key
    FROM pg_dist_partition p ORDER BY 1
""")

_SHARDS = text("""
    SELECT shard_name(logicalrelid, shardid) AS shard, logicalrelid::regclass::text AS name FROM pg_dist_shard
""")


@dataclass(frozen=True, slots=True)
class Node:
    """A server of the Citus; group 0 is the coordinator."""

    node_id: int
    group_id: int
    host: str
    port: int
    active: bool
    has_metadata: bool
    metadata_synced: bool
    role: str
    should_have_shards: bool

    @property
    def name(self) -> str:
        """How people name it."""
        return f"{self.host}:{self.port}"

    @property
    def is_coordinator(self) -> bool:
        """Whether it is the coordinator."""
        return self.group_id == 0


@dataclass(frozen=True, slots=True)
class CitusTable:
    """A table that Citus manages: `kind` is distributed, reference or local."""

    name: str
    colocation_id: int
    kind: str
    key: str | None


def read_extensions(connection: Connection) -> Mapping[str, str]:
    """Read which extensions of Citus are in the database, with their versions."""
    return {row.extname: row.extversion for row in connection.execute(_EXTENSIONS)}


def require_citus(connection: Connection, database: str) -> None:
    """Refuse to go on in a database without Citus.

    Raises:
        CitusMissing: it is not there.
    """
    if "citus" not in read_extensions(connection):
        raise CitusMissing(database)


def read_nodes(connection: Connection) -> list[Node]:
    """List the nodes, the coordinator first."""
    return [Node(**row._mapping) for row in connection.execute(_NODES)]


def find_node(nodes: list[Node], name: str) -> Node:
    """Find a node by HOST:PORT.

    Raises:
        UnknownNode: there is none of that name.
    """
    for node in nodes:
        if node.name == name:
            return node
    raise UnknownNode(name, (node.name for node in nodes))


def read_tables(connection: Connection) -> dict[str, CitusTable]:
    """Read the tables that Citus manages, by name."""
    return {row.name: CitusTable(**row._mapping) for row in connection.execute(_TABLES)}


def read_shards(connection: Connection) -> dict[str, str]:
    """Read which table each shard is a part of, by the name that the shard has on its node."""
    return {row.shard: row.name for row in connection.execute(_SHARDS)}


def read_ranges(connection: Connection, table: str) -> list[ShardRange]:
    """List the shards of a distributed table in the order of their hashes."""
    return [ShardRange(**row._mapping) for row in connection.execute(_RANGES, {"table": table})]


def locate(connection: Connection, table: str, key: int) -> ShardRange:
    """Find the shard of a key, as Citus has it now.

    Raises:
        UnknownPlacement: the table is not distributed.
    """
    found = find_range(read_ranges(connection, table), key)
    if found is None:
        raise UnknownPlacement(
            f"shard of {table} for {key}", fix="distribute it (`sharding.citus.distribute`)"
        )
    return found


# A partitioned table's shards hold nothing themselves: their partitions are tables of Citus too.
_NODE_USAGE = text("""
    SELECT n.nodename || ':' || n.nodeport AS node,
           count(*) FILTER (WHERE s.citus_table_type = 'distributed' AND NOT c.relispartition) AS shards,
           count(*) FILTER (WHERE s.citus_table_type = 'reference') AS copies,
           coalesce(sum(s.shard_size), 0)::bigint AS bytes
    FROM pg_dist_node n
    LEFT JOIN citus_shards s ON s.nodename = n.nodename AND s.nodeport = n.nodeport
    LEFT JOIN pg_class c ON c.oid = s.table_name
    WHERE n.noderole = 'primary'
    GROUP BY n.groupid, n.nodename, n.nodeport ORDER BY n.groupid
""")

# Estimates of the workers' own statistics; a table that was never analyzed says -1.
_ROWS = """
    SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint
    FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind = 'r' AND n.nspname = 'public'
      AND relname IN (SELECT shard_name FROM citus_shards)
"""
# The nodes answer by themselves: a node that does not is in the list with its error.
_ON_ALL_NODES = text("""
    SELECT n.nodename || ':' || n.nodeport AS node, r.success, r.result
    FROM run_command_on_all_nodes(:command) r JOIN pg_dist_node n USING (nodeid)
""")


_TABLE_SHARDS = text("""
    SELECT s.shardid AS shard_id, s.shardminvalue AS lowest_hash, s.shardmaxvalue AS highest_hash,
           n.nodename || ':' || n.nodeport AS node, coalesce(c.shard_size, 0)::bigint AS bytes
    FROM pg_dist_shard s
    JOIN pg_dist_placement p USING (shardid)
    JOIN pg_dist_node n ON n.groupid = p.groupid AND n.noderole = 'primary'
    LEFT JOIN citus_shards c ON c.shardid = s.shardid AND c.nodename = n.nodename AND c.nodeport = n.nodeport
    WHERE s.logicalrelid = to_regclass(:table) ORDER BY s.shardminvalue::integer NULLS FIRST, n.groupid
""")


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """A shard of a table: its hashes (none of a reference table's), its node and its bytes there."""

    shard_id: int
    lowest_hash: str | None
    highest_hash: str | None
    node: str
    bytes: int


@dataclass(frozen=True, slots=True)
class NodeUsage:
    """What a node holds.

    Parameters:
        node: its name.
        shards: of distributed tables; partitions go with their tables.
        copies: of reference tables, which every node has.
        bytes: of all of them.
        rows: by the last ANALYZE; None where the node did not answer.
        bytes_share: of the bytes of all nodes.
    """

    node: str
    shards: int
    copies: int
    bytes: int
    rows: int | None
    bytes_share: float


def read_table_shards(connection: Connection, table: str) -> list[ShardPlace]:
    """List the shards of one table, in the order of their hashes.

    The bytes of a partitioned table are those of its partitions, in their shards.
    """
    return [ShardPlace(**row._mapping) for row in connection.execute(_TABLE_SHARDS, {"table": table})]


def read_node_usage(connection: Connection) -> list[NodeUsage]:
    """List the nodes with what they hold, the coordinator first."""
    rows = {
        row.node: int(row.result) if row.success else None
        for row in connection.execute(_ON_ALL_NODES, {"command": _ROWS})
    }
    found = connection.execute(_NODE_USAGE).all()
    total = sum(row.bytes for row in found) or 1
    return [
        NodeUsage(
            row.node, row.shards, row.copies, row.bytes, rows.get(row.node), round(row.bytes / total, 4)
        )
        for row in found
    ]
