"""The few functions that change an order: every service and the pricing worker go through them.

They work on any service's tables (`SHOP`, `CRM`, `MES`) and in the caller's transaction. The rule is
the same everywhere: lock the order's row, decide, change the status, append a line to its history,
announce it. The lock is what makes the history's numbers and the outbox's order of messages right.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy import BigInteger, ColumnElement, DateTime, Text, false, func, insert, literal, select
from sqlalchemy.dialects.postgresql import JSONB

from app import audit_log, instruments
from app.kit.caller import Role, find_caller
from app.kit.errors import AppError
from app.kit.telemetry import concerns
from app.log_events import STATUS_EVENTS
from app.messaging.events import (
    Event,
    OrderCancelled,
    OrderRejected,
    OrderReleased,
    OrderShipped,
    PriceRenewed,
    Quote,
    SnapshotEntry,
    StatusChanged,
)
from app.messaging.outbox import publish
from app.messaging.routing import ServiceName, route
from app.models.base import STATUS, AuditRow, AuditSealRow, EventRow, InboxRow, OrderState, OutboxRow, Quoted
from app.models.crm import CrmAuditLine, CrmAuditSeal, CrmInbox, CrmOrder, CrmOrderEvent, CrmOutbox
from app.models.mes import (
    MesArchivedOrder,
    MesArchivedOrderEvent,
    MesAuditLine,
    MesAuditSeal,
    MesInbox,
    MesOrder,
    MesOrderColumns,
    MesOrderEvent,
    MesOutbox,
)
from app.models.shop import ShopAuditLine, ShopAuditSeal, ShopInbox, ShopOrder, ShopOrderEvent, ShopOutbox
from app.models.status import (
    TRANSITIONS,
    Channel,
    IllegalTransition,
    Status,
    check_release,
)
from app.partner_events import note_for_partner
from app.snapshots import announces_snapshots, snapshot_of
from readreplica.sessions import AnySession, WriteSession

AnyOrder = TypeVar("AnyOrder", bound=OrderState)

log: structlog.stdlib.BoundLogger = structlog.get_logger("orders")


@dataclass(frozen=True)
class OrderModels(Generic[AnyOrder]):
    """A service's mapped classes: orders and their history, what it sends and has received, its audit log."""

    service: ServiceName
    order: type[AnyOrder]
    event: type[EventRow]
    outbox: type[OutboxRow]
    inbox: type[InboxRow]
    audit: type[AuditRow]
    seals: type[AuditSealRow]


_SHOP_AUDIT = (ShopAuditLine, ShopAuditSeal)
_CRM_AUDIT = (CrmAuditLine, CrmAuditSeal)
_MES_AUDIT = (MesAuditLine, MesAuditSeal)

SHOP = OrderModels(ServiceName.SHOP, ShopOrder, ShopOrderEvent, ShopOutbox, ShopInbox, *_SHOP_AUDIT)
CRM = OrderModels(ServiceName.CRM, CrmOrder, CrmOrderEvent, CrmOutbox, CrmInbox, *_CRM_AUDIT)
MES = OrderModels(ServiceName.MES, MesOrder, MesOrderEvent, MesOutbox, MesInbox, *_MES_AUDIT)
MES_ARCHIVE = OrderModels(
    ServiceName.MES, MesArchivedOrder, MesArchivedOrderEvent, MesOutbox, MesInbox, *_MES_AUDIT
)


_MAKES: Mapping[Channel, ServiceName] = {Channel.B2C: ServiceName.SHOP, Channel.B2B: ServiceName.MES}
_DECIDES: Mapping[Status, ServiceName] = {
    **dict.fromkeys(Status, ServiceName.MES),
    Status.INITIATED: ServiceName.SHOP,
    Status.FILE_UPLOADED: ServiceName.SHOP,
    Status.SUBMITTED: ServiceName.SHOP,
    Status.MANUFACTURING_APPROVED: ServiceName.CRM,
    Status.CLOSED: ServiceName.CRM,
}


class UnknownOrder(AppError):
    """No order has this id."""

    def __init__(self, order_id: int) -> None:
        self.order_id = order_id
        super().__init__(f"there is no order {order_id}: check the id")


class IdempotencyKeyReused(AppError):
    """The key has made an order already, from another request."""

    def __init__(self, key: str, order_id: int) -> None:
        self.key = key
        self.order_id = order_id
        super().__init__(
            f"the Idempotency-Key {key!r} has made order {order_id} from another request: use a new key"
        )


def log_change(
    session: WriteSession, event: str, order: OrderState, *, previous: Status | None = None
) -> None:
    """Log that something has happened to an order, once it is committed.

    Parameters:
        event: one of `app.log_events.LIFE`.
        order: as it is now.
        previous: the status that it had, if it has changed.
    """
    facts = {"order_id": order.order_id, "order_status": order.status, "channel": order.channel}
    instruments.when_committed(
        session.sync_session, lambda: log.info(event, **facts, previous_status=previous)
    )


def is_visible(order: object) -> bool:
    """Return whether an order is one of the caller's: it is to him as if another's did not exist.

    Background work has no caller, and sees all.

    Parameters:
        order: of any service, live, archived or waiting; it has an `order_id`, and may have a `partner`.
    """
    caller = find_caller()
    if caller is None:
        return True
    if caller.order_ids is not None and getattr(order, "order_id", None) not in caller.order_ids:
        return False
    return caller.role is not Role.PARTNER or getattr(order, "partner", None) == caller.name


async def get_order(session: AnySession, models: OrderModels[AnyOrder], order_id: int) -> AnyOrder:
    """Return the order of an id.

    Raises:
        UnknownOrder: the table of live orders does not hold this id, or holds another's order under it.
    """
    order = await session.get(models.order, order_id)
    if order is None or not is_visible(order):
        raise UnknownOrder(order_id)
    return order


async def read_history(
    session: AnySession, models: OrderModels[AnyOrder], order_id: int
) -> Sequence[EventRow]:
    """Return the lines of an order's history, in no particular order."""
    return (await session.scalars(select(models.event).where(models.event.order_id == order_id))).all()


async def lock_order(session: WriteSession, models: OrderModels[AnyOrder], order_id: int) -> AnyOrder:
    """Read an order and hold its row until the transaction ends.

    If the order moves to another partition while this waits, it is 40001 even in READ COMMITTED
    (PostgreSQL cannot follow a row across partitions): run the unit of work by `transact`, which repeats it.

    Raises:
        UnknownOrder: the table of live orders does not hold this id, or holds another's order under it.
    """
    found = await session.scalar(
        select(models.order)
        .where(models.order.order_id == order_id, *_of_caller(models.order, order_id))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise UnknownOrder(order_id)
    return found


def _of_caller(order: type[OrderState], order_id: int) -> Iterator[ColumnElement[bool]]:
    """Yield what `is_visible` asks, in SQL: another's order is not even locked, or he would hold it up."""
    caller = find_caller()
    if caller is not None and caller.order_ids is not None and order_id not in caller.order_ids:
        yield false()  # not their ids: those are on other shards
    if caller is not None and caller.role is Role.PARTNER:
        yield order.partner == caller.name if issubclass(order, CrmOrder | MesOrderColumns) else false()


async def add_order(
    session: WriteSession,
    models: OrderModels[AnyOrder],
    order: AnyOrder,
    *,
    actor: str,
    now: datetime,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Insert a new order together with the first line of its history.

    Parameters:
        order: a new object; its status is the one that it starts with.
        actor: who made it: a person, a partner or a service.
        now: the moment, with a time zone.
        detail: facts for the history, as JSON.
    """
    order.created_at = order.changed_at = now
    session.add(order)
    concerns(order.order_id)
    if models.service is _MAKES[order.channel]:
        instruments.order_created(session.sync_session, channel=order.channel.value)
    await append_event(session, models, order, actor=actor, now=now, detail=detail)
    log_change(session, STATUS_EVENTS[order.status], order)


async def advance_order(
    session: WriteSession,
    models: OrderModels[AnyOrder],
    order: AnyOrder,
    *,
    to: Status,
    actor: str,
    now: datetime,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Change the status of an order that the caller has locked, and append the change to its history.

    Parameters:
        order: from `lock_order`, in this session.
        to: the status that it gets.
        actor: who did it: a person, a partner or a service.
        now: the moment, with a time zone.
        detail: facts for the history, as JSON.

    Raises:
        IllegalTransition: the order cannot go from its status to `to`.
    """
    previous = order.status
    if to not in TRANSITIONS[previous]:
        raise IllegalTransition(order.order_id, previous, to)
    await _set_status(session, models, order, to=to, actor=actor, now=now, detail=detail)
    log_change(session, STATUS_EVENTS[to], order, previous=previous)


async def _set_status(
    session: WriteSession,
    models: OrderModels[AnyOrder],
    order: AnyOrder,
    *,
    to: Status,
    actor: str,
    now: datetime,
    detail: Mapping[str, Any] | None,
) -> None:
    previous = order.status
    if _DECIDES[to] is models.service:  # the others follow, and each change counts once
        instruments.order_advanced(
            session.sync_session,
            channel=order.channel.value,
            old=previous.value,
            new=to.value,
            since=order.changed_at,
            now=now,
        )
    order.status, order.changed_at = to, now
    await append_event(session, models, order, actor=actor, now=now, detail=detail)


async def append_event(
    session: WriteSession,
    models: OrderModels[AnyOrder],
    order: AnyOrder,
    *,
    actor: str,
    now: datetime,
    detail: Mapping[str, Any] | None = None,
    action: str | None = None,
) -> None:
    """Append a line to the history of a locked order, changed or not in status, and one to the audit log.

    It comes last of all that changes of an order in a transaction: where there is a board, the order is
    announced to it as it is now, and with this line.

    Parameters:
        order: as it is now.
        actor: who did it, as the history shows it; the audit log has the caller beside that.
        now: the moment, with a time zone.
        detail: facts for the history, as JSON.
        action: what was done, by an event of `app.log_events`; without it, that of the order's status.
    """
    # A SELECT and no VALUES: Citus refuses a subquery in VALUES. The aggregate returns one row in any case.
    line = select(
        literal(order.order_id, BigInteger),
        func.coalesce(func.max(models.event.event_no), 0) + 1,
        literal(order.status, STATUS),
        literal(now, DateTime(timezone=True)),
        literal(actor, Text),
        literal(dict(detail or {}), JSONB),
    ).where(models.event.order_id == order.order_id)
    columns = ["order_id", "event_no", "status", "at", "actor", "detail"]
    written = insert(models.event).from_select(columns, line).returning(models.event.event_no)
    event_no = (await session.execute(written)).scalar_one()
    entry = dict(detail or {})
    facts = {"actor": actor, "status": order.status.value, "detail": entry}
    await audit_log.record(
        session, models.audit, action or STATUS_EVENTS[order.status], order.order_id, facts
    )
    if announces_snapshots(session):
        added = SnapshotEntry(event_no=event_no, status=order.status, at=now, actor=actor, detail=entry)
        snapshot = await snapshot_of(session, order, version=event_no, history=(added,))
        await announce(session, models, order, snapshot, now=now)


async def apply_event(
    session: WriteSession,
    models: OrderModels[AnyOrder],
    order: AnyOrder,
    event: StatusChanged,
    *,
    now: datetime,
    how: Mapping[str, Any] | None = None,
) -> None:
    """Apply an event to a locked order: its facts, its status, a line of its history.

    The service that decides and the services that follow call this with the same event.

    Parameters:
        event: the change; its actor is the one in the history.
        now: when it happened, with a time zone; a follower passes the message's time.
        how: more facts for the history, which the event has not.

    Raises:
        IllegalTransition: the order cannot go from its status to the event's.
    """
    detail: dict[str, Any] = {}
    if isinstance(event, Quote):
        detail = _set_quote(order, event)
    elif isinstance(event, OrderRejected | OrderCancelled):
        order.reason = event.reason
        detail = {"reason": event.reason}
    elif isinstance(event, OrderShipped):
        detail = shipping_detail(event.tracking)
    elif isinstance(event, OrderReleased):
        await _release(session, models, order, event, now=now)
        return
    detail = {**detail, **(how or {})}
    await advance_order(session, models, order, to=event.status, actor=event.actor, now=now, detail=detail)


def shipping_detail(tracking: str | None) -> dict[str, Any]:
    """Return what the history says of a parcel."""
    return {} if tracking is None else {"tracking": tracking}


async def _release(
    session: WriteSession,
    models: OrderModels[AnyOrder],
    order: AnyOrder,
    released: OrderReleased,
    *,
    now: datetime,
) -> None:
    """Put a locked order back to where an operator finds it."""
    previous = order.status
    check_release(order.order_id, previous, released.status)
    if isinstance(order, MesOrderColumns):
        order.operator = None
    detail = {"released": released.reason}
    await _set_status(
        session, models, order, to=released.status, actor=released.actor, now=now, detail=detail
    )
    log_change(session, "order_released", order, previous=previous)


def _set_quote(order: OrderState, quote: Quote) -> dict[str, Any]:
    """Set the price of an order; return what its history says of it."""
    order.price = quote.price
    if isinstance(order, Quoted):
        order.price_valid_until, order.tariff_version = quote.price_valid_until, quote.tariff_version
    return quote.model_dump(mode="json", exclude={"actor"})


async def renew_price(
    session: WriteSession,
    models: OrderModels[AnyOrder],
    order: AnyOrder,
    renewed: PriceRenewed,
    *,
    now: datetime,
    how: Mapping[str, Any] | None = None,
) -> bool:
    """Set a new price on a locked order that waits for approval, and append that to its history.

    Parameters:
        renewed: the price.
        now: the moment, with a time zone.
        how: more facts for the history: how the price came about.

    Returns:
        False if it waits no longer: what was approved, or has ended, keeps its price.
    """
    if order.status is not Status.PRICE_CALCULATED:
        return False
    detail = {"price_renewed": _set_quote(order, renewed), **(how or {})}
    action = "order_price_renewed"
    await append_event(session, models, order, actor=renewed.actor, now=now, detail=detail, action=action)
    log_change(session, "order_price_renewed", order)
    return True


async def is_repeated(
    session: WriteSession,
    models: OrderModels[AnyOrder],
    order: AnyOrder,
    *,
    wanted: Status,
    actor: str,
    detail: Mapping[str, Any] | None = None,
) -> bool:
    """Return whether this actor has made this very change of a locked order already.

    A client that got no answer repeats its request, and the order may be further by then: the history says
    who made the change.

    Parameters:
        wanted: the status that the order is to get.
        actor: who asks.
        detail: the facts that the change would put into the history.

    Raises:
        IllegalTransition: it has not, and the order cannot go from its status to `wanted`.
    """
    if wanted in TRANSITIONS[order.status]:
        return False
    line = await entry_into(session, models, order.order_id, wanted)
    if line is None or (line.actor, line.detail) != (actor, dict(detail or {})):
        raise IllegalTransition(order.order_id, order.status, wanted)
    return True


async def entry_into(
    session: WriteSession, models: OrderModels[AnyOrder], order_id: int, status: Status
) -> EventRow | None:
    """Find the line of an order's history by which it came to a status; later ones say that it is there."""
    of_status = select(models.event).where(models.event.order_id == order_id, models.event.status == status)
    return (await session.scalars(of_status.order_by(models.event.event_no).limit(1))).one_or_none()


async def record_event(
    session: WriteSession,
    models: OrderModels[AnyOrder],
    order: AnyOrder,
    event: StatusChanged,
    *,
    now: datetime,
    how: Mapping[str, Any] | None = None,
) -> None:
    """Apply an event that this service has decided to a locked order, and publish it.

    Parameters:
        event: the change; its actor is the one in the history.
        now: the moment, with a time zone.
        how: more facts for this service's history, which the event has not.

    Raises:
        IllegalTransition: the order cannot go from its status to the event's.
    """
    await apply_event(session, models, order, event, now=now, how=how)
    await announce(session, models, order, event, now=now)


async def announce(
    session: WriteSession, models: OrderModels[AnyOrder], order: AnyOrder, event: Event, *, now: datetime
) -> None:
    """Publish an event of a locked order to the services that the routing table names for this one.

    The MES notes it for the partner too, whose order it is.
    """
    if isinstance(order, MesOrderColumns):
        await note_for_partner(session, order, event, at=now)
    await publish(
        session,
        models.outbox,
        order_id=order.order_id,
        event=event,
        destinations=route(models.service, event, order.channel),
        at=now,
    )
