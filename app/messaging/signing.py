"""Signed entries: who reaches Redis can neither give an order to a service nor acknowledge for one.

Each two services share keys, which no third one has. An entry says who signed it (`signer`), what it is
addressed to (`destination`), and bears `signature = KEY.MAC`, with the MAC over these and everything else in
it. So what was copied to another stream, or changed, is refused, and a service that is in strange hands can
say what that service may say, and nothing in the name of another.

What a service writes for itself, which its other processes read, bears a signature by the keys of all its
peers, of which none has all.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from typing import Literal

import structlog
from opentelemetry.metrics import get_meter
from structlog.stdlib import BoundLogger

from app.messaging.errors import (
    EntryForged,
    EntryMisdirected,
    EntryRefused,
    EntryUnsigned,
    MessageKeysMissing,
    SigningKeyUnknown,
)
from app.messaging.routing import ServiceName, peers_of
from readreplica.signing import KeyRing

SIGNER = "signer"
DESTINATION = "destination"
SIGNATURE = "signature"
_OWN = (SIGNER, DESTINATION, SIGNATURE)
_BETWEEN = ","

_refused = get_meter("app.messaging").create_counter("app.entries.refused", unit="{entry}")

Kind = Literal["message", "acknowledgement", "grant", "place"]
PeerKeys = Mapping[ServiceName, KeyRing]


def parse_peer_keys(text: str) -> PeerKeys:
    """Read keys, written as PEER:NAME=SECRET,PEER:NAME=SECRET, of each peer the one that signs first.

    Raises:
        ValueError: it is not written so, or a key is too short. The message shows no secret.
    """
    keys: dict[ServiceName, dict[str, bytes]] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        named, is_pair, secret = part.partition("=")
        peer, is_named, name = named.partition(":")
        if (
            not is_pair
            or not is_named
            or peer not in set(ServiceName)
            or name in keys.get(ServiceName(peer), {})
        ):
            services = ", ".join(ServiceName)
            raise ValueError(
                f"write PEER:NAME=SECRET,PEER:NAME=SECRET with PEER one of {services}, each name once, "
                "of each peer the key that signs first"
            )
        keys.setdefault(ServiceName(peer), {})[name] = secret.encode()
    return {peer: KeyRing(named) for peer, named in keys.items()}


class EntrySigner:
    """Signs what a service sends, and verifies what it receives."""

    def __init__(self, service: ServiceName, keys: PeerKeys) -> None:
        """Take the keys that `service` shares with each of the others.

        Raises:
            MessageKeysMissing: it has none in common with one to which it sends, or from which it receives.
        """
        peers = peers_of(service)
        # The board is sent to where there is one, and then `app.delivery` asks for its key.
        missing = sorted(peers - keys.keys() - {ServiceName.BOARD})
        if missing:
            raise MessageKeysMissing(service, missing)
        self.service = service
        self._keys = {peer: keys[peer] for peer in peers if peer in keys}
        # Not the board's: its key is younger than the others, and comes to one process after another.
        self._own = [self._keys[each] for each in sorted(self._keys.keys() - {ServiceName.BOARD})]

    def require_key(self, peer: ServiceName) -> None:
        """Refuse to go on without the key of a peer.

        Raises:
            MessageKeysMissing: it has none in common with it.
        """
        if peer not in self._keys:
            raise MessageKeysMissing(self.service, [peer])

    def has_key(self, peer: ServiceName) -> bool:
        """Return whether anything can be signed for a peer."""
        return peer in self._keys or peer is self.service

    def sign(
        self, entry: Mapping[str, str], *, kind: Kind, destination: str, peer: ServiceName
    ) -> dict[str, str]:
        """Return an entry with its signature.

        Parameters:
            entry: its fields.
            kind: what it is.
            destination: the service, or for an acknowledgement the database, whose stream it goes to.
            peer: the service that will verify it; this one for what it reads itself.
        """
        signed = {**entry, SIGNER: self.service.value, DESTINATION: destination}
        text = _canonical(signed, kind, peer)
        signatures = (ring.signature(text) for ring in self._rings(peer))
        return {**signed, SIGNATURE: _BETWEEN.join(signatures)}

    def verify(
        self, entry: Mapping[str, str], *, kind: Kind, destination: str
    ) -> tuple[ServiceName, dict[str, str]]:
        """Return who signed an entry, and the entry without its signature.

        Raises:
            EntryUnsigned: it bears no signature, or none of a service that sends to this one.
            EntryMisdirected: it was signed for another stream.
            SigningKeyUnknown: its key is not, or no longer, among those that are shared with the signer.
            EntryForged: the signature is not that of the entry.
        """
        signed = {name: value for name, value in entry.items() if name != SIGNATURE}
        signer, signature = signed.get(SIGNER, ""), entry.get(SIGNATURE, "")
        # No service sends messages to itself.
        is_own = signer == self.service and kind in {"grant", "place"}
        if not (is_own or signer in self._keys) or not signature:
            raise EntryUnsigned(kind, entry)
        if signed.get(DESTINATION) != destination:
            raise EntryMisdirected(kind, entry)
        rings, parts = self._rings(ServiceName(signer)), signature.split(_BETWEEN)
        if len(rings) != len(parts):
            raise EntryForged(kind, entry)
        text = _canonical(signed, kind, self.service)
        for ring, part in zip(rings, parts, strict=True):
            if not ring.knows(part):
                raise SigningKeyUnknown(kind, entry)
            if not ring.is_signature(part, of=text):
                raise EntryForged(kind, entry)
        return ServiceName(signer), {name: value for name, value in signed.items() if name not in _OWN}

    def _rings(self, peer: ServiceName) -> list[KeyRing]:
        """Return the keys that are shared with a peer; with this service itself, those of all peers."""
        return self._own if peer is self.service else [self._keys[peer]]


def _canonical(signed: Mapping[str, str], kind: Kind, peer: ServiceName) -> str:
    """Write what is signed as one text; no other entry, kind or verifier has the same.

    It is what `json.dumps([kind, peer, sorted(signed.items())])` writes, in a fourth of the time.
    """
    names, text = _form(kind, peer, tuple(signed))
    return text % tuple([_quoted(signed[name]) for name in names])


@lru_cache(maxsize=64)
def _form(kind: Kind, peer: ServiceName, names: tuple[str, ...]) -> tuple[list[str], str]:
    """Return the names of an entry in their order, and the text with room for a value of each."""
    in_order = sorted(names)
    pairs = ", ".join([f"[{_quoted(name).replace('%', '%%')}, %s]" for name in in_order])
    return in_order, f"[{_quoted(kind)}, {_quoted(peer.value)}, [{pairs}]]"


class Refusals:
    """Counts what was refused, by the reason; logs the first of each, the tenth, the hundredth, and so on.

    Who can write to a stream could otherwise fill the log as well.
    """

    def __init__(self, log: BoundLogger | None = None) -> None:
        self._log: BoundLogger = log or structlog.get_logger("messaging")
        self.counts: Counter[str] = Counter()

    def note(self, error: EntryRefused) -> None:
        """Count one."""
        self.counts[error.reason] += 1
        _refused.add(1, {"reason": error.reason, "kind": error.kind})
        count = self.counts[error.reason]
        if str(count).strip("0") == "1":
            self._log.error("entry_refused", reason=error.reason, error=str(error), count=count)
