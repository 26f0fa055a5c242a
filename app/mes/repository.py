"""The MES's SQL. Every statement is about one shard; `newest` is also made for running on all of them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from app.models.base import STATUS, EventRow, InboxRow
from app.models.mes import (
    Intake,
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
from app.orders import MES, UnknownOrder, is_visible, lock_order
from readreplica.sessions import AnySession, WriteSession
from sharding.sessions import ShardedSessions


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


def orders_of_partner(
    partner: str, *, status: Status | None, reference: str | None, is_archived: bool
) -> Select[int, str | None, Status, str, Decimal | None, str | None, datetime, datetime]:
    """Select what a partner's list shows of its orders, newest first: read off an index that begins with it.

    The status stands in the SQL as a literal, so that only the partition is read that may hold it.
    """
    order = MesArchivedOrder if is_archived else MesOrder
    found = select(
        order.order_id,
        order.reference,
        order.status,
        order.summary,
        order.price,
        order.reason,
        order.created_at,
        order.changed_at,
    ).where(order.partner == partner)
    if status is not None:
        found = found.where(order.status == literal(status, STATUS, literal_execute=True))
    if reference is not None:
        found = found.where(order.reference == reference)
    return found.order_by(order.order_id.desc())


async def read_page(
    sessions: ShardedSessions, query: Select[*tuple[Any, ...]], **how: Any
) -> tuple[list[dict[str, Any]], str | None]:
    """Read a page of all shards: each row by its names, and the cursor of the next page.

    Parameters:
        sessions: the shards.
        query: what is read.
        how: as of `ShardedSessions.scatter`.
    """
    names = query.selected_columns.keys()
    page = await sessions.scatter(query, **how)
    return [dict(zip(names, row, strict=True)) for row in page.rows], page.next_cursor


@dataclass(frozen=True)
class Found:
    """An order, live or archived, with what belongs to it."""

    order: MesOrderColumns
    items: Sequence[MesOrderItemColumns]
    events: Sequence[EventRow]


async def find(session: AnySession, order_id: int) -> MesOrderColumns:
    """Find an order among the live ones, else in the archive, whose partition follows from the id.

    Another's order is looked for as long as one that does not exist: the time says nothing of it.

    Raises:
        UnknownOrder: it is in neither, or is another's.
    """
    order: MesOrderColumns | None = await session.get(MesOrder, order_id)
    if order is None or not is_visible(order):
        order = await session.get(MesArchivedOrder, order_id)
    if order is None or not is_visible(order):
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


async def has_pricing_job(session: WriteSession, order_id: int) -> bool:
    """Return whether a locked order waits for a price, or is being priced."""
    return (
        await session.scalar(select(PricingJob.order_id).where(PricingJob.order_id == order_id)) is not None
    )


def intake_count(most: int) -> Select[int]:
    """Select how many partners' orders wait on a shard, counted up to `most`."""
    return select(func.count()).select_from(select(literal(1)).select_from(Intake).limit(most).subquery())


async def keep_in_intake(session: WriteSession, row: Intake, *, inbox: type[InboxRow]) -> bool:
    """Take a partner's order in; False if it was taken in, or placed, before."""
    columns = (
        "order_id",
        "message_id",
        "partner",
        "model_key",
        "body",
        "received_at",
        "traceparent",
        "reference",
    )
    values = {name: getattr(row, name) for name in columns}
    kept = insert(Intake).values(values).on_conflict_do_nothing().returning(Intake.order_id)
    if await session.scalar(kept) is None:
        return False
    # Only now: the insertion may have waited for the one who was just placing it, and took its row away.
    placed = select(inbox.message_id).where(
        inbox.order_id == row.order_id, inbox.message_id == row.message_id
    )
    if await session.scalar(placed) is None:
        return True
    await session.execute(delete(Intake).where(Intake.order_id == row.order_id))
    return False


async def place_in_intake(session: AnySession, row: Intake, *, most: int) -> int:
    """Return how many partners' orders of the shard came before this one, counted up to `most`."""
    before = select(literal(1)).select_from(Intake).where(Intake.received_at < row.received_at).limit(most)
    found = await session.scalar(select(func.count()).select_from(before.subquery()))
    return found or 0


async def longest_in_intake(session: AnySession, *, count: int, but: Collection[int]) -> Sequence[int]:
    """Select the orders that have waited longest to be placed, without a lock."""
    query = select(Intake.order_id).order_by(Intake.received_at).limit(count)
    return (await session.scalars(query.where(Intake.order_id.not_in(but)) if but else query)).all()


async def lock_in_intake(session: WriteSession, order_id: int) -> Intake | None:
    """Lock an order that waits; None if it was placed, or is being placed by another process."""
    query = select(Intake).where(Intake.order_id == order_id).with_for_update(skip_locked=True)
    found: Intake | None = await session.scalar(query)
    return found


async def drop_pricing_job(session: WriteSession, order_id: int) -> None:
    """Spare the pricing worker an order that is not wanted any more."""
    await session.execute(delete(PricingJob).where(PricingJob.order_id == order_id))
