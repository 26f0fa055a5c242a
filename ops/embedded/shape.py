"""What the embedded platform consists of: the parts of a topology that are on this machine. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from ops.embedded.postgres import SUPERUSER
from ops.embedded.replica import REPLICATOR
from ops.embedded.settings import access_line
from sharding.topology import Topology


@dataclass(frozen=True)
class DatabaseShape:
    """A database, in a PostgreSQL cluster of its own and of the same name.

    `services` are the roles that may connect, beside the owner; `replicas` are the names of its replicas.
    """

    name: str
    tree: str
    owner: str
    services: tuple[str, ...]
    replicas: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of this database; no others exist in its cluster, but for ours."""
        return (self.owner, *self.services)

    @property
    def access(self) -> tuple[str, ...]:
        """The lines of pg_hba.conf: its own roles to its own database, and ours."""
        return (
            access_line("all", (SUPERUSER,)),
            access_line("replication", (REPLICATOR,)),
            access_line(self.name, self.roles),
        )


VALKEY = "valkey"
POOLER = "pgbouncer"


def shapes_of(topology: Topology) -> tuple[DatabaseShape, ...]:
    """Return the databases of a topology, in its order."""
    return tuple(
        DatabaseShape(
            name=name,
            tree=database.tree,
            owner=database.owner,
            services=tuple(topology.users_of(name)),
            replicas=tuple(replica.name for replica in database.replicas),
        )
        for name, database in topology.databases.items()
    )


def roles_of(shapes: Iterable[DatabaseShape]) -> tuple[str, ...]:
    """List every role that has a password."""
    return (SUPERUSER, REPLICATOR, *sorted({role for shape in shapes for role in shape.roles}))


def service_key(service: str) -> str:
    """Return the key of a service in a table of ports: a service and a database may have the same name."""
    return f"{service} service"
