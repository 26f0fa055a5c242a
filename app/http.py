"""What the three APIs have in common: the parameters of their endpoints."""

import re
from typing import Annotated, Any

from fastapi import Depends, Header, Path, Query, Request
from pydantic import BeforeValidator, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.causality.ambient import learn
from app.causality.store import TokenStore
from app.causality.wire import TOKEN_HEADER
from sharding.ids import MAX_ID

_EXAMPLE_ID = "379218445107200001"
_FIGURES = re.compile("[0-9]{1,19}")


def _parse_order_id(value: Any) -> int:
    text = str(value)
    # The length first: Python refuses to read, and to print, a number of more than 4,300 figures.
    if not _FIGURES.fullmatch(text) or not 1 <= int(text) <= MAX_ID:
        raise PydanticCustomError(
            "order_id",
            "an order id is a whole number from 1 to {largest}; '{given}' is not",
            {"largest": str(MAX_ID), "given": text[:40]},
        )
    return int(text)


OrderId = Annotated[
    int,
    BeforeValidator(_parse_order_id),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,19}$", "examples": [_EXAMPLE_ID]}),
]
"""An order's id; in JSON a string, because JavaScript loses whole numbers above 2**53."""

Line = Annotated[
    str,
    # No control characters: PostgreSQL keeps no NUL in text, and the rest breaks lists and logs.
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$"),
]
"""A short text on one line, such as a name."""

Reason = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000, pattern=r"^[^\x00]*$")
]
"""A text that is written for a person."""

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
    """Have a read of an order see what messages have told of it, on whichever replica it is.

    `app.causality.middleware` has read the header already, for every endpoint.
    """
    learned: TokenStore = request.app.state.learned
    order_id = request.path_params.get("order_id", "")
    if _FIGURES.fullmatch(order_id):
        learn(await learned.read(str(int(order_id))))


AFTER_TOKEN = Depends(_after_token)
"""A dependency of endpoints that read."""

PageLimit = Annotated[int, Query(ge=1, le=200, description="The most orders on a page.")]

PageCursor = Annotated[
    str | None, Query(max_length=500, description="`next_cursor` of the page before; none for the first.")
]
