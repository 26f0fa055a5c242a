"""The MES's SQL. Every statement is about one shard; `newest` is also made for running on all of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Select, delete, literal, select
from sqlalchemy.dialects.postgresql import insert

from app.models.base import STATUS, EventRow
from app.models.mes import (
    MesArchivedOrder,
    MesArchivedOrderEvent,
    MesArchivedOrderItem,
    MesOrder,
    MesOrderColumns,
    MesOrderEvent,
    MesOrderItem,
    MesOrderItemColumns,
    PartnerRequest,
    PricingJob,
)
from app.models.status import Channel, IllegalTransition, Status
from app.orders import MES, UnknownOrder, lock_order
from readreplica.sessions import AnySession, WriteSession


def newest(
    status: Status,
) -> Select[
    int, Status, Channel, str, Decimal | None, str | None, datetime, datetime, str | None, str | None
]:
    """Select what the operator's list shows of the orders of one status, newest first.

    The status stands in the SQL as a literal: the partial index of that status is used by no statement
    that has it as a parameter (PostgreSQL proves `status = 'X'` from constants only).
    """
    return (
        select(
            MesOrder.order_id,
            MesOrder.status,
            MesOrder.channel,
            MesOrder.summary,
            MesOrder.price,
            MesOrder.reason,
            MesOrder.created_at,
            MesOrder.changed_at,
            MesOrder.partner,
            MesOrder.operator,
        )
        .where(MesOrder.status == literal(status, STATUS, literal_execute=True))
        .order_by(MesOrder.order_id.desc())
    )


@dataclass(frozen=True)
class Found:
    """An order, live or archived, with what belongs to it."""

    order: MesOrderColumns
    items: Sequence[MesOrderItemColumns]
    events: Sequence[EventRow]


async def find(session: AnySession, order_id: int) -> MesOrderColumns:
    """Find an order among the live ones, else in the archive, whose partition follows from the id.

    Raises:
        UnknownOrder: it is in neither.
    """
    order: MesOrderColumns | None = await session.get(MesOrder, order_id)
    if order is None:
        order = await session.get(MesArchivedOrder, order_id)
    if order is None:
        raise UnknownOrder(order_id)
    return order


async def find_all(session: AnySession, order_id: int) -> Found:
    """Find an order with its lines and its history, which travel to the archive together.

    Raises:
        UnknownOrder: it is neither live nor archived.
    """
    order = await find(session, order_id)
    archived = isinstance(order, MesArchivedOrder)
    item = MesArchivedOrderItem if archived else MesOrderItem
    event = MesArchivedOrderEvent if archived else MesOrderEvent
    items: Iterable[MesOrderItemColumns] = await session.scalars(
        select(item).where(item.order_id == order_id).order_by(item.line_no)
    )
    events: Iterable[EventRow] = await session.scalars(select(event).where(event.order_id == order_id))
    return Found(order, tuple(items), tuple(events))


async def lock(session: WriteSession, order_id: int, *, wanted: Status) -> MesOrder:
    """Lock a live order that is to be changed.

    Raises:
        IllegalTransition: it is archived, so it has ended.
        UnknownOrder: it is neither live nor archived.
    """
    try:
        return await lock_order(session, MES, order_id)
    except UnknownOrder:
        archived = await find(session, order_id)
        raise IllegalTransition(order_id, archived.status, wanted) from None


async def reserve(session: WriteSession, request: PartnerRequest) -> PartnerRequest:
    """Keep a partner's request, or find the one that its key has made.

    Should another transaction be keeping one with this key right now, this waits until that one has ended.
    """
    columns = PartnerRequest.__table__.columns.keys()
    row = {name: getattr(request, name) for name in columns if name != "created_at"}
    await session.execute(insert(PartnerRequest).values(row).on_conflict_do_nothing())
    identity = (request.request_key, request.partner, request.idempotency_key)
    return await session.get_one(PartnerRequest, identity)


async def add_pricing_job(session: WriteSession, order_id: int) -> None:
    """Have an order priced again, unless it is about to be."""
    await session.execute(insert(PricingJob).values(order_id=order_id).on_conflict_do_nothing())


async def drop_pricing_job(session: WriteSession, order_id: int) -> None:
    """Spare the pricing worker an order that is not wanted any more."""
    await session.execute(delete(PricingJob).where(PricingJob.order_id == order_id))
