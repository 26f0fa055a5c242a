"""What the MES alone can refuse."""

from datetime import datetime

from app.kit.errors import AppError
from app.kit.problem import Statuses


class TakenByAnother(AppError):
    """Another operator was faster."""

    def __init__(self, order_id: int, operator: str, since: datetime) -> None:
        self.order_id = order_id
        self.operator = operator
        self.since = since
        super().__init__(
            f"order {order_id} was taken by {operator} at {since.isoformat(timespec='seconds')}: "
            "take another one"
        )


class NotTheHolder(AppError):
    """Only the operator who has taken an order may advance it, put it back or hand it over."""

    def __init__(self, order_id: int, operator: str, held_by: str | None, *, wanted: str = "advance") -> None:
        self.order_id = order_id
        self.operator = operator
        self.held_by = held_by
        holder = f"it is held by {held_by}" if held_by else "nobody has taken it yet: take it first"
        super().__init__(f"{operator} cannot {wanted} order {order_id}: {holder}")


class UnknownOperator(AppError):
    """An order is to be handed over to someone who is no operator."""

    def __init__(self, name: str) -> None:
        self.name = name[:60]
        super().__init__(f"there is no operator {self.name!r}: `mesctl identities list` shows them")


class IntakeFull(AppError):
    """More partners' orders wait than may."""

    def __init__(self, waiting: int, retry_after_seconds: int) -> None:
        self.waiting = waiting
        self.retry_after_seconds = retry_after_seconds
        super().__init__(
            f"{waiting} partners' orders wait to be placed, and no more may; nothing was stored: repeat the "
            f"request, with the same Idempotency-Key, in {retry_after_seconds} seconds"
        )


class UnknownModel(AppError):
    """An order names a model that the partner has not uploaded, or that is kept no more."""

    def __init__(self, model: str) -> None:
        self.model = model[:60]
        super().__init__(f"no model of yours is kept under {self.model!r}: upload it again")


STATUSES: Statuses = {
    TakenByAnother: 409,
    NotTheHolder: 409,
    UnknownModel: 422,
    UnknownOperator: 422,
    IntakeFull: 429,
}
"""What they are worth in HTTP."""
