"""Every event that the order system logs, and what each of its lines must hold: one table.

A line is one event. `EVENTS` names its levels and its fields, as the Elastic Common Schema has them; every
line has those of `EVERY_LINE` beside them. A test drives orders through the events of `LIFE`, others bring
about faults, and one holds each call of a logger in `app` against this table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from app.kit.logs import DROPPED, LogSchema
from app.models.status import Status

Level = Literal["debug", "info", "warning", "error", "critical"]
Outcome = Literal["success", "failure", "unknown"]

EVERY_LINE = frozenset(
    {"@timestamp", "log.level", "log.logger", "message", "ecs.version", "service.name", "process.pid"}
)
"""What each line holds."""

FIELDS: Mapping[str, str] = {
    "order_id": "order.id",
    "order_status": "order.status",
    "previous_status": "order.previous_status",
    "channel": "order.channel",
    "message_id": "messaging.message.id",
    "method": "http.request.method",
    "request_id": "http.request.id",
    "http_status": "http.response.status_code",
    "path": "url.path",
    "caller": "user.name",
    "role": "user.roles",
    "duration_ns": "event.duration",
}
"""The field of each fact, where it is not `mes_storage.NAME`."""


@dataclass(frozen=True)
class LogEvent:
    """What a line about an event must hold beside `EVERY_LINE`, `event.action` and `event.outcome`."""

    levels: tuple[Level, ...]
    fields: frozenset[str]
    outcome: Outcome | None = None
    """None: a failure from the level WARNING on, else a success."""


def _event(*levels: Level, fields: str = "", outcome: Outcome | None = None) -> LogEvent:
    return LogEvent(levels, frozenset(fields.split()), outcome)


_CHANGE = "order.id order.status order.channel"
_STEP = f"{_CHANGE} order.previous_status"
_MESSAGE = "order.id messaging.message.id mes_storage.message_type"
_REQUEST = "url.path http.request.method http.response.status_code"
_JOB = "order.id mes_storage.attempt"

LIFE: Mapping[str, LogEvent] = {
    "order_created": _event("info", fields=_CHANGE),
    "order_file_uploaded": _event("info", fields=_CHANGE),
    "order_submitted": _event("info", fields=_CHANGE),
    "order_priced": _event("info", fields=_STEP),
    "order_approved": _event("info", fields=_STEP),
    "order_taken": _event("info", fields=_STEP),
    "order_released": _event("info", fields=_STEP),
    "order_handed_over": _event("info", fields=_CHANGE),
    "order_completed": _event("info", fields=_STEP),
    "order_packaging": _event("info", fields=_STEP),
    "order_shipped": _event("info", fields=_STEP),
    "order_closed": _event("info", fields=_STEP),
    "order_requote_requested": _event("info", fields=_CHANGE),
    "order_price_renewed": _event("info", fields=_CHANGE),
    "order_price_set": _event("info", fields=_CHANGE),
    "order_file_requested": _event("info", fields=_CHANGE),
    "order_ordered_again": _event("info", fields=_CHANGE),
    "order_cancel_requested": _event("info", fields=_CHANGE),
    "order_cancel_refused": _event("info", fields=_CHANGE, outcome="failure"),
    "order_cancelled": _event("info", fields=_STEP),
    "order_rejected": _event("info", fields=_STEP),
    "order_archived": _event("info", fields="order.id mes_storage.database mes_storage.table"),
    "message_sent": _event(
        "info", fields=f"{_MESSAGE} mes_storage.stream mes_storage.attempt mes_storage.database"
    ),
    "message_handled": _event("info", fields=_MESSAGE),
    "order_settled": _event("info", fields=f"{_JOB} mes_storage.verdict"),
    "request_answered": _event("info", "debug", fields=f"{_REQUEST} event.duration"),
    "request_refused": _event("info", fields=f"{_REQUEST} error.message", outcome="failure"),
}
"""What happens to orders when all is well."""

FAULTS: Mapping[str, LogEvent] = {
    # Writing to a queue.
    "message_not_sent": _event(
        "error", fields=f"{_MESSAGE} mes_storage.stream mes_storage.database error.message"
    ),
    "message_set_aside": _event("error", fields=f"{_MESSAGE} mes_storage.reason"),
    "message_without_destination": _event(
        "error", fields="order.id messaging.message.id mes_storage.destination"
    ),
    # Handling what comes from one.
    "message_refused": _event("error", fields=f"{_MESSAGE} mes_storage.reason"),
    "message_postponed": _event("warning", "error", fields=f"{_MESSAGE} mes_storage.attempt error.message"),
    "message_unanswered": _event("error", fields=f"{_MESSAGE} error.message", outcome="unknown"),
    "message_dropped": _event("warning", fields="error.message"),
    # Answers of the APIs; with order.id where the request is about one.
    "unavailable": _event("error", fields=f"{_REQUEST} error.message"),
    "commit_in_doubt": _event("error", fields=f"{_REQUEST} error.message", outcome="unknown"),
    "misrouted": _event("error", fields=f"{_REQUEST} error.message error.stack_trace"),
    "unforeseen": _event("error", fields=f"{_REQUEST} error.message error.type error.stack_trace"),
    # Pricing.
    "pricing_failed": _event("error", fields=f"{_JOB} error.message error.stack_trace"),
    "preview_not_made": _event("warning", fields="error.message"),
    # What customers are written.
    "notice_not_sent": _event("warning", fields="order.id error.message"),
    "notices_not_read": _event("warning", fields="error.message"),
    "pricing_interrupted": _event("error", fields=f"{_JOB} error.message"),
    "job_given_back": _event("warning", fields=f"{_JOB} mes_storage.why mes_storage.counted"),
    "job_not_given_back": _event("error", fields="order.id error.message"),
    "lease_not_renewed": _event("error", fields="order.id error.message"),
}
"""What goes wrong with an order, or with a request that may be about one."""

_STREAM = "mes_storage.stream mes_storage.doing"

OTHERS: Mapping[str, LogEvent] = {
    "message_repeated": _event("info", fields=_MESSAGE),
    "lease_lost": _event("info", fields=_JOB, outcome="failure"),
    "job_dropped": _event("info", fields=_JOB),
    "pricing_abandoned": _event("info", fields=_JOB),
    "place_not_read": _event("warning", fields="order.id error.message"),
    "places_not_published": _event("warning", fields="error.message"),
    "webhook_not_delivered": _event(
        "warning", fields="order.id mes_storage.endpoint mes_storage.attempt error.message"
    ),
    "webhook_dead": _event("error", fields="order.id mes_storage.endpoint error.message"),
    "webhook_disabled": _event("error", fields="mes_storage.endpoint error.message"),
    "webhook_not_settled": _event(
        "error", fields="order.id mes_storage.endpoint mes_storage.attempt error.message"
    ),
    "webhooks_not_read": _event("warning", fields="error.message"),
    "worker_started": _event("info", fields="mes_storage.worker mes_storage.pid"),
    "worker_not_started": _event("error", fields="mes_storage.worker error.message"),
    "worker_ended": _event("error", fields="mes_storage.worker mes_storage.status"),
    "worker_frozen": _event("error", fields="mes_storage.worker mes_storage.pid"),
    "worker_not_needed": _event("info", fields="mes_storage.worker"),
    "cache_not_read": _event("warning", fields="mes_storage.digest error.message"),
    "piece_recognised": _event("info", fields="order.id mes_storage.model"),
    "cache_not_written": _event("warning", fields="mes_storage.digest error.message"),
    "shard_away": _event("error", fields="mes_storage.shard error.message"),
    "shard_back": _event("info", fields="mes_storage.shard"),
    "acks_malformed": _event("warning", fields="mes_storage.count mes_storage.first"),
    "entry_refused": _event("error", fields="mes_storage.reason error.message mes_storage.count"),
    "group_beyond_its_stream": _event("warning", fields="mes_storage.position"),
    "stream_unusable": _event("error", fields=f"{_STREAM} error.message"),
    "stream_usable": _event("info", fields=_STREAM),
    "redis_away": _event("error", fields="error.message"),
    "intake_unreadable": _event("error", fields="order.id mes_storage.database error.message"),
    "grant_ignored": _event("error", fields="mes_storage.sender mes_storage.rate mes_storage.granted"),
    "grants_not_published": _event("warning", fields="error.message"),
    "signal_missing": _event("warning", fields="mes_storage.database error.message"),
    "board_pruned": _event("info", fields="mes_storage.orders mes_storage.since"),
    "inbox_pruned": _event("info", fields="mes_storage.pruned mes_storage.kept"),
    "interrupted": _event("error", fields="error.message"),
    "resumed": _event("info", fields="mes_storage.failures"),
    "given_up": _event("critical", fields="error.message error.stack_trace"),
    "not_ready": _event("warning", fields="mes_storage.missing error.message"),
    "start_waits": _event("warning", fields="error.message"),
    "background_task_died": _event("error", fields="mes_storage.task error.message error.stack_trace"),
    "background_task_ended": _event("error", fields="mes_storage.task"),
    "background_task_cancelled": _event("warning", fields="mes_storage.task"),
    "late_work_ended": _event("info", fields="error.message", outcome="failure"),
    "too_many_open_files": _event("error", fields="error.message"),
    "too_many_connections": _event("warning", fields="mes_storage.limit"),
    "client_too_slow": _event("info", fields="mes_storage.stage", outcome="failure"),
    "tokens_not_signed": _event("warning", fields="mes_storage.fix"),
    "identity_logged_out": _event("info", fields="mes_storage.issuer"),
    "identity_limits_unreadable": _event("error", fields="error.message"),
    "limits_unknown": _event("warning", fields="error.message"),
    "access_tokens_not_signed": _event("warning", fields="mes_storage.fix"),
    "page_cursors_end_with_this_process": _event("warning", fields="mes_storage.fix"),
    "grant_heard": _event("info", fields="mes_storage.sender mes_storage.per_second mes_storage.reason"),
    "list_not_kept": _event("warning", fields="error.message"),
    "trace_withheld": _event("info", fields="mes_storage.destination", outcome="failure"),
    "collector_away": _event("warning", fields="mes_storage.lost"),
    "collector_back": _event("info"),
    "admin_port_taken": _event("warning", fields="error.message"),
    DROPPED: _event("warning", fields="mes_storage.count"),
}
"""What else the processes log."""

EVENTS: Mapping[str, LogEvent] = {**LIFE, **FAULTS, **OTHERS}
"""Every event by its name, `event.action`."""

STATUS_EVENTS: Mapping[Status, str] = {
    Status.INITIATED: "order_created",
    Status.FILE_UPLOADED: "order_file_uploaded",
    Status.SUBMITTED: "order_submitted",
    Status.PRICE_CALCULATED: "order_priced",
    Status.MANUFACTURING_APPROVED: "order_approved",
    Status.MANUFACTURING_STARTED: "order_taken",
    Status.MANUFACTURING_COMPLETED: "order_completed",
    Status.PACKAGING: "order_packaging",
    Status.SHIPPED: "order_shipped",
    Status.CLOSED: "order_closed",
    Status.CANCELLED: "order_cancelled",
    Status.REJECTED: "order_rejected",
}
"""The event of an order that comes to a status."""

SCHEMA = LogSchema(
    fields=FIELDS,
    outcomes={name: event.outcome for name, event in EVENTS.items() if event.outcome is not None},
    texts=frozenset({"order_id", "message_id"}),
)
"""What a service's lines hold."""

_ORDER_IN_PATH = re.compile(r"/orders/([0-9]{1,19})(?:/|$)")


def facts_of_path(path: str) -> dict[str, str]:
    """Return what the path of a request says of an order."""
    found = _ORDER_IN_PATH.search(path)
    return {"order_id": found[1]} if found else {}
