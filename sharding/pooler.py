"""The section [pgbouncer] of a topology: which services reach which databases by which pool of a pooler.

A pool is an entry `NODE.SERVICE` in PgBouncer's list of databases, with one role. NODE is a primary (it has
its database's name) or a replica: an entry never holds several servers, because what a read session knows of
a replica must be true of the server behind its connection.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from sharding.topology import Count, Endpoint, Name, Section, Text, Tls

if TYPE_CHECKING:
    from sharding.topology import Topology

Positive = Annotated[int, Field(strict=True, ge=1)]
Seconds = Annotated[float, Field(gt=0)]
PREPARES_FROM = (1, 22)
"""1.21 follows prepared statements in transaction mode, 1.22 also the DEALLOCATE ALL that psycopg sends
(PgBouncer's changelog; psycopg's page on prepared statements)."""


class PooledService(Section):
    """A service that connects through the pooler; `role` and `databases` follow from its name if left out."""

    role: Name | None = None
    databases: tuple[Name, ...] | None = None
    weight: Positive = 1
    pool_size: Positive | None = None


class PgBouncer(Endpoint):
    """A PgBouncer in transaction mode, and where services find it."""

    listen: Text | None = None
    version: Annotated[str, Field(strict=True, pattern=r"^\d+\.\d+(\.\d+)?$")] | None = None
    secrets: Literal["scram", "plain"] = "scram"
    admin: Name = "pgbouncer"
    clients: tuple[Text, ...] = ("127.0.0.1/32",)
    processes: Positive = 1
    socket_dir: Text | None = None
    reserve_connections: Count = 20
    max_client_connections: Positive = 1000
    ignore_startup_parameters: tuple[Text, ...] = ("extra_float_digits",)
    server_idle_seconds: Seconds = 60
    server_lifetime_seconds: Seconds = 3600
    query_wait_seconds: Seconds = 10
    idle_transaction_seconds: Seconds = 60
    client_login_seconds: Seconds = 15
    services: dict[Name, PooledService] = Field(default_factory=dict)
    tls: Tls | None = None

    @property
    def keeps_prepared_statements(self) -> bool:
        """Whether a client may prepare statements. A version that is not told is taken for an old one."""
        return self.version is not None and numbers_of(self.version) >= PREPARES_FROM


class Pool(NamedTuple):
    """One pool: a service's way to a node of a database, as one role."""

    service: str
    role: str
    database: str
    replica: str | None
    weight: int
    size: int | None

    @property
    def node(self) -> str:
        """The primary by its database's name, or the replica by its own."""
        return self.replica or self.database

    @property
    def entry(self) -> str:
        """The name by which clients ask the pooler for it."""
        return f"{self.node}.{self.service}"


def numbers_of(version: str) -> tuple[int, int]:
    """Give the first two numbers of a version: the third never brings a feature."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def pools_of(topology: "Topology") -> list[Pool]:
    """List every pool of the topology's pooler, in the order of services, databases and replicas."""
    return [
        Pool(name, service.role or name, database, node, service.weight, service.pool_size)
        for name, service in _services(topology).items()
        for database in _databases(topology, name, service)
        if database in topology.databases
        for node in (None, *(replica.name for replica in topology.databases[database].replicas))
    ]


def _services(topology: "Topology") -> dict[str, PooledService]:
    """Return the services; without any in the file, one for each tree, which has the name of its role."""
    if topology.pgbouncer is None:
        return {}
    roles = sorted({tree.role for tree in topology.trees.values() if tree.kind != "directory"})
    return topology.pgbouncer.services or {role: PooledService() for role in roles}


def _databases(topology: "Topology", name: str, service: PooledService) -> list[str]:
    """List the databases of a service: its trees' own, in name order, and behind them their directories."""
    if service.databases is not None:
        return list(service.databases)
    users = {key: topology.users_of(key) for key in sorted(topology.databases)}
    own = [key for key, roles in users.items() if (service.role or name) in roles]
    return sorted(own, key=lambda key: topology.tree_of(key).kind == "directory")


def find_pooler_faults(topology: "Topology") -> Iterator[str]:
    """Find what is well formed in [pgbouncer] but cannot work."""
    pooler = topology.pgbouncer
    if pooler is None:
        return
    if pooler.processes > 1 and pooler.socket_dir is None:
        yield (
            f"pgbouncer.socket_dir: missing key; {pooler.processes} processes share one port, so give a "
            "folder for the sockets by which each is administered"
        )
    yield from _service_faults(topology)
    yield from _place_faults(topology, pooler)


def _service_faults(topology: "Topology") -> Iterator[str]:
    for name, service in _services(topology).items():
        key = f"pgbouncer.services.{name}.databases"
        if not _databases(topology, name, service):
            yield f"{key}: missing key; no tree has the role {name!r}, so list the databases that it uses"
        for database in service.databases or ():
            if database not in topology.databases:
                yield f"{key}: {database!r} is no database of this file; add or remove it"


def _place_faults(topology: "Topology", pooler: PgBouncer) -> Iterator[str]:
    for name, database in topology.databases.items():
        if (pooler.host, pooler.port) == (database.primary.host, database.primary.port):
            yield (
                f"pgbouncer.port: {pooler.host}:{pooler.port} is databases.{name}.primary; "
                "give the pooler a port of its own"
            )
        for index, replica in enumerate(database.replicas):
            if replica.name in topology.databases:
                yield (
                    f"databases.{name}.replicas.{index}.name: {replica.name!r} is a database, too, and the "
                    "pooler could not tell them apart; rename the replica"
                )
