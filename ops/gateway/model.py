"""What the gateway lets in, as values: doors, and the routes behind each. Pure.

A project declares its routes by door; the topology says where each door listens, and by which names it is
called. `ops.gateway.envoy` writes them down for Envoy.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from ops.errors import ExitStatus, OpsError
from ops.pages.section import pages_of
from ops.ports import LOOPBACK
from sharding.topology import Endpoint, Name, Port, Section, Text, Topology

KIB = 1024
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
"""What a route may take; HEAD comes with GET, and TRACE and CONNECT are no one's."""
PAGES = "pages"
"""The DBA's pages, which are no service of a project."""
_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(\.(?!-)[a-z0-9-]{1,63})*")
_PARAMETER = re.compile(r"\{[A-Za-z_]\w*\}")


class GatewayError(OpsError):
    """Base of the errors of `mesctl gateway`."""


class NoGateway(GatewayError):
    """The topology has no section [gateway]."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, topology: Path) -> None:
        self.topology = topology
        super().__init__(f"{topology} has no gateway: add a section [gateway] with a table for each door")


class GatewayInvalid(GatewayError):
    """Doors and routes do not fit each other; one line per fault."""

    exit_status = ExitStatus.USAGE

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(faults))


@dataclass(frozen=True, kw_only=True)
class GatewayRoute:
    """A request that a door lets in. What no route names is answered 404 by the gateway.

    Parameters:
        path: as FastAPI writes it, such as `/v1/orders/{order_id}`.
        methods: which may be used on it.
        service: who answers, by its name in the topology.
        body_bytes: the largest body. Up to 1 MiB it is checked before the service sees the request; a larger
            one, as of a file, is passed on as it comes, and the service checks it.
        seconds: how long the answer may take.
        is_stream: the answer is a stream of events and has no end.
        is_repeatable: what the service may have begun may be sent again, to another of its processes. Without
            it a request is repeated only where no process has seen it.
        is_optional: it is left out at a door that has no names for its service.
    """

    path: str
    methods: tuple[str, ...]
    service: str
    body_bytes: int = 64 * KIB
    seconds: float = 15.0
    is_stream: bool = False
    is_repeatable: bool = False
    is_optional: bool = False

    def faults(self) -> list[str]:
        """Return what is wrong with it, in words."""
        found = []
        if not self.path.startswith("/") or "//" in self.path or "?" in self.path:
            found.append("a path begins with / and has no //, and no query")
        if unknown := sorted(set(self.methods) - METHODS) or not self.methods:
            found.append(f"methods {unknown}: some of {', '.join(sorted(METHODS))}")
        if not self.body_bytes >= 0 or not self.seconds > 0:
            found.append("body_bytes is 0 or more, and seconds more than 0")
        return [f"{'/'.join(self.methods)} {self.path}: {fault}" for fault in found]

    @property
    def pattern(self) -> str:
        """The path as a regular expression of RE2; a parameter is one segment that is not empty."""
        ends = _PARAMETER.split(self.path)
        return "[^/]+".join(map(re.escape, ends))


class DoorSection(Endpoint):
    """`[gateway.doors.NAME]`: where a door listens, and for whom.

    `names` are the host names of each service at this door. With `certificate` and `key`, PEM files, it takes
    TLS; with `clients_ca` only clients with a certificate of that authority. `connections` is how many it has
    open at most. A client has `header_seconds` for the headers of a request and `request_seconds` for all of
    it, and may stand still for `idle_seconds`, in sending and in reading; a stream of events may.
    """

    names: dict[Name, tuple[Text, ...]]
    certificate: Text | None = None
    key: Text | None = None
    clients_ca: Text | None = None
    connections: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    header_seconds: Seconds = 10.0
    request_seconds: Seconds = 60.0
    idle_seconds: Seconds = 30.0

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key come together")
        if self.clients_ca is not None and self.certificate is None:
            raise ValueError("clients_ca needs certificate and key")
        return self

    @model_validator(mode="after")
    def _names_are_host_names(self) -> Self:
        for service, names in self.names.items():
            for name in names:
                if not _HOST.fullmatch(name):
                    raise ValueError(f"names.{service}: {name!r} is no host name in small letters")
        given = [name for names in self.names.values() for name in names]
        if twice := sorted({name for name in given if given.count(name) > 1}):
            raise ValueError(f"names: {', '.join(twice)} leads to two services")
        return self


class SandboxSection(Section):
    """`[gateway.sandbox]`: where the requests go whose API key is one for trying out.

    `prefix` is how such a key begins; `processes` are those of a sandbox, by the name of the service, as
    `HOST:PORT`. They are no processes of the service itself: nothing else is led to them.
    """

    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
    processes: dict[Name, tuple[Text, ...]]


class GatewaySection(Section):
    """`[gateway]`: the doors, and what they have in common.

    `admin_port` is Envoy's own on loopback, with its metrics; no door leads there. `drain_seconds` is how
    long requests may take to end where a door is changed or closed. `source` is the address from which it
    connects to services, and by which they know it; None for what the system chooses. `processes` are further
    processes of a service, by its name, as `HOST:PORT`: requests are balanced over them and the one in
    `[services.NAME]`.
    """

    admin_port: Port
    doors: dict[Name, DoorSection]
    drain_seconds: Seconds = 10.0
    connect_seconds: Seconds = 1.0
    source: Text | None = None
    processes: dict[Name, tuple[Text, ...]] = Field(default_factory=dict)
    sandbox: SandboxSection | None = None


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """A service behind the gateway: the processes that answer for it, each a host and a port.

    With `is_sandbox` it is the one that answers those who try out.
    """

    service: str
    processes: tuple[tuple[str, int], ...]
    is_sandbox: bool = False

    @property
    def name(self) -> str:
        """What it is called in Envoy's files and figures."""
        return f"{self.service}-sandbox" if self.is_sandbox else self.service


@dataclass(frozen=True, kw_only=True)
class GatewayDoor:
    """A listener: its section, with the files found, and its routes in their order."""

    name: str
    section: DoorSection
    folder: Path
    routes: tuple[GatewayRoute, ...]

    def file(self, name: str) -> Path:
        """Return where a PEM file is: its path is relative to the topology file."""
        return self.folder / name


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """All that Envoy is given."""

    section: GatewaySection
    doors: tuple[GatewayDoor, ...]
    upstreams: tuple[Upstream, ...]

    def sandbox_of(self, service: str) -> Upstream | None:
        """Return what answers for a service those who try out; None if nothing does."""
        return next((each for each in self.upstreams if each.is_sandbox and each.service == service), None)


class _ServiceAddress(Section, extra="ignore"):
    host: Text
    port: Port


def section_of(topology: Topology) -> GatewaySection:
    """Return the topology's section.

    Raises:
        NoGateway: it has none.
        TopologyError: it is wrong.
    """
    section = find_section(topology)
    if section is None:
        raise NoGateway(topology.path)
    return section


def find_section(topology: Topology) -> GatewaySection | None:
    """Return the topology's section; None if it has none.

    Raises:
        TopologyError: it is wrong.
    """
    return topology.section("gateway", GatewaySection) if "gateway" in topology.sections else None


def gateway_of(topology: Topology, routes: Mapping[str, Sequence[GatewayRoute]]) -> Gateway:
    """Put the doors of a topology and the routes of a project together.

    Parameters:
        topology: has the sections `[gateway]` and `[services.NAME]`.
        routes: of the project, by door.

    Raises:
        NoGateway, TopologyError: there is no section, or it is wrong.
        GatewayInvalid: a door has no routes, a route no service, or two routes are the same.
    """
    section = section_of(topology)
    routes = {
        name: tuple(route for route in listed if not route.is_optional or _is_named(section, name, route))
        for name, listed in routes.items()
    }
    services = _addresses(topology)
    faults = [*_faults_of_doors(section, routes), *_faults_of_routes(section, routes, set(services))]
    further = {name: tuple(map(_address, given)) for name, given in section.processes.items()}
    tried = {} if section.sandbox is None else section.sandbox.processes
    sandbox = {name: tuple(map(_address, given)) for name, given in tried.items()}
    for key, found in (("processes", further), ("sandbox.processes", sandbox)):
        faults += [f"gateway.{key}.{name}: no service {name!r}" for name in found.keys() - services.keys()]
        faults += [f"gateway.{key}.{name}: write HOST:PORT" for name, given in found.items() if None in given]
    taken = {services[name] for name in services} | {each for given in further.values() for each in given}
    faults += [
        f"gateway.sandbox.processes.{name}: one of them answers in earnest"
        for name, given in sandbox.items()
        if not taken.isdisjoint(given)
    ]
    if faults:
        raise GatewayInvalid(sorted(faults))
    used = {route.service for door in section.doors for route in routes[door]}
    return Gateway(
        section=section,
        doors=tuple(
            GatewayDoor(name=name, section=door, folder=topology.path.parent, routes=tuple(routes[name]))
            for name, door in section.doors.items()
        ),
        upstreams=tuple(
            Upstream(
                service=name,
                processes=(services[name], *(each for each in further.get(name, ()) if each is not None)),
            )
            for name in sorted(used)
        )
        + tuple(
            Upstream(service=name, processes=tuple(filter(None, sandbox[name])), is_sandbox=True)
            for name in sorted(used & sandbox.keys())
            if sandbox[name]
        ),
    )


def _is_named(section: GatewaySection, door: str, route: GatewayRoute) -> bool:
    return door in section.doors and bool(section.doors[door].names.get(route.service))


def _addresses(topology: Topology) -> dict[str, tuple[str, int]]:
    found: dict[str, tuple[str, int]] = {}
    if (port := pages_of(topology).port) is not None:
        found[PAGES] = (LOOPBACK, port)
    for name, section in topology.sections.get("services", {}).items():
        if isinstance(section, dict) and {"host", "port"} <= section.keys():
            address = _ServiceAddress.model_validate(section)
            found[name] = (address.host, address.port)
    return found


def _address(text: str) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() and 0 < int(port) < 65536 else None


def _faults_of_doors(section: GatewaySection, routes: Mapping[str, Sequence[GatewayRoute]]) -> list[str]:
    faults = [
        f"gateway.doors.{name}: the project has no routes for it"
        for name in section.doors
        if name not in routes
    ]
    ports: dict[tuple[str, int], str] = {}
    for name, door in section.doors.items():
        other = ports.setdefault((door.host, door.port), name)
        if other != name:
            faults.append(f"gateway.doors.{name}.port: {door.port} is that of {other}")
    return faults


def _faults_of_routes(
    section: GatewaySection, routes: Mapping[str, Sequence[GatewayRoute]], services: set[str]
) -> list[str]:
    faults = []
    for name, door in section.doors.items():
        seen: set[tuple[str, str, str]] = set()
        for route in routes.get(name, ()):
            faults += [f"{name}: {fault}" for fault in route.faults()]
            if route.service not in services:
                faults.append(f"{name}: {route.path}: no section [services.{route.service}]")
            if not door.names.get(route.service):
                faults.append(
                    f"gateway.doors.{name}.names.{route.service}: missing, and {route.path} needs it"
                )
            for method in route.methods:
                key = (route.service, method, _PARAMETER.sub("{}", route.path))
                if key in seen:
                    faults.append(f"{name}: {method} {route.path} of {route.service} is there twice")
                seen.add(key)
    return faults
