"""Sessions on a primary and its streaming replicas, with reads that see what their caller has written."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from readreplica.cluster import Cluster
    from readreplica.sessions import AnySession, ReadSession, WriteSession
    from readreplica.token import CausalToken

__all__ = ["AnySession", "CausalToken", "Cluster", "ReadSession", "WriteSession"]

_PLACES = {
    "AnySession": "readreplica.sessions",
    "CausalToken": "readreplica.token",
    "Cluster": "readreplica.cluster",
    "ReadSession": "readreplica.sessions",
    "WriteSession": "readreplica.sessions",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: who needs only a module of this package waits for no other."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
