"""The files of Prometheus and Alertmanager, from the topology and the rules. Pure: nothing is written."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ops.gateway.model import find_section
from ops.monitoring.model import INTERVAL_SECONDS, Alert, Inhibition, RecordingRule, Rules
from ops.monitoring.platform import GATEWAY_METRICS
from ops.monitoring.section import MonitoringSection, monitoring_of
from ops.ports import LOOPBACK
from sharding.topology import Topology

PROMETHEUS_FILE = "prometheus.yml"
RULES_FILE = "rules.yml"
ALERTMANAGER_FILE = "alertmanager.yml"

ALERTMANAGER_PORT = 9093
"""Alertmanager's own, where the topology names none."""

GROUP = "mes-storage"
RUNBOOKS = "docs/runbooks"


@dataclass(frozen=True, slots=True)
class ScrapeJob:
    """A process that serves metrics at `path`; those that `kept` matches are kept, all if it is empty."""

    name: str
    target: str
    path: str = "/metrics"
    kept: str = ""

    def config(self) -> dict[str, Any]:
        """Return its part of the configuration of Prometheus."""
        found: dict[str, Any] = {"job_name": self.name, "static_configs": [{"targets": [self.target]}]}
        if self.path != "/metrics":
            found["metrics_path"] = self.path
        if self.kept:
            keep = {"source_labels": ["__name__"], "regex": self.kept, "action": "keep"}
            found["metric_relabel_configs"] = [keep]
        return found


def jobs_of(topology: Topology) -> tuple[ScrapeJob, ...]:
    """Find what is scraped: every service with an admin port, the exporter, and the gateway."""
    return (*_services(topology), *_exporter(monitoring_of(topology)), *_gateway(topology))


def _services(topology: Topology) -> Iterator[ScrapeJob]:
    for name, section in topology.sections.get("services", {}).items():
        if isinstance(section, Mapping) and (port := section.get("admin_port")):
            yield ScrapeJob(name, _target(str(section.get("admin_host", LOOPBACK)), port))


def _exporter(section: MonitoringSection) -> Iterator[ScrapeJob]:
    if section.port is not None:
        yield ScrapeJob("exporter", _target(LOOPBACK, section.port))


def _gateway(topology: Topology) -> Iterator[ScrapeJob]:
    """Return Envoy, of whose thousand series those of `ops.monitoring.platform` are kept."""
    section = find_section(topology)
    if section is not None:
        kept = "|".join(f"{name}(_bucket|_sum|_count)?" for name in GATEWAY_METRICS)
        target = _target(LOOPBACK, section.admin_port)
        yield ScrapeJob("gateway", target, path="/stats/prometheus", kept=kept)


def _target(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def files_of(
    topology: Topology, rules: Rules, *, interval_seconds: float = INTERVAL_SECONDS
) -> dict[str, str]:
    """Return the text of each file, by its name.

    Parameters:
        topology: what is scraped, and where alerts are sent.
        rules: of the platform and of the project.
        interval_seconds: between two scrapes and two evaluations. Alerts wait for as many of them as ever.
    """
    section = monitoring_of(topology)
    scale = interval_seconds / INTERVAL_SECONDS
    return {
        PROMETHEUS_FILE: _text(prometheus_config(jobs_of(topology), section, interval_seconds)),
        RULES_FILE: rules_text(rules, scale=scale),
        ALERTMANAGER_FILE: _text(alertmanager_config(rules, section, scale=scale)),
    }


def prometheus_config(
    jobs: Iterable[ScrapeJob], section: MonitoringSection, interval_seconds: float
) -> dict[str, Any]:
    """Return what prometheus.yml has."""
    interval = _duration(interval_seconds)
    alertmanager = _target(LOOPBACK, section.alertmanager_port or ALERTMANAGER_PORT)
    return {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": _duration(min(interval_seconds, 10)),
            "evaluation_interval": interval,
        },
        "rule_files": [RULES_FILE],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [job.config() for job in jobs],
    }


def rules_text(rules: Rules, *, scale: float = 1.0) -> str:
    """Return the text of the rules: one group, so that an alert sees what was recorded a moment before.

    Parameters:
        rules: all of them.
        scale: of the times for which alerts wait.
    """
    found = [
        *map(_recording, rules.every_recording()),
        *(_alert(alert, scale) for alert in rules.every_alert()),
    ]
    return _text({"groups": [{"name": GROUP, "rules": found}]})


def _recording(rule: RecordingRule) -> dict[str, Any]:
    labels = {"labels": dict(rule.labels)} if rule.labels else {}
    return {"record": rule.record, "expr": rule.expr, **labels}


def _alert(alert: Alert, scale: float) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": _duration(alert.for_seconds * scale),
        "labels": {"severity": alert.severity, **alert.labels},
        "annotations": {
            "summary": alert.summary,
            "command": alert.command,
            "runbook": f"{RUNBOOKS}/{alert.runbook}",
        },
    }


def alertmanager_config(rules: Rules, section: MonitoringSection, *, scale: float = 1.0) -> dict[str, Any]:
    """Return what alertmanager.yml has: pages at once and again each hour, tickets twice a day."""
    return {
        "route": {
            "receiver": "tickets",
            "group_by": ["alertname", "database", "job"],
            "group_wait": _duration(60 * scale),
            "group_interval": _duration(300 * scale),
            "repeat_interval": "12h",
            "routes": [
                {
                    "matchers": ['alertname="Watchdog"'],
                    "receiver": "watchdog",
                    "group_wait": "0s",
                    "group_interval": _duration(60 * scale),
                    "repeat_interval": _duration(60 * scale),
                },
                {
                    "matchers": ['severity="page"'],
                    "receiver": "pages",
                    "group_wait": _duration(10 * scale),
                    "group_interval": _duration(60 * scale),
                    "repeat_interval": "1h",
                },
            ],
        },
        "receivers": [
            _receiver("pages", section.alerts_url),
            _receiver("tickets", section.alerts_url),
            _receiver("watchdog", section.watchdog_url, resolved=False),
        ],
        "inhibit_rules": [_inhibition(each) for each in rules.inhibitions],
    }


def _receiver(name: str, url: str | None, *, resolved: bool = True) -> dict[str, Any]:
    webhooks = {"webhook_configs": [{"url": url, "send_resolved": resolved}]} if url else {}
    return {"name": name, **webhooks}


def _inhibition(each: Inhibition) -> dict[str, Any]:
    # To Alertmanager a label that neither has is equal, too.
    present = [f'{label}=~".+"' for label in each.equal]
    return {
        "source_matchers": [*each.source, *present],
        "target_matchers": [*each.target, *present],
        "equal": list(each.equal),
    }


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms" if seconds % 1 else f"{seconds:.0f}s"


def _text(content: Mapping[str, Any]) -> str:
    head = "# Written by `mesctl monitoring render`; change the topology or the rules, not this file.\n"
    return head + yaml.safe_dump(content, sort_keys=False, width=100, allow_unicode=True)
