"""The rules by promtool: each alert fires when it must and not otherwise, and a healthy hour is quiet."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from app import instruments
from app.console.audit_log import app as audit_app
from app.console.board import app as board_app
from app.console.flow import app as flow_app
from app.console.identities import app as identities_app
from app.console.monitoring.alerts import ALERTS, PRICE_SECONDS
from app.console.orders import app as orders_app
from ops.cli import app
from ops.embedded.shape import PROMETHEUS
from ops.embedded.watchers import command_of
from ops.monitoring.model import Alert, Metric, RecordingRule, Rules, metrics_of, unknown_metrics
from ops.monitoring.render import alertmanager_config, rules_text
from ops.monitoring.section import MonitoringSection
from tests.alert_cases import (
    CASES,
    HEALTHY,
    REQUIRED,
    RULES,
    firing,
    healthy_series,
    run_promtool,
    write_cases,
    write_tests,
)
from tests.needs import require

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"


@pytest.mark.long
def test_each_alert_fires_on_its_series_and_stays_quiet_on_those_near_the_limit(tmp_path: Path) -> None:
    assert run_promtool(require("prometheus").with_name("promtool"), *write_cases(tmp_path)) == ""


def test_a_wrong_expectation_is_found(tmp_path: Path) -> None:
    wrong = {"interval": "1m", "input_series": [], "promql_expr_test": [firing("Watchdog", "5m", expected=2)]}
    file = write_tests(tmp_path, "wrong", RULES, [wrong], every="1m")
    assert "FAILED" in run_promtool(require("prometheus").with_name("promtool"), file)


def test_nothing_but_the_watchdog_fires_in_an_hour_of_healthy_load(tmp_path: Path) -> None:
    assert HEALTHY.keys() == RULES.metrics.keys()
    others = 'count(ALERTS{alertname!="Watchdog",alertstate="firing"})'
    quiet = [{"expr": others, "eval_time": f"{minute}m", "exp_samples": []} for minute in range(5, 61, 5)]
    hour = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in healthy_series().items()],
        "promql_expr_test": [*quiet, firing("Watchdog", "1m", expected=1)],
    }
    file = write_tests(tmp_path, "healthy", RULES, [hour], every="1m")
    assert run_promtool(require("prometheus").with_name("promtool"), file) == ""


def test_every_alert_but_the_watchdog_is_in_the_list_with_both_cases() -> None:
    assert {alert.name for alert in RULES.every_alert()} == {*REQUIRED, "Watchdog"}
    assert all(case.fires != case.quiet for case in CASES)


def test_every_query_reads_known_metrics() -> None:
    queries = [each.expr for each in RULES.every_alert()]
    queries += [each.expr for each in RULES.every_recording()]
    assert unknown_metrics(RULES, queries) == frozenset()


def test_every_label_of_an_alert_s_text_is_one_that_it_can_have() -> None:
    known = {"job", "instance"} | {label for each in RULES.metrics.values() for label in each.labels}
    texts = [text for each in RULES.every_alert() for text in (each.summary, each.command)]
    assert {label for text in texts for label in re.findall(r"\$labels\.(\w+)", text)} <= known


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ('rate(app_errors_total{event="a b"}[5m])', {"app_errors_total"}),
        ("sum by (job, le) (rate(a_bucket[10m])) > 2 and on (x) b offset 1w", {"a_bucket", "b"}),
        ('label_replace(a:b:rate1h offset 2w, "week", "2", "", "") or vector(0)', {"a:b:rate1h"}),
        ("a <= bool on (status) group_left () b", {"a", "b"}),
        ("predict_linear(free[6h], 86400) < 1e5", {"free"}),
    ],
)
def test_the_metrics_of_a_query(query: str, names: set[str]) -> None:
    assert metrics_of(query) == names


def test_a_query_of_a_metric_that_is_not_served_is_found() -> None:
    rules = Rules(metrics={"a": Metric("histogram")}, recording=(RecordingRule("b", "a_count"),))
    assert unknown_metrics(rules, ["a_sum + b + a", "c"]) == {"a", "c"}


@pytest.mark.parametrize("alert", RULES.every_alert(), ids=lambda alert: alert.name)
def test_the_runbook_of_an_alert_says_what_it_means_and_what_to_do(alert: Alert) -> None:
    page, _, anchor = alert.runbook.partition("#")
    sections = re.split(r"(?m)^## ", (RUNBOOKS / page).read_text())
    found = [text for text in sections if text.partition("\n")[0].lower().replace(" ", "") == anchor]
    assert len(found) == 1
    for word in ("Means", "Look", "Act", "Undo"):
        assert f"**{word}.**" in found[0]


PLUG_INS = {
    "orders": orders_app,
    "flow": flow_app,
    "audit": audit_app,
    "identities": identities_app,
    "board": board_app,
}


@pytest.mark.parametrize("command", sorted({alert.command for alert in RULES.every_alert()}))
def test_the_command_of_an_alert_is_a_verb(command: str) -> None:
    first, verb, *rest = command.split()
    assert first == "mesctl"
    group = get_command(app)
    if verb in PLUG_INS:
        group, verb, rest = get_command(PLUG_INS[verb]), rest[0], rest[1:]
    assert verb in group.commands  # type: ignore[attr-defined]  # a group of typer


def test_alertmanager_sends_one_page_for_what_one_fault_explains() -> None:
    config = alertmanager_config(RULES, MonitoringSection(alerts_url="http://127.0.0.1:1/"))
    sources = {rule["source_matchers"][0] for rule in config["inhibit_rules"]}
    assert {'alertname="PrimaryDown"', 'alertname="ProcessDown"', 'burn="fast"'} <= sources
    # Labels that both lack are equal to Alertmanager: it must be asked for their presence.
    for rule in config["inhibit_rules"]:
        for label in rule["equal"]:
            assert f'{label}=~".+"' in rule["source_matchers"]


def test_the_embedded_prometheus_keeps_what_the_rules_compare_with(tmp_path: Path) -> None:
    require("prometheus")
    command = command_of(PROMETHEUS, tmp_path, 9090)
    [kept] = [each for each in command if each.startswith("--storage.tsdb.retention.time=")]
    days = int(kept.partition("=")[2].removesuffix("d"))
    weeks = [int(week) for week in re.findall(r"offset ([0-9]+)w", "".join(rules_text(RULES)))]
    # The oldest hour is a whole one, and Prometheus drops blocks of a few days.
    assert days >= 7 * max(weeks) + 4
    assert [each for each in command if each.startswith("--storage.tsdb.retention.size=")]


def test_rules_are_the_same_text_each_time() -> None:
    assert rules_text(RULES) == rules_text(RULES)
    assert "for: 4s" in rules_text(ALERTS, scale=1 / 15)


def test_the_limit_of_a_price_is_a_bound_of_the_histogram_that_the_services_fill() -> None:
    assert PRICE_SECONDS in instruments._STAGE
