"""The dashboards of the order system: orders, messages, the board, pricing."""

from ops.monitoring.dashboards import Dashboard, lines, number, rows

ORDERS = Dashboard(
    "orders",
    "Orders",
    (
        number("Orders this hour", "sum(app:orders_created:increase1h)"),
        number("Usual in this hour", "sum(app:orders_created:usual1h)"),
        number("Errors within 10 minutes", "sum(app:errors:increase10m)"),
        number(
            "Requests that failed",
            'sum(rate(http_server_request_duration_seconds_count{http_response_status_code=~"5.."}[5m]))',
            unit="reqps",
        ),
        lines("Orders by status", ("sum by (status) (app_orders)", "{{status}}")),
        lines("Age of the oldest", ("max by (status) (app_orders_oldest_seconds)", "{{status}}"), unit="s"),
        lines(
            "Orders an hour, and what is usual",
            ("app:orders_created:increase1h", "{{channel}}"),
            ("app:orders_created:usual1h", "{{channel}}, usual"),
        ),
        lines(
            "Steps a minute",
            ("60 * sum by (from, to) (rate(app_order_transitions_total[10m]))", "{{from}} to {{to}}"),
        ),
        lines(
            "Time in a status",
            ("app:stage_seconds:mean1h", "{{from}} to {{to}}"),
            ("app:stage_seconds:usual1h", "{{from}} to {{to}}, usual"),
            unit="s",
        ),
        lines(
            "Errors by event", ("sum by (job, event) (increase(app_errors_total[10m]))", "{{job}} {{event}}")
        ),
        lines(
            "Requests by route",
            (
                "topk(10, sum by (job, http_route) (rate(http_server_request_duration_seconds_count[5m])))",
                "{{job}} {{http_route}}",
            ),
            unit="reqps",
        ),
        lines(
            "Duration of requests, 95 %",
            (
                "histogram_quantile(0.95, sum by (job, le)"
                " (rate(http_server_request_duration_seconds_bucket[5m])))",
                "{{job}}",
            ),
            unit="s",
        ),
    ),
)

MESSAGES = Dashboard(
    "messages",
    "Messages",
    (
        lines("Messages that wait", ("app_outbox_messages", "{{database}} to {{destination}}")),
        lines(
            "Age of the oldest", ("app_outbox_oldest_seconds", "{{database}} to {{destination}}"), unit="s"
        ),
        lines(
            "Sent a second",
            ("sum by (job, destination) (rate(app_messages_sent_total[5m]))", "{{job}} to {{destination}}"),
        ),
        lines(
            "Handled a second",
            ("sum by (job, outcome) (rate(app_messages_handled_total[5m]))", "{{job}} {{outcome}}"),
        ),
        lines(
            "Written to acknowledged, 95 %",
            (
                "histogram_quantile(0.95, sum by (destination, le)"
                " (rate(app_message_acknowledged_duration_seconds_bucket[5m])))",
                "{{destination}}",
            ),
            unit="s",
        ),
        lines(
            "Entries refused",
            ("sum by (job, reason) (increase(app_entries_refused_total[1h]))", "{{job}} {{reason}}"),
        ),
        rows("Dead letters", "app_dead_letters > 0"),
    ),
)

BOARD = Dashboard(
    "board",
    "Board",
    (
        lines("Boards that are open", ("sum by (job, instance) (app_board_streams)", "{{job}} {{instance}}")),
        lines(
            "From a change to the open boards, 95 %",
            (
                "histogram_quantile(0.95, sum by (le) (rate(app_board_shown_duration_seconds_bucket[5m])))",
                "shown",
            ),
            unit="s",
        ),
        lines(
            "Changes shown a minute",
            ("60 * sum(rate(app_board_shown_duration_seconds_count[5m]))", "changes"),
        ),
        lines(
            "Changes that it is owed",
            ('sum by (database) (app_outbox_messages{destination="board"})', "{{database}}"),
        ),
        lines(
            "Age of the oldest of them",
            ('max by (database) (app_outbox_oldest_seconds{destination="board"})', "{{database}}"),
            unit="s",
        ),
    ),
)

FLOW = Dashboard(
    "flow",
    "Flow",
    (
        lines("Granted a second", ("max by (sender) (app_flow_granted)", "{{sender}}")),
        lines("Paused", ("max by (sender) (app_flow_paused)", "{{sender}}")),
        lines("Signals, 1 is the limit", ("max by (signal) (app_flow_pressure)", "{{signal}}")),
        lines("Partners' orders that wait", ("max by (database) (app_intake_waiting)", "{{database}}")),
        lines("Partners' orders refused", ("sum(increase(app_intake_refused_total[5m]))", "refused")),
        lines("Beyond the grant", ("sum by (sender) (increase(app_flow_ignored_total[5m]))", "{{sender}}")),
        lines("Requests at once, limit", ("app_requests_limit", "{{job}} {{instance}}")),
        lines(
            "Requests refused",
            ("sum by (job, priority) (rate(app_requests_shed_total[5m]))", "{{job}} {{priority}}"),
            unit="reqps",
        ),
        lines(
            "Requests beyond the caller's limits",
            ("sum by (role, limit) (rate(app_requests_limited_total[5m]))", "{{role}} {{limit}}"),
            unit="reqps",
        ),
    ),
)

PRICING = Dashboard(
    "pricing",
    "Pricing",
    (
        lines("Jobs", ("sum by (database, state) (app_pricing_jobs)", "{{database}} {{state}}")),
        lines("Age of the oldest", ("app_pricing_jobs_oldest_seconds", "{{database}} {{state}}"), unit="s"),
        lines("Running", ("sum by (job, instance) (app_pricing_running)", "{{job}} {{instance}}")),
        lines("Workers", ("sum by (instance, state) (app_pricing_workers)", "{{instance}} {{state}}")),
        lines(
            "Senders",
            ("app_pricing_senders", "{{database}}"),
            ("app_pricing_largest_sender_jobs", "{{database}}, orders of the largest"),
        ),
        lines("Passed over", ("app_pricing_passed_over_seconds", "{{database}}"), unit="s"),
        lines(
            "Prices a minute",
            ("60 * sum by (outcome) (rate(app_pricing_duration_seconds_count[10m]))", "{{outcome}}"),
        ),
        lines(
            "Duration, 95 %",
            (
                "histogram_quantile(0.95, sum by (reused, le)"
                " (rate(app_pricing_duration_seconds_bucket[10m])))",
                "measured before: {{reused}}",
            ),
            unit="s",
        ),
        lines("Too late", ('slo:errors:1h{slo="price_time"}', "1 h"), unit="percentunit"),
    ),
)

DASHBOARDS = (ORDERS, MESSAGES, BOARD, FLOW, PRICING)
