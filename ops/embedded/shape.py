"""What the embedded platform consists of: the parts of a topology that are on this machine. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from pydantic import ConfigDict, ValidationError

from ops.embedded.errors import ReplicaNameTaken
from ops.embedded.postgres import REPLICATOR, SUPERUSER, access_line
from ops.embedded.state import ComponentState, Kind
from ops.gateway.model import find_section
from ops.monitoring.section import monitoring_of
from ops.pages.section import pages_of
from ops.ports import LOOPBACK, address_of
from sharding.errors import TopologyError
from sharding.topology import Database, Endpoint, Port, Section, Text, Topology, describe

if TYPE_CHECKING:
    from ops.project.project import ServiceEntry

Key = tuple[str | int, ...]
"""Where a value stands in the topology file: `("databases", "shop", "primary", "port")`."""

VALKEY = "[redis]"
POOLER = "[pgbouncer]"
EXPORTER = "mesctl-exporter"
"""No service of a project has a name with a hyphen."""
PAGES = "mesctl-pages"
PROMETHEUS = "mesctl-prometheus"
GATEWAY = "mesctl-gateway"
ALERTMANAGER = "mesctl-alertmanager"
REDIS_PORT = 6379
HBA_WORDS = {"all", "replication", "sameuser", "samerole", "samegroup"}
REDIS_KEY: Key = ("redis", "url")


@dataclass(frozen=True)
class ListenAddress:
    """Where a component listens on this machine, and the keys of the topology file that say so.

    The value of a key is the port, or a URL that holds it.
    """

    host: str
    port: int
    keys: tuple[Key, ...]

    @property
    def url(self) -> str:
        """The base URL of a service there."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


@dataclass(frozen=True)
class DatabaseShape:
    """A database of the topology: its roles, and the names of its replicas.

    `services` are the roles that may connect, beside the owner.
    """

    name: str
    dbname: str
    tree: str
    owner: str
    services: tuple[str, ...]
    replicas: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of this database."""
        return tuple(dict.fromkeys((self.owner, *self.services)))


@dataclass(frozen=True)
class ReplicaShape:
    """A replica on this machine."""

    name: str
    address: ListenAddress


@dataclass(frozen=True)
class ServerShape:
    """A PostgreSQL cluster: one for each primary, with the databases that the topology has there.

    It bears the name of the first of them.
    """

    address: ListenAddress
    databases: tuple[DatabaseShape, ...]
    replicas: tuple[ReplicaShape, ...] = ()

    @property
    def name(self) -> str:
        """The name of the cluster."""
        return self.databases[0].name

    def access(self, host: str) -> tuple[str, ...]:
        """Return the lines of pg_hba.conf of a server at `host`: a database's roles to it alone, and ours."""
        return (
            access_line("all", (SUPERUSER,), host=host),
            access_line("replication", (REPLICATOR,), host=host),
            *(
                access_line(_in_hba(database.dbname), database.roles, host=host)
                for database in self.databases
            ),
        )


@dataclass(frozen=True)
class ServiceShape:
    """A service of the project; one without an address is a worker.

    `redis` are the rules of its user of Valkey, `environment` is its own part of the environment. `arguments`
    stand behind the module: it is one of mesctl's own. `admin` is where it has its metrics.
    """

    name: str
    module: str
    health: str
    address: ListenAddress | None
    redis: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    admin: ListenAddress | None = None


@dataclass(frozen=True)
class PlatformShape:
    """What `up` starts, and what it leaves alone."""

    servers: tuple[ServerShape, ...]
    valkey: ListenAddress | None
    pooler: ListenAddress | None
    services: tuple[ServiceShape, ...]
    elsewhere: tuple[ComponentState, ...]
    doors: Mapping[str, ListenAddress] = field(default_factory=dict)

    @property
    def addresses(self) -> dict[str, ListenAddress]:
        """Where every component listens."""
        addresses = {server.name: server.address for server in self.servers}
        addresses |= {replica.name: replica.address for server in self.servers for replica in server.replicas}
        addresses |= {service_key(each.name): each.address for each in self.services if each.address}
        addresses |= {admin_key(each.name): each.admin for each in self.services if each.admin}
        addresses |= {door_key(name): address for name, address in self.doors.items()}
        addresses |= {VALKEY: self.valkey} if self.valkey else {}
        return addresses | ({POOLER: self.pooler} if self.pooler else {})

    @property
    def redis_rules(self) -> dict[str, tuple[str, ...]]:
        """The rules of Valkey's users, by service; none where Valkey is elsewhere."""
        return {service.name: service.redis for service in self.services} if self.valkey else {}

    @property
    def databases(self) -> tuple[DatabaseShape, ...]:
        """The databases on this machine."""
        return tuple(database for server in self.servers for database in server.databases)


def shape_of(topology: Topology, services: Mapping[str, "ServiceEntry"]) -> PlatformShape:
    """Find what of a topology is on this machine.

    Parameters:
        topology: any.
        services: of the project, by name.

    Raises:
        TopologyError: a service's section is wrong.
        ReplicaNameTaken: two servers would share a folder.
    """
    _refuse_shared_names(topology)
    elsewhere: list[ComponentState] = []
    servers = tuple(_servers(topology, elsewhere))
    return PlatformShape(
        servers=servers,
        valkey=_valkey(topology, elsewhere),
        pooler=_pooler(topology, servers, elsewhere),
        services=(
            *_services(topology, services, elsewhere),
            *_exporter(topology),
            *_pages(topology),
            *_gateway(topology),
            *_watchers(topology),
        ),
        elsewhere=tuple(elsewhere),
        doors=_doors(topology),
    )


def shapes_of(topology: Topology) -> tuple[DatabaseShape, ...]:
    """Return the databases of a topology, in its order."""
    return tuple(_database(database, topology) for database in topology.databases.values())


def roles_of(shapes: Iterable[DatabaseShape]) -> tuple[str, ...]:
    """List every role that has a password."""
    return (SUPERUSER, REPLICATOR, *sorted({role for shape in shapes for role in shape.roles}))


def service_key(service: str) -> str:
    """Return the key of a service in a table of ports: a service and a database may have the same name."""
    return f"{service} service"


def admin_key(service: str) -> str:
    """Return the key of a service's admin port in a table of ports."""
    return f"{service} admin port"


def _in_hba(dbname: str) -> str:
    """Write the name of a database for pg_hba.conf, where some words and characters mean something else."""
    is_plain = re.fullmatch(r"[a-z0-9_]+", dbname) and dbname not in HBA_WORDS
    return dbname if is_plain else f'"{dbname}"'


def door_key(door: str) -> str:
    """Return the key of a door of the gateway in a table of ports."""
    return f"{door} door"


def _gateway(topology: Topology) -> Iterator[ServiceShape]:
    """Return Envoy, where the topology has a gateway; its address is its admin port."""
    section = find_section(topology)
    if section is not None:
        address = ListenAddress(LOOPBACK, section.admin_port, (("gateway", "admin_port"),))
        yield ServiceShape(GATEWAY, "", "/ready", address)


def _doors(topology: Topology) -> dict[str, ListenAddress]:
    section = find_section(topology)
    doors = {} if section is None else section.doors
    return {
        name: ListenAddress(door.host, door.port, (("gateway", "doors", name, "port"),))
        for name, door in doors.items()
    }


def _database(database: Database, topology: Topology) -> DatabaseShape:
    return DatabaseShape(
        name=database.name,
        dbname=database.dbname,
        tree=database.tree,
        owner=database.owner,
        services=tuple(topology.users_of(database)),
        replicas=tuple(replica.name for replica in database.replicas),
    )


def _refuse_shared_names(topology: Topology) -> None:
    for name, database in topology.databases.items():
        for index, replica in enumerate(database.replicas):
            if replica.name in topology.databases:
                raise ReplicaNameTaken(topology.path, f"databases.{name}.replicas.{index}.name", replica.name)


def _servers(topology: Topology, elsewhere: list[ComponentState]) -> Iterator[ServerShape]:
    groups: dict[tuple[str, int], list[Database]] = {}
    for database in topology.databases.values():
        host = address_of(database.primary.host)
        if host is None or database.is_coordinator:
            elsewhere += _left_alone(database, "" if host is None else "Citus is not started by mesctl")
        else:
            groups.setdefault((host, database.primary.port), []).append(database)
    for (host, port), databases in groups.items():
        keys = tuple(("databases", each.name, "primary", "port") for each in databases)
        yield ServerShape(
            address=ListenAddress(host, port, keys),
            databases=tuple(_database(each, topology) for each in databases),
            replicas=tuple(_replicas(databases, elsewhere)),
        )


def _replicas(databases: Iterable[Database], elsewhere: list[ComponentState]) -> Iterator[ReplicaShape]:
    """Find the replicas of a cluster: databases of one primary may share a replica, each by its name."""
    found: dict[tuple[str, int], tuple[str, list[Key]]] = {}
    for database in databases:
        for index, replica in enumerate(database.replicas):
            host = address_of(replica.host)
            if host is None:
                elsewhere.append(_elsewhere(replica.name, "replica", replica))
                continue
            _, keys = found.setdefault((host, replica.port), (replica.name, []))
            keys.append(("databases", database.name, "replicas", index, "port"))
    for (host, port), (name, keys) in found.items():
        yield ReplicaShape(name, ListenAddress(host, port, tuple(keys)))


def _left_alone(database: Database, why: str) -> Iterator[ComponentState]:
    yield _elsewhere(database.name, "primary", database.primary, why)
    for replica in database.replicas:
        yield _elsewhere(replica.name, "replica", replica, why or "its primary is elsewhere")


def _elsewhere(name: str, kind: Kind, endpoint: Endpoint | SplitResult, why: str = "") -> ComponentState:
    host = endpoint.host if isinstance(endpoint, Endpoint) else endpoint.hostname
    detail = f"{host}:{endpoint.port}" if endpoint.port else str(host)
    detail += f" ({why})" if why else ""
    return ComponentState(name=name, kind=kind, state="elsewhere", wanted=False, detail=detail)


def _valkey(topology: Topology, elsewhere: list[ComponentState]) -> ListenAddress | None:
    url = topology.sections.get("redis", {}).get("url")
    if not isinstance(url, str):
        return None
    parts = urlsplit(url)
    host = address_of(parts.hostname or "")
    # Ours has no TLS, and a password of its own for each service.
    if host is None or parts.scheme not in {"redis", "valkey"} or parts.password is not None:
        elsewhere.append(_elsewhere("valkey", "valkey", parts))
        return None
    return ListenAddress(host, parts.port or REDIS_PORT, (REDIS_KEY,))


def _pooler(
    topology: Topology, servers: Iterable[ServerShape], elsewhere: list[ComponentState]
) -> ListenAddress | None:
    section = topology.pgbouncer
    if section is None:
        return None
    here = {database.name for server in servers for database in server.databases}
    others = sorted(topology.databases.keys() - here)
    host = address_of(section.host)
    if host is not None and not others:
        return ListenAddress(host, section.port, (("pgbouncer", "port"),))
    why = f"so is {', '.join(others)}" if host is not None else ""
    elsewhere.append(_elsewhere("pgbouncer", "pooler", section, why))
    return None


class _Administered(Section):
    """What `[services.NAME]` says for us of a worker; the other keys are the service's own."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    admin_host: Text = LOOPBACK
    admin_port: Port | None = None


class _Listening(Endpoint, _Administered):
    """What it says of a service with an API."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def _services(
    topology: Topology, services: Mapping[str, "ServiceEntry"], elsewhere: list[ComponentState]
) -> Iterator[ServiceShape]:
    sections = topology.sections.get("services", {})
    for name, entry in services.items():
        section = _section(topology, name, sections[name]) if name in sections else None
        endpoint = section if isinstance(section, _Listening) else None
        host = address_of(endpoint.host) if endpoint else None
        if endpoint and not host:
            elsewhere.append(_elsewhere(name, "service", endpoint))
            continue
        keys: tuple[Key, ...] = (("services", name, "port"),)
        address = ListenAddress(host, endpoint.port, keys) if endpoint and host else None
        admin = _admin(name, section)
        yield ServiceShape(
            name, entry.module, entry.health, address, entry.redis, entry.environment, admin=admin
        )


def _admin(name: str, section: _Administered | None) -> ListenAddress | None:
    host = None if section is None else address_of(section.admin_host)
    if section is None or section.admin_port is None or host is None:
        return None
    return ListenAddress(host, section.admin_port, (("services", name, "admin_port"),))


def _exporter(topology: Topology) -> Iterator[ServiceShape]:
    """Return mesctl's own exporter, where the topology has a port for it."""
    port = monitoring_of(topology).port
    if port is not None:
        address = ListenAddress(LOOPBACK, port, (("monitoring", "port"),))
        yield ServiceShape(EXPORTER, "ops", "/livez", address, arguments=("monitoring", "exporter"))


def _pages(topology: Topology) -> Iterator[ServiceShape]:
    """Return the DBA's pages, where the topology has a port for them."""
    port = pages_of(topology).port
    if port is not None:
        address = ListenAddress(LOOPBACK, port, (("pages", "port"),))
        yield ServiceShape(PAGES, "ops", "/livez", address, arguments=("pages", "serve"))


def _watchers(topology: Topology) -> Iterator[ServiceShape]:
    """Return Alertmanager and Prometheus, each where the topology has a port for it."""
    section = monitoring_of(topology)
    ports = {
        ALERTMANAGER: ("alertmanager_port", section.alertmanager_port),
        PROMETHEUS: ("prometheus_port", section.prometheus_port),
    }
    for name, (key, port) in ports.items():
        if port is not None:
            address = ListenAddress(LOOPBACK, port, (("monitoring", key),))
            yield ServiceShape(name, "", "/-/ready", address)


def _section(topology: Topology, name: str, section: Mapping[str, object]) -> _Administered:
    """Read `[services.NAME]`: with an admin port alone it is a worker's."""
    listens = not section.keys().isdisjoint({"host", "port"})
    is_worker = not listens and not section.keys().isdisjoint({"admin_port", "workers"})
    model = _Administered if is_worker else _Listening
    try:
        return model.model_validate(section)
    except ValidationError as error:
        faults = [f"services.{name}.{line}" for line in describe(model, error)]
        raise TopologyError(topology.path, faults) from None
