"""The board's API for programs: an order, and what changes."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.responses import Response

from app.board import repository
from app.board.actions import Actions
from app.board.live import PAUSE, LiveChanges, LiveEvent
from app.board.pages.staff import Pages
from app.board.repository import FoundOrder
from app.flow.places import Places
from app.kit.caller import Role, current_caller
from app.kit.clock import Clock
from app.kit.problem import documented
from app.kit.strict import StrictRoute
from app.models.status import Channel, Status
from app.orders import UnknownOrder
from app.schemas import AFTER_TOKEN, OrderIdPath, OrderIdText, View
from readreplica.cluster import Cluster

KEEP_ALIVE_SECONDS = 15.0
"""So often a comment is sent where nothing changes: a proxy and the browser know that this is alive."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """What the pages work with: the board's database, what changes, what may be asked of the services."""

    pages: Pages
    orders: Cluster
    live: LiveChanges
    actions: Actions
    places: Places
    now: Clock


router = APIRouter(prefix="/v1", tags=["board"], route_class=StrictRoute)


def _board(request: Request) -> Board:
    board: Board = request.app.state.parts
    return board


BoardParts = Annotated[Board, Depends(_board)]


class TimelineView(View):
    """Something that happened to an order, and the services in whose histories it stands."""

    at: datetime
    status: Status
    actor: str = Field(examples=["Rosa"])
    detail: dict[str, Any]
    services: list[str] = Field(examples=[["mes", "crm", "shop"]])
    waited_seconds: float | None = Field(
        description="How long the order had the status before, where this has changed it."
    )


class BoardOrderView(View):
    """An order, as all services say that it is."""

    order_id: OrderIdText
    status: Status
    channel: Channel
    summary: str
    price: Decimal | None
    partner: str | None
    operator: str | None
    created_at: datetime
    changed_at: datetime
    timeline: list[TimelineView]

    @classmethod
    def of(cls, found: FoundOrder) -> "BoardOrderView":
        """Show an order with its time line."""
        shown = found.order._asdict()
        timeline = [
            TimelineView(
                at=entry.at,
                status=entry.status,
                actor=entry.actor,
                detail=dict(entry.detail),
                services=[service.value for service in entry.services],
                waited_seconds=None if entry.waited is None else entry.waited.total_seconds(),
            )
            for entry in found.timeline
        ]
        return cls(**{name: shown[name] for name in cls.model_fields if name in shown}, timeline=timeline)


def is_visible(order: repository.ListedOrder) -> bool:
    """Return whether an order is one of the caller's; the board shows another's as if it did not exist."""
    caller = current_caller()
    if caller.order_ids is not None and order.order_id not in caller.order_ids:
        return False
    return caller.role is not Role.PARTNER or order.partner == caller.name


@router.get("/orders/{order_id}", responses=documented(404), dependencies=[AFTER_TOKEN])
async def show_order(board: BoardParts, order_id: OrderIdPath) -> BoardOrderView:
    """Show an order and what has happened to it in all services."""
    async with board.orders.read() as session:
        found = await repository.find_order(session, order_id)
    if not is_visible(found.order):
        raise UnknownOrder(order_id)
    return BoardOrderView.of(found)


@router.get("/changes", response_class=StreamingResponse, responses=documented())
async def follow_changes(
    board: BoardParts,
    last_event_id: Annotated[str, Header(max_length=64)] = "",
) -> Response:
    """Send an event for each order that changes, behind the last one that the browser has seen."""
    return event_stream(_lines(board, last_event_id))


def event_stream(lines: AsyncIterator[str]) -> StreamingResponse:
    """Return an answer that goes on, and that no proxy keeps to itself."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)


async def _lines(board: Board, after: str) -> AsyncIterator[str]:
    async with board.live.subscribe(after, pause_seconds=KEEP_ALIVE_SECONDS) as events:
        async for event in events:
            yield ":\n\n" if event is PAUSE else as_sse(event)


def as_sse(event: LiveEvent) -> str:
    """Write an event as text/event-stream has it: `changed` with the order, or `reload`."""
    if event.is_reload:
        return f"id: {event.event_id}\nevent: reload\ndata:\n\n"
    data = {"order_id": str(event.order_id), "before": event.before, "after": event.after}
    return f"id: {event.event_id}\nevent: changed\ndata: {json.dumps(data)}\n\n"
