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


STATUSES: Statuses = {CancellationPending: 409}
"""What they are worth in HTTP."""
