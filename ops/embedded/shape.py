"""What the embedded topology consists of. Pure."""

from dataclasses import dataclass

from ops.embedded.postgres import SUPERUSER
from ops.embedded.replica import REPLICATOR
from ops.embedded.settings import access_line
from sharding.topology import Tree


@dataclass(frozen=True)
class DatabaseShape:
    """A database, in a PostgreSQL cluster of its own and of the same name.

    `services` are the roles that may connect, beside the owner; `replicas` are the names of its replicas.
    """

    name: str
    tree: Tree
    services: tuple[str, ...]
    replicas: tuple[str, ...] = ()

    @property
    def owner(self) -> str:
        """The role that owns the database and changes its schema."""
        return f"{self.tree}_owner"

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


DATABASES = (
    DatabaseShape("shop", "shop", ("shop",)),
    DatabaseShape("crm", "crm", ("crm",)),
    DatabaseShape("directory", "directory", ("shop", "crm", "mes")),
    DatabaseShape("mes_0", "mes", ("mes",), ("mes_0_replica",)),
    DatabaseShape("mes_1", "mes", ("mes",), ("mes_1_replica",)),
)

TREES: tuple[Tree, ...] = ("directory", "shop", "crm", "mes")
SHARDS = tuple(database.name for database in DATABASES if database.tree == "mes")
HTTP_SERVICES = ("shop", "crm", "mes")
SERVICES = (*HTTP_SERVICES, "pricing")
VALKEY = "valkey"
POOLER = "pgbouncer"

ROLES = (
    SUPERUSER,
    REPLICATOR,
    *sorted({role for database in DATABASES for role in database.roles}),
)
"""Every role that has a password."""


def ported_components() -> tuple[str, ...]:
    """Name everything that always listens on a port, as the keys of a table of ports.

    A service and a database may have the same name: a service's key is `NAME service`.
    """
    servers = (name for database in DATABASES for name in (database.name, *database.replicas))
    return (*servers, VALKEY, *map(service_key, HTTP_SERVICES))


def service_key(service: str) -> str:
    """Give the key of a service in a table of ports."""
    return f"{service} service"
