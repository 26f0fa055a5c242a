"""A cluster that Patroni runs on loopback: one etcd, three nodes, synchronous replication."""

import json
import random
import shutil
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from ops.embedded.pgpass import ensure_passwords
from ops.embedded.postgres import REPLICATOR, SUPERUSER, PostgresCluster
from ops.embedded.processes import Daemon
from ops.embedded.programs import PostgresTools, launch_prefix, postgres_bin
from ops.ports import LOOPBACK, PortPicker
from ops.waiting import wait_until

SCOPE = "main"
TTL_SECONDS = 20
"""How long a leader that says nothing stays the leader. Patroni takes no less (patroni/config.py)."""

DCS: Mapping[str, Any] = {
    "ttl": TTL_SECONDS,
    "loop_wait": 1,
    "retry_timeout": 3,
    # A leader whose postmaster died hands over at once, and does not start it again.
    "primary_start_timeout": 0,
    "synchronous_mode": True,
    "postgresql": {
        "use_pg_rewind": True,
        "parameters": {
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": "100",
            "unix_socket_directories": "",
            # The default of 5 s would be most of what a failover takes.
            "wal_retrieve_retry_interval": "500ms",
        },
    },
}


class PatroniNode:
    """One node: its PostgreSQL server, and the Patroni that looks after it."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        port: int,
        rest_port: int,
        etcd_port: int,
        passwords: Mapping[str, str],
    ) -> None:
        self.name = name
        self.port = port
        self.rest_port = rest_port
        self.passfile = folder.parent / "pgpass"
        self.server = PostgresCluster(
            name,
            tools=PostgresTools(),
            data=folder / "data",
            log=folder / "postgres.log",
            passfile=self.passfile,
        )
        self.patroni = Daemon(name, pidfile=folder / "patroni.pid", log=folder / "patroni.log")
        self._config = folder / "patroni.yml"
        folder.mkdir(mode=0o700)
        self._config.write_text(json.dumps(self._words(etcd_port, passwords)))  # JSON is YAML

    def _words(self, etcd_port: int, passwords: Mapping[str, str]) -> Mapping[str, Any]:
        address = f"{LOOPBACK}:{self.port}"
        rest = f"{LOOPBACK}:{self.rest_port}"
        return {
            "scope": SCOPE,
            "name": self.name,
            "restapi": {"listen": rest, "connect_address": rest},
            "etcd3": {"host": f"{LOOPBACK}:{etcd_port}"},
            "watchdog": {"mode": "off"},
            "bootstrap": {
                "dcs": DCS,
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums", "no-sync"],
            },
            "postgresql": {
                "listen": address,
                "connect_address": address,
                "data_dir": str(self.server.data),
                "bin_dir": str(postgres_bin()),
                "pgpass": str(self._config.with_name("pgpass")),
                "remove_data_directory_on_rewind_failure": True,
                "remove_data_directory_on_diverged_timelines": True,
                "basebackup": [{"checkpoint": "fast"}, "no-sync"],
                "pg_hba": [f"host {of} all {LOOPBACK}/32 scram-sha-256" for of in ("all", "replication")],
                "authentication": {
                    "superuser": {"username": SUPERUSER, "password": passwords[SUPERUSER]},
                    "replication": {"username": REPLICATOR, "password": passwords[REPLICATOR]},
                },
            },
        }

    def start(self) -> None:
        """Start its Patroni, which starts the server, or takes over one that runs."""
        prefix = launch_prefix(postgres_bin() / "postgres")
        self.patroni.launch([*prefix, sys.executable, "-m", "patroni", str(self._config)])

    def end(self) -> None:
        """End both at once, as a power cut would."""
        self.patroni.kill()
        pid = self.server.pid()
        if pid is not None:
            self.server.stop()


class PatroniCluster:
    """Three nodes of Patroni and its etcd."""

    def __init__(self, nodes: Sequence[PatroniNode], etcd_port: int) -> None:
        self.nodes = nodes
        self.passfile = nodes[0].passfile
        self._etcd_port = etcd_port

    def members(self) -> Mapping[str, Any]:
        """Give what GET /cluster answers, from whichever node does.

        Raises:
            OSError: none does.
        """
        fault: OSError | None = None
        for node in self.nodes:
            try:
                with urlopen(f"http://{LOOPBACK}:{node.rest_port}/cluster", timeout=1) as answer:
                    found: Mapping[str, Any] = json.load(answer)
            except OSError as error:
                fault = error
            else:
                return found
        raise fault or URLError("no nodes")

    def by_role(self) -> Mapping[str, list[PatroniNode]]:
        """Give the nodes that are up, by what Patroni says that they are: leader, sync_standby, replica."""
        found: dict[str, list[PatroniNode]] = {}
        named = {node.name: node for node in self.nodes}
        try:
            members = self.members()["members"]
        except OSError:
            members = []
        for member in members:
            if member.get("state") in ("running", "streaming"):
                found.setdefault(member["role"], []).append(named[member["name"]])
        return found

    @property
    def leader(self) -> PatroniNode:
        """The leader."""
        [found] = self.by_role()["leader"]
        return found

    def wait_until_whole(self, *, timeout_seconds: float = 90) -> None:
        """Return when there is a leader with a synchronous standby, and the third node streams as well."""

        def is_whole() -> bool:
            roles = self.by_role()
            return {role: len(nodes) for role, nodes in roles.items()} == {
                "leader": 1,
                "sync_standby": 1,
                "replica": 1,
            }

        if not wait_until(is_whole, timeout_seconds=timeout_seconds, every_seconds=0.1):
            raise TimeoutError(f"Patroni's cluster is not whole in {timeout_seconds:g} s: {self.by_role()}")

    def expire_leader(self) -> None:
        """Let the leader's lease end now, as etcd does when it is not renewed for `TTL_SECONDS`."""
        key = b64encode(f"/service/{SCOPE}/leader".encode()).decode()
        [found] = self._etcd("kv/range", {"key": key})["kvs"]
        self._etcd("lease/revoke", {"ID": found["lease"]})

    def _etcd(self, call: str, words: Mapping[str, Any]) -> Mapping[str, Any]:
        # etcd's gRPC gateway, documented under "gRPC gateway" in its manual.
        request = Request(f"http://{LOOPBACK}:{self._etcd_port}/v3/{call}", json.dumps(words).encode())
        with urlopen(request, timeout=10) as answer:
            found: Mapping[str, Any] = json.load(answer)
        return found


@contextmanager
def run_patroni(folder: Path, *, etcd: Path) -> Iterator[PatroniCluster]:
    """Run etcd and three nodes in `folder`, whole; they are ended, and their data removed, at the end."""
    ports = PortPicker(random.Random())
    passwords = ensure_passwords(folder / "pgpass", [SUPERUSER, REPLICATOR])
    etcd_port = ports.pick()
    store = Daemon("etcd", pidfile=folder / "etcd.pid", log=folder / "etcd.log")
    nodes = [
        PatroniNode(
            f"node{number}",
            folder / f"node{number}",
            port=ports.pick(),
            rest_port=ports.pick(),
            etcd_port=etcd_port,
            passwords=passwords,
        )
        for number in (1, 2, 3)
    ]
    try:
        _start_etcd(store, etcd, folder, port=etcd_port, peer_port=ports.pick())
        cluster = PatroniCluster(nodes, etcd_port)
        # One that waits for another's bootstrap looks every ten seconds only.
        nodes[0].start()
        if not wait_until(lambda: "leader" in cluster.by_role(), timeout_seconds=60):
            raise TimeoutError(f"Patroni made no leader: {nodes[0].patroni.log.read_text()[-2000:]}")
        for node in nodes[1:]:
            node.start()
        cluster.wait_until_whole()
        yield cluster
    finally:
        for node in nodes:
            node.end()
        store.kill()
        for left in (*(node.server.data for node in nodes), folder / "etcd"):
            shutil.rmtree(left, ignore_errors=True)


def _start_etcd(store: Daemon, etcd: Path, folder: Path, *, port: int, peer_port: int) -> None:
    client, peer = f"http://{LOOPBACK}:{port}", f"http://{LOOPBACK}:{peer_port}"
    words = {
        "data-dir": str(folder / "etcd"),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
    }
    store.launch([str(etcd), "--unsafe-no-fsync", *(f"--{name}={value}" for name, value in words.items())])

    def is_healthy() -> bool:
        try:
            with urlopen(f"{client}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    if not wait_until(is_healthy, timeout_seconds=60):
        raise TimeoutError(f"etcd is not healthy: {store.log.read_text()[-2000:]}")
