"""An order as one service knows it: `append_event` announces it to the board with each line of a history."""

from collections.abc import Iterable, Sequence

from sqlalchemy import select

from app.messaging.events import Customer, OrderSnapshot, SnapshotEntry, SnapshotLine
from app.models.base import EventRow, OrderState, Quoted
from app.models.crm import CrmOrder
from app.models.mes import (
    MesArchivedOrder,
    MesArchivedOrderItem,
    MesOrderColumns,
    MesOrderItem,
    MesOrderItemColumns,
)
from app.models.shop import ShopOrder
from app.topology import has_board
from readreplica.sessions import AnySession, WriteSession
from sharding.engines import topology_of


def announces_snapshots(session: WriteSession) -> bool:
    """Return whether what a session changes is announced to the board: wherever the topology has one.

    Raises:
        LookupError: the session's cluster was opened by no topology, so no one knows.
    """
    return has_board(topology_of(session))


def entry_of(line: EventRow) -> SnapshotEntry:
    """Return a line of a history as a snapshot has it."""
    return SnapshotEntry(
        event_no=line.event_no, status=line.status, at=line.at, actor=line.actor, detail=line.detail
    )


async def snapshot_of(
    session: AnySession, order: OrderState, *, version: int, history: Sequence[SnapshotEntry]
) -> OrderSnapshot:
    """Return all that a service knows of an order.

    Parameters:
        session: of the database that holds it.
        order: of any service, live or archived.
        version: the number of the last line of its history.
        history: the lines that the snapshot brings.
    """
    items = await _items_of(session, order) if isinstance(order, MesOrderColumns) else ()
    return make_snapshot(order, version=version, history=history, items=items)


async def _items_of(session: AnySession, order: MesOrderColumns) -> Sequence[MesOrderItemColumns]:
    item = MesArchivedOrderItem if isinstance(order, MesArchivedOrder) else MesOrderItem
    # An UPDATE may have written prices that the objects of this session do not know.
    of_order = select(item).where(item.order_id == order.order_id).order_by(item.line_no)
    found: Iterable[MesOrderItemColumns] = await session.scalars(
        of_order.execution_options(populate_existing=True)
    )
    return tuple(found)


def make_snapshot(
    order: OrderState,
    *,
    version: int,
    history: Sequence[SnapshotEntry],
    items: Sequence[MesOrderItemColumns] = (),
) -> OrderSnapshot:
    """Return all that a service knows of an order, from its row and, in the MES, its lines."""
    return OrderSnapshot(
        version=version,
        status=order.status,
        channel=order.channel,
        summary=order.summary,
        created_at=order.created_at,
        changed_at=order.changed_at,
        price=order.price,
        price_valid_until=order.price_valid_until if isinstance(order, Quoted) else None,
        tariff_version=order.tariff_version if isinstance(order, Quoted) else None,
        reason=order.reason,
        customer=_customer_of(order),
        partner=order.partner if isinstance(order, CrmOrder | MesOrderColumns) else None,
        reference=order.reference if isinstance(order, MesOrderColumns) else None,
        operator=order.operator if isinstance(order, MesOrderColumns) else None,
        cancel_requested_at=order.cancel_requested_at if isinstance(order, CrmOrder) else None,
        requote_requested_at=order.requote_requested_at if isinstance(order, CrmOrder) else None,
        lines=(_line_of(order),) if isinstance(order, ShopOrder) else tuple(map(_line_of_item, items)),
        history=tuple(history),
    )


def _customer_of(order: OrderState) -> Customer | None:
    if not isinstance(order, ShopOrder | CrmOrder) or order.customer_name is None:
        return None
    return Customer(name=order.customer_name, email=order.customer_email or "")


def _line_of(order: ShopOrder) -> SnapshotLine:
    return SnapshotLine(
        line_no=1,
        material=order.material,
        finish=order.finish,
        quantity=order.quantity,
        model_key=order.model_key,
        model_name=order.model_name,
    )


def _line_of_item(item: MesOrderItemColumns) -> SnapshotLine:
    return SnapshotLine(
        line_no=item.line_no,
        material=item.material,
        finish=item.finish,
        quantity=item.quantity,
        model_key=item.model_key,
        model_name=item.model_name,
        unit_price=item.unit_price,
    )
