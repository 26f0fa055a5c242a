"""From a key to a session on its shard, for threads; written by hand.

with open_sessions(topology, application_name="orders") as sessions:
    with sessions.write(order_id) as session:
        ...

There is no `scatter` here: it asks all shards at once, and that is asyncio's work. A program with threads
that needs it runs `sharding.sessions` beside this, in a loop of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sharding.sync.keyed import KeyedSessions, open_keyed
from sharding.topology import Topology


class ShardedSessions(KeyedSessions):
    """Sessions by shard key. Threads may share it; a session is of one thread at a time."""


@contextmanager
def open_sessions(
    topology: Topology,
    *,
    tree: str | None = None,
    role: str | None = None,
    application_name: str,
    poll_seconds: float = 5.0,
    verify_missing_rows: bool = True,
) -> Iterator[ShardedSessions]:
    """Load the shard map and open a cluster for each shard; everything is closed at the end.

    Changes of the map are heard of while the block runs, and it goes on when the directory is away.

    With `backend = "citus"` there is no map to load: every key is the coordinator's.

    Nothing but the directory is connected to yet, so a shard that is down does not stop a service from
    starting.

    Parameters:
        topology: where everything is.
        tree: the sharded tree; without it, the only one.
        role: the PostgreSQL role that connects, to the directory as well; without it, the tree's.
        application_name: what pg_stat_activity shows.
        poll_seconds: how long to trust that no notification of a new map was lost.
        verify_missing_rows: after an UPDATE that found no row, and after a DELETE, ask the shard whether it owns the
            keys (docs/sharding.md).

    Raises:
        TreeUnclear: no tree was named, and there is none, or several.
        UnknownTree: the topology has no such sharded tree.
        ShardMapMissing: the directory has no shard map of the tree.
        ShardMapInvalid: it is no map, or its number of buckets is not the topology's.
        UnknownShard: the map names a shard that the topology lacks.
    """
    with open_keyed(
        ShardedSessions,
        topology,
        tree=tree,
        role=role,
        application_name=application_name,
        poll_seconds=poll_seconds,
        verify_missing_rows=verify_missing_rows,
    ) as sessions:
        yield sessions
