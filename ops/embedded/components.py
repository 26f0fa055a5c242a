"""Every component of the platform in a folder, and what is done to all of them."""

from collections.abc import Mapping
from functools import partial
from typing import TypeVar

from ops.embedded.database import DatabaseServers
from ops.embedded.home import EVERYTHING, Home
from ops.embedded.inspect import inspect_database, inspect_pooler, inspect_service, inspect_valkey
from ops.embedded.parallel import run_all
from ops.embedded.pooler import PgBouncerProcess
from ops.embedded.pooling import PlatformPooler
from ops.embedded.port_book import Report
from ops.embedded.postgres import PostgresCluster
from ops.embedded.service import ServiceProcess
from ops.embedded.shape import DATABASES, POOLER, SERVICES, VALKEY, service_key
from ops.embedded.state import ComponentState
from ops.embedded.tools import PostgresTools
from ops.embedded.valkey import Valkey

Stoppable = TypeVar("Stoppable", PostgresCluster, Valkey, PgBouncerProcess, ServiceProcess)


class Components:
    """The servers and services, each known by what is on disk."""

    def __init__(self, home: Home, *, tools: PostgresTools, report: Report, safe: bool) -> None:
        self._home = home
        self._report = report
        self.databases = [
            DatabaseServers(shape, home=home, tools=tools, report=report, safe=safe) for shape in DATABASES
        ]
        self.valkey = Valkey(folder=home.valkey, pidfile=home.pidfile(VALKEY), log=home.log(VALKEY))
        self.pooler = PlatformPooler(home, report=report)
        self.services = {name: self._service(name) for name in SERVICES}

    def _service(self, name: str) -> ServiceProcess:
        # The database of the same name has a log, too.
        file = f"{name}-service"
        return ServiceProcess(
            name, pidfile=self._home.pidfile(file), log=self._home.log(file), topology=self._home.topology
        )

    def stop_all(self) -> None:
        """Stop everything that runs: services, the pooler, replicas, primaries, Valkey."""
        self.stop_services()
        self._stop(self.pooler.process)
        self._stop(*(replica for servers in self.databases for replica in servers.replicas))
        self._stop(*(servers.primary for servers in self.databases))
        self._stop(self.valkey)

    def stop_services(self) -> None:
        """Stop the services that run."""
        self._stop(*self.services.values())

    def _stop(self, *components: Stoppable) -> None:
        run_all(partial(self._stop_one, component) for component in components)

    def _stop_one(self, component: Stoppable) -> None:
        if component.stop():
            kind = " service" if isinstance(component, ServiceProcess) else ""
            self._report(f"{component.name}{kind}: stopped")

    def running_services(self) -> list[ServiceProcess]:
        """Give the services that run."""
        return [service for service in self.services.values() if service.pid() is not None]

    def inspect(self, ports: Mapping[str, int], *, pooled: bool | None = None) -> list[ComponentState]:
        """Find out how each component is.

        Parameters:
            ports: of the components that have one; may be empty when there is no topology.
            pooled: whether there is to be a pooler; None: as it is.
        """
        wanted = self._home.wanted()
        states: list[ComponentState] = []
        for servers in self.databases:
            states += inspect_database(servers, wanted=wanted is not None)
        states.append(inspect_valkey(self.valkey, port=ports.get(VALKEY), wanted=wanted is not None))
        if self.pooler.is_on if pooled is None else pooled:
            port = ports.get(POOLER)
            states.append(inspect_pooler(self.pooler.process, port=port, wanted=wanted is not None))
        for name, service in self.services.items():
            port = ports.get(service_key(name))
            states.append(inspect_service(service, port=port, wanted=wanted == EVERYTHING))
        return states
