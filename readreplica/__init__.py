"""Sessions on a primary and its streaming replicas, with reads that see what their caller has written."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from readreplica.addresses import Address, read_patroni
    from readreplica.cluster import Cluster
    from readreplica.discovery import Discovery, addresses_of, services_of
    from readreplica.engines import reader_engine, writer_engine
    from readreplica.errors import (
        CommitInDoubt,
        CommitLost,
        ReadReplicaError,
        ReplicasTooStale,
        WritesRefused,
    )
    from readreplica.freshness import ANY, PRIMARY, Freshness, after, bounded
    from readreplica.options import ReplicaOptions
    from readreplica.sessions import AnySession, ReadSession, WriteSession
    from readreplica.signing import KeyRing
    from readreplica.token import CausalToken, Committed
    from readreplica.transaction_status import TransactionStatus

__all__ = [
    "ANY",
    "PRIMARY",
    "Address",
    "AnySession",
    "CausalToken",
    "Cluster",
    "CommitInDoubt",
    "CommitLost",
    "Committed",
    "Discovery",
    "Freshness",
    "KeyRing",
    "ReadReplicaError",
    "ReadSession",
    "ReplicaOptions",
    "ReplicasTooStale",
    "TransactionStatus",
    "WriteSession",
    "WritesRefused",
    "addresses_of",
    "after",
    "bounded",
    "read_patroni",
    "reader_engine",
    "services_of",
    "writer_engine",
]

_NAMES = {
    "addresses": ("Address", "read_patroni"),
    "cluster": ("Cluster",),
    "discovery": ("Discovery", "addresses_of", "services_of"),
    "engines": ("reader_engine", "writer_engine"),
    "errors": ("CommitInDoubt", "CommitLost", "ReadReplicaError", "ReplicasTooStale", "WritesRefused"),
    "freshness": ("ANY", "PRIMARY", "Freshness", "after", "bounded"),
    "options": ("ReplicaOptions",),
    "sessions": ("AnySession", "ReadSession", "WriteSession"),
    "signing": ("KeyRing",),
    "token": ("CausalToken", "Committed"),
    "transaction_status": ("TransactionStatus",),
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name when it is used first, so that `import readreplica.token` loads no other module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
