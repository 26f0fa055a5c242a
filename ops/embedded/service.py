"""A service of the platform, as a process: `python -m app.NAME`."""

import sys
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from ops.embedded.errors import PortTaken, StartFailed
from ops.embedded.ports import LOOPBACK, holder_of, is_free
from ops.embedded.processes import Daemon, last_lines, size_of, wait_until

STOP_SECONDS = 15.0
"""A service takes up to 10 s to end what it has begun."""

WORKER_SECONDS = 3.0
"""A worker without an API is taken to be up when it logs, or still runs after this."""


class ServiceProcess:
    """One service, known by its pid file."""

    def __init__(self, name: str, *, pidfile: Path, log: Path, topology: Path) -> None:
        self.name = name
        self._topology = topology
        self._daemon = Daemon(name, pidfile=pidfile, log=log)

    def pid(self) -> int | None:
        """Give the service's pid, None when it does not run."""
        return self._daemon.pid()

    def start(self, *, port: int | None, timeout_seconds: float = 30.0) -> bool:
        """Start the service and wait until it is healthy; False when it ran already.

        Parameters:
            port: where it answers; None for a worker without an API.

        Raises:
            PortTaken: another program listens on its port.
            StartFailed: it ended, or was not healthy in time.
        """
        log_start = size_of(self._daemon.log)
        launched = self.pid() is None
        if launched:
            self._launch(port)
        if port is None:
            self._wait_for_worker(log_start)
        else:
            wait_until(lambda: self.pid() is None or is_healthy(port), timeout_seconds=timeout_seconds)
        self._check_started(port, log_start)
        return launched

    def _launch(self, port: int | None) -> None:
        if port is not None and not is_free(port):
            raise PortTaken(self.name, port, holder_of(port))
        command = [sys.executable, "-m", f"app.{self.name}"]
        self._daemon.launch(command, environment={"MES_STORAGE_TOPOLOGY": str(self._topology)})

    def _wait_for_worker(self, log_start: int) -> None:
        wait_until(
            lambda: self.pid() is None or size_of(self._daemon.log) > log_start,
            timeout_seconds=WORKER_SECONDS,
        )

    def _check_started(self, port: int | None, log_start: int) -> None:
        said = last_lines(self._daemon.log, from_byte=log_start)
        if self.pid() is None:
            raise StartFailed(self.name, "it ended", self._daemon.log, said)
        if port is not None and not is_healthy(port):
            raise StartFailed(self.name, f"it is not healthy on port {port}", self._daemon.log, said)

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
