"""Sessions on a primary and its streaming replicas, with reads that see what their caller has written."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from readreplica.addresses import Address, read_patroni
    from readreplica.cluster import Cluster
    from readreplica.context import causality, follow_causality, has_written, learn, required_token
    from readreplica.discovery import Discovery, addresses_of, services_of
    from readreplica.engines import reader_engine, writer_engine
    from readreplica.errors import (
        CommitInDoubt,
        CommitLost,
        MissingExtra,
        ReadReplicaError,
        ReplicasTooStale,
        WritesRefused,
    )
    from readreplica.freshness import ANY, PRIMARY, Freshness, after, bounded
    from readreplica.options import ReplicaOptions
    from readreplica.sessions import AnySession, ReadSession, WriteSession
    from readreplica.signing import KeyRing, TokenText, parse_keys
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
    "MissingExtra",
    "ReadReplicaError",
    "ReadSession",
    "ReplicaOptions",
    "ReplicasTooStale",
    "TokenText",
    "TransactionStatus",
    "WriteSession",
    "WritesRefused",
    "addresses_of",
    "after",
    "bounded",
    "causality",
    "follow_causality",
    "has_written",
    "learn",
    "parse_keys",
    "read_patroni",
    "reader_engine",
    "required_token",
    "services_of",
    "writer_engine",
]

_NAMES = {
    "addresses": ("Address", "read_patroni"),
    "cluster": ("Cluster",),
    "context": ("causality", "follow_causality", "has_written", "learn", "required_token"),
    "discovery": ("Discovery", "addresses_of", "services_of"),
    "engines": ("reader_engine", "writer_engine"),
    "errors": (
        "CommitInDoubt",
        "CommitLost",
        "MissingExtra",
        "ReadReplicaError",
        "ReplicasTooStale",
        "WritesRefused",
    ),
    "freshness": ("ANY", "PRIMARY", "Freshness", "after", "bounded"),
    "options": ("ReplicaOptions",),
    "sessions": ("AnySession", "ReadSession", "WriteSession"),
    "signing": ("KeyRing", "TokenText", "parse_keys"),
    "token": ("CausalToken", "Committed"),
    "transaction_status": ("TransactionStatus",),
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name when it is used first, so that `import readreplica.token` loads no other module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
