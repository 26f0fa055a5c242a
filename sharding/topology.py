"""The topology: one TOML file that says where every database, replica and service of a platform is.

It holds no password: those come from libpq's password file (`passfile`, else PGPASSFILE or ~/.pgpass) or
from the environment, `MES_STORAGE_PASSWORD_<ROLE>`.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from readreplica.options import DEFAULTS
from sharding.errors import (
    DirectoryMissing,
    SectionMissing,
    TopologyError,
    TreeUnclear,
    UnknownDatabase,
    UnknownTree,
)

if TYPE_CHECKING:
    from sqlalchemy import URL

S = TypeVar("S", bound=BaseModel)

DEFAULT_ID_SPACE = "default"


class Tree(Section):
    """The databases of one schema: what they are to each other, and the roles that they have.

    `role` is the one that services connect as, `owner` the one that changes the schema; without them they are
    the tree's name and `NAME_owner`. `directory` names the tree of kind `directory` that keeps the shard map,
    the node leases and the ledger; without it, the only one. Trees that share an `id_space` share the node
    numbers of their ids, so no id is made twice in them.
    """

    kind: Literal["single", "sharded", "directory"]
    directory: Name | None = None
    owner: Name
    role: Name
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


class Topology(Section):
    """The whole platform, as one file describes it.

    A table of the file that is none of these belongs to the application: `section` reads it.
    """

    trees: dict[Name, Tree]
    databases: dict[Name, Database]
    passfile: Text | None = None
    tls: Tls = Tls()
    pool: Pool = Pool()
    replicas: Replicas = Replicas()
    pgbouncer: PgBouncer | None = None
    _path: Path = PrivateAttr(default=Path())
    _environ: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _sections: Mapping[str, dict[str, Any]] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path, *, environ: Mapping[str, str] = os.environ) -> Self:
        """Read and check a topology file.

        Parameters:
            path: the TOML file.
            environ: where passwords are looked up.

        Raises:
            TopologyError: the file cannot be read or is wrong; one line per fault.
        """
        path = Path(path)
        content = _read_toml(path)
        faults = find_layout_faults(content, known=cls.model_fields)
        if faults:
            raise TopologyError(path, faults)
        own = {key: value for key, value in content.items() if key in cls.model_fields}
        if isinstance(own.get("trees"), dict):
            own["trees"] = {name: _with_roles(name, tree) for name, tree in own["trees"].items()}
        try:
            topology = cls.model_validate(own)
        except ValidationError as error:
            raise TopologyError(path, describe(cls, error)) from None
        for name, database in topology.databases.items():
            database._name, database._section = name, topology.trees[database.tree]
        conflicts = find_conflicts(topology)
        if conflicts:
            raise TopologyError(path, conflicts)
        topology._path = path.resolve()
        topology._environ = environ
        topology._sections = {key: value for key, value in content.items() if key not in own}
        return topology

    @property
    def path(self) -> Path:
        """The file that was read."""
        return self._path

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

    def section(self, name: str, model: type[S]) -> S:
        """Read a table of the file that belongs to the application.

        Parameters:
            name: the table's name.
            model: what it must be; a pydantic model, best a `sharding.topology.Section`.

        Raises:
            SectionMissing: the file has no such table.
            TopologyError: it is wrong; one line per fault.
        """
        if name not in self._sections:
            raise SectionMissing(self._path, name)
        try:
            return model.model_validate(self._sections[name])
        except ValidationError as error:
            faults = [f"{name}.{line}" for line in describe(model, error)]
            raise TopologyError(self._path, faults) from None

    @property
    def sections(self) -> Mapping[str, dict[str, Any]]:
        """The tables of the file that belong to the application, as they stand there."""
        return self._sections

    def database(self, name: str) -> Database:
        """Find a database by its name.

        Raises:
            UnknownDatabase: there is none of that name.
        """
        try:
            return self.databases[name]
        except KeyError:
            raise UnknownDatabase(name, self.databases) from None

    def url(
        self,
        database: str | Database,
        *,
        role: str,
        replica: str | None = None,
        driver: str = "psycopg",
        service: str | None = None,
        direct: bool = False,
    ) -> "URL":
        """Make the SQLAlchemy URL of a database for a role: to its pool, if the pooler has one.

        Parameters:
            database: the database, or its name in the topology.
            role: the PostgreSQL role that connects.
            replica: the name of a replica; without it, the primary.
            driver: SQLAlchemy's name of the driver.
            service: whose pool it is; without it, or if that has none, the service of the role's name.
            direct: to the server itself, as LISTEN, locks and settings of a session, and migrations need it.

        Raises:
            UnknownDatabase: there is no such database or replica.
        """
        from sqlalchemy import URL  # who only reads the file does not wait for it

        found = self.database(database) if isinstance(database, str) else database
        endpoint: Endpoint = found.replica(replica) if replica else found.primary
        entry = None if direct else self._pool_entry(found, role, service, replica)
        if entry and self.pgbouncer:
            endpoint = self.pgbouncer
        return URL.create(
            f"postgresql+{driver}",
            username=role,
            password=self.password(role),
            host=endpoint.host,
            port=endpoint.port,
            database=entry or found.dbname,
            query=self._query(found, pooled=endpoint is self.pgbouncer),
        )

    def _query(self, database: Database, *, pooled: bool) -> dict[str, str]:
        own = self.pgbouncer.tls if pooled and self.pgbouncer else database.tls
        words = (own or self.tls).model_dump(exclude_none=True)
        if self.passfile:
            words["passfile"] = self.passfile
        # Paths are told from the file, wherever the process was started.
        return {
            key: value if key == "sslmode" else str(self._path.parent / value) for key, value in words.items()
        }

    def password(self, role: str) -> str | None:
        """Give the password of a role, if the environment has it."""
        return self._environ.get(f"MES_STORAGE_PASSWORD_{role.upper()}")

    def _pool_entry(
        self, database: Database, role: str, service: str | None, replica: str | None
    ) -> str | None:
        entries = {
            pool.service: pool.entry
            for pool in pools_of(self)
            if (pool.role, pool.database, pool.replica) == (role, database.name, replica)
        }
        return entries.get(service or role) or entries.get(role)

    def masked(self) -> dict[str, Any]:
        """Return everything that was understood, for people, with the passwords inside URLs masked."""
        shown: dict[str, Any] = _mask(self.model_dump() | dict(self._sections))
        return shown


def _mask(value: Any) -> Any:
    match value:
        case dict():
            return {key: _mask(part) for key, part in value.items()}
        case list() | tuple():
            return [_mask(part) for part in value]
        case str():
            return re.sub(r"(?<=://)([^/@:]*):[^/@]+@", r"\1:***@", value)
    return value


def _with_roles(name: str, tree: Any) -> Any:
    """Add the roles that follow from a tree's name where the file has none."""
    return {"owner": f"{name}_owner", "role": name} | tree if isinstance(tree, dict) else tree


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TopologyError(path, [f"cannot be read at {path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise TopologyError(path, [f"is not UTF-8 text: byte {error.start}"]) from error
    except tomllib.TOMLDecodeError as error:
        # tomllib's message ends with the line and the column.
        raise TopologyError(path, [f"is not TOML: {error}"]) from error
