"""The spans of messages. The conventions for messaging are in development: their names stand here."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

from opentelemetry.trace import Span, SpanKind, get_current_span
from opentelemetry.util.types import AttributeValue

from app import instruments
from app.kit.telemetry import FRESH, ORDER_ID, TRACEPARENT, cause_of, tracer, working
from app.messaging.message import SENT

SYSTEM = "messaging.system"
OPERATION = "messaging.operation.type"
DESTINATION_NAME = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
GROUP = "messaging.consumer.group.name"
MESSAGE_TYPE = "mes_storage.message.type"
OUTCOME = "mes_storage.message.outcome"
_REDIS = "redis"


def _attributes(
    operation: Literal["send", "process"], stream: str, entry: Mapping[str, str]
) -> dict[str, AttributeValue]:
    return {
        SYSTEM: _REDIS,
        OPERATION: operation,
        DESTINATION_NAME: stream,
        MESSAGE_ID: entry.get("id", "")[:64],
        MESSAGE_TYPE: entry.get("type", "")[:64],
        "mes_storage.message.attempt": entry.get("attempt", "")[:10],
    }


def begin_sending(stream: str, entry: Mapping[str, str], *, traceparent: str | None, now: datetime) -> Span:
    """Begin the span of one sending of a message; it is to be ended.

    Parameters:
        stream: where it goes.
        entry: what is sent.
        traceparent: of the transaction that has written the message.
        now: the time by the clock of its database.
    """
    context, links = cause_of(traceparent, is_fresh=is_fresh(entry.get("time", ""), now))
    attributes = _attributes("send", stream, entry) | {ORDER_ID: entry["subject"]}
    return tracer.start_span(
        f"send {stream}", context, kind=SpanKind.PRODUCER, attributes=attributes, links=links
    )


@contextmanager
def processing(stream: str, group: str, entry: Mapping[str, str]) -> Iterator[Span]:
    """Handle a received entry in a span: a part of the trace in which it was sent, or linked to it."""
    was_just_sent = is_fresh(entry.get(SENT, ""), datetime.now(UTC))
    context, links = cause_of(entry.get(TRACEPARENT), is_fresh=was_just_sent)
    attributes = _attributes("process", stream, entry) | {GROUP: group}
    subject = entry.get("subject", "")
    with working(
        f"process {stream}",
        kind=SpanKind.CONSUMER,
        order_id=subject if subject.isdecimal() and len(subject) < 20 else None,
        context=context,
        links=links,
        attributes=attributes,
    ) as span:
        yield span


def note_outcome(
    source: str, message_type: str, outcome: Literal["handled", "repeated", "postponed", "refused"]
) -> None:
    """Count what became of the message that is being handled, and note it in its span."""
    instruments.message_handled(source, message_type, outcome)
    get_current_span().set_attribute(OUTCOME, outcome)


def is_fresh(written: str, now: datetime) -> bool:
    """Return whether a time that stands in JSON is of now; so is what Python has not (infinity)."""
    try:
        return now - datetime.fromisoformat(written) <= FRESH
    except (ValueError, TypeError, OverflowError):
        return True
