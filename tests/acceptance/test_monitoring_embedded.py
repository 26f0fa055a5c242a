"""`mesctl up --monitoring`: what stops is seen by real Prometheus, and sent on by real Alertmanager."""

from collections.abc import Iterator

import pytest

from ops.embedded.shape import ALERTMANAGER, PROMETHEUS
from ops.waiting import wait_until
from tests.alert_cases import RULES
from tests.needs import require
from tests.watched_platform import DEADLINE_SECONDS, MOST_EVALUATIONS, WatchedPlatform, watched_platform

GIVEN = {"__name__", "job", "instance", "le"}
"""Labels that Prometheus adds, and that of a histogram's bounds."""
OF_JOB = {"pricing": {"worker"}}
"""Labels that a supervisor adds to whatever its processes serve; no query names them."""
EXPORTERS_OWN = {
    f"mes_storage_exporter_{name}" for name in ("missing", "round_seconds", "samples_written_total")
}
"""What no query reads."""

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedPlatform]:
    require("prometheus")
    require("alertmanager")
    with watched_platform(tmp_path_factory.mktemp("watched") / "home") as watched:
        yield watched


def test_what_stops_fires_is_sent_and_resolves(watched: WatchedPlatform) -> None:
    evaluations = watched.stop_and_detect()
    assert max(evaluations.values()) <= MOST_EVALUATIONS, evaluations
    assert wait_until(lambda: watched.receiver.has_all("firing"), timeout_seconds=DEADLINE_SECONDS)
    watched.start_again()
    assert wait_until(watched.is_well, timeout_seconds=DEADLINE_SECONDS), watched.firing()
    assert wait_until(lambda: watched.receiver.has_all("resolved"), timeout_seconds=DEADLINE_SECONDS)


def test_what_processes_serve_is_in_the_table_of_metrics_with_its_labels(watched: WatchedPlatform) -> None:
    known = {series: metric for name, metric in RULES.metrics.items() for series in metric.series_of(name)}
    served = watched.series()
    assert {each["__name__"] for each in served} - known.keys() <= EXPORTERS_OWN
    unknown: dict[str, set[str]] = {}
    for each in served:
        if metric := known.get(each["__name__"]):
            given = GIVEN | OF_JOB.get(each["job"], set())
            own = {label for label in each if not label.startswith("otel_")} - given - set(metric.labels)
            unknown |= {each["__name__"]: own} if own else {}
    assert unknown == {}


def test_status_and_down_know_what_watches_and_without_it_nothing_is_left(watched: WatchedPlatform) -> None:
    platform, names = watched.platform, {PROMETHEUS, ALERTMANAGER}
    assert {each.name for each in platform.status().components if each.pid} >= names
    platform.down()
    assert not any(each.pid for each in platform.status().components)
    platform.up(services=False, monitoring=False)
    assert not names & {each.name for each in platform.status().components}
    assert "prometheus_port" not in platform.topology_path.read_text()
