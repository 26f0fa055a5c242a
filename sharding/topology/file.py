"""The topology: one TOML file that says where every database, replica and service of a platform is.

It holds no password: those come from libpq's password file (`passfile`, else PGPASSFILE or ~/.pgpass) or
from the environment, `MES_STORAGE_PASSWORD_<ROLE>`.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import BaseModel, PrivateAttr, ValidationError

from sharding.errors import SectionMissing, TopologyError
from sharding.topology.faults import describe, find_conflicts, find_layout_faults
from sharding.topology.model import Database, Endpoint, TopologyModel, pools_of

if TYPE_CHECKING:
    from sqlalchemy import URL

S = TypeVar("S", bound=BaseModel)


class Topology(TopologyModel):
    """The whole platform, as one file describes it.

    A table of the file that is none of these belongs to the application: `section` reads it.
    """

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
        from sqlalchemy import URL  # to read the file alone does not need it

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
        # Paths are relative to the file, wherever the process was started.
        return {
            key: value if key == "sslmode" else str(self._path.parent / value) for key, value in words.items()
        }

    def password(self, role: str) -> str | None:
        """Return the password of a role, if the environment has it; a variable has `_` for the role's `-`."""
        return self._environ.get(f"MES_STORAGE_PASSWORD_{role.upper().replace('-', '_')}")

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
