"""Where the services keep an order, and what they still have to do for it: a part of the page of staff."""

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from app.board.actions import ActionRefused, ActionUnanswered
from app.board.pages.rendering import HEADERS, PageReader, render
from app.board.pages.staff import Pages, Parts
from app.kit.caller import Caller, current_caller
from app.kit.strict import StrictRoute
from app.schemas import OrderIdPath
from app.stored import StoredOrderView

router = APIRouter(include_in_schema=False, route_class=StrictRoute)

_SERVICES: Mapping[str, str] = {"shop": "Shop", "crm": "CRM", "mes": "MES"}


class StoredIn(NamedTuple):
    """What a service says; nothing if it has no such order, or does not answer."""

    service: str
    found: StoredOrderView | None
    is_silent: bool


@router.get("/orders/{order_id}/stored")
async def stored(request: Request, parts: Parts, order_id: OrderIdPath) -> Response:
    """Show where an order is: each service is asked, and one that does not answer holds up no other."""
    asked = (_ask(parts, current_caller(), service, order_id) for service in _SERVICES)
    text = render("stored.html", PageReader.of(request), places=await asyncio.gather(*asked))
    return HTMLResponse(text, headers={**HEADERS, "X-Part": "stored"})


async def _ask(parts: Pages, caller: Caller, service: str, order_id: int) -> StoredIn:
    name = _SERVICES[service]
    try:
        said: Mapping[str, Any] = await parts.actions.stored(caller, service, order_id)
    except ActionRefused:
        return StoredIn(name, None, is_silent=False)
    except ActionUnanswered:
        return StoredIn(name, None, is_silent=True)
    return StoredIn(name, StoredOrderView.model_validate(said), is_silent=False)
