"""A PgBouncer in transaction mode in front of each server of a pair: the way on which tests are run again."""

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ops.embedded.pooler import PgBouncerProcess
from ops.ports import LOOPBACK, PortPicker, is_free, start_on_free_port
from ops.waiting import wait_until
from tests.servers import PostgresServers

# As `mesctl pgbouncer render` sets them, but for the entry: tests come with databases of their own.
INI = """
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = 5
ignore_startup_parameters = extra_float_digits
query_wait_timeout = 10
server_login_retry = 1
"""


@dataclass(frozen=True)
class NodePooler:
    """The pooler of one server, which may be killed and started again."""

    port: int
    process: PgBouncerProcess
    program: Path

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process.kill() is not None

    def start(self) -> None:
        """Start it again; who calls an end that is gone may get its port for a moment, as his own."""
        assert wait_until(lambda: is_free(self.port), timeout_seconds=20)
        assert self.process.start(program=self.program, port=self.port)


@contextmanager
def run_node_pooler(
    folder: Path, *, program: Path, server_port: int, passwords: Mapping[str, str]
) -> Iterator[NodePooler]:
    """Run a pooler in front of every database of one server."""
    folder.mkdir(mode=0o755, parents=True)
    users, ini = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text("".join(f'"{role}" "{password}"\n' for role, password in passwords.items()))
    process = PgBouncerProcess(ini=ini, pidfile=folder / "pid", log=folder / "log")

    def start(port: int) -> None:
        words = {"host": LOOPBACK, "server_port": server_port, "port": port, "users": users}
        ini.write_text(INI.format(**words))
        process.start(program=program, port=port)

    try:
        port = start_on_free_port(PortPicker(random.Random()), start)
        yield NodePooler(port, process, program)
    finally:
        process.stop()


@contextmanager
def run_node_poolers(
    folder: Path, ports: Iterable[int], *, program: Path, passwords: Mapping[str, str]
) -> Iterator[Mapping[int, NodePooler]]:
    """Run a pooler in front of each of the servers at these ports; give them by the ports."""
    with ExitStack() as stack:
        yield {
            port: stack.enter_context(
                run_node_pooler(folder / f"{port}", program=program, server_port=port, passwords=passwords)
            )
            for port in ports
        }


@contextmanager
def behind_poolers(servers: PostgresServers, folder: Path, *, program: Path) -> Iterator[PostgresServers]:
    """Put a pooler in front of each of the two servers; give them with the ways that lead through it."""
    ports = (servers.primary_port, servers.replica_port)
    with run_node_poolers(folder, ports, program=program, passwords=servers.passwords) as poolers:
        yield replace(servers, ways=ways_through(poolers))


def ways_through(poolers: Mapping[int, NodePooler]) -> Mapping[int, int]:
    """Give the ports of the poolers by those of their servers."""
    return {port: pooler.port for port, pooler in poolers.items()}
