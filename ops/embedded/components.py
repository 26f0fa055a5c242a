"""The components of a platform: those of a topology with their states, and those that run.

What runs is found by data folders and pid files, whatever the topology says: so `down` needs no topology, and
ends also what was taken out of it. States are asked of pid files and servers, without changing anything.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg

from ops.embedded.errors import ClusterSilent
from ops.embedded.gateway import command_of as gateway_command
from ops.embedded.gateway import find_gateway
from ops.embedded.home import EVERYTHING, Home
from ops.embedded.pgpass import read_passwords
from ops.embedded.pooler import PgBouncerProcess, PlatformPooler
from ops.embedded.pooler import answers as is_listening
from ops.embedded.postgres import PostgresCluster
from ops.embedded.processes import Daemon, listening_ports, run_all
from ops.embedded.programs import PostgresTools
from ops.embedded.servers import DatabaseServers, StandbyCluster
from ops.embedded.service import STOP_SECONDS, ServiceProcess
from ops.embedded.shape import GATEWAY, PlatformShape, ServiceShape
from ops.embedded.state import STOP_ORDER, ComponentState, Kind, State
from ops.embedded.topology_file import Report
from ops.embedded.valkey import ADMIN, Valkey, password_name
from ops.embedded.watchers import WATCHERS, command_of
from ops.ports import holder_of, is_free


def inspect_database(servers: DatabaseServers, *, wanted: bool) -> list[ComponentState]:
    """Return the state of a primary and of its replicas."""
    following, fault = _ask_primary(servers.primary)
    names = [database.name for database in servers.shape.databases]
    port = servers.shape.address.port
    primary = _cluster(servers.primary, "running", wanted=wanted, port=port, fault=fault)
    if len(names) > 1 and not primary.detail:
        primary = replace(primary, detail=f"has {', '.join(names)}")
    replicas = zip(servers.replicas, servers.shape.replicas, strict=True)
    return [
        primary,
        *(_replica(each, following, wanted=wanted, port=shape.address.port) for each, shape in replicas),
    ]


def inspect_valkey(valkey: Valkey, *, port: int | None, wanted: bool) -> ComponentState:
    """Return the state of Valkey."""
    fault = "does not answer, or not to our password"
    return _state_of(valkey, "valkey", valkey.answers, fault, port=port, wanted=wanted)


def inspect_pooler(process: PgBouncerProcess, *, port: int | None, wanted: bool) -> ComponentState:
    """Return the state of the pooler."""
    is_well = partial(is_listening, host=process.host)
    return _state_of(process, "pooler", is_well, "does not answer", port=port, wanted=wanted)


def inspect_service(service: ServiceProcess, *, wanted: bool) -> ComponentState:
    """Return the state of a service; its health is what it says itself."""
    port = service.shape.address.port if service.shape.address else None
    return _state_of(
        service, "service", service.is_healthy, "not healthy; see its log", port=port, wanted=wanted
    )


def _state_of(
    process: Valkey | PgBouncerProcess | ServiceProcess,
    kind: Kind,
    is_well: Callable[[int], bool],
    fault: str,
    *,
    port: int | None,
    wanted: bool,
) -> ComponentState:
    pid = process.pid()
    state: State = "stopped" if pid is None else "running"
    detail, found = "", port
    if port is not None and pid is None:
        detail = _port_conflict(port, process.host)
    elif port is not None and not is_well(port):
        ports = process.ports()
        found = port if port in ports else min(ports, default=None)
        state, detail = "faulty", fault if found == port else _wrong_port(found, port)
    return ComponentState(
        name=process.name,
        kind=kind,
        state=state,
        wanted=wanted,
        pid=pid,
        port=found,
        detail=detail,
        should_port=port,
    )


def _wrong_port(found: int | None, port: int) -> str:
    """Describe a process that does not listen where the topology has it."""
    where = "listens nowhere" if found is None else f"listens on port {found}"
    return f"{where}, and the topology has port {port}: `mesctl up` starts it there"


def _port_conflict(port: int, host: str) -> str:
    """Describe what has the port of a component that does not run; nothing if the port is free."""
    return "" if is_free(port, host) else f"port {port} is taken by {holder_of(port)}"


def _ask_primary(primary: PostgresCluster) -> tuple[dict[str, tuple[str, int | None]], str]:
    from readreplica.wal import SELECT_REPLICATION  # with SQLAlchemy, which `up` and `down` do without

    if primary.pid() is None:
        return {}, ""
    try:
        with primary.connect() as connection:
            rows = connection.execute(SELECT_REPLICATION).fetchall()
    except (ClusterSilent, psycopg.Error) as error:
        return {}, " ".join(str(error).split())
    return {name: (state, lag) for name, state, lag in rows}, ""


def _replica(
    replica: StandbyCluster, following: dict[str, tuple[str, int | None]], *, wanted: bool, port: int
) -> ComponentState:
    state, lag_bytes = following.get(replica.name, ("", None))
    if state == "streaming":
        return _cluster(replica, "streaming", wanted=wanted, port=port, lag_bytes=lag_bytes)
    fault = state or "not connected to its primary"
    if replica.exists() and not replica.is_standby():
        fault = "was promoted, and follows no primary any more"
    return _cluster(replica, "streaming", wanted=wanted, port=port, fault=fault)


def _cluster(
    cluster: PostgresCluster,
    right: State,
    *,
    wanted: bool,
    port: int,
    fault: str = "",
    lag_bytes: int | None = None,
) -> ComponentState:
    pid = cluster.pid()
    state: State = right
    if pid is None:
        state, fault = ("stopped" if cluster.exists() else "absent"), _port_conflict(port, cluster.host)
    elif not cluster.is_on(port):
        state, fault = "faulty", _wrong_port(cluster.port(), port)
    elif fault:
        state = "faulty"
    return ComponentState(
        name=cluster.name,
        kind="replica" if isinstance(cluster, StandbyCluster) else "primary",
        state=state,
        wanted=wanted,
        pid=pid,
        port=cluster.port(),
        lag_bytes=lag_bytes,
        detail=fault,
        should_port=port,
    )


class Components:
    """The servers and services that a topology has on this machine, each known by what is on disk.

    Parameters:
        shape: what there is to be.
        topology: the topology file.
        passfile: the file with the passwords of the roles.
        environment: gives that of a service, when it is started.
    """

    def __init__(
        self,
        home: Home,
        shape: PlatformShape,
        *,
        topology: Path,
        passfile: Path,
        environment: Callable[[ServiceShape], Mapping[str, str]],
        tools: PostgresTools,
        report: Report,
        safe: bool,
    ) -> None:
        self.shape = shape
        self._home = home
        self._environment = environment
        self.databases = [
            DatabaseServers(server, home=home, passfile=passfile, tools=tools, report=report, safe=safe)
            for server in shape.servers
        ]
        self.valkey = (
            Valkey(
                folder=home.valkey,
                pidfile=home.pidfile(Valkey.name),
                log=home.log(Valkey.name),
                host=shape.valkey.host,
                password=read_passwords(passfile).get(password_name(ADMIN)),
            )
            if shape.valkey
            else None
        )
        self.pooler = (
            PlatformPooler(home, host=shape.pooler.host, topology=topology, report=report)
            if shape.pooler
            else None
        )
        self.services = {service.name: self._service(service) for service in shape.services}

    def _service(self, shape: ServiceShape) -> ServiceProcess:
        # The database of the same name has a log, too.
        file = f"{shape.name}-service"
        return ServiceProcess(
            shape,
            pidfile=self._home.pidfile(file),
            log=self._home.log(file),
            environment=partial(self._environment, shape),
            command=self._command(shape.name),
        )

    def _command(self, name: str) -> Callable[[int], list[str]] | None:
        """Return what starts a program that is no module of Python."""
        if name in WATCHERS:
            return partial(command_of, name, self._home.monitoring)
        if name == GATEWAY and (program := find_gateway()) is not None:
            return lambda port: gateway_command(program, self._home.gateway, admin_port=port)
        return None

    def running_services(self) -> list[ServiceProcess]:
        """Return the services that run."""
        return [service for service in self.services.values() if service.pid() is not None]

    def inspect(self) -> list[ComponentState]:
        """Return the state of each component; of those elsewhere, only where they are."""
        wanted = self._home.wanted()
        states: list[ComponentState] = []
        for servers in self.databases:
            states += inspect_database(servers, wanted=wanted is not None)
        if self.valkey and self.shape.valkey:
            port = self.shape.valkey.port
            states.append(inspect_valkey(self.valkey, port=port, wanted=wanted is not None))
        if self.pooler and self.shape.pooler:
            port = self.shape.pooler.port
            states.append(inspect_pooler(self.pooler.process, port=port, wanted=wanted is not None))
        states += [
            inspect_service(service, wanted=wanted == EVERYTHING) for service in self.services.values()
        ]
        return [*states, *self.shape.elsewhere]


Stoppable = PostgresCluster | Daemon


class RunningComponents:
    """The processes of a platform that run at this moment."""

    def __init__(self, home: Home, *, tools: PostgresTools, report: Report) -> None:
        self._report = report
        there: list[tuple[Kind, Stoppable]] = [*_daemons(home), *_clusters(home, tools)]
        self._found = [(kind, component) for kind, component in there if component.pid() is not None]

    def states(self) -> list[ComponentState]:
        """Return the state of each."""
        return [
            ComponentState(component.name, kind, "running", wanted=False, pid=component.pid())
            for kind, component in self._found
        ]

    def ports(self) -> set[int]:
        """Find the ports on which they listen."""
        ports: set[int] = set()
        for _, component in self._found:
            if isinstance(component, PostgresCluster):
                ports |= {component.port() or 0}
            else:
                ports |= listening_ports(component.pid() or 0)
        return ports

    def stop(self, *kinds: Kind) -> None:
        """Stop the components of these kinds, all kinds if none is named; one kind after the other.

        Raises:
            StopFailed: one survived.
        """
        for kind in kinds or STOP_ORDER:
            run_all(partial(self._stop, kind, each) for found, each in self._found if found == kind)

    def _stop(self, kind: Kind, component: Stoppable) -> None:
        if isinstance(component, Daemon):
            stopped = component.stop(timeout_seconds=STOP_SECONDS)
        else:
            stopped = component.stop()
        if stopped:
            self._report(f"{component.name}{' service' if kind == 'service' else ''}: stopped")


def _daemons(home: Home) -> Iterator[tuple[Kind, Daemon]]:
    for pidfile in sorted(home.pidfile("*").parent.glob("*.pid")):
        kinds: dict[str, Kind] = {"valkey": "valkey", "pgbouncer": "pooler"}
        kind = kinds.get(pidfile.stem, "service")
        name = pidfile.stem.removesuffix("-service")
        yield kind, Daemon(name, pidfile=pidfile, log=home.log(pidfile.stem))


def _clusters(home: Home, tools: PostgresTools) -> Iterator[tuple[Kind, PostgresCluster]]:
    for data in sorted(home.data("*").parent.glob("*/postmaster.pid")):
        name = data.parent.name
        cluster = PostgresCluster(
            name, tools=tools, data=data.parent, log=home.log(name), passfile=home.passfile
        )
        yield "replica" if (data.parent / "standby.signal").exists() else "primary", cluster
