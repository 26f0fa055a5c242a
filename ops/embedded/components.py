"""Every component of the platform in a folder, made of its shape."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ops.embedded.servers import DatabaseServers
from ops.embedded.home import EVERYTHING, Home
from ops.embedded.pgpass import read_passwords
from ops.embedded.pooler import PlatformPooler
from ops.embedded.topology_file import Report
from ops.embedded.service import ServiceProcess
from ops.embedded.shape import PlatformShape, ServiceShape
from ops.embedded.state import ComponentState
from ops.embedded.programs import PostgresTools
from ops.embedded.valkey import Valkey
from ops.embedded.valkey import ADMIN, password_name


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
        )

    def running_services(self) -> list[ServiceProcess]:
        """Give the services that run."""
        return [service for service in self.services.values() if service.pid() is not None]

    def inspect(self) -> list[ComponentState]:
        """Find out how each component is; those elsewhere are named only."""
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
