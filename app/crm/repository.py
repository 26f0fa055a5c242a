"""The CRM's SQL."""

from sqlalchemy import Select, select

from app.models.crm import CrmOrder
from app.models.status import Status


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
