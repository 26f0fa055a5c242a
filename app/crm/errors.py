"""What the CRM alone can refuse."""

from datetime import datetime

from app.kit.errors import AppError
from app.kit.problem import Statuses


class CancellationPending(AppError):
    """The order's cancellation was requested, and MES has not answered yet."""

    def __init__(self, order_id: int, since: datetime) -> None:
        self.order_id = order_id
        self.since = since
        super().__init__(
            f"order {order_id} cannot be approved: its cancellation was requested at "
            f"{since.isoformat(timespec='seconds')} and MES has not answered yet"
        )


class PriceExpired(AppError):
    """The order's price is not valid any more."""

    def __init__(self, order_id: int, until: datetime) -> None:
        self.order_id = order_id
        self.until = until
        super().__init__(
            f"order {order_id} cannot be approved: its price was valid until "
            f"{until.isoformat(timespec='seconds')}; ask for a new one by POST /v1/orders/{order_id}/requote"
        )


class PriceRenewalPending(AppError):
    """A new price was asked for, and MES has not calculated it yet."""

    def __init__(self, order_id: int, since: datetime) -> None:
        self.order_id = order_id
        self.since = since
        super().__init__(
            f"order {order_id} cannot be approved: a new price was asked for at "
            f"{since.isoformat(timespec='seconds')} and MES has not calculated it yet"
        )


STATUSES: Statuses = {CancellationPending: 409, PriceExpired: 409, PriceRenewalPending: 409}
"""What they are worth in HTTP."""
