"""A message on a stream, CloudEvents attributes around one event; and the acknowledgement of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Self
from uuid import UUID

from pydantic import AwareDatetime, Field, PlainValidator, SerializeAsAny, ValidationError

from app.kit.telemetry import TRACEPARENT
from app.messaging.errors import MessageMalformed, shortened
from app.messaging.events import EVENTS, Event, Frozen
from readreplica.errors import TokenMalformed
from readreplica.token import CausalToken

MAX_ORDER_ID = 2**63 - 1
MAX_DATA_CHARACTERS = 1024 * 1024
"""Of an event, as JSON: far beyond any that a service writes, and little enough for a history or a stream."""
TOKEN = "causaltoken"
"""An extension attribute; CloudEvents wants its name in lower-case letters and figures."""
SENT = "senttime"
"""Another one."""
_SUBJECT = re.compile(r"[0-9]{1,19}")
_DATABASE = re.compile(r"[a-z][a-z0-9_]{0,62}")


def _read_token(given: Any) -> CausalToken:
    """Read a token; one that this version cannot read asks for nothing, and holds no message up."""
    try:
        return CausalToken.decode(str(given))
    except TokenMalformed:
        return CausalToken()


class Message(Frozen):
    """One event on its way to one destination.

    `source` is the database that owes it (shop, crm, mes_0, ...), `subject` the order's id as CloudEvents
    want it, a string. `attempt` counts how often the relay has sent it, from 1.
    `sent` is when this copy was claimed, by the source's clock; None for what was never on a stream.
    `traceparent` names the trace in which it was sent, as CloudEvents' extension for distributed tracing has
    it; what is no such name is ignored.
    `token` is what a read of the source must have seen to see what the message is about.
    """

    id: UUID
    source: str = Field(pattern=f"^{_DATABASE.pattern}$")
    subject: str = Field(pattern=f"^{_SUBJECT.pattern}$")
    time: AwareDatetime
    data: SerializeAsAny[Event]
    attempt: int = Field(default=1, ge=1)
    sent: AwareDatetime | None = Field(default=None, alias=SENT)
    traceparent: str | None = None
    token: Annotated[CausalToken, PlainValidator(_read_token)] = Field(default=CausalToken(), alias=TOKEN)

    @property
    def type(self) -> str:
        """The event's name on the wire."""
        return self.data.type

    @property
    def order_id(self) -> int:
        """The order that the message is about."""
        return int(self.subject)


class Dispatch(NamedTuple):
    """A row of an outbox on its way to a stream.

    `time` and `data` are JSON as the database writes it: a row may hold what Python has no value for, and one
    such row must not stop those behind it.
    """

    order_id: int
    message_id: UUID
    destination: str
    type: str
    time: str
    data: str
    attempt: int
    traceparent: str | None = None
    sequence: int = 0


def encode(message: Dispatch, *, source: str) -> dict[str, str]:
    """Make the stream entry of an outbox row.

    The row is not validated here: what is wrong with it is for the consumer to say, so that it is set
    aside and the relay goes on.

    Parameters:
        message: the row, with this sending counted.
        source: the database that it lies in.
    """
    return {
        "id": str(message.message_id),
        "source": source,
        "type": message.type,
        "subject": str(message.order_id),
        "time": message.time,
        "data": message.data,
        "attempt": str(message.attempt),
    }


def decode(entry: Mapping[str, str]) -> Message:
    """Read a stream entry.

    Raises:
        MessageMalformed: an attribute is missing, the type is unknown, or the data is too long or
            does not fit it.
    """
    attributes = dict(entry)
    event = EVENTS.get(attributes.pop("type", ""))
    if event is None:
        raise MessageMalformed(entry.get("id"), f"unknown type {shortened(entry.get('type', ''))!r}")
    try:
        data = event.model_validate_json(_bounded(entry, attributes.pop("data", "")))
        message = Message.model_validate({**attributes, "data": data})
    except ValidationError as error:
        raise MessageMalformed(entry.get("id"), _first_fault(error)) from error
    if message.order_id > MAX_ORDER_ID:
        raise MessageMalformed(entry.get("id"), f"subject {message.subject} is no order id")
    return message


def _bounded(entry: Mapping[str, str], data: str) -> str:
    """Return the data of an event; it would be kept as it is, in an order's history."""
    if len(data) > MAX_DATA_CHARACTERS:
        fault = f"its data has {len(data):,} characters; at most {MAX_DATA_CHARACTERS:,} are taken"
        raise MessageMalformed(entry.get("id"), fault)
    return data


def sender_of(entry: Mapping[str, str]) -> tuple[str, UUID] | None:
    """Read which database sent an entry, and the message's id there; None if it names no such thing."""
    try:
        message_id = UUID(entry.get("id", ""))
    except ValueError:
        return None
    source = entry.get("source", "")
    return (source, message_id) if _DATABASE.fullmatch(source) else None


def _first_fault(error: ValidationError) -> str:
    """Name the first fault in a few words; the rest rarely adds anything."""
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in fault["loc"]) or "data"
    return f"{where}: {fault['msg']}"


_LONGEST_REASON = 1000


@dataclass(frozen=True)
class Ack:
    """A message was handled by `consumer`, or, with a `reason`, is to be set aside.

    `order_id` is what the message was about; None if it comes from a release that did not say so.
    """

    message_id: UUID
    consumer: str
    reason: str | None = None
    order_id: int | None = None

    @property
    def is_of_older_code(self) -> bool:
        """Whether a consumer of a release before `traceparent` has refused a message for having one."""
        return self.reason is not None and f"{TRACEPARENT}: Extra inputs" in self.reason

    def encode(self) -> dict[str, str]:
        """Make the entry for the stream `acks:SOURCE`; who signs it is the consumer."""
        entry = {"id": str(self.message_id), "outcome": "done"}
        if self.order_id is not None:
            entry["subject"] = str(self.order_id)
        if self.reason is None:
            return entry
        return {**entry, "outcome": "set_aside", "reason": _legible(self.reason)}

    @classmethod
    def decode(cls, entry: Mapping[str, str], *, consumer: str) -> Self | None:
        """Read an entry that `consumer` has signed.

        None if it is no acknowledgement, which costs no more than a repeated message.
        """
        try:
            message_id = UUID(entry["id"])
        except (KeyError, ValueError):
            return None
        match entry.get("outcome"):
            case "done":
                return cls(message_id, consumer, order_id=_order_id(entry.get("subject", "")))
            case "set_aside":
                return cls(message_id, consumer, _legible(entry.get("reason", "no reason given")))
            case _:
                return None


def _order_id(subject: str) -> int | None:
    known = _SUBJECT.fullmatch(subject) is not None and int(subject) <= MAX_ORDER_ID
    return int(subject) if known else None


def _legible(reason: str) -> str:
    """Drop what PostgreSQL or UTF-8 refuse (NUL, lone surrogates): a reason must not stop the relay."""
    # Cut first: it may be megabytes.
    return "".join(sign for sign in reason[:_LONGEST_REASON] if sign.isprintable() or sign == "\n")
