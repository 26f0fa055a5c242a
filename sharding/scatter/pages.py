"""A page of rows, the limits within which it is made, and its cursor.

A cursor is `version, fingerprint of the query, values`: the sort values of a page's last row, with an
HMAC-SHA256 over all of it. It is signed, not encrypted: its values can be read, and stood on the page anyway.
"""

import hashlib
import hmac
import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Generic, Self, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import Select

from sharding.errors import CursorMalformed, CursorOfAnotherQuery

T = TypeVar("T")
AnySelect: TypeAlias = Select[*tuple[Any, ...]]


@dataclass(frozen=True)
class Page(Generic[T]):
    """Rows in the order of the SELECT, and where the next page begins; None after the last.

    `missing` names the shards that did not answer, and is empty unless the caller allowed it: rows of
    theirs are not on the page, and those that would stand before its end are on no later page either.
    `fetched_rows` counts what the shards sent.
    """

    rows: Sequence[T]
    next_cursor: str | None
    missing: tuple[str, ...] = ()
    fetched_rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much one call may take.

    Parameters:
        concurrency: how many shards are asked at once.
        timeout_seconds: how long a shard may take for its part, connecting included.
        rows: the largest page.
        groups: how many groups one shard may send for a GROUP BY without the shard key.
    """

    concurrency: int = 16
    timeout_seconds: float = 30.0
    rows: int = 10_000
    groups: int = 100_000


VERSION = 2
FINGERPRINT_BYTES = 12
_MAC_BYTES = 16
_SHORTEST_KEY = 16


@dataclass(frozen=True)
class CursorKeys:
    """The secret that signs cursors, and the one before it, whose cursors are still taken.

    To rotate: every process gets the new key as `current` and the old one as `previous`; when no page of the
    old one is in use any more, `previous` goes.
    """

    current: bytes = field(repr=False)
    previous: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse a key that could be guessed."""
        for key in (self.current, self.previous):
            if key is not None and len(key) < _SHORTEST_KEY:
                raise ValueError(f"a cursor key has at least {_SHORTEST_KEY} bytes; this one has {len(key)}")

    @classmethod
    def random(cls) -> Self:
        """Make a key that no other process has: its cursors end with this process. For tests."""
        return cls(secrets.token_bytes(32))

    def seal(self, fingerprint: bytes, values: Sequence[Any]) -> str:
        """Make the cursor of a row's sort values."""
        content = json.dumps([_pack(value) for value in values], separators=(",", ":"))
        payload = bytes([VERSION]) + fingerprint + content.encode()
        return urlsafe_b64encode(_mac(self.current, payload) + payload).rstrip(b"=").decode()

    def open(self, cursor: str, fingerprint: bytes) -> list[Any]:
        """Return the values of a cursor.

        Raises:
            CursorMalformed: neither key has signed it.
            CursorOfAnotherQuery: its fingerprint is another.
        """
        payload = self._verified(cursor)
        if not hmac.compare_digest(payload[1 : 1 + FINGERPRINT_BYTES], fingerprint):
            raise CursorOfAnotherQuery(cursor)
        return [_unpack(value) for value in json.loads(payload[1 + FINGERPRINT_BYTES :])]

    def _verified(self, cursor: str) -> bytes:
        try:
            raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        except ValueError:
            raise CursorMalformed(cursor) from None
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        keys = [key for key in (self.current, self.previous) if key is not None]
        # base64 ignores what is not of its alphabet, so the text must also be the one that `seal` writes.
        genuine = any(hmac.compare_digest(mac, _mac(key, payload)) for key in keys)
        if not genuine or urlsafe_b64encode(raw).rstrip(b"=").decode() != cursor or payload[0] != VERSION:
            raise CursorMalformed(cursor)
        return payload


def _mac(key: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, payload, "sha256")[:_MAC_BYTES]


def fingerprint_of(*parts: str) -> bytes:
    """Hash what identifies a query."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part.encode()).to_bytes(8, "big") + part.encode())
    return digest.digest()[:FINGERPRINT_BYTES]


def _pack(value: Any) -> Any:
    if value is None or type(value) in {bool, int, str}:
        return value
    tag, write = _WRITERS[type(value)]
    return [tag, write(value)]


def _unpack(value: Any) -> Any:
    return _READERS[value[0]](value[1]) if isinstance(value, list) else value


_WRITERS: Mapping[type, tuple[str, Callable[[Any], str]]] = MappingProxyType(
    {
        Decimal: ("n", str),
        float: ("f", float.hex),
        UUID: ("u", str),
        bytes: ("b", bytes.hex),
    }
)
_READERS: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {
        "n": Decimal,
        "f": float.fromhex,
        "u": UUID,
        "b": bytes.fromhex,
    }
)
