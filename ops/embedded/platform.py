"""The embedded platform as a whole: every server and service of the project, on this machine.

No supervisor stays behind. What there is, is read each time from the folder, the pid files and the servers;
so a killed `mesctl` leaves nothing that the next one cannot see.
"""

import random
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from ops.embedded.binaries import valkey_server
from ops.embedded.components import Components
from ops.embedded.errors import NoPlatform, PasswordsLost, UnknownService
from ops.embedded.home import EVERYTHING, SERVERS_ONLY, Home
from ops.embedded.parallel import run_all
from ops.embedded.pgpass import ensure_passwords
from ops.embedded.pooling import CONSOLE_ROLE
from ops.embedded.port_book import PortBook, Report
from ops.embedded.ports import PortPicker
from ops.embedded.service import ServiceProcess
from ops.embedded.shape import (
    HTTP_SERVICES,
    POOLER,
    ROLES,
    SERVICES,
    SHARDS,
    VALKEY,
    ported_components,
    service_key,
)
from ops.embedded.state import PlatformState, steps_down, steps_up
from ops.embedded.tools import PostgresTools
from ops.embedded.topology_file import read_ports, write_topology
from sharding.topology import Topology


def _quiet(_line: str) -> None:
    """Report nothing."""


class Platform:
    """The platform in a folder.

    Parameters:
        home: the folder; `up` makes it.
        report: is told in a line of each thing that is done, from several threads.
        safe: wait for the disk at every commit; False is for tests, where a power cut may cost everything.
        rng: picks ports.
    """

    def __init__(
        self,
        home: Path,
        *,
        report: Report = _quiet,
        safe: bool = True,
        rng: random.Random | None = None,
    ) -> None:
        self.home = Home(home)
        self._report = report
        self._rng = rng or random.Random()
        self._tools = PostgresTools()
        self._components = Components(self.home, tools=self._tools, report=report, safe=safe)

    @property
    def topology_path(self) -> Path:
        """Where the platform's topology file is."""
        return self.home.topology

    def topology(self) -> Topology:
        """Read the platform's topology.

        Raises:
            NoPlatform: `up` was never called here.
            TopologyError: the file was edited into something wrong.
        """
        if not self.home.topology.exists():
            raise NoPlatform(self.home.path)
        return Topology.load(self.home.topology)

    def up(self, *, services: bool = True, pgbouncer: bool | None = None) -> Topology:
        """Have everything running; what runs already is left alone, what is half made is mended.

        Parameters:
            services: start the services too, and not only the servers.
            pgbouncer: have a pooler between services and servers, or none; None leaves it as it is.

        Returns:
            the topology, as it is now.

        Raises:
            ProcMissing, BinaryMissing, NoUnprivilegedUser, HomeBusy, NotOurFolder: nothing was changed.
            EmbeddedError: a component did not come up; others may run. `up` again continues.
        """
        self._tools.check()
        valkey = valkey_server()
        pooler = self._components.pooler
        pooled = pooler.is_on if pgbouncer is None else pgbouncer
        if pooled:
            pooler.program()
        self.home.make()
        with self.home.locked():
            book = self._open_book()
            pooler.switch(book, on=pooled)
            everything = services or self.home.wanted() == EVERYTHING
            self.home.want(EVERYTHING if everything else SERVERS_ONLY)
            self._start_servers(book, valkey)
            if pooled:
                pooler.up(book)
            self._report("schemas: bringing every database to the newest")
            from ops.embedded.content import fill  # alembic and its like, which only `up` needs

            fill(self.topology())
            self._start_services(book, self._services_to_start(book, services=services))
            return self.topology()

    def _open_book(self) -> PortBook:
        picker = PortPicker(self._rng)
        if not self.home.topology.exists():
            # Whatever runs, runs on ports that are written nowhere any more.
            self._components.stop_all()
            ports = {component: picker.pick() for component in ported_components()}
            write_topology(self.home.topology, ports, files=self.home.files)
        ports = read_ports(self.topology())
        picker.avoid(ports.values())
        return PortBook(ports, topology=self.home.topology, picker=picker, report=self._report)

    def _start_servers(self, book: PortBook, valkey: Path) -> None:
        passwords = self._passwords()
        self.home.files.mkdir(exist_ok=True)
        databases = self._components.databases
        run_all(
            [
                partial(self._start_valkey, book, valkey),
                *(partial(servers.up, book, passwords) for servers in databases),
            ]
        )

    def _passwords(self) -> dict[str, str]:
        has_data = any(servers.primary.exists() for servers in self._components.databases)
        if has_data and not self.home.passfile.exists():
            raise PasswordsLost(self.home.passfile)
        # With the console's from the beginning: secrets are derived of them all, and must stay.
        return ensure_passwords(self.home.passfile, (*ROLES, CONSOLE_ROLE))

    def _start_valkey(self, book: PortBook, program: Path) -> None:
        valkey = self._components.valkey
        started = book.start(VALKEY, lambda port: valkey.start(program=program, port=port))
        self._report(f"{VALKEY}: {'started on' if started else 'runs already,'} port {book[VALKEY]}")

    def _services_to_start(self, book: PortBook, *, services: bool) -> list[ServiceProcess]:
        running = self._components.running_services()
        if book.moved:
            # They have read the old topology.
            self._components.stop_services()
        return list(self._components.services.values()) if services else running

    def _start_services(self, book: PortBook, services: Iterable[ServiceProcess]) -> None:
        run_all(partial(self._start_service, service, book) for service in services)

    def _start_service(self, service: ServiceProcess, book: PortBook) -> bool:
        ways = [book[name] for name in (*SHARDS, POOLER) if name in book]
        if service.name in HTTP_SERVICES:
            key = service_key(service.name)
            started = book.start(key, lambda port: service.start(port=port, databases=ways))
        else:
            started = service.start(port=None, databases=ways)
        self._report(f"{service.name} service: {'started' if started else 'runs already'}")
        return started

    def down(self) -> None:
        """Stop everything that runs.

        Raises:
            HomeBusy: nothing was changed.
            StopFailed: a component survived.
        """
        if not self.home.exists():
            return
        with self.home.locked():
            self._stop()

    def delete(self) -> None:
        """Stop everything that runs, and remove all that `up` ever made.

        Raises:
            HomeBusy: nothing was changed.
            StopFailed: a component survived; nothing was removed.
        """
        if not self.home.exists():
            return
        with self.home.locked():
            self._stop()
            self.home.delete()

    def _stop(self) -> None:
        self.home.want(None)
        self._components.stop_all()

    def status(self) -> PlatformState:
        """Find out how every component is, without changing anything.

        Raises:
            NoPlatform: `up` was never called here.
            TopologyError, NotOurTopology: the topology file is wrong.
        """
        topology = self.topology()
        components = self._components.inspect(read_ports(topology))
        return PlatformState(
            home=str(self.home.path), components=tuple(components), topology=topology.masked()
        )

    def plan_up(self, *, services: bool = True, pgbouncer: bool | None = None) -> list[str]:
        """Say what `up` would create and start."""
        return steps_up(self._components.inspect({}, pooled=pgbouncer), services=services)

    def plan_down(self) -> list[str]:
        """Say what `down` would stop."""
        return steps_down(self._components.inspect({}))

    def kill_service(self, name: str) -> int | None:
        """Kill a service with SIGKILL, as a crash would; give its pid, None if it did not run.

        Raises:
            UnknownService: there is none of that name.
        """
        return self._find_service(name).kill()

    def start_service(self, name: str) -> bool:
        """Start a service and wait until it is healthy; False when it ran already.

        Raises:
            UnknownService: there is none of that name.
            NoPlatform: `up` was never called here.
            HomeBusy: another process is changing the platform.
            StartFailed: it did not come up.
        """
        service = self._find_service(name)
        self.topology()
        with self.home.locked():
            return self._start_service(service, self._open_book())

    def _find_service(self, name: str) -> ServiceProcess:
        if name not in self._components.services:
            raise UnknownService(name, SERVICES)
        return self._components.services[name]
