"""Orders over many PostgreSQL clusters: topology, order ids, the shard map, and sessions by order id."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharding.sessions import ShardedSessions, open_sessions
    from sharding.topology import Topology

__all__ = ["ShardedSessions", "Topology", "open_sessions"]

_PLACES = {
    "ShardedSessions": "sharding.sessions",
    "Topology": "sharding.topology",
    "open_sessions": "sharding.sessions",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: who needs only a module of this package waits for no other."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
