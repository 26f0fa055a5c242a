"""The topology: one TOML file that says where every database, replica and service of a platform is.

It holds no password: those come from libpq's password file (`passfile`, else PGPASSFILE or ~/.pgpass) or
from the environment, `MES_STORAGE_PASSWORD_<ROLE>`.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from sqlalchemy import URL

from readreplica.options import DEFAULTS
from sharding.errors import TopologyError, UnknownDatabase
from sharding.topology_faults import describe, find_conflicts

Tree = Literal["shop", "crm", "mes", "directory"]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Text = Annotated[str, Field(strict=True, min_length=1)]
# A name stands in tokens, shard maps and role names, so it is kept plain.
Name = Annotated[str, Field(strict=True, pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Count = Annotated[int, Field(strict=True, ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Endpoint(_Section):
    """A host and a port."""

    host: Text
    port: Port


class Replica(Endpoint):
    """A streaming replica of a database's primary."""

    name: Name


class Database(_Section):
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


class Pool(_Section):
    """How many connections a process keeps to each server, and how long it waits for a free one."""

    size: Annotated[int, Field(strict=True, ge=1)] = 10
    max_overflow: Count = 10
    timeout_seconds: Annotated[float, Field(gt=0)] = 5.0


class Replicas(_Section):
    """How sessions use the replicas; the numbers are `readreplica.options.ReplicaOptions`'s."""

    poll_seconds: Annotated[float, Field(gt=0)] = DEFAULTS.poll_seconds
    replay_wait_seconds: Annotated[float, Field(ge=0)] = DEFAULTS.replay_wait_seconds
    eject_lag_seconds: Annotated[float, Field(gt=0)] = DEFAULTS.eject_lag_seconds
    fallback_per_second: Annotated[float, Field(ge=0)] = DEFAULTS.fallback_per_second
    fallback_concurrency: Count = DEFAULTS.fallback_concurrency
    failover_wait_seconds: Annotated[float, Field(ge=0)] = DEFAULTS.failover_wait_seconds


class Location(_Section):
    """Something that is found by a URL."""

    url: Text


class Service(Endpoint):
    """Where a service listens."""

    @property
    def url(self) -> str:
        """The service's base URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class Topology(_Section):
    """The whole platform, as one file describes it."""

    backend: Literal["postgresql", "citus"] = "postgresql"
    buckets: Annotated[int, Field(strict=True)] = 64
    passfile: Text | None = None
    databases: dict[Name, Database]
    pool: Pool = Pool()
    replicas: Replicas = Replicas()
    redis: Location
    files: Location
    services: dict[Name, Service] = {}
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
        self, database: str | Database, *, role: str, replica: str | None = None, driver: str = "psycopg"
    ) -> URL:
        """Make the SQLAlchemy URL of a database for a role.

        Parameters:
            database: the database, or its name in the topology.
            role: the PostgreSQL role that connects.
            replica: the name of a replica; without it, the primary.
            driver: SQLAlchemy's name of the driver.

        Raises:
            UnknownDatabase: there is no such database or replica.
        """
        found = self.database(database) if isinstance(database, str) else database
        endpoint = found.replica(replica) if replica else found.primary
        return URL.create(
            f"postgresql+{driver}",
            username=role,
            password=self._environ.get(f"MES_STORAGE_PASSWORD_{role.upper()}"),
            host=endpoint.host,
            port=endpoint.port,
            database=found.dbname,
            query={"passfile": str(self._path.parent / self.passfile)} if self.passfile else {},
        )

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
