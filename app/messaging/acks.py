"""The answer of a consumer to the relay that sent a message."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from uuid import UUID

_LONGEST_REASON = 1000


@dataclass(frozen=True)
class Ack:
    """A message was handled by `consumer`, or, with a `reason`, is to be set aside."""

    message_id: UUID
    consumer: str
    reason: str | None = None

    def encode(self) -> dict[str, str]:
        """Make the entry for the stream `acks:SOURCE`; who signs it is the consumer."""
        if self.reason is None:
            return {"id": str(self.message_id), "outcome": "done"}
        return {"id": str(self.message_id), "outcome": "set_aside", "reason": _legible(self.reason)}

    @classmethod
    def decode(cls, entry: Mapping[str, str], *, consumer: str) -> Self | None:
        """Read an entry that `consumer` has signed.

        None if it is no acknowledgement, which costs no more than a repeated message.
        """
        try:
            message_id = UUID(entry["id"])
        except (KeyError, ValueError):
            return None
        match entry.get("outcome"):
            case "done":
                return cls(message_id, consumer)
            case "set_aside":
                return cls(message_id, consumer, _legible(entry.get("reason", "no reason given")))
            case _:
                return None


def _legible(reason: str) -> str:
    """Drop what PostgreSQL or UTF-8 refuse (NUL, lone surrogates): a reason must not stop the relay."""
    # Cut first: it may be megabytes.
    return "".join(sign for sign in reason[:_LONGEST_REASON] if sign.isprintable() or sign == "\n")
