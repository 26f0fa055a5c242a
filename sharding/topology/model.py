"""The sections of a topology file, and what follows from them: which database and which pool is whose.

A pool of the pooler is an entry `NODE.SERVICE` in PgBouncer's list of databases, with one role. NODE is a
primary (it has its database's name) or a replica: an entry never holds several servers, because what a read
session knows of a replica must be true of the server behind its connection.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from readreplica.options import DEFAULTS
from sharding.errors import DirectoryMissing, TreeUnclear, UnknownDatabase, UnknownTree

DEFAULT_ID_SPACE = "default"
PREPARES_FROM = (1, 22)
"""1.21 follows prepared statements in transaction mode, 1.22 also the DEALLOCATE ALL that psycopg sends
(PgBouncer's changelog; psycopg's page on prepared statements)."""

Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Text = Annotated[str, Field(strict=True, min_length=1)]
# A name stands in tokens, shard maps and role names, so it is kept plain.
Name = Annotated[str, Field(strict=True, pattern=r"^[a-z][a-z0-9_]{0,62}$")]
# PostgreSQL's own, which people made before there was a topology: `my-app`.
Role = Annotated[str, Field(strict=True, pattern=r"^[a-z_][a-z0-9_-]{0,62}$")]
Count = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[int, Field(strict=True, ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A table of the file: an unknown key is a fault, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Endpoint(Section):
    """A host and a port."""

    host: Text
    port: Port


class Tls(Section):
    """How connections are encrypted and proved: libpq's keywords, with paths from the topology file."""

    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None = None
    sslrootcert: Text | None = None
    sslcert: Text | None = None
    sslkey: Text | None = None


class Tree(Section):
    """The databases of one schema: what they are to each other, and the roles that they have.

    `role` is the one that services connect as, `owner` the one that changes the schema; without them they are
    the tree's name and `NAME_owner`. `directory` names the tree of kind `directory` that keeps the shard map,
    the node leases and the ledger; without it, the only one. Trees that share an `id_space` share the node
    numbers of their ids, so no id is made twice in them.
    """

    kind: Literal["single", "sharded", "directory"]
    directory: Name | None = None
    owner: Role
    role: Role
    buckets: Annotated[int, Field(strict=True)] = 64
    backend: Literal["postgresql", "citus"] = "postgresql"
    id_space: Name = DEFAULT_ID_SPACE


class Replica(Endpoint):
    """A streaming replica of a database's primary."""

    name: Name


class Database(Section):
    """One database: its migration tree, its primary and its replicas. `name` is its key in the file."""

    tree: Name
    dbname: Text
    primary: Endpoint
    replicas: tuple[Replica, ...] = ()
    tls: Tls | None = None
    _name: str = PrivateAttr(default="")
    _section: Tree = PrivateAttr()

    @property
    def name(self) -> str:
        """The database's name in the topology."""
        return self._name

    @property
    def owner(self) -> str:
        """The role that owns the database: schema changes are made as it."""
        return self._section.owner

    @property
    def role(self) -> str:
        """The role that the services of its tree connect as."""
        return self._section.role

    @property
    def is_shard(self) -> bool:
        """Whether its tree is sharded."""
        return self._section.kind == "sharded"

    @property
    def is_coordinator(self) -> bool:
        """Whether Citus keeps the shards of its tree."""
        return self._section.backend == "citus"

    def replica(self, name: str) -> Replica:
        """Find a replica by its name.

        Raises:
            UnknownDatabase: the database has no such replica.
        """
        for replica in self.replicas:
            if replica.name == name:
                return replica
        raise UnknownDatabase(name, (replica.name for replica in self.replicas))


class Pool(Section):
    """How many connections a process keeps to each server, and how long it waits for a free one."""

    size: Annotated[int, Field(strict=True, ge=1)] = 10
    max_overflow: Count = 10
    timeout_seconds: Annotated[float, Field(gt=0)] = 5.0


class Replicas(Section):
    """How sessions use the replicas; the numbers are `readreplica.options.ReplicaOptions`'s."""

    poll_seconds: Annotated[float, Field(gt=0)] = DEFAULTS.poll_seconds
    replay_wait_seconds: Annotated[float, Field(ge=0)] = DEFAULTS.replay_wait_seconds
    eject_lag_seconds: Annotated[float, Field(gt=0)] = DEFAULTS.eject_lag_seconds
    fallback_per_second: Annotated[float, Field(ge=0)] = DEFAULTS.fallback_per_second
    fallback_concurrency: Count = DEFAULTS.fallback_concurrency
    failover_wait_seconds: Annotated[float, Field(ge=0)] = DEFAULTS.failover_wait_seconds


class PooledService(Section):
    """A service that connects through the pooler; `role` and `databases` follow from its name if left out."""

    role: Role | None = None
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
    services: dict[Role, PooledService] = Field(default_factory=dict)
    tls: Tls | None = None

    @property
    def keeps_prepared_statements(self) -> bool:
        """Whether a client may prepare statements. A version that is not given counts as an old one."""
        return self.version is not None and numbers_of(self.version) >= PREPARES_FROM


class ServicePool(NamedTuple):
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


class TopologyModel(Section):
    """The trees, databases and pools of a topology file, and the look-up of each."""

    trees: dict[Name, Tree]
    databases: dict[Name, Database]
    passfile: Text | None = None
    tls: Tls = Tls()
    pool: Pool = Pool()
    replicas: Replicas = Replicas()
    pgbouncer: PgBouncer | None = None

    def databases_of(self, tree: str) -> dict[str, Database]:
        """Return the databases of a tree by name, in name order; those of a sharded tree are its shards."""
        return {name: base for name, base in sorted(self.databases.items()) if base.tree == tree}

    def tree_of(self, database: str | Database) -> Tree:
        """Return the tree of a database.

        Raises:
            UnknownDatabase: there is none of that name.
        """
        found = self.database(database) if isinstance(database, str) else database
        return self.trees[found.tree]

    def names_of_kind(self, kind: Literal["single", "sharded", "directory"]) -> list[str]:
        """List the trees of a kind, in the order of the file."""
        return [name for name, tree in self.trees.items() if tree.kind == kind]

    def sharded_tree(self, name: str | None = None) -> str:
        """Return the name of a sharded tree: the given one, or the only one that there is.

        Raises:
            UnknownTree: there is none of that name, or it is not sharded.
            TreeUnclear: none was named, and there is none, or several.
        """
        known = self.names_of_kind("sharded")
        if name is not None:
            if name not in known:
                raise UnknownTree(name, known, kind="sharded")
            return name
        if len(known) != 1:
            raise TreeUnclear(known, kind="sharded")
        return known[0]

    def directory_of(self, tree: str) -> Database:
        """Return the directory of a tree: the database of its shard map, node leases and ledger.

        Raises:
            UnknownTree: there is no such tree.
            DirectoryMissing: the tree has none.
        """
        if tree not in self.trees:
            raise UnknownTree(tree, self.trees)
        known = self.names_of_kind("directory")
        name = tree if tree in known else self.trees[tree].directory or (known[0] if known else None)
        found = self.databases_of(name) if name else {}
        if not found:
            raise DirectoryMissing(tree)
        return next(iter(found.values()))

    def coordinator_of(self, tree: str) -> Database:
        """Return the coordinator's database of a tree whose shards Citus keeps: the only one that it has."""
        [database] = self.databases_of(tree).values()
        return database

    def users_of(self, database: str | Database) -> list[str]:
        """List the roles that services connect to a database as, sorted.

        To a directory connect the roles of all trees whose directory it is.
        """
        found = self.database(database) if isinstance(database, str) else database
        if self.trees[found.tree].kind != "directory":
            return [self.trees[found.tree].role]
        return sorted({self.trees[name].role for name in self._trees_with(found)})

    def _trees_with(self, directory: Database) -> Iterator[str]:
        for name, tree in self.trees.items():
            if tree.kind != "directory" and self.directory_of(name).name == directory.name:
                yield name

    def database(self, name: str) -> Database:
        """Find a database by its name.

        Raises:
            UnknownDatabase: there is none of that name.
        """
        try:
            return self.databases[name]
        except KeyError:
            raise UnknownDatabase(name, self.databases) from None


def numbers_of(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version: the third never brings a feature."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def pools_of(topology: TopologyModel) -> list[ServicePool]:
    """List every pool of the topology's pooler, in the order of services, databases and replicas."""
    return [
        ServicePool(name, service.role or name, database, node, service.weight, service.pool_size)
        for name, service in services_of(topology).items()
        for database in databases_of_service(topology, name, service)
        if database in topology.databases
        for node in (None, *(replica.name for replica in topology.databases[database].replicas))
    ]


def services_of(topology: TopologyModel) -> dict[str, PooledService]:
    """Return the services; without any in the file, one for each tree, which has the name of its role."""
    if topology.pgbouncer is None:
        return {}
    roles = sorted({tree.role for tree in topology.trees.values() if tree.kind != "directory"})
    return topology.pgbouncer.services or {role: PooledService() for role in roles}


def databases_of_service(topology: TopologyModel, name: str, service: PooledService) -> list[str]:
    """List the databases of a service: its trees' own, in name order, and behind them their directories."""
    if service.databases is not None:
        return list(service.databases)
    users = {key: topology.users_of(key) for key in sorted(topology.databases)}
    own = [key for key, roles in users.items() if (service.role or name) in roles]
    return sorted(own, key=lambda key: topology.tree_of(key).kind == "directory")
