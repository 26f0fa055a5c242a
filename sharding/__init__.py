"""Orders over many PostgreSQL clusters: topology, order ids, the shard map, and sessions by order id."""

from sharding.sessions import ShardedSessions, open_sessions
from sharding.topology import Topology

__all__ = ["ShardedSessions", "Topology", "open_sessions"]
