"""The topology: one TOML file that says where every database, replica and service of a platform is."""

from sharding.topology.faults import describe
from sharding.topology.file import Topology
from sharding.topology.model import (
    DEFAULT_ID_SPACE,
    Count,
    Database,
    Endpoint,
    Name,
    PgBouncer,
    Pool,
    PooledService,
    Port,
    Replica,
    Replicas,
    Section,
    ServicePool,
    Text,
    Tls,
    TopologyModel,
    Tree,
    pools_of,
)

__all__ = [
    "DEFAULT_ID_SPACE",
    "Count",
    "Database",
    "Endpoint",
    "Name",
    "PgBouncer",
    "Pool",
    "PooledService",
    "Port",
    "Replica",
    "Replicas",
    "Section",
    "ServicePool",
    "Text",
    "Tls",
    "Topology",
    "TopologyModel",
    "Tree",
    "describe",
    "pools_of",
]
