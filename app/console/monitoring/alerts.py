"""What the order system has to be watched: orders, prices, messages, errors of services."""

from app.console.audit.rules import STUCK_AFTER
from ops.monitoring.model import WINDOW, Alert, Inhibition, Metric, RecordingRule, Rules, Slo
from ops.monitoring.platform import LEAST_SAMPLES

_OF_DATABASE = ("database",)
_OF_MESSAGES = ("database", "destination")
_OF_REQUEST = ("http_route", "http_request_method", "http_response_status_code", "door")

METRICS = {
    # Of each process.
    "http_server_request_duration_seconds": Metric("histogram", _OF_REQUEST),
    "app_order_created_total": Metric("counter", ("channel",)),
    "app_order_transitions_total": Metric("counter", ("from", "to", "channel")),
    "app_order_stage_duration_seconds": Metric("histogram", ("from", "to")),
    "app_pricing_duration_seconds": Metric("histogram", ("outcome", "reused")),
    "app_pricing_running": Metric("gauge"),
    "app_pricing_workers": Metric("gauge", ("state",)),
    "app_messages_sent_total": Metric("counter", ("destination",)),
    "app_messages_handled_total": Metric("counter", ("source", "type", "outcome")),
    "app_message_acknowledged_duration_seconds": Metric("histogram", ("destination",)),
    "app_errors_total": Metric("counter", ("event",)),
    "app_telemetry_dropped_total": Metric("counter", ("signal",)),
    "app_board_streams": Metric("gauge"),
    "app_board_shown_duration_seconds": Metric("histogram"),
    "app_event_loop_lag_seconds": Metric("gauge"),
    "app_requests_in_progress": Metric("gauge"),
    "app_pool_wait_duration_seconds": Metric("histogram", _OF_DATABASE),
    "app_pool_connections": Metric("gauge", ("database", "state")),
    "app_inbox_pruned_total": Metric("counter", _OF_DATABASE),
    "app_inbox_kept": Metric("gauge", _OF_DATABASE),
    "app_entries_refused_total": Metric("counter", ("reason", "kind")),
    "app_flow_granted": Metric("gauge", ("sender",)),
    "app_flow_paused": Metric("gauge", ("sender",)),
    "app_flow_pressure": Metric("gauge", ("signal",)),
    "app_flow_ignored_total": Metric("counter", ("sender",)),
    "app_audit_unsealed_age_seconds": Metric("gauge", _OF_DATABASE),
    "app_intake_waiting": Metric("gauge", _OF_DATABASE),
    "app_intake_refused_total": Metric("counter"),
    "app_requests_shed_total": Metric("counter", ("priority",)),
    "app_requests_limit": Metric("gauge"),
    "app_requests_limited_total": Metric("counter", ("role", "limit")),
    "app_limits_unknown_total": Metric("counter"),
    "app_webhooks_sent_total": Metric("counter", ("outcome",)),
    "app_webhooks_dead_total": Metric("counter"),
    "app_webhooks_disabled_total": Metric("counter"),
    "app_identities_unknown_total": Metric("counter"),
    # Of the exporter.
    "app_orders": Metric(
        "gauge",
        ("database", "status"),
        "Orders by status. Open ones are counted. Ended ones are counted while their table is at most 8 MiB,"
        " and PostgreSQL's estimate from there on: rows by pg_class, shares by pg_stats.",
    ),
    "app_orders_oldest_seconds": Metric("gauge", ("database", "status")),
    "app_outbox_messages": Metric("gauge", _OF_MESSAGES),
    "app_outbox_oldest_seconds": Metric("gauge", _OF_MESSAGES),
    "app_dead_letters": Metric("gauge", _OF_MESSAGES),
    "app_dead_letters_oldest_seconds": Metric("gauge", _OF_MESSAGES),
    "app_pricing_jobs": Metric("gauge", ("database", "state")),
    "app_pricing_jobs_oldest_seconds": Metric("gauge", ("database", "state")),
    "app_pricing_senders": Metric("gauge", _OF_DATABASE),
    "app_pricing_largest_sender_jobs": Metric("gauge", _OF_DATABASE),
    "app_pricing_passed_over_seconds": Metric("gauge", _OF_DATABASE),
    "app_pricing_busy_seconds_total": Metric("counter", _OF_DATABASE),
    "app_customers": Metric("gauge", _OF_DATABASE),
}

PRICE_SECONDS = 300
"""A price is in time within this; it is a bound of the histogram of stages."""

WEEKS = (1, 2, 3, 4)
"""What is usual is the median of the same hour in the weeks before: nights and weekends are compared
with themselves, and one holiday among four weeks changes nothing."""

LEAST_ORDERS = 20
"""Fewer orders than this are usual in an hour of the night, and say nothing."""

LEAST_STEPS = 20
LEAST_ERRORS = 10


def _usual(record: str, by: str) -> str:
    """Return the query of the median of a recorded value at this time of earlier weeks."""
    weeks = (f'label_replace({record} offset {week}w, "week", "{week}", "", "")' for week in WEEKS)
    return f"quantile by ({by}) (0.5, {' or '.join(weeks)})"


RECORDING = (
    RecordingRule(
        "app:orders_created:increase1h", "sum by (channel) (increase(app_order_created_total[1h]))"
    ),
    RecordingRule("app:orders_created:usual1h", _usual("app:orders_created:increase1h", "channel")),
    RecordingRule(
        "app:stage_steps:increase1h",
        "sum by (from, to) (increase(app_order_stage_duration_seconds_count[1h]))",
    ),
    RecordingRule(
        "app:stage_seconds:mean1h",
        "sum by (from, to) (increase(app_order_stage_duration_seconds_sum[1h])) / app:stage_steps:increase1h",
    ),
    RecordingRule("app:stage_seconds:usual1h", _usual("app:stage_seconds:mean1h", "from, to")),
    RecordingRule("app:errors:increase10m", "sum by (job) (increase(app_errors_total[10m]))"),
    RecordingRule("app:errors:usual10m", _usual("app:errors:increase10m", "job")),
    *(
        RecordingRule(
            "app:order_limit:seconds", f"vector({limit.total_seconds():.0f})", {"status": status.value}
        )
        for status, limit in STUCK_AFTER.items()
    ),
    # Per database and status: 1 while its oldest order stands there no longer than it may.
    RecordingRule(
        "app:orders_progress:bool",
        "app_orders_oldest_seconds <= bool on (status) group_left () app:order_limit:seconds",
    ),
)

_ORDERS = (
    Alert(
        "OrdersStuck",
        "app_orders_oldest_seconds > on (status) group_left () app:order_limit:seconds",
        300,
        "ticket",
        "An order in {{ $labels.database }} is {{ $labels.status }} for {{ $value | humanizeDuration }}",
        "alerts-orders.md#ordersstuck",
        "mesctl problems",
    ),
    Alert(
        "OrdersFewer",
        f"app:orders_created:usual1h >= {LEAST_ORDERS} unless on (channel)"
        # The second bound is chance: three times the scatter of a count.
        " (app:orders_created:increase1h > app:orders_created:usual1h / 2"
        " or app:orders_created:increase1h"
        " > app:orders_created:usual1h - 3 * sqrt(app:orders_created:usual1h))",
        900,
        "page",
        "{{ $value | humanize }} {{ $labels.channel }} orders are usual in this hour; less than half came",
        "alerts-orders.md#ordersfewer",
        "mesctl problems",
    ),
    Alert(
        "ProcessingSlower",
        "app:stage_seconds:mean1h > 2 * app:stage_seconds:usual1h"
        f" and app:stage_steps:increase1h >= {LEAST_STEPS}",
        900,
        "ticket",
        "{{ $labels.from }} to {{ $labels.to }} takes {{ $value | humanizeDuration }}, over twice the usual",
        "alerts-orders.md#processingslower",
        "mesctl problems",
    ),
    Alert(
        "PricingWaits",
        'max by (database) (app_pricing_jobs_oldest_seconds{state=~"waiting|resting"}) > 120',
        60,
        "page",
        "An order of {{ $labels.database }} has waited for a price for {{ $value | humanizeDuration }}",
        "alerts-orders.md#pricingwaits",
        "mesctl problems",
    ),
    Alert(
        "PricingIdle",
        # Of those that are due: one that fails at once rests between two attempts, and workers are there.
        'sum(app_pricing_jobs{state="waiting"}) > 0'
        ' and (sum(app_pricing_jobs{state="held"}) or vector(0)) == 0',
        60,
        "page",
        "{{ $value }} orders could be priced, and no worker takes one",
        "alerts-orders.md#pricingidle",
        "mesctl up",
    ),
    Alert(
        "PricingWorkersMissing",
        'sum by (instance) (app_pricing_workers{state="running"})'
        ' < sum by (instance) (app_pricing_workers{state="wanted"})',
        300,
        "ticket",
        "{{ $value }} pricing workers run at {{ $labels.instance }}, fewer than should",
        "alerts-orders.md#pricingworkersmissing",
        "mesctl status",
    ),
    Alert(
        "PricingUnfair",
        "app_pricing_passed_over_seconds > 300",
        300,
        "ticket",
        "A sender's only order in {{ $labels.database }} is passed over for {{ $value | humanizeDuration }}",
        "alerts-orders.md#pricingunfair",
        "mesctl problems",
    ),
    Alert(
        "PricingFails",
        'sum(increase(app_pricing_duration_seconds_count{outcome="failed"}[30m])) > 5'
        ' and sum(increase(app_pricing_duration_seconds_count{outcome="failed"}[30m]))'
        " > 0.1 * sum(increase(app_pricing_duration_seconds_count[30m]))",
        120,
        "ticket",
        "{{ $value | humanize }} prices failed within 30 minutes",
        "alerts-orders.md#pricingfails",
        "mesctl problems",
    ),
)

_MESSAGES = (
    Alert(
        "OutboxWaits",
        "app_outbox_oldest_seconds > 60",
        60,
        "page",
        "{{ $labels.database }} owes {{ $labels.destination }} a message for {{ $value | humanizeDuration }}",
        "alerts-messages.md#outboxwaits",
        "mesctl problems",
    ),
    Alert(
        "OutboxDeep",
        "app_outbox_messages > 10000",
        300,
        "ticket",
        "{{ $value }} messages of {{ $labels.database }} wait for {{ $labels.destination }}",
        "alerts-messages.md#outboxdeep",
        "mesctl problems",
    ),
    Alert(
        "DeadLetters",
        "app_dead_letters > 0",
        60,
        "ticket",
        "{{ $labels.destination }} cannot handle {{ $value }} messages of {{ $labels.database }}",
        "alerts-messages.md#deadletters",
        "mesctl orders dead-letters list --source {{ $labels.database }}"
        " --destination {{ $labels.destination }}",
    ),
    Alert(
        "MessagesSlow",
        "histogram_quantile(0.95, sum by (destination, le)"
        " (rate(app_message_acknowledged_duration_seconds_bucket[10m]))) > 30"
        " and sum by (destination) (increase(app_message_acknowledged_duration_seconds_count[10m])) >= 20",
        300,
        "ticket",
        "{{ $labels.destination }} acknowledges a message after {{ $value | humanizeDuration }} (95 %)",
        "alerts-messages.md#messagesslow",
        "mesctl problems",
    ),
    Alert(
        "EntriesRefused",
        # The series begins with the first of them, at 1: that is no increase.
        "sum by (job, reason) (increase(app_entries_refused_total[10m])) > 0"
        " or sum by (job, reason)"
        " (app_entries_refused_total unless app_entries_refused_total offset 10m"
        " and on (job, instance) up offset 10m) > 0",
        0,
        "ticket",
        "{{ $labels.job }} refused entries of its stream: {{ $labels.reason }}",
        "alerts-messages.md#entriesrefused",
        "mesctl problems",
    ),
)

_SERVICES = (
    Alert(
        "ErrorsRise",
        f"app:errors:increase10m > {LEAST_ERRORS}"
        # In the first weeks nothing is usual.
        " and app:errors:increase10m > 3 * (app:errors:usual10m or 0 * app:errors:increase10m)",
        120,
        "page",
        "{{ $labels.job }} logged {{ $value | humanize }} errors within 10 minutes",
        "alerts-services.md#errorsrise",
        "mesctl problems",
    ),
    Alert(
        "RequestsSlow",
        "histogram_quantile(0.95, sum by (job, le)"
        " (rate(http_server_request_duration_seconds_bucket[10m]))) > 2"
        " and sum by (job) (increase(http_server_request_duration_seconds_count[10m])) >= 100",
        300,
        "ticket",
        "{{ $labels.job }} answers a request after {{ $value | humanizeDuration }} (95 %)",
        "alerts-services.md#requestsslow",
        "mesctl problems",
    ),
    Alert(
        "EventLoopBlocked",
        "app_event_loop_lag_seconds > 0.5",
        60,
        "ticket",
        "{{ $labels.job }} at {{ $labels.instance }} is {{ $value | humanizeDuration }} late with everything",
        "alerts-services.md#eventloopblocked",
        "mesctl status",
    ),
    Alert(
        "BoardSlow",
        "histogram_quantile(0.95, sum(rate(app_board_shown_duration_seconds_bucket[10m])) by (le)) > 5"
        " and sum(increase(app_board_shown_duration_seconds_count[10m])) >= 20",
        300,
        "ticket",
        "A change of an order is on the open boards after {{ $value | humanizeDuration }} (95 %)",
        "alerts-services.md#boardslow",
        "mesctl board status",
    ),
    Alert(
        "PoolWaitsLong",
        "histogram_quantile(0.95, sum by (job, database, le)"
        " (rate(app_pool_wait_duration_seconds_bucket[10m]))) > 1"
        " and sum by (job, database) (increase(app_pool_wait_duration_seconds_count[10m])) >= 100",
        300,
        "ticket",
        "{{ $labels.job }} waits {{ $value | humanizeDuration }} for connections to {{ $labels.database }}",
        "alerts-services.md#poolwaitslong",
        "mesctl pgbouncer check",
    ),
    Alert(
        "TelemetryDropped",
        "sum by (job, signal) (increase(app_telemetry_dropped_total[10m])) > 0",
        300,
        "ticket",
        "{{ $labels.job }} drops {{ $labels.signal }}: the collector is away, or too slow",
        "alerts-services.md#telemetrydropped",
        "mesctl status",
    ),
)

_FLOW = (
    Alert(
        "GrantAtFloor",
        "max by (sender) (app_flow_granted) <= 2 unless max by (sender) (app_flow_paused) == 1",
        900,
        "ticket",
        "The MES takes only {{ $value }} messages a second of {{ $labels.sender }}, for want of capacity",
        "alerts-flow.md#grantatfloor",
        "mesctl flow status",
    ),
    Alert(
        "FlowPaused",
        "max by (sender) (app_flow_paused) == 1",
        1800,
        "ticket",
        "{{ $labels.sender }} is paused by a person, and what it sends waits",
        "alerts-flow.md#flowpaused",
        "mesctl flow resume {{ $labels.sender }}",
    ),
    Alert(
        "AuditUnsealed",
        # Each process measures it; one that has just sealed knows best.
        "min by (database) (app_audit_unsealed_age_seconds) > 900",
        300,
        "ticket",
        "the oldest line of {{ $labels.database }}'s audit log that no seal covers is"
        " {{ $value | humanizeDuration }} old",
        "alerts-orders.md#auditunsealed",
        "mesctl audit verify --database {{ $labels.database }}",
    ),
    Alert(
        "IntakeFull",
        "sum(increase(app_intake_refused_total[5m])) > 0",
        60,
        "page",
        "{{ $value | humanize }} orders of partners were refused within 5 minutes: too many wait",
        "alerts-flow.md#intakefull",
        "mesctl flow status",
    ),
    Alert(
        "GrantIgnored",
        "sum by (sender) (increase(app_flow_ignored_total[5m])) > 0",
        60,
        "ticket",
        "{{ $labels.sender }} sends far more than the MES grants",
        "alerts-flow.md#grantignored",
        "mesctl flow status",
    ),
    Alert(
        "CreationShed",
        'sum by (job) (increase(app_requests_shed_total{priority="creation"}[5m])) > 0',
        60,
        "page",
        "{{ $labels.job }} refuses {{ $value | humanize }} new orders and decisions within 5 minutes",
        "alerts-flow.md#creationshed",
        "mesctl flow status",
    ),
    Alert(
        "RequestsShed",
        "sum by (job) (rate(app_requests_shed_total[5m])) > 1",
        300,
        "ticket",
        "{{ $labels.job }} refuses {{ $value | humanize }} requests a second, history first",
        "alerts-flow.md#requestsshed",
        "mesctl flow status",
    ),
    Alert(
        "LimitsUnknown",
        "sum by (job) (increase(app_limits_unknown_total[5m])) > 5",
        60,
        "ticket",
        "{{ $labels.job }} cannot ask Redis what callers may ask for, and limits orders alone",
        "alerts-flow.md#limitsunknown",
        "mesctl problems",
    ),
    Alert(
        "IdentitiesUnknown",
        "sum by (job) (increase(app_identities_unknown_total[5m])) > 0",
        0,
        "page",
        "{{ $labels.job }} refuses callers: it could not read the directory for too long",
        "alerts-flow.md#identitiesunknown",
        "mesctl problems",
    ),
    Alert(
        "CallerLimited",
        'sum by (job, limit) (rate(app_requests_limited_total{role="partner"}[5m])) > 1',
        600,
        "ticket",
        "a partner asks {{ $labels.job }} for more {{ $labels.limit }} than allowed, for ten minutes",
        "alerts-flow.md#callerlimited",
        "mesctl identities list",
    ),
    Alert(
        "WebhooksDead",
        "sum(increase(app_webhooks_dead_total[1h])) > 0",
        0,
        "ticket",
        "{{ $value | humanize }} events were not taken by partners' webhooks for three days",
        "alerts-flow.md#webhooksdead",
        "mesctl problems",
    ),
    Alert(
        "WebhookDisabled",
        "sum(increase(app_webhooks_disabled_total[1h])) > 0",
        0,
        "ticket",
        "nothing comes through to {{ $value | humanize }} webhooks of partners: they were disabled",
        "alerts-flow.md#webhookdisabled",
        "mesctl problems",
    ),
    Alert(
        "LimitLow",
        "app_requests_limit <= 8",
        900,
        "ticket",
        "{{ $labels.job }} at {{ $labels.instance }} finds room for {{ $value }} requests at once only",
        "alerts-flow.md#limitlow",
        "mesctl problems",
    ),
)

SLOS = (
    Slo(
        "price_time",
        0.99,
        f'sum(increase(app_order_stage_duration_seconds_bucket{{from="SUBMITTED",'
        f'le=~"{PRICE_SECONDS}([.]0)?"}}[{WINDOW}]))',
        f'sum(increase(app_order_stage_duration_seconds_count{{from="SUBMITTED"}}[{WINDOW}]))',
        "Prices come after more than 5 minutes",
        "alerts-objectives.md#pricetime",
        "mesctl problems",
        least_total=10,
    ),
    Slo(
        "order_progress",
        0.98,
        f"sum(sum_over_time(app:orders_progress:bool[{WINDOW}]))",
        f"sum(count_over_time(app:orders_progress:bool[{WINDOW}]))",
        "Orders stand in a status for longer than they may",
        "alerts-objectives.md#orderprogress",
        "mesctl problems",
        least_total=LEAST_SAMPLES,
    ),
    Slo(
        "api_errors",
        0.999,
        f'sum(increase(http_server_request_duration_seconds_count{{http_response_status_code!~"5.."}}[{WINDOW}]))',
        f"sum(increase(http_server_request_duration_seconds_count[{WINDOW}]))",
        "Requests are answered with errors of the server",
        "alerts-objectives.md#apierrors",
        "mesctl problems",
        least_total=100,
    ),
)

INHIBITIONS = (
    # What explains the others is sent alone.
    Inhibition(
        ('alertname="PrimaryDown"',),
        ('alertname=~"OutboxWaits|OutboxDeep|PricingWaits|OrdersStuck"',),
        ("database",),
    ),
    Inhibition(
        ('alertname="ProcessDown"', 'job="pricing"'),
        ('alertname=~"PricingIdle|PricingWaits|PriceTimeBurn.+"',),
    ),
    Inhibition(('alertname="PricingIdle"',), ('alertname=~"PricingWaits|PriceTimeBurn.+"',)),
)

ALERTS = Rules(
    recording=RECORDING,
    alerts=(*_ORDERS, *_MESSAGES, *_SERVICES, *_FLOW),
    slos=SLOS,
    inhibitions=INHIBITIONS,
    metrics=METRICS,
)
