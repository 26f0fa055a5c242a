"""What can be wrong with a message."""

from app.errors import AppError

_LONGEST_SHOWN = 200


def shortened(text: str) -> str:
    """Cut what came from outside before it is logged or stored: it may be megabytes."""
    if len(text) <= _LONGEST_SHOWN:
        return text
    return f"{text[:_LONGEST_SHOWN]}... ({len(text)} characters)"


class MessageMalformed(AppError):
    """An entry of a stream is not a message that this version understands."""

    def __init__(self, message_id: str | None, fault: str) -> None:
        self.message_id = message_id
        self.fault = shortened(fault)
        named = shortened(message_id) if message_id else "without id"
        super().__init__(f"message {named} is malformed: {self.fault}")


class NotYet(AppError):
    """A message came before what it is about: it is to be delivered again, later."""

    def __init__(self, order_id: int, waits_for: str) -> None:
        self.order_id = order_id
        self.waits_for = waits_for
        super().__init__(f"order {order_id}: waits for {waits_for}")


class StreamUnusable(AppError):
    """Redis refuses to work with one stream: its key holds another type, say. What goes there waits."""

    def __init__(self, stream: str, fault: str) -> None:
        self.stream = stream
        self.fault = shortened(fault)
        super().__init__(f"stream {stream} is unusable: {self.fault}")


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
