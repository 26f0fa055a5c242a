"""The order system's platform under real Prometheus and Alertmanager, which read it every second."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from ops.embedded.platform import Platform
from ops.embedded.postgres import PostgresCluster
from ops.embedded.programs import PostgresTools
from ops.embedded.shape import PROMETHEUS
from ops.ports import LOOPBACK
from ops.project.project import Project
from ops.waiting import wait_until
from tests.project import PROJECT, TEMPLATE

DEADLINE_SECONDS = 60
MOST_EVALUATIONS = 8
"""From a stop to the alert: two for reading it, four that it must hold, and two to spare."""

REPLICA = "mes_0_replica"


SERVICES = {"relay": "mes", "pricing worker": "pricing"}
"""The relay is in the process of its service."""

EXPECTED: Mapping[str, Mapping[str, str]] = {
    "replica": {"alertname": "ReplicaDown", "node": REPLICA},
    **{what: {"alertname": "ProcessDown", "job": name} for what, name in SERVICES.items()},
}
"""The labels of the alert for each thing that is stopped."""

NEVER = 1_000


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

    def has_all(self, status: str) -> bool:
        """Whether each expected alert came with this status."""
        came = [alert["labels"] for alert in list(self.alerts) if alert["status"] == status]
        return all(any(labels.items() <= each.items() for each in came) for labels in EXPECTED.values())


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

    def series(self) -> list[dict[str, str]]:
        """Return the labels of all series that the platform's processes serve, with their names."""
        names = "app_.+|mes_storage_.+|readreplica_.+|http_server_.+"
        query = urlencode({"match[]": f'{{__name__=~"{names}"}}'})
        found: list[dict[str, str]] = self._ask(f"/api/v1/series?{query}")["data"]
        return found

    def is_well(self) -> bool:
        """Whether all is read, and no alert fires of what the tests stop."""
        expected = {labels["alertname"] for labels in EXPECTED.values()}
        is_quiet = not any(alert["alertname"] in expected for alert in self.firing())
        return is_quiet and set(self.targets().values()) == {"up"}

    def stop_and_detect(self) -> dict[str, int]:
        """Stop a replica, the service with the relay, and the pricing worker.

        Returns:
            how many evaluations it was until the alert for each fired; MAX if it did not in time.
        """
        found: dict[str, int] = {}
        stopped = {what: (stop(), self.evaluations())[1] for what, stop in self._stops().items()}

        def all_fire() -> bool:
            firing, now = self.firing(), self.evaluations()
            for what, labels in EXPECTED.items():
                if what not in found and any(labels.items() <= alert.items() for alert in firing):
                    found[what] = now - stopped[what]
            return len(found) == len(EXPECTED)

        wait_until(all_fire, timeout_seconds=DEADLINE_SECONDS, every_seconds=0.1)
        return dict.fromkeys(EXPECTED, NEVER) | found

    def start_again(self) -> None:
        """Start what was stopped."""
        self._start_replica()
        for service in SERVICES.values():
            self.platform.start_service(service)

    def _stops(self) -> dict[str, Callable[[], object]]:
        services = {what: partial(self.platform.kill_service, name) for what, name in SERVICES.items()}
        return {"replica": self.replica().stop, **services}

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

    def _start_replica(self) -> None:
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
    """Run a platform that is read every second; at first everything is read."""
    receiver = AlertReceiver()
    platform = Platform(home, _project(home.with_name("template.toml"), receiver.url), safe=False)
    try:
        platform.up(monitoring=True)
        watched = WatchedPlatform(platform, receiver)
        assert wait_until(watched.is_well, timeout_seconds=DEADLINE_SECONDS), watched.firing()
        yield watched
    finally:
        receiver.shutdown()
        receiver.server_close()
        platform.delete()


def _project(template: Path, url: str) -> Project:
    """Return the project with a template of its own: everything is read each second, and alerts are sent."""
    own = f'[monitoring]\ninterval_seconds = 1\nalerts_url = "{url}"\n'
    template.write_text(TEMPLATE.path.read_text().replace("[monitoring]\n", own))
    up = PROJECT.file.up.model_copy(update={"template": str(template)})
    return Project(PROJECT.path, PROJECT.file.model_copy(update={"up": up}))
