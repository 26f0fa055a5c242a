"""A service of the platform, as a process: `python -m MODULE`."""

import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import MappingProxyType

import psutil

from ops.embedded.errors import StartFailed
from ops.embedded.pgpass import derived_secret, read_passwords
from ops.embedded.processes import Daemon, Starts, last_lines, size_of
from ops.embedded.shape import ServiceShape
from ops.ports import LOOPBACK, PortTaken, holder_of, is_free
from ops.waiting import wait_until

STOP_SECONDS = 15.0
"""A service takes up to 10 s to end what it has begun."""

SECRET = re.compile(r"\{secret:([^}]+)\}")


class ServiceProcess:
    """One service, known by its pid file.

    Parameters:
        environment: gives what it has beside ours when it is started.
        command: gives the words that start it on a port, where it is no module.
    """

    def __init__(
        self,
        shape: ServiceShape,
        *,
        pidfile: Path,
        log: Path,
        environment: Callable[[], Mapping[str, str]],
        command: Callable[[int], Sequence[str]] | None = None,
    ) -> None:
        self.name = shape.name
        self.shape = shape
        self._environment = environment
        self._command = command
        self._daemon = Daemon(shape.name, pidfile=pidfile, log=log)

    def pid(self) -> int | None:
        """Return the service's pid, None when it does not run."""
        return self._daemon.pid()

    def is_cold(self) -> bool:
        """Whether it does not run, and is a module of the project's."""
        return self._command is None and not self.shape.arguments and self.pid() is None

    def start(
        self,
        *,
        port: int | None,
        databases: Collection[int],
        timeout_seconds: float = 60.0,
        starts: Starts | None = None,
    ) -> bool:
        """Start the service and wait until it does its work; False when it ran already.

        Parameters:
            port: where it answers; None for a worker without an API.
            databases: the ports of the servers to which a worker connects first of all.
            starts: starts it in another way than as a new process, if it can.

        Raises:
            PortTaken: another program listens on its port.
            StartFailed: it ended, or was not at work in time.
        """
        log_start = size_of(self._daemon.log)
        beside = self.shape.admin.port if self.shape.admin else None
        runs = self.pid() is not None if port is None else self._daemon.stop_unless_on(port, beside=beside)
        if not runs:
            self._launch(port, starts)
        works = partial(self._is_connected, databases) if port is None else partial(self.is_healthy, port)
        in_time = wait_until(
            lambda: self.pid() is None or works(), timeout_seconds=timeout_seconds, every_seconds=0.05
        )
        if self.pid() is None or not in_time:
            why = "it ended" if self.pid() is None else f"it was not at work after {timeout_seconds:g} s"
            said = last_lines(self._daemon.log, from_byte=log_start)
            raise StartFailed(self.name, why, self._daemon.log, said)
        return not runs

    def claim_admin_port(self, port: int) -> bool:
        """Return whether it runs; before it is started, its admin port must be free.

        Raises:
            PortTaken: another program listens there.
        """
        if self.pid() is not None:
            return True
        host = self.shape.admin.host if self.shape.admin else LOOPBACK
        if not is_free(port, host):
            raise PortTaken(f"{self.name} admin port", port, holder_of(port))
        return False

    def _launch(self, port: int | None, starts: Starts | None) -> None:
        if port is not None and not is_free(port, self.host):
            raise PortTaken(self.name, port, holder_of(port))
        # The file of its stderr: a service that writes it itself keeps it within bounds while it runs.
        environment = {"MES_STORAGE_LOG_FILE": str(self._daemon.log), **self._environment()}
        self._daemon.launch(self._words(port), environment=environment, starts=starts)

    def _words(self, port: int | None) -> Sequence[str]:
        if self._command is not None and port is not None:
            return self._command(port)
        # -P: the folder in which mesctl was called may have a package of the same name as mesctl's own.
        flags = ["-P"] if self.shape.arguments else []
        return [sys.executable, *flags, "-m", self.shape.module, *self.shape.arguments]

    @property
    def host(self) -> str:
        """The address at which it answers."""
        return self.shape.address.host if self.shape.address else LOOPBACK

    def _is_connected(self, databases: Collection[int]) -> bool:
        pid = self.pid()
        if pid is None:
            return False
        try:
            connections = psutil.Process(pid).net_connections(kind="tcp")
        except psutil.Error:
            return False
        return any(connection.raddr[1:] == (port,) for connection in connections for port in databases)

    def is_healthy(self, port: int) -> bool:
        """Whether the service says that it does all of its work."""
        # Not httpx: its client reads the certificates of the world first, and this is asked often.
        connection = HTTPConnection(self.host, port, timeout=2)
        try:
            connection.request("GET", self.shape.health)
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def is_older(self, at: float) -> bool:
        """Whether it runs, and was started before a time (of the file system's clock)."""
        return self.pid() is not None and self._daemon.pidfile.stat().st_mtime < at

    def ports(self) -> set[int]:
        """Find the ports on which it listens."""
        return self._daemon.ports()

    def stop(self) -> bool:
        """Stop the service after what it has begun; return False when it did not run.

        Raises:
            StopFailed: it survived even SIGKILL.
        """
        return self._daemon.stop(timeout_seconds=STOP_SECONDS)

    def kill(self) -> int | None:
        """Kill the service with SIGKILL, as a crash would; give its pid if it ran."""
        return self._daemon.kill()


def import_path(project: Path) -> str:
    """Return the PYTHONPATH of what imports a project's modules: our own, and the folder of its file."""
    return os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(project.parent))))


def environment_of(
    wanted: Mapping[str, str],
    own: Mapping[str, str] = MappingProxyType({}),
    *,
    topology: Path,
    project: Path,
    passfile: Path,
) -> dict[str, str]:
    """Return the environment variables that a service has beside those of this process.

    Parameters:
        wanted: `[up.environment]` of the project; what our own environment sets is left out.
        own: `[services.NAME.environment]`, of this service alone. This and `wanted` are left out when there
            are no passwords, of which to derive secrets.
        topology: the topology file.
        project: the project file, from whose folder its modules are imported.
        passfile: of what its secrets are derived.
    """
    found = {
        "MES_STORAGE_TOPOLOGY": str(topology),
        "MES_STORAGE_PROJECT": str(project),
        "PYTHONPATH": import_path(project),
    }
    if read_passwords(passfile):
        shared = {name: value for name, value in wanted.items() if name not in os.environ}
        found |= {
            name: SECRET.sub(lambda match: derived_secret(passfile, purpose=match[1]), value)
            for name, value in (shared | dict(own)).items()
        }
    return found
