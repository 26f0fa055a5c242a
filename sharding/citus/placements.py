"""What each node holds: shards, bytes, rows."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

# A partitioned table's shards hold nothing themselves: their partitions are tables of Citus too.
_HOLDS = text("""
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
_ASK = text("""
    SELECT n.nodename || ':' || n.nodeport AS node, r.success, r.result
    FROM run_command_on_all_nodes(:command) r JOIN pg_dist_node n USING (nodeid)
""")


_SHARDS = text("""
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
class NodeHolds:
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


def read_shards(connection: Connection, table: str) -> list[ShardPlace]:
    """List the shards of one table, in the order of their hashes; a partitioned one has its partitions' bytes
    in the shards of these."""
    return [ShardPlace(**row._mapping) for row in connection.execute(_SHARDS, {"table": table})]


def read_placements(connection: Connection) -> list[NodeHolds]:
    """List the nodes with what they hold, the coordinator first."""
    rows = {
        row.node: int(row.result) if row.success else None
        for row in connection.execute(_ASK, {"command": _ROWS})
    }
    found = connection.execute(_HOLDS).all()
    total = sum(row.bytes for row in found) or 1
    return [
        NodeHolds(
            row.node, row.shards, row.copies, row.bytes, rows.get(row.node), round(row.bytes / total, 4)
        )
        for row in found
    ]
