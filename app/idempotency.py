"""A client that got no answer repeats its request; its key then finds the order that was made."""

from app.errors import AppError


class IdempotencyKeyReused(AppError):
    """The key has made an order already, from another request."""

    def __init__(self, key: str, order_id: int) -> None:
        self.key = key
        self.order_id = order_id
        super().__init__(
            f"the Idempotency-Key {key!r} has made order {order_id} from another request: use a new key"
        )
