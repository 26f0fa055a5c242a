"""A message on a stream: CloudEvents attributes around one event."""

import json
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, Field, PlainValidator, SerializeAsAny, ValidationError

from app.messaging.errors import MessageMalformed
from app.messaging.events import EVENTS, Event, Frozen
from app.models.messaging import OutboxRow
from readreplica.errors import TokenMalformed
from readreplica.token import CausalToken

MAX_ORDER_ID = 2**63 - 1
TOKEN = "causaltoken"
"""An extension attribute; CloudEvents wants its name in lower-case letters and figures."""
SENT = "senttime"
"""Another one."""


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
    `token` is what a read of the source must have seen to see what the message tells of.
    """

    id: UUID
    source: str
    subject: str = Field(pattern=r"^[0-9]{1,19}$")
    time: AwareDatetime
    data: SerializeAsAny[Event]
    attempt: int = Field(default=1, ge=1)
    sent: AwareDatetime | None = Field(default=None, alias=SENT)
    token: Annotated[CausalToken, PlainValidator(_read_token)] = Field(default=CausalToken(), alias=TOKEN)

    @property
    def type(self) -> str:
        """The event's name on the wire."""
        return self.data.type

    @property
    def order_id(self) -> int:
        """The order that the message is about."""
        return int(self.subject)


def encode(row: OutboxRow, *, source: str) -> dict[str, str]:
    """Make the stream entry of an outbox row.

    The row is not validated here: what is wrong with it is for the consumer to say, so that it is set
    aside and the relay goes on.

    Parameters:
        row: the message, with `attempts` already counted up for this sending.
        source: the database that it lies in.
    """
    return {
        "id": str(row.message_id),
        "source": source,
        "type": row.type,
        "subject": str(row.order_id),
        "time": row.created_at.isoformat(),
        "data": json.dumps(row.data),
        "attempt": str(row.attempts),
    }


def decode(entry: Mapping[str, str]) -> Message:
    """Read a stream entry.

    Raises:
        MessageMalformed: an attribute is missing, the type is unknown, or the data does not fit it.
    """
    attributes = dict(entry)
    event = EVENTS.get(attributes.pop("type", ""))
    if event is None:
        raise MessageMalformed(entry.get("id"), f"unknown type {entry.get('type')!r}")
    try:
        data = event.model_validate_json(attributes.pop("data", ""))
        message = Message.model_validate({**attributes, "data": data})
    except ValidationError as error:
        raise MessageMalformed(entry.get("id"), _first_fault(error)) from error
    if message.order_id > MAX_ORDER_ID:
        raise MessageMalformed(entry.get("id"), f"subject {message.subject} is no order id")
    return message


def _first_fault(error: ValidationError) -> str:
    """Name the first fault in a few words; the rest rarely adds anything."""
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in fault["loc"]) or "data"
    return f"{where}: {fault['msg']}"
