"""The topology: one TOML file that says where every database, replica and service of a platform is.

It holds no password: those come from libpq's password file (`passfile`, else PGPASSFILE or ~/.pgpass) or
from the environment, `MES_STORAGE_PASSWORD_<ROLE>`.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError

from readreplica.options import DEFAULTS
from sharding.errors import TopologyError, UnknownDatabase
from sharding.pooler import PgBouncer, pools_of
from sharding.section import Count, Endpoint, Name, Section, Text
from sharding.topology_faults import describe, find_conflicts

if TYPE_CHECKING:
    from sqlalchemy import URL

Tree = Literal["shop", "crm", "mes", "directory"]


class Replica(Endpoint):
    """A streaming replica of a database's primary."""

    name: Name


class Database(Section):
    """One database: its migration tree, its primary and its replicas. `name` is its key in the file."""

    tree: Tree
    dbname: Text
    primary: Endpoint
    replicas: tuple[Replica, ...] = ()
    _name: str = PrivateAttr(default="")

    @property
    def name(self) -> str:
        """The database's name in the topology."""
        return self._name

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


class Location(Section):
    """Something that is found by a URL."""

    url: Text


class Service(Endpoint):
    """Where a service listens."""

    @property
    def url(self) -> str:
        """The service's base URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class Topology(Section):
    """The whole platform, as one file describes it."""

    backend: Literal["postgresql", "citus"] = "postgresql"
    buckets: Annotated[int, Field(strict=True)] = 64
    passfile: Text | None = None
    databases: dict[Name, Database]
    pool: Pool = Pool()
    replicas: Replicas = Replicas()
    pgbouncer: PgBouncer | None = None
    redis: Location
    files: Location
    services: dict[Name, Service] = Field(default_factory=dict)
    _path: Path = PrivateAttr(default=Path())
    _environ: Mapping[str, str] = PrivateAttr(default_factory=dict)

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
        try:
            topology = cls.model_validate(content)
        except ValidationError as error:
            raise TopologyError(path, describe(cls, error)) from None
        for name, database in topology.databases.items():
            database._name = name
        conflicts = find_conflicts(topology)
        if conflicts:
            raise TopologyError(path, conflicts)
        topology._path = path.resolve()
        topology._environ = environ
        return topology

    @property
    def path(self) -> Path:
        """The file that was read."""
        return self._path

    def tree(self, tree: Tree) -> dict[str, Database]:
        """Give the databases of a migration tree by name, in name order; for `mes` they are the shards."""
        return {name: base for name, base in sorted(self.databases.items()) if base.tree == tree}

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
            query={"passfile": str(self._path.parent / self.passfile)} if self.passfile else {},
        )

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
        """Give everything that was understood, with the passwords inside URLs masked, for `mesctl status`."""
        shown = self.model_dump()
        for section in (shown["redis"], shown["files"]):
            section["url"] = re.sub(r"(?<=://)([^/@:]*):[^/@]+@", r"\1:***@", section["url"])
        return shown


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
