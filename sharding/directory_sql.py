"""The SQL of the directory. Migrations make its tables; here they are known by name only."""

from sqlalchemy import text

from sharding.ids import EPOCH_UNIX_MS, NODES

LOAD_MAP = text("""
    SELECT version, owners FROM shard_map_versions WHERE tree = :tree ORDER BY version DESC LIMIT 1
""")
MAP_CHANNEL = "shard_map"


def is_about(payload: str, tree: str) -> bool:
    """Return whether a notification on the channel is about a tree's map.

    It names the tree; before version 0.2 it was the version of the one map that there was.
    """
    return payload == tree or payload.isdigit()


# Part of the saver's transaction: nobody hears of a map that was not committed.
TELL_MAP = text(f"SELECT pg_notify('{MAP_CHANNEL}', CAST(:tree AS text))")
# Two savers at once: both may find the expected version, and the primary key lets one of them in.
SAVE_MAP = text("""
    INSERT INTO shard_map_versions (tree, version, owners)
    SELECT :tree, :version, :owners
    WHERE (SELECT coalesce(max(version), 0) FROM shard_map_versions WHERE tree = :tree) = :expected_version
    ON CONFLICT (tree, version) DO NOTHING
""")

# The directory's clock rules, not the holder's: a holder whose clock is years ahead must not push the
# node's ceiling there, because every later window of the node would have to lie beyond it.
_NOW_MS = f"((extract(epoch FROM clock_timestamp()) * 1000)::bigint - {EPOCH_UNIX_MS})"
_EXPIRES_AT = "clock_timestamp() + :window_ms * interval '1 millisecond'"
# MATERIALIZED: a subquery may be run once for each lease that the UPDATE looks at, and would take one each.
TAKE_EXPIRED_NODE = text(f"""
    WITH free AS MATERIALIZED (
        SELECT node, ceiling_ms FROM node_leases
        WHERE id_space = :id_space AND expires_at <= clock_timestamp()
        ORDER BY ceiling_ms LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    UPDATE node_leases AS lease
    SET holder = :holder,
        ceiling_ms = greatest(free.ceiling_ms, {_NOW_MS}) + :window_ms,
        expires_at = {_EXPIRES_AT}
    FROM free
    WHERE lease.id_space = :id_space AND lease.node = free.node
    RETURNING lease.node, lease.ceiling_ms - :window_ms, lease.ceiling_ms
""")
TAKE_NEW_NODE = text(f"""
    INSERT INTO node_leases (id_space, node, holder, ceiling_ms, expires_at)
    SELECT :id_space, candidate, :holder, {_NOW_MS} + :window_ms, {_EXPIRES_AT}
    FROM generate_series(0, {NODES - 1}) AS candidate
    WHERE NOT EXISTS (SELECT FROM node_leases WHERE id_space = :id_space AND node = candidate)
    ORDER BY candidate LIMIT 1
    ON CONFLICT (id_space, node) DO NOTHING
    RETURNING node, ceiling_ms - :window_ms, ceiling_ms
""")
# The ceiling identifies the lease: whoever took the node meanwhile has a higher one.
RENEW_NODE = text(f"""
    UPDATE node_leases
    SET ceiling_ms = greatest(ceiling_ms, {_NOW_MS} + :window_ms),
        expires_at = {_EXPIRES_AT}
    WHERE id_space = :id_space AND node = :node AND ceiling_ms = :ceiling_ms
    RETURNING ceiling_ms
""")
RELEASE_NODE = text("""
    UPDATE node_leases SET ceiling_ms = least(ceiling_ms, :unused_ms), expires_at = clock_timestamp()
    WHERE id_space = :id_space AND node = :node AND ceiling_ms = :ceiling_ms
""")
COUNT_NODES = text("SELECT count(*) FROM node_leases WHERE id_space = :id_space")
