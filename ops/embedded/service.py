"""A service of the platform, as a process: `python -m app.NAME`."""

import os
import sys
from collections.abc import Collection
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

from ops.embedded.errors import PortTaken, StartFailed
from ops.embedded.pgpass import derived_secret
from ops.embedded.ports import LOOPBACK, holder_of, is_free
from ops.embedded.processes import Daemon, last_lines, size_of, wait_until

STOP_SECONDS = 15.0
"""A service takes up to 10 s to end what it has begun."""


class ServiceProcess:
    """One service, known by its pid file."""

    def __init__(self, name: str, *, pidfile: Path, log: Path, topology: Path) -> None:
        self.name = name
        self._topology = topology
        self._daemon = Daemon(name, pidfile=pidfile, log=log)

    def pid(self) -> int | None:
        """Give the service's pid, None when it does not run."""
        return self._daemon.pid()

    def start(self, *, port: int | None, databases: Collection[int], timeout_seconds: float = 60.0) -> bool:
        """Start the service and wait until it does its work; False when it ran already.

        Parameters:
            port: where it answers; None for a worker without an API.
            databases: the ports of the servers to which a worker connects first of all.

        Raises:
            PortTaken: another program listens on its port.
            StartFailed: it ended, or was not at work in time.
        """
        log_start = size_of(self._daemon.log)
        launched = self.pid() is None
        if launched:
            self._launch(port)
        works = partial(self._is_connected, databases) if port is None else partial(is_healthy, port)
        in_time = wait_until(
            lambda: self.pid() is None or works(), timeout_seconds=timeout_seconds, every_seconds=0.05
        )
        if self.pid() is None or not in_time:
            why = "it ended" if self.pid() is None else f"it was not at work after {timeout_seconds:g} s"
            said = last_lines(self._daemon.log, from_byte=log_start)
            raise StartFailed(self.name, why, self._daemon.log, said)
        return launched

    def _launch(self, port: int | None) -> None:
        if port is not None and not is_free(port):
            raise PortTaken(self.name, port, holder_of(port))
        command = [sys.executable, "-m", f"app.{self.name}"]
        environment = {"MES_STORAGE_TOPOLOGY": str(self._topology)}
        environment |= self._secrets()
        self._daemon.launch(command, environment=environment)

    def _secrets(self) -> dict[str, str]:
        """Give what the environment does not set itself."""
        pgpass = self._topology.with_name("pgpass")
        cursors = derived_secret(pgpass, purpose="page cursors")
        tokens = derived_secret(pgpass, purpose="causal tokens")
        if cursors is None or tokens is None:
            return {}
        secrets = {
            "MES_STORAGE_CURSOR_KEY": cursors,
            "MES_STORAGE_TOKEN_KEYS": f"platform={tokens}",
            "MES_STORAGE_COOKIE_SECURE": "false",  # there is no TLS on loopback
        }
        return {name: value for name, value in secrets.items() if name not in os.environ}

    def _is_connected(self, databases: Collection[int]) -> bool:
        pid = self.pid()
        if pid is None:
            return False
        try:
            connections = psutil.Process(pid).net_connections(kind="tcp")
        except psutil.Error:
            return False
        return any(connection.raddr[1:] == (port,) for connection in connections for port in databases)

    def stop(self) -> bool:
        """Let the service end what it has begun, and stop it; False when it did not run.

        Raises:
            StopFailed: it survived even SIGKILL.
        """
        return self._daemon.stop(timeout_seconds=STOP_SECONDS)

    def kill(self) -> int | None:
        """Kill the service with SIGKILL, as a crash would; give its pid if it ran."""
        return self._daemon.kill()


def is_healthy(port: int) -> bool:
    """Whether the service on `port` says that it does all of its work."""
    # Not httpx: its client reads the certificates of the world first, and this is asked many times a second.
    connection = HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
