"""The alerts that must exist, each with series on which it fires and series on which it stays quiet.

What stays quiet is near the limit, or over it for too short a time. `promtool test rules` evaluates them.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import run
from typing import Any

import yaml

from app.console.monitoring.alerts import ALERTS
from ops.monitoring.model import Rules, metrics_of
from ops.monitoring.platform import PLATFORM
from ops.monitoring.render import rules_text

RULES: Rules = PLATFORM + ALERTS

Series = Mapping[str, str]
"""By selector, values in promtool's notation, one every `step`."""

PRIMARY = '{job="exporter",database="mes_0",node="primary"}'
WATCHED = {'up{job="mes",instance="a"}': "1+0x120"}
REPLICA = '{job="exporter",database="mes_0",node="mes_0_replica"}'
TABLE = '{job="exporter",database="mes_0",table="orders"}'
TO_CRM = '{job="exporter",database="shop",destination="crm"}'
WEEK = 7 * 24 * 60


@dataclass(frozen=True)
class AlertCase:
    """An alert, with what makes it fire by `at` and what does not."""

    alert: str
    fires: Series
    quiet: Series
    at: str = "30m"
    step: str = "1m"
    every: str = ""
    """Between two evaluations of the rules; else as `step`. Where the windows have hours, promtool needs a
    third of the CPU when it evaluates seldom."""


def always(value: float | str, count: int = 90) -> str:
    """Write a value that stays."""
    return f"{value}+0x{count}"


def _level(alert: str, series: str, over: float, under: float, at: str = "30m") -> AlertCase:
    """Return the case of an alert whose value must be on one side of a limit."""
    return AlertCase(alert, {series: always(over)}, {series: always(under)}, at)


_OF_SENDER = '%s{job="mes",sender="shop"}'
_AT_DOOR = (
    'envoy_http_downstream_rq_xx{envoy_http_conn_manager_prefix="staff",envoy_response_code_class="%s"}'
)
_SHED = 'app_requests_shed_total{job="mes",priority="%s"}'

_REQUESTS = 'http_server_request_duration_seconds_count{job="mes",http_response_status_code="%s"}'


def _requests(ok: float, failed: float, count: int) -> Series:
    return {_REQUESTS % "200": f"0+{ok}x{count}", _REQUESTS % "503": f"0+{failed}x{count}"}


def _prices(in_time: float, every: float, count: int) -> Series:
    name = "app_order_stage_duration_seconds"
    stage = 'job="mes",from="SUBMITTED",to="PRICE_CALCULATED"'
    return {
        f'{name}_bucket{{{stage},le="300.0"}}': f"0+{in_time}x{count}",
        f"{name}_count{{{stage}}}": f"0+{every}x{count}",
    }


def _slow(metric: str, labels: str, slow: float, fast: float, each: float = 20) -> Series:
    """Return a histogram of which `slow` of `slow + fast` events a minute come after 60 s."""
    return {
        f'{metric}_bucket{{{labels},le="0.5"}}': f"0+{fast}x90",
        f'{metric}_bucket{{{labels},le="60.0"}}': f"0+{slow + fast}x90",
        f'{metric}_bucket{{{labels},le="+Inf"}}': f"0+{slow + fast}x90",
        f"{metric}_count{{{labels}}}": f"0+{slow + fast}x90",
    }


def _weeks(usual: float, then: float, step_minutes: int = 10) -> str:
    """Return a counter that grows by `usual` an hour for 4 weeks, and by `then` an hour on the last day."""
    steps, later = (4 * WEEK + 600) // step_minutes, 24 * 60 // step_minutes
    before, after = usual * step_minutes / 60, then * step_minutes / 60
    return f"0+{before}x{steps} {before * steps}+{after}x{later}"


_STAGE = '{job="mes",from="PACKAGING",to="SHIPPED"}'
_STUCK = '{job="exporter",database="mes_0",status="SUBMITTED"}'
_LATE = "4w16h"
"""Of the cases with weeks: six hours after the change."""


def _stages(seconds: float, steps: float = 30) -> Series:
    """Return stages that took 100 s each for 4 weeks, and another time on the last day; `steps` an hour."""
    name = "app_order_stage_duration_seconds"
    return {
        f"{name}_sum{_STAGE}": _weeks(steps * 100, steps * seconds),
        f"{name}_count{_STAGE}": _weeks(steps, steps),
    }


CASES = (
    AlertCase(
        "ProcessDown",
        {'up{job="mes",instance="127.0.0.1:1"}': "1+0x5 0+0x30"},
        {'up{job="mes",instance="127.0.0.1:1"}': "1+0x28 0 1+0x30"},
    ),
    AlertCase("ExporterSilent", {}, {"mes_storage_up" + PRIMARY: always(1)}, at="5m"),
    AlertCase(
        "DatabaseNotRead",
        {'mes_storage_exporter_last_success_timestamp_seconds{database="shop"}': always(0)},
        {'mes_storage_exporter_last_success_timestamp_seconds{database="shop"}': "0+60x90"},
    ),
    # One that was never read in full.
    AlertCase(
        "DatabaseNotRead",
        {'mes_storage_exporter_errors_total{database="shop"}': "0+4x90"},
        {'mes_storage_exporter_errors_total{database="shop"}': always(2)},
    ),
    AlertCase(
        "PrimaryDown",
        {'mes_storage_up{database="mes_0",node="primary",role="primary"}': "1+0x5 0+0x30"},
        {'mes_storage_up{database="mes_0",node="mes_0_replica",role="replica"}': always(0)},
    ),
    AlertCase(
        "ReplicaDown",
        {'mes_storage_up{database="mes_0",node="mes_0_replica",role="replica"}': "1+0x5 0+0x30"},
        {'mes_storage_up{database="mes_0",node="primary",role="primary"}': always(0)},
    ),
    _level("ReplicaLags", "mes_storage_replica_lag_seconds" + REPLICA, 40, 20),
    AlertCase(
        "PrimaryChanged",
        {'readreplica_failovers_total{job="mes",cluster="mes_0",node="b"}': "0+0x25 1+0x60"},
        {'readreplica_failovers_total{job="mes",cluster="mes_0",node="b"}': "0+0x5 1+0x60"},
    ),
    # The first one of a process.
    AlertCase(
        "PrimaryChanged",
        {'readreplica_failovers_total{job="mes",instance="a",cluster="mes_0",node="b"}': "_x25 1+0x60"}
        | WATCHED,
        {'readreplica_failovers_total{job="mes",instance="a",cluster="mes_0",node="b"}': "_x5 1+0x60"}
        | WATCHED,
    ),
    # After a failover the old primary is away.
    AlertCase(
        "PrimaryDown",
        {
            'mes_storage_up{database="mes_0",node="primary",role="primary"}': always(0),
            'mes_storage_up{database="mes_1",node="primary",role="primary"}': always(1),
        },
        {
            'mes_storage_up{database="mes_0",node="primary",role="primary"}': always(0),
            'mes_storage_up{database="mes_0",node="b",role="primary"}': always(1),
        },
    ),
    _level("SlotHoldsWal", 'mes_storage_slot_wal_bytes{database="mes_0",slot="s"}', 2e10, 5e9),
    _level("TransactionOld", "mes_storage_transaction_age_seconds" + PRIMARY, 1000, 800),
    _level("LocksWaited", "mes_storage_locks_waiting" + PRIMARY, 11, 10),
    AlertCase(
        "ConnectionsUsedUp",
        {
            "mes_storage_connections" + PRIMARY: always(95),
            "mes_storage_connections_max" + PRIMARY: always(100),
        },
        {
            "mes_storage_connections" + PRIMARY: always(85),
            "mes_storage_connections_max" + PRIMARY: always(100),
        },
    ),
    AlertCase(
        "DiskNearlyFull",
        {"mes_storage_disk_free_bytes" + PRIMARY: always(9), "mes_storage_disk_bytes" + PRIMARY: always(100)},
        {
            "mes_storage_disk_free_bytes" + PRIMARY: always(11),
            "mes_storage_disk_bytes" + PRIMARY: always(100),
        },
    ),
    AlertCase(
        "DiskFillsUp",
        {
            "mes_storage_disk_free_bytes" + PRIMARY: "50000-40x500",
            "mes_storage_disk_bytes" + PRIMARY: always(100000, 500),
        },
        # As full, and it stays so.
        {
            "mes_storage_disk_free_bytes" + PRIMARY: "35000-1x500",
            "mes_storage_disk_bytes" + PRIMARY: always(100000, 500),
        },
        at="7h",
        every="5m",
    ),
    _level("TransactionIdsOld", 'mes_storage_xid_age{database="mes_0"}', 6e8, 4e8),
    AlertCase(
        "VacuumBehind",
        {
            "mes_storage_dead_rows" + TABLE: always(400_000),
            "mes_storage_live_rows" + TABLE: always(1_000_000),
        },
        {
            "mes_storage_dead_rows" + TABLE: always(200_000),
            "mes_storage_live_rows" + TABLE: always(1_000_000),
        },
        at="70m",
    ),
    _level("UnitInDoubt", 'mes_storage_in_doubt_oldest_seconds{database="mes_0"}', 400, 200),
    _level("PartitionMissing", "mes_storage_partitions_months_ahead" + TABLE, -1, 0),
    _level("MonthsAheadFew", "mes_storage_partitions_months_ahead" + TABLE, 1, 2, "70m"),
    _level("DetachPending", "mes_storage_partitions_pending_detaches" + TABLE, 1, 0, "70m"),
    _level("ArchiveBehind", "mes_storage_archive_waiting_rows" + TABLE, 200_000, 50_000, "70m"),
    AlertCase(
        "ShardSkewed",
        {
            'mes_storage_shard_rows{tree="mes",shard="mes_0"}': always(9e6),
            'mes_storage_shard_rows{tree="mes",shard="mes_1"}': always(1e6),
            'mes_storage_shard_rows{tree="mes",shard="mes_2"}': always(1e6),
        },
        # Of few rows no share is even.
        {
            'mes_storage_shard_rows{tree="mes",shard="mes_0"}': always(9e3),
            'mes_storage_shard_rows{tree="mes",shard="mes_1"}': always(1e3),
            'mes_storage_shard_rows{tree="mes",shard="mes_2"}': always(1e3),
        },
        at="70m",
    ),
    AlertCase(
        "ShardMapDiffers",
        {
            'mes_storage_shard_map_version{job="mes"}': always(4),
            'mes_storage_shard_map_version{job="pricing"}': always(5),
        },
        {
            'mes_storage_shard_map_version{job="mes"}': "4+0x28 5+0x60",
            'mes_storage_shard_map_version{job="pricing"}': "4+0x26 5+0x60",
        },
    ),
    AlertCase(
        "IdSpaceNearlyFull",
        {
            'mes_storage_id_leases{id_space="orders"}': always(900),
            'mes_storage_id_leases_max{id_space="orders"}': always(1024),
        },
        {
            'mes_storage_id_leases{id_space="orders"}': always(700),
            'mes_storage_id_leases_max{id_space="orders"}': always(1024),
        },
    ),
    _level("OrdersStuck", "app_orders_oldest_seconds" + _STUCK, 4000, 3000),
    AlertCase(
        "OrdersFewer",
        {'app_order_created_total{job="shop",channel="B2C"}': _weeks(60, 12)},
        {'app_order_created_total{job="shop",channel="B2C"}': _weeks(60, 48)},
        at=_LATE,
        step="10m",
        every="1h",
    ),
    # A night: none came, where a few an hour are usual.
    AlertCase(
        "OrdersFewer",
        {'app_order_created_total{job="shop",channel="B2C"}': _weeks(30, 0)},
        {'app_order_created_total{job="shop",channel="B2C"}': _weeks(6, 0)},
        at=_LATE,
        step="10m",
        every="1h",
    ),
    AlertCase("ProcessingSlower", _stages(300), _stages(150), at=_LATE, step="10m", every="1h"),
    AlertCase("ProcessingSlower", _stages(300), _stages(300, steps=6), at=_LATE, step="10m", every="1h"),
    _level("PricingWaits", 'app_pricing_jobs_oldest_seconds{database="mes_0",state="waiting"}', 130, 110),
    AlertCase(
        "PricingWorkersMissing",
        {
            'app_pricing_workers{job="pricing",instance="a",state="running"}': always(1),
            'app_pricing_workers{job="pricing",instance="a",state="wanted"}': always(2),
        },
        # One that was killed is replaced within seconds.
        {
            'app_pricing_workers{job="pricing",instance="a",state="running"}': "2+0x26 1+0x2 2+0x60",
            'app_pricing_workers{job="pricing",instance="a",state="wanted"}': always(2),
        },
    ),
    _level("PricingUnfair", 'app_pricing_passed_over_seconds{database="mes_0"}', 310, 290),
    # Each of its attempts fails: no one prices it, though it is seldom due.
    _level("PricingWaits", 'app_pricing_jobs_oldest_seconds{database="mes_0",state="resting"}', 130, 110),
    AlertCase(
        "PricingIdle",
        {'app_pricing_jobs{database="mes_0",state="waiting"}': always(3)},
        {
            'app_pricing_jobs{database="mes_0",state="waiting"}': always(3),
            'app_pricing_jobs{database="mes_1",state="held"}': always(1),
        },
    ),
    # One job that fails at once, and is put off each time.
    AlertCase(
        "PricingIdle",
        {'app_pricing_jobs{database="mes_0",state="waiting"}': always(1)},
        {
            'app_pricing_jobs{database="mes_0",state="waiting"}': always(0),
            'app_pricing_jobs{database="mes_0",state="held"}': always(0),
            'app_pricing_jobs{database="mes_0",state="resting"}': always(1),
        },
    ),
    AlertCase(
        "PricingFails",
        {
            'app_pricing_duration_seconds_count{outcome="failed",reused="false"}': "0+1x90",
            'app_pricing_duration_seconds_count{outcome="priced",reused="false"}': "0+5x90",
        },
        {
            'app_pricing_duration_seconds_count{outcome="failed",reused="false"}': "0+1x90",
            'app_pricing_duration_seconds_count{outcome="priced",reused="false"}': "0+20x90",
        },
        at="45m",
    ),
    _level("OutboxWaits", "app_outbox_oldest_seconds" + TO_CRM, 70, 50),
    _level("OutboxDeep", "app_outbox_messages" + TO_CRM, 20_000, 9_000),
    _level("DeadLetters", "app_dead_letters" + TO_CRM, 1, 0),
    AlertCase(
        "MessagesSlow",
        _slow("app_message_acknowledged_duration_seconds", 'destination="crm"', 5, 5),
        _slow("app_message_acknowledged_duration_seconds", 'destination="crm"', 0, 10),
    ),
    AlertCase(
        "EntriesRefused",
        {'app_entries_refused_total{job="mes",reason="forged"}': "0+0x25 1+0x60"},
        {'app_entries_refused_total{job="mes",reason="forged"}': "1+0x90"},
    ),
    AlertCase(
        "EntriesRefused",
        {'app_entries_refused_total{job="mes",instance="a",reason="forged"}': "_x25 1+0x60"} | WATCHED,
        {'app_entries_refused_total{job="mes",instance="a",reason="forged"}': "_x5 1+0x60"} | WATCHED,
    ),
    AlertCase(
        "ErrorsRise",
        {'app_errors_total{job="mes",event="interrupted"}': "0+0x20 0+3x60"},
        {'app_errors_total{job="mes",event="interrupted"}': "0+0x20 0+0.5x60"},
        at="40m",
    ),
    # As many errors as every week are no news.
    AlertCase(
        "ErrorsRise",
        {'app_errors_total{job="mes",event="interrupted"}': _weeks(120, 600, 5)},
        {'app_errors_total{job="mes",event="interrupted"}': _weeks(120, 240, 5)},
        at=_LATE,
        step="5m",
        every="1h",
    ),
    AlertCase(
        "RequestsSlow",
        _slow("http_server_request_duration_seconds", 'job="mes"', 10, 10),
        _slow("http_server_request_duration_seconds", 'job="mes"', 0, 20),
    ),
    _level("EventLoopBlocked", 'app_event_loop_lag_seconds{job="mes",instance="a"}', 0.6, 0.3),
    AlertCase(
        "BoardSlow",
        _slow("app_board_shown_duration_seconds", 'job="board"', 2, 18),
        _slow("app_board_shown_duration_seconds", 'job="board"', 0, 20),
    ),
    AlertCase(
        "PoolWaitsLong",
        _slow("app_pool_wait_duration_seconds", 'job="mes",database="mes_0"', 10, 10),
        # As slow, and there is too little of it.
        _slow("app_pool_wait_duration_seconds", 'job="mes",database="mes_0"', 1, 1),
    ),
    AlertCase(
        "TelemetryDropped",
        {'app_telemetry_dropped_total{job="mes",signal="spans"}': "0+5x90"},
        {'app_telemetry_dropped_total{job="mes",signal="spans"}': always(5)},
    ),
    AlertCase(
        "GrantAtFloor",
        {_OF_SENDER % "app_flow_granted": always(2), _OF_SENDER % "app_flow_paused": always(0)},
        {_OF_SENDER % "app_flow_granted": always(0), _OF_SENDER % "app_flow_paused": always(1)},
    ),
    # It was at the floor, and not for long.
    AlertCase(
        "GrantAtFloor",
        {_OF_SENDER % "app_flow_granted": always(2)},
        {_OF_SENDER % "app_flow_granted": f"{always(1000, 17)} {always(2, 90)}"},
    ),
    AlertCase(
        "FlowPaused",
        {_OF_SENDER % "app_flow_paused": always(1)},
        {_OF_SENDER % "app_flow_paused": f"{always(0, 20)} {always(1, 90)}"},
        at="40m",
    ),
    _level("AuditUnsealed", 'app_audit_unsealed_age_seconds{job="mes",database="mes_0"}', 1000, 800),
    AlertCase(
        "IntakeFull",
        {'app_intake_refused_total{job="mes"}': "0+5x90"},
        {'app_intake_refused_total{job="mes"}': always(5)},
    ),
    AlertCase(
        "GrantIgnored",
        {_OF_SENDER % "app_flow_ignored_total": "0+5x90"},
        {_OF_SENDER % "app_flow_ignored_total": always(5)},
    ),
    AlertCase("CreationShed", {_SHED % "creation": "0+5x90"}, {_SHED % "history": "0+5x90"}),
    AlertCase(
        "LimitsUnknown",
        {'app_limits_unknown_total{job="mes"}': "0+2x90"},
        {'app_limits_unknown_total{job="mes"}': "0 1+0x90"},
    ),
    AlertCase(
        "IdentitiesUnknown",
        {'app_identities_unknown_total{job="mes"}': "0+1x90"},
        {'app_identities_unknown_total{job="mes"}': always(3)},
    ),
    AlertCase(
        "WebhooksDead",
        {'app_webhooks_dead_total{job="mes"}': "0+1x90"},
        {'app_webhooks_dead_total{job="mes"}': always(3)},
    ),
    AlertCase(
        "WebhookDisabled",
        {'app_webhooks_disabled_total{job="mes"}': "0+1x90"},
        {'app_webhooks_disabled_total{job="mes"}': always(3)},
    ),
    AlertCase(
        "CallerLimited",
        {'app_requests_limited_total{job="mes",role="partner",limit="requests"}': "0+120x90"},
        {'app_requests_limited_total{job="mes",role="customer",limit="requests"}': "0+120x90"},
    ),
    AlertCase(
        "DoorFails",
        {_AT_DOOR % "5": "0+6x90", _AT_DOOR % "2": "0+60x90"},
        {_AT_DOOR % "5": "0+1x90", _AT_DOOR % "2": "0+60x90"},
    ),
    AlertCase(
        "GatewayRefusesFiles",
        {
            "envoy_listener_manager_lds_update_rejected": "0x20 1x70",
            "envoy_cluster_manager_cds_update_rejected": always(0),
        },
        {
            "envoy_listener_manager_lds_update_rejected": always(1),
            "envoy_cluster_manager_cds_update_rejected": always(2),
        },
        at="25m",
    ),
    _level("CertificateEndsSoon", "envoy_server_days_until_first_cert_expiring", 20, 364, "90m"),
    _level("ServiceUnreachable", 'envoy_cluster_membership_healthy{envoy_cluster_name="mes"}', 0, 1),
    AlertCase("RequestsShed", {_SHED % "history": "0+120x90"}, {_SHED % "history": "0+30x90"}),
    _level("LimitLow", 'app_requests_limit{job="mes",instance="a"}', 8, 9),
    # 1.44 % of all requests must fail, both over an hour and now.
    AlertCase("ApiErrorsBurnFast", _requests(98, 2, 90), _requests(99, 1, 90), at="70m"),
    # It is over: an hour is bad, the last 5 minutes are not.
    AlertCase(
        "ApiErrorsBurnFast",
        _requests(90, 10, 90),
        {
            _REQUESTS % "200": "0+90x90",
            _REQUESTS % "503": "0+10x50 500+0x40",
        },
        at="65m",
    ),
    # A night with three requests.
    AlertCase("ApiErrorsBurnFast", _requests(0, 10, 90), _requests(0.5, 0.5, 90), at="70m"),
    AlertCase("ApiErrorsBurnSteady", _requests(99, 1, 500), _requests(199, 1, 500), at="7h", every="5m"),
    AlertCase(
        "ApiErrorsBurnSlow",
        _requests(598, 2, 500),
        _requests(1999, 1, 500),
        at="74h",
        step="10m",
        every="30m",
    ),
    AlertCase("PriceTimeBurnFast", _prices(8, 10, 90), _prices(9, 10, 90), at="70m"),
    AlertCase("PriceTimeBurnSteady", _prices(9, 10, 500), _prices(19, 20, 500), at="7h", every="5m"),
    AlertCase(
        "PriceTimeBurnSlow", _prices(48, 50, 500), _prices(199, 200, 500), at="74h", step="10m", every="30m"
    ),
    AlertCase(
        "OrderProgressBurnFast",
        {"app_orders_oldest_seconds" + _STUCK: always(9999)},
        {"app_orders_oldest_seconds" + _STUCK: f"{always(9999, 10)} {always(5, 90)}"},
        at="70m",
    ),
    AlertCase(
        "OrderProgressBurnSteady",
        {"app_orders_oldest_seconds" + _STUCK: f"{always(5, 320)} {always(9999, 180)}"},
        {"app_orders_oldest_seconds" + _STUCK: f"{always(5, 400)} {always(9999, 100)}"},
        at="7h",
        every="5m",
    ),
    AlertCase(
        "OrderProgressBurnSlow",
        {"app_orders_oldest_seconds" + _STUCK: f"{always(5, 420)} {always(9999, 100)}"},
        {"app_orders_oldest_seconds" + _STUCK: f"{always(5, 441)} {always(9999, 100)}"},
        at="74h",
        step="10m",
        every="30m",
    ),
    AlertCase(
        "ListFreshnessBurnFast",
        {"mes_storage_replica_lag_seconds" + REPLICA: always(20)},
        {"mes_storage_replica_lag_seconds" + REPLICA: always(9)},
        at="70m",
    ),
    # As late, and Prometheus has just begun.
    AlertCase(
        "ListFreshnessBurnSteady",
        {"mes_storage_replica_lag_seconds" + REPLICA: f"{always(1, 20)} {always(20, 60)}"},
        {"mes_storage_replica_lag_seconds" + REPLICA: f"_x40 {always(20, 60)}"},
        at="70m",
    ),
    AlertCase(
        "ListFreshnessBurnSteady",
        {"mes_storage_replica_lag_seconds" + REPLICA: f"{always(1, 380)} {always(20, 120)}"},
        {"mes_storage_replica_lag_seconds" + REPLICA: f"{always(1, 410)} {always(20, 10)}"},
        at="7h",
        every="5m",
    ),
    AlertCase(
        "ListFreshnessBurnSlow",
        {"mes_storage_replica_lag_seconds" + REPLICA: f"{always(1, 420)} {always(20, 100)}"},
        {"mes_storage_replica_lag_seconds" + REPLICA: f"{always(1, 443)} {always(20, 100)}"},
        at="74h",
        step="10m",
        every="30m",
    ),
)

REQUIRED = tuple(dict.fromkeys(case.alert for case in CASES))
"""The alerts that must exist. The watchdog has a test of its own, for it is never quiet."""


def rules_of(alert: str) -> Rules:
    """Return the rules of an alert and those that record what it reads: weeks of all would take minutes."""
    alerts = tuple(each for each in RULES.every_alert() if each.name == alert)
    needed, queries = set[str](), {each.expr for each in alerts}
    while queries:
        needed |= {name for query in queries for name in metrics_of(query)}
        queries = {each.expr for each in RULES.every_recording() if each.record in needed} - queries
        if all(metrics_of(query) <= needed for query in queries):
            break
    recording = tuple(each for each in RULES.every_recording() if each.record in needed)
    return Rules(recording=recording, alerts=alerts)


def write_tests(
    folder: Path, name: str, rules: Rules, tests: Iterable[Mapping[str, Any]], *, every: str
) -> Path:
    """Write a file for promtool, with rules of its own; `every` is the interval of evaluation."""
    (folder / f"{name}-rules.yml").write_text(rules_text(rules))
    content = {"rule_files": [f"{name}-rules.yml"], "evaluation_interval": every, "tests": list(tests)}
    file = folder / f"{name}.yml"
    file.write_text(yaml.safe_dump(content))
    return file


def run_promtool(promtool: Path, *files: Path) -> str:
    """Return what promtool found wrong, nothing if all is as expected."""
    # A fifth of its CPU goes into looking for garbage, at 150 MB.
    environment = {**os.environ, "GOGC": "200"}
    done = run(
        [promtool, "test", "rules", *files], env=environment, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}"


def write_cases(folder: Path) -> list[Path]:
    """Write every case, on which its alert fires, and on which it stays quiet; return the files."""
    return [
        write_tests(
            folder,
            f"{number}-{case.alert}",
            rules_of(case.alert),
            [test_of(case, fires=True), test_of(case, fires=False)],
            every=case.every or case.step,
        )
        for number, case in enumerate(CASES)
    ]


def test_of(case: AlertCase, *, fires: bool) -> dict[str, Any]:
    """Write a case in promtool's words: how many alerts of this name fire."""
    series = case.fires if fires else case.quiet
    return {
        "name": f"{case.alert} {'fires' if fires else 'stays quiet'}",
        "interval": case.step,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [firing(case.alert, case.at, expected=1 if fires else 0)],
    }


def firing(alert: str, at: str, *, expected: int) -> dict[str, Any]:
    """Write that this many alerts of a name fire at a moment."""
    return {
        "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
        "eval_time": at,
        "exp_samples": [{"labels": "{}", "value": expected}] if expected else [],
    }


def _steady(each_minute: float) -> str:
    return f"0+{each_minute}x60"


_LABELS = {
    **{"database": "mes_0", "node": "primary", "role": "primary", "slot": "s", "table": "orders"},
    **{"partition": "orders_2026_12", "tree": "mes", "shard": "mes_0", "id_space": "orders"},
    **{"queryid": "1", "outcome": "done", "cluster": "mes_0", "reason": "fresh", "verdict": "behind"},
    **{"fault": "lag", "http_route": "/orders", "http_request_method": "GET", "door": "none"},
    **{"http_response_status_code": "200", "channel": "B2C", "from": "SUBMITTED"},
    **{"to": "PRICE_CALCULATED", "reused": "false", "destination": "crm", "source": "shop"},
    **{"type": "order_submitted", "event": "interrupted", "signal": "spans", "state": "held"},
    **{"status": "SUBMITTED", "kind": "message", "sender": "shop", "priority": "history"},
    **{"role": "partner", "limit": "requests", "envoy_http_conn_manager_prefix": "staff"},
    **{"envoy_response_code_class": "2", "envoy_cluster_name": "mes"},
}

HEALTHY: Series = {
    **dict.fromkeys(("mes_storage_up", "app_dead_letters_oldest_seconds"), always(1)),
    "mes_storage_exporter_last_success_timestamp_seconds": _steady(60),
    "mes_storage_exporter_errors_total": always(2),
    "mes_storage_transaction_age_seconds": "0 3 1 0 2 0+0x60",
    "mes_storage_transactions_total": _steady(9000),
    "mes_storage_locks_waiting": "0 1 0 2 0 0+0x60",
    "mes_storage_connections": always(40),
    "mes_storage_connections_max": always(100),
    "mes_storage_slot_wal_bytes": always(2e7),
    "mes_storage_replica_lag_seconds": "0 1 0 2 0 1+0x60",
    "mes_storage_replica_lag_bytes": always(20_000),
    "mes_storage_database_bytes": "5000000000+100000x60",
    "mes_storage_disk_free_bytes": "60000000000-100000x60",
    "mes_storage_disk_bytes": always(100_000_000_000),
    "mes_storage_rows": always(5_000_000),
    "mes_storage_dead_rows": always(90_000),
    "mes_storage_live_rows": always(400_000),
    "mes_storage_autovacuum_age_seconds": _steady(60),
    "mes_storage_xid_age": always(150_000_000),
    "mes_storage_partition_rows": always(200_000),
    "mes_storage_partition_bytes": always(90_000_000),
    "mes_storage_partitions_months_ahead": always(3),
    "mes_storage_partitions_pending_detaches": always(0),
    "mes_storage_shard_rows": always(5_000_000),
    "mes_storage_shard_bytes": always(5_000_000_000),
    "mes_storage_in_doubt_units": "0 1 0 0+0x60",
    "mes_storage_in_doubt_oldest_seconds": "0 1 0 0+0x60",
    "mes_storage_id_leases": always(12),
    "mes_storage_id_leases_max": always(1024),
    "mes_storage_statement_seconds_total": _steady(12),
    "mes_storage_archive_waiting_rows": "0+500x30 0+0x30",
    "mes_storage_shard_units_total": _steady(600),
    "mes_storage_shard_statements_total": _steady(2400),
    "mes_storage_shard_duration_seconds": _steady(600),
    "mes_storage_shard_map_version": always(7),
    "readreplica_reads_total": _steady(900),
    "readreplica_replay_wait_seconds": _steady(30),
    "readreplica_token_age_seconds": _steady(300),
    "readreplica_token_verdicts_total": _steady(3),
    "readreplica_ejections_total": always(1),
    "readreplica_failovers_total": always(1),
    "readreplica_lag_seconds": always(1),
    "readreplica_lag_bytes": always(20_000),
    "http_server_request_duration_seconds": _steady(900),
    "app_order_created_total": _steady(2),
    "app_order_transitions_total": _steady(12),
    "app_order_stage_duration_seconds": _steady(2),
    "app_pricing_duration_seconds": _steady(2),
    "app_pricing_running": always(1),
    "app_pricing_workers": always(1),
    "app_messages_sent_total": _steady(12),
    "app_messages_handled_total": _steady(12),
    "app_message_acknowledged_duration_seconds": _steady(12),
    "app_errors_total": "0+0x20 1+0x20 2+0x20",
    "app_telemetry_dropped_total": always(0),
    "app_board_streams": "0 20 40 38+0x60",
    "app_board_shown_duration_seconds": _steady(12),
    "app_event_loop_lag_seconds": "0 0.02 0.6 0.01 0+0x60",
    "app_requests_in_progress": always(3),
    "app_pool_wait_duration_seconds": _steady(900),
    "app_pool_connections": always(5),
    "app_inbox_pruned_total": _steady(12),
    "app_flow_granted": "1000+0x20 40 60 90+0x40",
    "app_flow_paused": always(0),
    "app_flow_pressure": "0.2 0.4 1.1 0.6+0x60",
    "app_flow_ignored_total": always(0),
    "app_audit_unsealed_age_seconds": "0 2 1 0 3 0+0x60",
    "app_intake_waiting": "0 3 1 0 2 0+0x60",
    "app_intake_refused_total": always(0),
    "app_requests_shed_total": always(4),
    "app_requests_limit": "24+0x20 30 18 24+0x40",
    "app_requests_limited_total": always(3),
    "app_limits_unknown_total": always(1),
    "app_webhooks_sent_total": always(40),
    "app_webhooks_dead_total": always(0),
    "app_webhooks_disabled_total": always(0),
    "app_identities_unknown_total": always(0),
    "app_inbox_kept": always(500),
    "app_entries_refused_total": always(0),
    "app_orders": always(900),
    "app_orders_oldest_seconds": "30 60 90 10 20 40+0x60",
    "app_outbox_messages": "0 3 1 0 2 0+0x60",
    "app_outbox_oldest_seconds": "0 2 1 0 1 0+0x60",
    "app_dead_letters": always(0),
    "app_pricing_jobs": always(1),
    "app_pricing_jobs_oldest_seconds": "3 9 20 5 1+0x60",
    "app_pricing_busy_seconds_total": _steady(20),
    "app_pricing_senders": always(1),
    "app_pricing_largest_sender_jobs": always(1),
    "app_pricing_passed_over_seconds": always(0),
    "app_customers": always(20_000),
    "envoy_http_downstream_rq_xx": _steady(600),
    "envoy_http_downstream_rq_time": _steady(600),
    "envoy_listener_manager_lds_update_rejected": always(0),
    "envoy_cluster_manager_cds_update_rejected": always(0),
    "envoy_server_days_until_first_cert_expiring": always(364),
    "envoy_cluster_membership_healthy": always(1),
}
"""Every metric that is known, as it is in an hour of healthy load; of a histogram, what comes a minute."""


def healthy_series() -> Series:
    """Return all series of a healthy hour, one value a minute, with the labels that each metric has."""
    found = {f'up{{job="{job}",instance="a"}}': always(1) for job in ("shop", "mes", "pricing", "exporter")}
    for name, values in HEALTHY.items():
        metric = RULES.metrics[name]
        own = (f'{label}="{_LABELS[label]}"' for label in metric.labels)
        labels = ",".join(('job="mes"', 'instance="a"', *own))
        if metric.kind != "histogram":
            found[f"{name}{{{labels}}}"] = values
            continue
        for bound in ("0.5", "300.0", "+Inf"):
            found[f'{name}_bucket{{{labels},le="{bound}"}}'] = values
        found |= {f"{name}_{part}{{{labels}}}": values for part in ("sum", "count")}
    return found
