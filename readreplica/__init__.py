"""Sessions on a primary and its streaming replicas, with reads that see what their caller has written."""

from readreplica.cluster import Cluster
from readreplica.sessions import AnySession, ReadSession, WriteSession
from readreplica.token import CausalToken

__all__ = ["AnySession", "CausalToken", "Cluster", "ReadSession", "WriteSession"]
