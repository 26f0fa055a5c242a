"""What the three APIs share: the types of their parameters and fields, and what of an order each shows."""

import re
from collections.abc import Collection, Iterable
from datetime import datetime
from decimal import Decimal
from math import ceil
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from fastapi import Depends, Header, Path, Query, Request
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from app.kit.caller import Role, find_caller
from app.messaging.outbox import MOST_COUNTED, WaitingMessage
from app.messaging.routing import ServiceName
from app.models.base import EventRow, OrderState, Quoted
from app.models.status import Channel, Status
from readreplica.context import learn
from readreplica.redis import TokenStore
from readreplica.signing import TOKEN_HEADER
from sharding.ids import MAX_ID

_EXAMPLE_ID = "379218445107200001"
_ID = re.compile("[1-9][0-9]{0,18}")
# Up to MAX_ID, and simple: the ids that it leaves out are of the year 2092.
_ID_PATTERN = "^([1-8][0-9]{0,18}|9[0-9]{0,17})$"
_WHOLE = re.compile("0|[1-9][0-9]{0,17}")
_SHOWN = 40


def _parse_order_id(value: Any) -> int:
    text = str(value)
    # The length first: Python refuses to read, and to print, a number of more than 4,300 figures.
    if not _ID.fullmatch(text) or int(text) > MAX_ID:
        raise PydanticCustomError(
            "order_id",
            "an order id is a whole number from 1 to {largest}; '{given}' is not",
            {"largest": str(MAX_ID), "given": text[:_SHOWN]},
        )
    return int(text)


OrderId = Annotated[
    int,
    BeforeValidator(_parse_order_id),
    WithJsonSchema({"type": "string", "pattern": _ID_PATTERN, "examples": [_EXAMPLE_ID]}),
]
"""An order's id; in JSON a string, because JavaScript loses whole numbers above 2**53."""


def _parse_whole(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not _WHOLE.fullmatch(value):
        raise PydanticCustomError(
            "whole_number",
            "this is a whole number in plain figures, such as 12; '{given}' is not",
            {"given": value[:_SHOWN]},
        )
    return int(value)


_WHOLE_NUMBER = BeforeValidator(_parse_whole)
"""Whole numbers in a form or a query, as strict as in JSON: figures, and no zero before others.

It stands after the bounds, or they would be missing in the API's description.
"""

Quantity = Annotated[int, Ge(1), Le(1000), _WHOLE_NUMBER]
"""How many pieces are ordered."""

# What cannot be seen: control characters, separators of lines, half surrogates, Unicode's
# Default_Ignorable_Code_Point (zero width, direction, variation, tags), annotations, and blanks that are no
# spaces. With these, two names look alike, and a list or a log line reads as what it is not.
_INVISIBLE = (
    r"\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u206f\u2800\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe-\uffff"
    # As characters, for JSON Schema writes these in another way than Python.
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_INVISIBLE_IN_LINE = re.compile(f"[{_INVISIBLE}]")
_INVISIBLE_IN_TEXT = re.compile(rf"(?![\r\n\t])[{_INVISIBLE}]")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


def _refuse_invisible(text: str, invisible: re.Pattern[str]) -> str:
    found = invisible.search(text)
    if found is not None:
        raise PydanticCustomError(
            "invisible_character",
            "character {place} (U+{code}) cannot be seen: leave it out",
            {"place": found.start() + 1, "code": f"{ord(found[0]):04X}"},
        )
    if not text.strip():
        raise PydanticCustomError("blank", "there is nothing in it that can be seen")
    return text.strip()


def _check_line(text: str) -> str:
    return _refuse_invisible(text, _INVISIBLE_IN_LINE)


def _check_text(text: str) -> str:
    return _refuse_invisible(text, _INVISIBLE_IN_TEXT)


def _check_email(text: str) -> str:
    email = _check_line(text)
    if not _EMAIL.fullmatch(email):
        raise PydanticCustomError("email", "an e-mail address looks like ada@example.org")
    return email


def _text_schema(*, longest: int, shortest: int = 1, pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "minLength": shortest, "maxLength": longest, "pattern": pattern})


# In a document, half surrogates cannot be written; JSON's own rules leave them out.
_UNSEEN = _INVISIBLE.replace(r"\ud800-\udfff", "")
_SEEN = rf"[^\s{_UNSEEN}]"

Line = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(_check_line),
    _text_schema(longest=200, pattern=f"^[^{_UNSEEN}]*{_SEEN}[^{_UNSEEN}]*$"),
]
"""A short text on one line, such as a name."""

Reference = Annotated[
    str,
    StringConstraints(min_length=1, max_length=64),
    AfterValidator(_check_line),
    _text_schema(longest=64, pattern=f"^[^{_UNSEEN}]*{_SEEN}[^{_UNSEEN}]*$"),
]
"""A partner's own name of an order; several orders may have the same."""

_PRICE = re.compile(r"0\.(0[1-9]|[1-9][0-9]?)|[1-9][0-9]{0,9}(\.[0-9]{1,2})?")


def _parse_price(value: Any) -> Decimal:
    if not isinstance(value, str) or not _PRICE.fullmatch(value):
        raise PydanticCustomError("price", "a price is a text such as '390.00', and more than nothing")
    return Decimal(value)


Price = Annotated[
    Decimal,
    BeforeValidator(_parse_price),
    WithJsonSchema({"type": "string", "pattern": f"^({_PRICE.pattern})$"}),
]
"""What an order costs, in euros and cents; in JSON a text, as it is shown."""

Tracking = Annotated[
    str,
    StringConstraints(min_length=1, max_length=64),
    AfterValidator(_check_line),
    _text_schema(longest=64, pattern=f"^[^{_UNSEEN}]*{_SEEN}[^{_UNSEEN}]*$"),
]
"""A carrier's number of a parcel."""

Reason = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1000),
    AfterValidator(_check_text),
    _text_schema(longest=1000, pattern=rf"^([^{_UNSEEN}]|[\r\n\t])*{_SEEN}([^{_UNSEEN}]|[\r\n\t])*$"),
]
"""A text that is written for a person; it may have several lines."""

Email = Annotated[
    str,
    # Only the shape: whether it exists is known when the first letter arrives.
    StringConstraints(min_length=5, max_length=254),
    AfterValidator(_check_email),
    _text_schema(
        longest=254,
        shortest=5,
        pattern=rf"^[^@\s{_UNSEEN}]+@[^@\s{_UNSEEN}]+\.[^@\s{_UNSEEN}]+$",
    ),
    Field(examples=["ada@example.org"]),
]
"""An e-mail address."""

OrderIdPath = Annotated[OrderId, Path(description="The order's id.")]

IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        description="Any text that is yours alone, such as a UUID. Repeated with the same key, a request "
        "finds the order that it made instead of making another.",
        min_length=1,
        max_length=200,
        pattern=r"^[\x20-\x7e]+$",
        examples=["5f0c1d9e-2b61-4b7e-9a55-0d2f3f3f8a10"],
    ),
]


IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=1000,
        description="The `ETag` of the order as you have read it: if it has changed, this is refused by 412.",
    ),
]


async def _after_token(
    request: Request,
    _: Annotated[
        str | None,
        Header(
            alias=TOKEN_HEADER,
            description="From the response to a write that this read must see; several with commas between. "
            "Browsers need not send it: they have a cookie.",
        ),
    ] = None,
) -> None:
    """Make a read of an order see what messages have changed of it, on whichever replica it is.

    `readreplica.asgi` has read the header already, for every endpoint.
    """
    learned: TokenStore = request.app.state.learned
    order_id = request.path_params.get("order_id", "")
    if _ID.fullmatch(order_id):
        learn(await learned.read(order_id))


AFTER_TOKEN = Depends(_after_token)
"""A dependency of endpoints that read."""

PageLimit = Annotated[int, Ge(1), Le(200), _WHOLE_NUMBER, Query(description="The most orders on a page.")]

PageCursor = Annotated[
    str | None, Query(max_length=500, description="`next_cursor` of the page before; none for the first.")
]


OrderIdText = Annotated[str, BeforeValidator(str), Field(examples=["379218445107200001"])]


class View(BaseModel):
    """Something that is shown; read from objects by the names of their attributes."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class OrderView(View):
    """An order. `price` is for the whole order, and null until it is calculated."""

    order_id: OrderIdText
    status: Status = Field(examples=[Status.PRICE_CALCULATED])
    channel: Channel
    summary: str = Field(examples=["2 x ring.stl, gold_18k, polished"])
    price: Decimal | None = Field(examples=["412.50"])
    currency: Literal["EUR"] = "EUR"
    reason: str | None = Field(description="Why it was rejected or cancelled.")
    created_at: datetime
    changed_at: datetime


class QuoteView(OrderView):
    """An order with the end of its quote. Both are null without a price, and of a price without an end."""

    price_valid_until: datetime | None = Field(description="Until when its price may be approved.")
    tariff_version: str | None = Field(
        description="The rates that are in its price, and no others.", examples=["9f2c61d0ab47"]
    )


_OURS = frozenset({*ServiceName, "pricing"})
_OF_OPERATORS = frozenset(
    {
        Status.MANUFACTURING_STARTED,
        Status.MANUFACTURING_COMPLETED,
        Status.PACKAGING,
        Status.SHIPPED,
        Status.REJECTED,
    }
)
_HOLDER = re.compile(r", by .*", re.DOTALL)


def hides_staff() -> bool:
    """Return whether who asks is no one of ours, and sees what our people do, and not their names."""
    caller = find_caller()
    return caller is not None and caller.role in {Role.PARTNER, Role.CUSTOMER}


class HistoryLine(View):
    """A change of an order: what it became, when, and by whom.

    Partners and customers see the role of our people in the place of their names.
    """

    status: Status
    at: datetime
    actor: str = Field(examples=["Rosa"])
    detail: dict[str, Any] = Field(examples=[{}])


def _without_names(line: HistoryLine, own: Collection[str]) -> HistoryLine:
    """Return a line with roles in the place of all names but one's own. Pure."""
    is_sellers = bool(line.detail.keys() & {"cancel_requested", "requote_requested", "asked_by", "price_set"})
    role = Role.OPERATOR if line.status in _OF_OPERATORS and not is_sellers else Role.SELLER
    detail = dict(line.detail)
    if "price_set" in detail:
        # Why a seller has set a price is between our people.
        detail.pop("reason", None)
    for name in detail.keys() & {"requote_requested", "asked_by"}:
        detail[name] = detail[name] if detail[name] in own else role.value
    if isinstance(detail.get("cancel_refused"), str):
        detail["cancel_refused"] = _HOLDER.sub("", detail["cancel_refused"])
    actor = line.actor if line.actor in own or line.actor in _OURS else role.value
    return line.model_copy(update={"actor": actor, "detail": detail})


class WaitingView(View):
    """What of an order still waits to be sent to the MES, which takes no more than it can."""

    place: int | Literal["1000+"] = Field(description="Among all that waits here, from 1.", examples=[17])
    expected_seconds: int | None = Field(
        description="In about how many seconds it is sent, as fast as now; null while sending is paused.",
        examples=[9],
    )
    since: datetime

    @classmethod
    def of(cls, waiting: WaitingMessage | None, *, per_second: float) -> "WaitingView | None":
        """Show how long it takes to send what waits at some rate; None where nothing waits."""
        if waiting is None:
            return None
        return cls(
            place=waiting.place if waiting.place <= MOST_COUNTED else "1000+",
            expected_seconds=ceil(waiting.place / per_second) if per_second > 0 else None,
            since=waiting.since,
        )


def shown(order: OrderState) -> dict[str, Any]:
    """Return the fields of an `OrderView` for a view that adds its own."""
    return {name: getattr(order, name) for name in OrderView.model_fields if name != "currency"}


def shown_quote(order: Quoted) -> dict[str, Any]:
    """Return the two fields that a `QuoteView` adds."""
    return {"price_valid_until": order.price_valid_until, "tariff_version": order.tariff_version}


def shown_history(events: Iterable[EventRow], *, own: Collection[str | None]) -> list[HistoryLine]:
    """Return an order's history, oldest first.

    Parameters:
        events: its lines, in any order.
        own: who has ordered: the names that a partner and a customer see.
    """
    names = {name for name in own if name is not None}
    lines = [HistoryLine.model_validate(event) for event in sorted(events, key=lambda event: event.event_no)]
    return [_without_names(line, names) for line in lines] if hides_staff() else lines


def summarise(*, quantity: int, model_name: str, material: str, finish: str) -> str:
    """Return in one line what is ordered, for lists."""
    return f"{quantity} x {model_name}, {material}, {finish}"
