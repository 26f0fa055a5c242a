"""What can be wrong with a message."""

from app.errors import AppError


class MessageMalformed(AppError):
    """An entry of a stream is not a message that this version understands."""

    def __init__(self, message_id: str | None, fault: str) -> None:
        self.message_id = message_id
        self.fault = fault
        super().__init__(f"message {message_id or 'without id'} is malformed: {fault}")


class NotYet(AppError):
    """A message came before what it is about: it is to be delivered again, later."""

    def __init__(self, order_id: int, waits_for: str) -> None:
        self.order_id = order_id
        self.waits_for = waits_for
        super().__init__(f"order {order_id}: waits for {waits_for}")


class UnroutedEvent(AppError):
    """A service tried to publish an event that the routing table does not give it."""

    def __init__(self, source: str, event_type: str, channel: str) -> None:
        self.source = source
        self.event_type = event_type
        self.channel = channel
        super().__init__(
            f"{source} may not publish {event_type} of a {channel} order: add it to app.messaging.routing"
        )


class RedisUrlInvalid(AppError):
    """The topology's Redis cannot be found by its URL."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        super().__init__(f"[redis] url is of no use: {fault}")
