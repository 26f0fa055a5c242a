"""Whether a Citus is well: what is read of it, and the pure judgement."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from sharding.citus.catalog import Node, read_extensions, read_nodes

_LINKS = text("""
    SELECT from_nodename || ':' || from_nodeport AS from_node, to_nodename || ':' || to_nodeport AS to_node
    FROM citus_check_cluster_node_health() WHERE result IS NOT TRUE
""")
_VERSIONS = text("""
    SELECT n.nodename || ':' || n.nodeport AS node, r.success, r.result
    FROM run_command_on_all_nodes($$
        SELECT citus_version() || ', extension ' || extversion || ', PostgreSQL '
               || current_setting('server_version')
        FROM pg_extension WHERE extname = 'citus' $$) r
    JOIN pg_dist_node n USING (nodeid)
""")
_INVALID = text("""
    SELECT s.logicalrelid::text AS table_name, s.shardid AS shard_id,
           count(p.*) FILTER (WHERE p.shardstate = 1) AS placements
    FROM pg_dist_shard s LEFT JOIN pg_dist_placement p USING (shardid)
    GROUP BY 1, 2 HAVING count(p.*) FILTER (WHERE p.shardstate = 1) = 0 ORDER BY 1, 2
""")
# What a move, a split or a drop has left, to be removed later: it is orphaned, and costs space.
_ORPHANS = text("""
    SELECT c.object_name, coalesce(n.nodename || ':' || n.nodeport, 'an unknown node') AS node
    FROM pg_dist_cleanup c LEFT JOIN pg_dist_node n ON n.groupid = c.node_group_id ORDER BY 1
""")
# The gid is of Citus' making. Younger ones are nothing but transactions that commit at this moment.
_IN_DOUBT = text("""
    SELECT coalesce(sum(r.result::bigint) FILTER (WHERE r.success), 0)
    FROM run_command_on_all_nodes($$
        SELECT count(*) FROM pg_prepared_xacts
        WHERE gid ~ '^citus_' AND prepared < now() - interval '1 minute' $$) r
""")


@dataclass(frozen=True, slots=True)
class CitusFinding:
    """Something that is wrong, and what to do about it."""

    what: str
    problem: str
    fix: str


@dataclass(frozen=True, slots=True)
class CitusHealth:
    """What was read.

    Parameters:
        nodes: the servers.
        extensions: Citus' extensions in this database, with their versions.
        versions: what each node says of its versions; None where it did not answer.
        broken_links: pairs of nodes that cannot connect to each other.
        lost_shards: shards without an active placement, as TABLE SHARD.
        orphans: objects that wait for their removal, with their nodes.
        in_doubt: transactions that have been prepared for longer than a commit takes.
    """

    nodes: tuple[Node, ...]
    extensions: Mapping[str, str]
    versions: Mapping[str, str | None]
    broken_links: tuple[tuple[str, str], ...] = ()
    lost_shards: tuple[str, ...] = ()
    orphans: tuple[tuple[str, str], ...] = ()
    in_doubt: int = 0


def read_health(connection: Connection) -> CitusHealth:
    """Read everything that `judge` looks at; a worker that is down is among the facts."""
    return CitusHealth(
        nodes=tuple(read_nodes(connection)),
        extensions=read_extensions(connection),
        versions={
            row.node: row.result if row.success else None for row in connection.execute(_VERSIONS).all()
        },
        broken_links=tuple((row.from_node, row.to_node) for row in connection.execute(_LINKS)),
        lost_shards=tuple(f"{row.table_name} {row.shard_id}" for row in connection.execute(_INVALID)),
        orphans=tuple((row.object_name, row.node) for row in connection.execute(_ORPHANS)),
        in_doubt=int(connection.scalar(_IN_DOUBT) or 0),
    )


def judge(facts: CitusHealth) -> list[CitusFinding]:
    """List what is wrong; pure."""
    return [*_nodes(facts.nodes), *_versions(facts.versions), *_shards(facts)]


def _nodes(nodes: Iterable[Node]) -> Iterator[CitusFinding]:
    found = list(nodes)
    if not any(node.is_coordinator for node in found):
        yield CitusFinding(
            "coordinator",
            "is not among the nodes, so reference tables have no copy here",
            "SELECT citus_set_coordinator_host(HOST, PORT)",
        )
    if not any(node.should_have_shards and node.active for node in found):
        yield CitusFinding(
            "nodes",
            "none may hold shards",
            "SELECT citus_set_node_property(HOST, PORT, 'shouldhaveshards', true)",
        )
    for node in found:
        name = f"'{node.host}', {node.port}"
        if not node.active:
            yield CitusFinding(node.name, "is disabled", f"SELECT citus_activate_node({name})")
        elif not (node.has_metadata and node.metadata_synced):
            yield CitusFinding(
                node.name, "does not have the metadata", f"SELECT start_metadata_sync_to_node({name})"
            )


def _versions(versions: Mapping[str, str | None]) -> Iterator[CitusFinding]:
    for node, said in versions.items():
        if said is None:
            yield CitusFinding(node, "does not answer the coordinator", "bring it up; see its log")
    known = sorted({said for said in versions.values() if said})
    if len(known) > 1:
        which = "; ".join(f"{node}: {said}" for node, said in sorted(versions.items()) if said)
        fix = "install one version everywhere, then ALTER EXTENSION citus UPDATE on each node"
        yield CitusFinding("versions", f"differ: {which}", fix)


def _shards(facts: CitusHealth) -> Iterator[CitusFinding]:
    silent = {node for node, said in facts.versions.items() if said is None}
    for source, target in facts.broken_links:
        if source not in silent and target not in silent:
            yield CitusFinding(
                source, f"cannot connect to {target}", f"let it in: pg_hba.conf and passwords of {target}"
            )
    for shard in facts.lost_shards:
        yield CitusFinding(
            shard, "has no active placement: its rows cannot be read", "restore it from a backup"
        )
    for name, node in facts.orphans:
        yield CitusFinding(
            name, f"is left over on {node} from a move or a split", "CALL citus_cleanup_orphaned_resources()"
        )
    if facts.in_doubt:
        yield CitusFinding(
            "transactions",
            f"{facts.in_doubt} have been prepared on the nodes for more than a minute",
            "SELECT recover_prepared_transactions() on the coordinator",
        )
