"""Moving shards between nodes: what Citus would do, the statements for it, and how far it is.

Every statement here is Citus' own; the decisions before it are ours, so that what cannot work is refused
before anything is moved.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, text

from partitions.sql import literal
from sharding.citus.catalog import Node, ShardRange, find_node, locate
from sharding.errors import AdministratorNeeded, MoveRefused, UnknownPlacement

Mode = Literal["auto", "force_logical", "block_writes"]
"""auto and force_logical follow the writes meanwhile; block_writes copies faster, and writers wait."""

# Citus lists the tables one by one; those of one colocation group and one range of hashes move together.
_PLAN = text("""
    SELECT (array_agg(plan.table_name::text ORDER BY plan.place))[1] AS table_name,
           (array_agg(plan.shardid ORDER BY plan.place))[1] AS shard_id,
           count(*) AS tables, sum(plan.shard_size)::bigint AS bytes,
           min(plan.sourcename || ':' || plan.sourceport) AS source,
           min(plan.targetname || ':' || plan.targetport) AS target
    FROM get_rebalance_table_shards_plan(drain_only => :drain_only) WITH ORDINALITY AS plan(
        table_name, shardid, shard_size, sourcename, sourceport, targetname, targetport, place)
    JOIN pg_dist_shard s ON s.shardid = plan.shardid
    JOIN pg_dist_partition p ON p.logicalrelid = s.logicalrelid
    GROUP BY p.colocationid, s.shardminvalue ORDER BY min(plan.place)
""")
# One row for a group of colocated shards; what a move has copied is in the size of the target.
_PROGRESS = text("""
    SELECT coalesce(sum(source_shard_size), 0)::bigint AS bytes,
           coalesce(sum(least(target_shard_size, source_shard_size)), 0)::bigint AS copied,
           count(*) FILTER (WHERE progress = 2) AS done, count(*) AS shards,
           coalesce(string_agg(DISTINCT status, ', ') FILTER (WHERE progress = 1), '') AS doing
    FROM get_rebalance_progress()
""")
_JOB = text("""
    SELECT job_id, state::text AS state, details->'task_state_counts' AS counts, details->'tasks' AS tasks
    FROM citus_job_status(:job_id, true)
""")
_LATEST_JOB = text("SELECT max(job_id) FROM pg_dist_background_job WHERE job_type = 'rebalance'")
_WHERE = text("""
    SELECT s.table_name::text AS table_name, s.citus_table_type AS kind, n.nodeid AS node_id
    FROM citus_shards s JOIN pg_dist_node n ON n.nodename = s.nodename AND n.nodeport = s.nodeport
    WHERE s.shardid = :shard_id
""")
_IS_SUPERUSER = text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")

ENDED = frozenset({"finished", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """A group of colocated shards that would move, named by one of them."""

    table_name: str
    shard_id: int
    tables: int
    bytes: int
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class MoveProgress:
    """How far the moves of this moment are."""

    bytes: int
    copied: int
    done: int
    shards: int
    doing: str


@dataclass(frozen=True, slots=True)
class RebalanceJob:
    """A rebalance that Citus does in the background: its state, and how many moves are in which."""

    job_id: int
    state: str
    counts: Mapping[str, int]
    messages: tuple[str, ...]

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in ENDED

    @property
    def moves(self) -> int:
        """How many moves it has, done or not."""
        return sum(self.counts.values())


def read_plan(connection: Connection, *, drain_only: bool = False) -> list[PlannedMove]:
    """Ask Citus what a rebalance would move; nothing is moved."""
    rows = connection.execute(_PLAN, {"drain_only": drain_only})
    return [PlannedMove(**row._mapping) for row in rows]


def read_progress(connection: Connection) -> MoveProgress:
    """Read how far the moves of this moment are; all zeros when nothing moves."""
    return MoveProgress(**connection.execute(_PROGRESS).one()._mapping)


def read_job(connection: Connection, job_id: int | None = None) -> RebalanceJob | None:
    """Read the state of a rebalance, of the latest one without an id; None when there was none."""
    if job_id is None:
        job_id = connection.scalar(_LATEST_JOB)
    row = connection.execute(_JOB, {"job_id": job_id}).one_or_none() if job_id is not None else None
    if row is None:
        return None
    messages = tuple(task["message"] for task in row.tasks or () if task.get("message"))
    return RebalanceJob(row.job_id, row.state, row.counts or {}, messages)


def rebalance_statement(mode: Mode) -> str:
    """Return the statement that has Citus move shards in the background; it returns the job's id, or NULL."""
    return f"SELECT citus_rebalance_start(shard_transfer_mode => {literal(mode)})"


STOP = "SELECT citus_rebalance_stop()"
"""What ends it: the move of the moment is undone, those before it stay."""


def drain_statement(node: Node, mode: Mode) -> str:
    """Return the statement that moves everything off a node, which gets no shards from then on."""
    return f"SELECT citus_drain_node({literal(node.host)}, {node.port}, {literal(mode)})"


def undrain_statement(node: Node) -> str:
    """Return the statement that lets a node hold shards again; a rebalance then brings some."""
    return f"SELECT citus_set_node_property({literal(node.host)}, {node.port}, 'shouldhaveshards', true)"


def move_statement(shard_id: int, source: Node, target: Node, mode: Mode) -> str:
    """Return the statement that moves a shard and all that are colocated with it."""
    words = f"{shard_id}, {source.node_id}, {target.node_id}, {literal(mode)}"
    return f"SELECT citus_move_shard_placement({words})"


def isolate_statement(table: str, key: int, mode: Mode) -> str:
    """Return the statement that gives one key shards of its own, in every table that stands together."""
    words = f"{literal(table)}, {key}::bigint, 'CASCADE', {literal(mode)}"
    return f"SELECT isolate_tenant_to_new_shard({words})"


def check_drain(nodes: list[Node], name: str) -> Node:
    """Find the node that is to be drained.

    Raises:
        UnknownNode: there is none of that name.
        MoveRefused: its shards would have nowhere to go.
    """
    node = find_node(nodes, name)
    others = [each for each in nodes if each is not node and each.active and each.should_have_shards]
    if not others:
        raise MoveRefused(f"what {name} holds", "no other node may hold shards; add one, or undrain one")
    return node


def check_move(connection: Connection, nodes: list[Node], shard_id: int, target: str) -> tuple[Node, Node]:
    """Find where a shard is and where it is to go.

    Raises:
        UnknownNode, UnknownPlacement: there is no such node, or no such shard.
        MoveRefused: it is there already, is on every node, or the node takes none.
    """
    found, to = connection.execute(_WHERE, {"shard_id": shard_id}).first(), find_node(nodes, target)
    if found is None:
        raise UnknownPlacement(f"shard {shard_id}", fix="pg_dist_shard lists them")
    source = next(node for node in nodes if node.node_id == found.node_id)
    what = f"shard {shard_id} of {found.table_name}"
    if found.kind == "reference":
        raise MoveRefused(what, "a reference table has a copy on every node")
    if source is to:
        raise MoveRefused(what, f"it is on {target} already")
    if not (to.active and to.should_have_shards):
        raise MoveRefused(what, f"{target} takes no shards: its shouldhaveshards is false")
    return source, to


def check_isolate(connection: Connection, table: str, key: int) -> ShardRange:
    """Find the shard of a key that is to get one of its own.

    Raises:
        UnknownPlacement: the table is not distributed.
        MoveRefused: it has its own already.
    """
    found = locate(connection, table, key)
    if found.lowest == found.highest:
        raise MoveRefused(f"{table} {key}", f"it has shard {found.shard_id} for itself already")
    return found


def require_superuser(connection: Connection, what: str, *, role: str) -> None:
    """Refuse early what Citus would refuse after half of it.

    A drain writes pg_dist_node of every node as the role that asked, and only a superuser may.

    Raises:
        AdministratorNeeded: the role is none.
    """
    if not connection.scalar(_IS_SUPERUSER):
        raise AdministratorNeeded(what, role=role)
