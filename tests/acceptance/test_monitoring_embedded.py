"""`mesctl up --monitoring`: what stops is seen by real Prometheus, and sent on by real Alertmanager."""

from collections.abc import Iterator

import pytest

from ops.embedded.shape import ALERTMANAGER, EXPORTER, PROMETHEUS
from ops.waiting import wait_until
from tests.needs import require
from tests.watched_platform import (
    DEADLINE_SECONDS,
    MOST_EVALUATIONS,
    REPLICA_DOWN,
    WatchedPlatform,
    process_down,
    watched_platform,
)

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedPlatform]:
    require("prometheus")
    require("alertmanager")
    with watched_platform(tmp_path_factory.mktemp("watched") / "home") as watched:
        yield watched


def test_a_replica_that_stops_fires_is_sent_and_resolves(watched: WatchedPlatform) -> None:
    assert watched.detect(watched.replica().stop, REPLICA_DOWN) <= MOST_EVALUATIONS
    assert wait_until(lambda: watched.receiver.has("firing", REPLICA_DOWN), timeout_seconds=DEADLINE_SECONDS)
    watched.start_replica()
    assert watched.resolves(REPLICA_DOWN)


# The relay is in the process of its service.
@pytest.mark.parametrize("service", ["mes", "pricing", EXPORTER])
def test_a_process_that_stops_fires_is_sent_and_resolves(watched: WatchedPlatform, service: str) -> None:
    alert = process_down(service)
    assert watched.detect(lambda: watched.platform.kill_service(service), alert) <= MOST_EVALUATIONS
    assert wait_until(lambda: watched.receiver.has("firing", alert), timeout_seconds=DEADLINE_SECONDS)
    watched.platform.start_service(service)
    assert watched.resolves(alert)
    assert wait_until(lambda: watched.receiver.has("resolved", alert), timeout_seconds=DEADLINE_SECONDS)


def test_status_and_down_know_what_watches_and_without_it_nothing_is_left(watched: WatchedPlatform) -> None:
    platform, names = watched.platform, {PROMETHEUS, ALERTMANAGER}
    assert {each.name for each in platform.status().components if each.pid} >= names
    platform.down()
    assert not any(each.pid for each in platform.status().components)
    platform.up(services=False, monitoring=False)
    assert not names & {each.name for each in platform.status().components}
    assert "prometheus_port" not in platform.topology_path.read_text()
