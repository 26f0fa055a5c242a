"""The order system's platform under real Prometheus and Alertmanager, which read it every second."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from ops.embedded.platform import Platform
from ops.embedded.postgres import PostgresCluster
from ops.embedded.programs import PostgresTools
from ops.embedded.shape import PROMETHEUS
from ops.ports import LOOPBACK
from ops.waiting import wait_until
from tests.project import PROJECT

DEADLINE_SECONDS = 60
MOST_EVALUATIONS = 8
"""From a stop to the alert: two for reading it, four that it must hold, and two to spare."""

REPLICA = "mes_0_replica"
REPLICA_DOWN = {"alertname": "ReplicaDown", "node": REPLICA}


def process_down(service: str) -> dict[str, str]:
    """Return the labels of the alert for a service that does not run."""
    return {"alertname": "ProcessDown", "job": service.removeprefix("mesctl-"), "severity": "page"}


class AlertReceiver(ThreadingHTTPServer):
    """Takes what Alertmanager posts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.alerts: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/alerts"

    def has(self, status: str, labels: Mapping[str, str]) -> bool:
        """Whether an alert with these labels came, with this status."""
        return any(
            alert["status"] == status and labels.items() <= alert["labels"].items()
            for alert in list(self.alerts)
        )


class _Handler(BaseHTTPRequestHandler):
    server: AlertReceiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.alerts += json.loads(body)["alerts"]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_facts: object) -> None:
        """Log nothing."""


@dataclass
class WatchedPlatform:
    """A platform, and who is sent its alerts."""

    platform: Platform
    receiver: AlertReceiver
    url: str = field(init=False)

    def __post_init__(self) -> None:
        """Find Prometheus."""
        self.url = self.platform.urls(self.platform.topology())[PROMETHEUS]

    def firing(self) -> list[dict[str, str]]:
        """Return the labels of each alert that fires, but the watchdog's."""
        found = self._ask("/api/v1/alerts")["data"]["alerts"]
        labels: list[dict[str, str]] = [each["labels"] for each in found if each["state"] == "firing"]
        return [each for each in labels if each["alertname"] != "Watchdog"]

    def evaluations(self) -> int:
        """Count the evaluations of the rules so far."""
        with urlopen(f"{self.url}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        [count] = re.findall(r"(?m)^prometheus_rule_group_iterations_total\{[^}]*\} (\S+)$", text)
        [missed] = re.findall(r"(?m)^prometheus_rule_group_iterations_missed_total\{[^}]*\} (\S+)$", text)
        return int(float(count) - float(missed))

    def targets(self) -> dict[str, str]:
        """Return the health of each process that is read, by its job."""
        found = self._ask("/api/v1/targets")["data"]["activeTargets"]
        return {each["labels"]["job"]: each["health"] for each in found}

    def is_quiet(self) -> bool:
        """Whether all is read, and nothing fires."""
        return not self.firing() and set(self.targets().values()) == {"up"}

    def detect(self, stop: Callable[[], object], labels: Mapping[str, str]) -> int:
        """Stop something, and count the evaluations until an alert with these labels fires."""
        stop()
        before = self.evaluations()
        fires = wait_until(
            lambda: any(labels.items() <= alert.items() for alert in self.firing()),
            timeout_seconds=DEADLINE_SECONDS,
            every_seconds=0.1,
        )
        assert fires, f"{labels} did not fire; {self.firing()}"
        return self.evaluations() - before

    def resolves(self, labels: Mapping[str, str]) -> bool:
        """Whether the alert with these labels ends in time."""
        return wait_until(
            lambda: not any(labels.items() <= alert.items() for alert in self.firing()),
            timeout_seconds=DEADLINE_SECONDS,
        )

    def replica(self) -> PostgresCluster:
        """Return a replica's server."""
        home = self.platform.home
        return PostgresCluster(
            REPLICA,
            tools=PostgresTools(),
            data=home.data(REPLICA),
            log=home.log(REPLICA),
            passfile=home.passfile,
        )

    def start_replica(self) -> None:
        """Start it again, where it was."""
        [address] = [
            replica
            for database in self.platform.topology().databases.values()
            for replica in database.replicas
            if replica.name == REPLICA
        ]
        self.replica().start(port=address.port)

    def _ask(self, path: str) -> Any:
        with urlopen(f"{self.url}{path}", timeout=5) as answer:
            return json.loads(answer.read())


@contextmanager
def watched_platform(home: Path) -> Iterator[WatchedPlatform]:
    """Run a platform that is read every second; at first everything is read and nothing fires."""
    platform = Platform(home, PROJECT, safe=False)
    receiver = AlertReceiver()
    try:
        platform.up(services=False, monitoring=True)
        text = platform.topology_path.read_text()
        own = f'[monitoring]\ninterval_seconds = 1\nalerts_url = "{receiver.url}"\n'
        platform.topology_path.write_text(text.replace("[monitoring]\n", own))
        platform.up()
        watched = WatchedPlatform(platform, receiver)
        assert wait_until(watched.is_quiet, timeout_seconds=DEADLINE_SECONDS), watched.firing()
        yield watched
    finally:
        receiver.shutdown()
        receiver.server_close()
        platform.delete()
