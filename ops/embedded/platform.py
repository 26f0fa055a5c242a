"""The embedded platform as a whole: what a topology has on this machine, and the services of the project.

No supervisor stays behind. What there is, is read each time from the folder, the pid files and the servers;
so a killed `mesctl` leaves nothing that the next one cannot see.
"""

import os
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ops.embedded.components import Components, RunningComponents
from ops.embedded.errors import PasswordsLost, PortsTaken, UnknownService
from ops.embedded.gateway import find_gateway, write_gateway
from ops.embedded.home import EVERYTHING, SERVERS_ONLY, Home, rotate
from ops.embedded.pgpass import ensure_passwords, read_passwords
from ops.embedded.pooler import CONSOLE_ROLE, pooler_program
from ops.embedded.postgres import SUPERUSER
from ops.embedded.preload import Preloader
from ops.embedded.processes import Starts, run_all
from ops.embedded.programs import PostgresTools, valkey_server
from ops.embedded.service import ServiceProcess, environment_of, import_path
from ops.embedded.shape import (
    EXPORTER,
    GATEWAY,
    PAGES,
    POOLER,
    VALKEY,
    PlatformShape,
    ServiceShape,
    admin_key,
    door_key,
    roles_of,
    service_key,
    shape_of,
)
from ops.embedded.source import TopologySource
from ops.embedded.state import PlatformState, steps_down, steps_up
from ops.embedded.topology_file import ComponentPorts, Draft, Report, fault_of
from ops.embedded.valkey import acl_of, password_name, users_of
from ops.embedded.watchers import WATCHERS, find_watcher, stop_watchers, write_files
from ops.gateway import envoy
from ops.ports import LOOPBACK, PortPicker, PortTaken, holder_of, is_free
from ops.project.project import Project
from sharding.topology import Topology


def _claim_door(door: str, port: int) -> bool:
    """Find a door's port free; Envoy itself only logs that one is taken."""
    if not is_free(port, LOOPBACK):
        raise PortTaken(door_key(door), port, holder_of(port))
    return False


def _quiet(_line: str) -> None:
    """Report nothing."""


class Platform:
    """The platform in a folder.

    Parameters:
        home: the folder; `up` makes it.
        project: says which topology it is, and has the trees and the services.
        report: is called with a line for each thing that is done, from several threads.
        safe: wait for the disk at every commit; False is for tests, where a power cut may cost everything.
        rng: picks ports.
    """

    def __init__(
        self,
        home: Path,
        project: Project,
        *,
        report: Report = _quiet,
        safe: bool = True,
        rng: random.Random | None = None,
    ) -> None:
        self.home = Home(home)
        self.project = project
        self._report = report
        self._safe = safe
        self._rng = rng or random.Random()
        self._tools = PostgresTools()
        self._source = TopologySource(project, self.home)

    @property
    def topology_path(self) -> Path:
        """Where the platform's topology file is."""
        return self._source.path

    def topology(self) -> Topology:
        """Read the platform's topology.

        Raises:
            NoPlatform: `up` was never called here.
            TopologyError: the file was edited into something wrong.
        """
        return self._source.load()

    def up(
        self,
        *,
        services: bool = True,
        pgbouncer: bool | None = None,
        monitoring: bool | None = None,
        gateway: bool = True,
    ) -> Topology:
        """Start everything; what runs already is left alone, what is half made is completed.

        Parameters:
            services: start the services too, and not only the servers.
            pgbouncer: have a pooler between services and servers, or none; None leaves it as it is.
            monitoring: have Prometheus and Alertmanager, or none; None leaves it as it is.
            gateway: start the gateway with the services, where the topology has one and Envoy is here.

        Returns:
            the topology, as it is now.

        Raises:
            ProcMissing, BinaryMissing, NoUnprivilegedUser, HomeBusy, NotOurFolder, NoTopology, TeamsTopology,
            PassfileMissing, PortsTaken, TopologyError: nothing was changed.
            NotStreaming: all runs, but a replica has not caught up with its primary.
            EmbeddedError: a component did not come up; others may run. `up` again continues.
        """
        self._tools.check()
        draft, topology = self._source.preview(pgbouncer=pgbouncer, monitoring=monitoring)
        shape = self._shape(topology)
        valkey = valkey_server() if shape.valkey else None
        for name in WATCHERS.keys() & {service.name for service in shape.services}:
            find_watcher(name)
        if shape.pooler:
            pooler_program()
        self.home.make()
        with self.home.locked():
            self._rotate_logs()
            changed = self._write_topology(draft, shape)
            components, ports = self._open(changed=changed)
            everything = services or self.home.wanted() == EVERYTHING
            self.home.want(EVERYTHING if everything else SERVERS_ONLY)
            with self._preloader() as preloader:
                if services:
                    preloader.begin(services=sum(each.is_cold() for each in components.services.values()))
                self._start_servers(components, ports, valkey)
                if components.pooler:
                    components.pooler.up(ports)
                self._fill(components.shape)
                self._start_services(
                    components, ports, services=services, gateway=gateway, preloader=preloader
                )
            # At last: the services do without a replica, and a person must know of it.
            run_all(servers.check_streaming for servers in components.databases)
            return self.topology()

    def _shape(self, topology: Topology) -> PlatformShape:
        return shape_of(topology, self.project.file.services)

    def _write_topology(self, draft: Draft, shape: PlatformShape) -> list[str]:
        """Write the file as it was drafted, and return what running services have read in another way."""
        if self._source.is_ours and not self.topology_path.exists():
            # Whatever runs, runs on ports that are written nowhere any more.
            self._running().stop()
        self._source.write(draft, shape, PortPicker(self._rng))
        for line in draft.notes:
            self._report(f"{self.topology_path.name}: {line}")
        pooled = self.home.pooler.is_dir()
        if pooled and shape.pooler is None:
            self._running().stop("pooler")
            shutil.rmtree(self.home.pooler)
        if not WATCHERS.keys() & {service.name for service in shape.services}:
            for name in stop_watchers(self.home):
                self._report(f"{name} service: stopped")
        return [*draft.notes, *([POOLER] if pooled != (shape.pooler is not None) else [])]

    def _open(self, *, changed: Iterable[str] = ()) -> tuple[Components, ComponentPorts]:
        topology = self.topology()
        components = self._components(topology)
        addresses = components.shape.addresses
        picker = None
        if self._source.is_ours:
            picker = PortPicker(self._rng)
            picker.avoid(address.port for address in addresses.values())
        else:
            self._refuse_taken(components.shape)
        return components, ComponentPorts(
            addresses, topology=self.topology_path, picker=picker, report=self._report, changed=changed
        )

    def _refuse_taken(self, shape: PlatformShape) -> None:
        """Find every port of the team's topology that is taken, before anything is started."""
        ours = self._running().ports()
        faults = [
            fault_of(address, holder_of(address.port))
            for address in shape.addresses.values()
            if address.port not in ours and not is_free(address.port, address.host)
        ]
        if faults:
            raise PortsTaken(self.topology_path, *faults)

    def _components(self, topology: Topology) -> Components:
        passfile = self._source.passfile(topology)
        return Components(
            self.home,
            self._shape(topology),
            topology=self.topology_path,
            passfile=passfile,
            environment=self._environment,
            tools=self._tools,
            report=self._report,
            safe=self._safe,
        )

    def _environment(self, service: ServiceShape) -> dict[str, str]:
        found = environment_of(
            self.project.file.up.environment,
            service.environment,
            topology=self.topology_path,
            project=self.project.path,
            passfile=self._source.passfile(self.topology()),
        )
        if service.name in {*WATCHERS, GATEWAY}:
            return {}  # no secret is theirs
        if service.name not in {EXPORTER, PAGES}:
            return found
        # mesctl finds the project's modules itself, behind its own.
        found |= {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        if service.name == PAGES:
            # It looks at this platform, as one who calls mesctl here does, and not at a topology alone.
            found |= {"MES_STORAGE_HOME": str(self.home.path)}
            del found["MES_STORAGE_TOPOLOGY"]
        return found

    def _running(self) -> RunningComponents:
        return RunningComponents(self.home, tools=self._tools, report=self._report)

    def _start_servers(self, components: Components, ports: ComponentPorts, valkey: Path | None) -> None:
        passwords = self._passwords(components)
        starts = [partial(servers.up, ports, passwords) for servers in components.databases]
        if valkey:
            users = acl_of(components.shape.redis_rules, passwords)
            starts.append(partial(self._start_valkey, ports, valkey, users))
        run_all(starts)

    def _passwords(self, components: Components) -> dict[str, str]:
        topology = self.topology()
        passfile = self._source.passfile(topology)
        has_data = any(servers.primary.exists() for servers in components.databases)
        if has_data and SUPERUSER not in read_passwords(passfile):
            raise PasswordsLost(passfile)
        # With the console's from the beginning: secrets are derived of those that are there then.
        users = map(password_name, users_of(components.shape.redis_rules))
        roles = (*roles_of(components.shape.databases), CONSOLE_ROLE, *users)
        if topology.pgbouncer:
            roles = (*roles, topology.pgbouncer.admin)
        known = {role: password for role in roles if (password := topology.password(role))}
        return ensure_passwords(passfile, roles, known=known)

    def _start_valkey(self, ports: ComponentPorts, program: Path, users: Sequence[str]) -> None:
        # Made anew: our own password may be new.
        valkey = self._components(self.topology()).valkey
        assert valkey is not None
        is_changed = not valkey.has_users(users)
        started = ports.start(VALKEY, lambda port: valkey.start(program=program, port=port, users=users))
        if is_changed:
            # Services that run have come in by no password, or by another one.
            ports.moved.add(VALKEY)
        if is_changed and not started:
            self._report(f"{valkey.name}: has the users {', '.join(line.split()[1] for line in users)}")
        self._report(f"{valkey.name}: {'started on' if started else 'runs already,'} port {ports[VALKEY]}")

    def _fill(self, shape: PlatformShape) -> None:
        from ops.embedded.content import fill  # alembic and its like, which only `up` needs

        fill(self.project, self.topology(), shape, report=self._report)

    def _preloader(self) -> Preloader:
        modules = self.project.file.up.preload
        return Preloader(modules, {"PYTHONPATH": import_path(self.project.path)}, report=self._report)

    def _start_services(
        self,
        components: Components,
        ports: ComponentPorts,
        *,
        services: bool,
        gateway: bool,
        preloader: Preloader,
    ) -> None:
        chosen = list(components.services.values()) if services else components.running_services()
        read_at = self.topology_path.stat().st_mtime
        late = [each for each in components.running_services() if ports.moved or each.is_older(read_at)]
        for service in late:
            self._report(f"{service.name} service: starting anew, for it has read the topology as it was")
        run_all(service.stop for service in late)
        others = [each for each in chosen if each.name not in {*WATCHERS, GATEWAY}]
        preloader.begin(services=sum(each.is_cold() for each in others))
        run_all(partial(self._start_service, service, ports, preloader.start) for service in others)
        for each in (each for each in chosen if each.name == GATEWAY):
            self._start_gateway(each, ports, is_wanted=gateway)
        self._start_watchers({each.name: each for each in chosen}, ports)

    def _start_gateway(self, gateway: ServiceProcess, ports: ComponentPorts, *, is_wanted: bool) -> None:
        """Start what stands before the services: their ports are known by now."""
        if not is_wanted or find_gateway() is None:
            gateway.stop()
            why = (
                "as it was asked for"
                if not is_wanted
                else "pip install 'mesctl[gateway]', or put envoy on PATH"
            )
            self._report(f"{gateway.name} service: not started: {why}")
            return
        if gateway.pid() is None:
            for door in self._shape(self.topology()).doors:
                ports.start(door_key(door), partial(_claim_door, door))
        started = ports.start(service_key(GATEWAY), partial(self._start_envoy, gateway))
        self._report(f"{gateway.name} service: {'started' if started else 'runs already'}")

    def _start_envoy(self, gateway: ServiceProcess, port: int) -> bool:
        """Start Envoy on an admin port, which stands in its files: they are written for each port."""
        if envoy.BOOTSTRAP in write_gateway(self.project, self.topology(), self.home):
            gateway.stop()  # it reads that at its start only
        return gateway.start(port=port, databases=())

    def _start_watchers(self, chosen: Mapping[str, ServiceProcess], ports: ComponentPorts) -> None:
        """Start what watches the others, one after the other: each start may move a port."""
        for name in (name for name in WATCHERS if name in chosen):
            # A port of what was started before may have moved, and one that runs has read the old files.
            if write_files(self.project, self.topology(), self.home.monitoring):
                stop_watchers(self.home)
            self._start_service(chosen[name], ports)

    def _start_service(
        self, service: ServiceProcess, ports: ComponentPorts, starts: Starts | None = None
    ) -> bool:
        topology = self.topology()
        ways = [database.primary.port for database in topology.databases.values()]
        if topology.pgbouncer:
            ways.append(topology.pgbouncer.port)
        if service.shape.admin:
            ports.start(admin_key(service.name), service.claim_admin_port)
        if service.shape.address:
            key = service_key(service.name)
            started = ports.start(key, lambda port: service.start(port=port, databases=ways, starts=starts))
        else:
            started = service.start(port=None, databases=ways, starts=starts)
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
        self._running().stop()

    def urls(self, topology: Topology) -> dict[str, str]:
        """Return where the services of this machine answer, by name."""
        shape = self._shape(topology)
        addresses = {service.name: service.address for service in shape.services}
        doors = {door_key(name): f"https://localhost:{address.port}" for name, address in shape.doors.items()}
        return {name: address.url for name, address in addresses.items() if address} | doors

    def page(self, topology: Topology) -> str | None:
        """Return where people begin and how they come in, in a line; None where the project has no page."""
        up = self.project.file.up
        found = (each for each in self._shape(topology).services if each.name == up.page)
        address = next((each.address for each in found if each.address is not None), None)
        if address is None:
            return None
        # By this name a browser takes cookies that are for TLS alone.
        return f"http://localhost:{address.port}/" + (f"  {up.login}" if up.login else "")

    def status(self) -> PlatformState:
        """Return the state of every component; nothing changes but logs that have grown too large.

        Raises:
            NoPlatform: `up` was never called here.
            TopologyError: the topology file is wrong.
        """
        topology = self.topology()
        self._rotate_logs()
        components = self._components(topology).inspect()
        known = {(component.name, component.kind) for component in components}
        others = [state for state in self._running().states() if (state.name, state.kind) not in known]
        return PlatformState(
            home=str(self.home.path), components=(*components, *others), topology=topology.masked()
        )

    def _rotate_logs(self) -> None:
        for log in rotate(self.home.logs):
            self._report(f"{log}: has grown too large; its end is in {log.name}.1")

    def plan_up(
        self, *, services: bool = True, pgbouncer: bool | None = None, monitoring: bool | None = None
    ) -> list[str]:
        """Return what `up` would write, create and start."""
        draft, topology = self._source.preview(pgbouncer=pgbouncer, monitoring=monitoring)
        states = self._components(topology).inspect()
        edits = [f"change {self.topology_path.name}: {line}" for line in draft.notes]
        return [*edits, *steps_up(states, services=services)]

    def plan_down(self) -> list[str]:
        """Return what `down` would stop."""
        return steps_down(self._running().states())

    def kill_service(self, name: str) -> int | None:
        """Kill a service with SIGKILL, as a crash would; give its pid, None if it did not run.

        Raises:
            UnknownService: there is none of that name.
        """
        return self._find_service(self._components(self.topology()), name).kill()

    def start_service(self, name: str) -> bool:
        """Start a service and wait until it is healthy; False when it ran already.

        Raises:
            UnknownService: there is none of that name.
            NoPlatform: `up` was never called here.
            HomeBusy: another process is changing the platform.
            StartFailed: it did not come up.
        """
        self.topology()
        with self.home.locked():
            components, ports = self._open()
            return self._start_service(self._find_service(components, name), ports)

    @staticmethod
    def _find_service(components: Components, name: str) -> ServiceProcess:
        if name not in components.services:
            raise UnknownService(name, tuple(components.services))
        return components.services[name]
