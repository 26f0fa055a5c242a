"""Valkey on loopback: carries messages between services and keeps nothing that a database does not hold."""

import socket
from pathlib import Path

from ops.embedded.errors import PortTaken, StartFailed
from ops.embedded.ports import LOOPBACK, holder_of, is_free
from ops.embedded.processes import Daemon, last_lines, size_of, wait_until


class Valkey:
    """One Valkey server, without persistence: the outboxes send again what it loses."""

    name = "valkey"

    def __init__(self, *, folder: Path, pidfile: Path, log: Path, host: str = LOOPBACK) -> None:
        self._folder = folder
        self.host = host
        self.daemon = Daemon(self.name, pidfile=pidfile, log=log)

    def pid(self) -> int | None:
        """Give the server's pid, None when it does not run."""
        return self.daemon.pid()

    def ports(self) -> set[int]:
        """Find the ports on which it listens."""
        return self.daemon.ports()

    def start(self, *, program: Path, port: int, timeout_seconds: float = 10.0) -> bool:
        """Start the server and wait until it answers; False when it ran already.

        Raises:
            PortTaken: another program listens on `port`.
            StartFailed: it did not answer in time.
        """
        if self.daemon.stop_unless_on(port):
            return False
        if not is_free(port, self.host):
            raise PortTaken(self.name, port, holder_of(port))
        self._folder.mkdir(parents=True, exist_ok=True)
        log_start = size_of(self.daemon.log)
        command = [str(program), "--port", str(port), "--bind", self.host, "--dir", str(self._folder)]
        self.daemon.launch([*command, "--save", "", "--appendonly", "no", "--daemonize", "no"])
        wait_until(lambda: self.pid() is None or answers(port, self.host), timeout_seconds=timeout_seconds)
        if self.pid() is None or not answers(port, self.host):
            self.stop()
            said = last_lines(self.daemon.log, from_byte=log_start)
            if "Address already in use" in said:
                raise PortTaken(self.name, port, holder_of(port))
            raise StartFailed(self.name, f"no answer on port {port}", self.daemon.log, said)
        return True

    def stop(self) -> bool:
        """Stop the server; False when it did not run."""
        return self.daemon.stop()


def answers(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server on `port` speaks the protocol."""
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
