"""`mesctl monitoring render`, `check` and `rules`, on a topology without servers."""

from pathlib import Path

import pytest
import yaml

from ops.errors import ExitStatus
from tests.integration.mesctl_rig import Mesctl
from tests.needs import require

TOPOLOGY = """\
[trees.directory]
kind = "directory"

[databases.directory]
tree = "directory"
dbname = "directory"
primary = { host = "127.0.0.1", port = 5434 }

[services.shop]
host = "127.0.0.1"
port = 8001
admin_port = 9101

[services.pricing]
admin_port = 9104

[services.crm]
host = "127.0.0.1"
port = 8002

[monitoring]
port = 9187
prometheus_port = 9090
alertmanager_port = 9093
alerts_url = "http://127.0.0.1:9999/alerts"
"""


@pytest.fixture
def mesctl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    path = tmp_path / "topology.toml"
    path.write_text(TOPOLOGY)
    return Mesctl(path, capsys)


def test_render_writes_files_for_each_process_that_serves_metrics(mesctl: Mesctl, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    planned = mesctl("monitoring", "render", str(folder), "--dry-run")
    assert "+scrape_configs:" in planned.out
    assert not folder.exists()
    assert mesctl("monitoring", "render", str(folder)).status == ExitStatus.DONE
    written = yaml.safe_load((folder / "prometheus.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in written["scrape_configs"]}
    assert targets == {
        "shop": ["127.0.0.1:9101"],
        "pricing": ["127.0.0.1:9104"],
        "exporter": ["127.0.0.1:9187"],
    }
    alertmanager = yaml.safe_load((folder / "alertmanager.yml").read_text())
    urls = [receiver.get("webhook_configs") for receiver in alertmanager["receivers"]]
    assert urls[0][0]["url"] == urls[1][0]["url"] == "http://127.0.0.1:9999/alerts"
    assert urls[2] is None
    again = mesctl("--json", "monitoring", "render", str(folder))
    assert again.json == {"changed": []}


def test_with_a_short_interval_alerts_wait_for_as_many_evaluations(mesctl: Mesctl, tmp_path: Path) -> None:
    mesctl("monitoring", "render", str(tmp_path / "out"), "--interval-seconds", "1")
    assert "evaluation_interval: 1s" in (tmp_path / "out" / "prometheus.yml").read_text()
    rules = yaml.safe_load((tmp_path / "out" / "rules.yml").read_text())["groups"][0]["rules"]
    assert {rule["alert"]: rule["for"] for rule in rules if "alert" in rule}["ReplicaDown"] == "3s"


def test_the_programs_take_what_is_rendered(mesctl: Mesctl) -> None:
    require("prometheus")
    require("alertmanager")
    checked = mesctl("monitoring", "check")
    assert (checked.status, checked.err) == (ExitStatus.DONE, "")


def test_without_the_programs_check_says_how_to_get_them(
    mesctl: Mesctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    checked = mesctl("monitoring", "check")
    assert checked.status == ExitStatus.DONE
    assert "promtool is not here" in checked.err
    assert "apt-get install prometheus-alertmanager" in checked.err


def test_what_prometheus_refuses_is_a_finding(mesctl: Mesctl) -> None:
    require("prometheus")
    text = mesctl.topology_path.read_text().replace("http://127.0.0.1:9999/alerts", "ftp:/nowhere")
    mesctl.topology_path.write_text(text)
    checked = mesctl("--json", "monitoring", "check")
    assert checked.status == ExitStatus.FAILED
    assert [finding["file"] for finding in checked.json] == ["alertmanager.yml"]


def test_rules_lists_each_alert_with_the_command_that_helps(mesctl: Mesctl) -> None:
    listed = {row["alert"]: row for row in mesctl("--json", "monitoring", "rules").json}
    assert listed["ReplicaDown"]["command"] == "mesctl replicas list"
    assert listed["DeadLetters"]["severity"] == "ticket"
