"""The CRM's SQL."""

from collections.abc import Sequence

from sqlalchemy import Select, select

from app.models.crm import CrmOrder, CrmOrderEvent
from app.models.status import Status
from app.orders import UnknownOrder
from readreplica.sessions import AnySession


async def get(session: AnySession, order_id: int) -> CrmOrder:
    """Find an order by its id.

    Raises:
        UnknownOrder: there is none.
    """
    order = await session.get(CrmOrder, order_id)
    if order is None:
        raise UnknownOrder(order_id)
    return order


async def history(session: AnySession, order_id: int) -> Sequence[CrmOrderEvent]:
    """Read what happened to an order."""
    return (await session.scalars(select(CrmOrderEvent).where(CrmOrderEvent.order_id == order_id))).all()


def newest(*, status: Status | None, below: int | None) -> Select[CrmOrder]:
    """Select orders, newest first.

    Parameters:
        status: only orders of this status.
        below: only orders with a smaller id: those after a page's last.
    """
    wanted = select(CrmOrder).order_by(CrmOrder.order_id.desc())
    if status is not None:
        wanted = wanted.where(CrmOrder.status == status)
    if below is not None:
        wanted = wanted.where(CrmOrder.order_id < below)
    return wanted
