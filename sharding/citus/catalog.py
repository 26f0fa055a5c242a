"""What Citus knows of itself: nodes, shards and where they are, read from the coordinator."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from sharding.errors import CitusMissing, UnknownNode, UnknownPlacement

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
