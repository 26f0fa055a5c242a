"""Ports on loopback: which are free, and who has the others."""

import random
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address

import psutil

from ops.errors import OpsError

LOOPBACK = "127.0.0.1"

# Below the range from which the kernel takes source ports (from 32768 on Linux): a port up there is lost to
# any outgoing connection while its owner is stopped.
CANDIDATES = range(15_000, 32_000)

ATTEMPTS = 200

START_ATTEMPTS = 5


class PortTaken(OpsError):
    """Another program listens on the port that a component wants."""

    def __init__(self, name: str, port: int, holder: str) -> None:
        self.name = name
        self.port = port
        self.holder = holder
        super().__init__(f"{name} cannot listen on port {port}: {holder} has it")


class NoFreePort(OpsError):
    """Every port that was tried is taken."""

    def __init__(self, tried: int) -> None:
        super().__init__(f"no free port on 127.0.0.1 ({tried} were tried)")


def address_of(host: str) -> str | None:
    """Return the loopback address of a host of the topology, None if it is elsewhere."""
    if host.lower() == "localhost":
        return LOOPBACK
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return str(address) if address.is_loopback else None


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on `port` of a loopback address now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier server in TIME_WAIT are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class PortPicker:
    """Picks free ports and never gives the same one twice."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._given: set[int] = set()

    def avoid(self, ports: Iterable[int]) -> None:
        """Never pick these ports: they are promised to someone who does not listen now."""
        self._given.update(ports)

    def pick(self, host: str = LOOPBACK) -> int:
        """Pick a port that is free now at a loopback address.

        Raises:
            NoFreePort: none of many was free.
        """
        for _ in range(ATTEMPTS):
            port = self._rng.choice(CANDIDATES)
            if port not in self._given and is_free(port, host):
                self._given.add(port)
                return port
        raise NoFreePort(ATTEMPTS)


def start_on_free_port(ports: PortPicker, start: Callable[[int], object]) -> int:
    """Call `start` with a free port, and with another when that was lost to another program meanwhile.

    Returns:
        The port on which it started.

    Raises:
        NoFreePort: every port was lost.
    """
    for _ in range(START_ATTEMPTS):
        port = ports.pick()
        try:
            start(port)
            return port
        except PortTaken:
            continue
    raise NoFreePort(START_ATTEMPTS)


def holder_of(port: int) -> str:
    """Return the name and the pid of the process that listens on `port`, as far as this user may know."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        connections = []
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
            return f"{_name_of(connection.pid)} (pid {connection.pid})"
    return "another program"


def _name_of(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "a process"
