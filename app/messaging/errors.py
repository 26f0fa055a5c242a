"""What can be wrong with a message."""

from collections.abc import Iterable, Mapping
from typing import ClassVar

from app.kit.errors import AppError

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


class EntryRefused(AppError):
    """An entry of a stream is not what a service of ours has sent there; it is dropped, and not answered."""

    reason: ClassVar[str]
    because: ClassVar[str]

    def __init__(self, kind: str, entry: Mapping[str, str]) -> None:
        self.kind = kind
        said = {
            name: shortened(entry[name])
            for name in ("id", "type", "subject", "source", "signer", "destination")
            if name in entry
        }
        self.key = shortened(entry.get("signature", "").partition(".")[0])
        what = " ".join(f"{name}={value}" for name, value in said.items()) or "without id"
        super().__init__(f"{kind} {what}: {self.because.format(**said, key=self.key)}")


class EntryUnsigned(EntryRefused):
    """It bears no signature of a service that sends to this one."""

    reason = "unsigned"
    because = "no service that this one hears from has signed it"


class EntryMisdirected(EntryRefused):
    """It was signed for another stream."""

    reason = "misdirected"
    because = "it was signed for another destination"


class SigningKeyUnknown(EntryRefused):
    """The key that it names is not, or no longer, shared with its signer."""

    reason = "unknown key"
    because = "key {key!r} of {signer} is not among MES_STORAGE_MESSAGE_KEYS"


class EntryForged(EntryRefused):
    """The signature is not that of the entry."""

    reason = "forged"
    because = "its signature by key {key!r} of {signer} is wrong"


class MessageKeysMissing(AppError):
    """A service has no key in common with one that it sends to or receives from."""

    def __init__(self, service: str, peers: Iterable[str]) -> None:
        self.service = service
        self.peers = list(peers)
        super().__init__(
            f"{service} shares no key with {', '.join(self.peers)}: set MES_STORAGE_MESSAGE_KEYS to "
            "PEER:NAME=SECRET,... with a key for each, the same as there"
        )


class MessageNotAllowed(AppError):
    """A service has sent an event that the routing table does not give it."""

    def __init__(self, signer: str, event_type: str, destination: str) -> None:
        self.signer = signer
        self.event_type = event_type
        self.destination = destination
        super().__init__(f"{signer} may not send {event_type} to {destination}")


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


class RedisRefuses(AppError):
    """Redis does not let a service in."""

    def __init__(self, address: str, user: str | None, fault: str) -> None:
        self.address = address
        self.user = user
        self.fault = shortened(fault)
        variable = f"MES_STORAGE_PASSWORD_REDIS_{user.upper()}" if user else "a password"
        super().__init__(
            f"Redis at {address} refuses {f'user {user}' if user else 'a client without a password'} "
            f"({self.fault}): set {variable}, or the line redis_{user or 'USER'} of the topology's passfile"
        )
