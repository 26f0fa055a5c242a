"""Tokens as clients carry them: signed texts in headers, cookies and URLs; several in one header.

A token that a client makes up shows nothing that the client may not see, but it can drive that client's reads
to the primary. So what comes from outside is signed: `TEXT!KEY.MAC`, where TEXT is `CausalToken.encode()`,
KEY the name of the key, and MAC the first 16 bytes of HMAC-SHA256 over `TEXT!KEY` (RFC 2104, section 5,
allows half).
Keys are rotated by putting a new one first: all in the ring verify, the first one signs.
"""

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from types import MappingProxyType

from readreplica.errors import TokenForged, TokenKeyUnknown, TokenMalformed, TokenUnsigned
from readreplica.token import MAX_LENGTH, CausalToken

TOKEN_HEADER = "Causal-Token"
MOST_TOKENS = 100
"""How many texts one header may hold: a client needs one for each database at most, and one text has room
for about as many. So many of one database each are less than 10 kB; a gateway in front must let them by."""
MAC_BYTES = 16
MIN_KEY_BYTES = 16
_KEY_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_SIGNED = re.compile(r"([^!]*)!([A-Za-z0-9_-]{1,32})\.([A-Za-z0-9_-]{22})")


class KeyRing:
    """The keys that tokens, or other texts, are signed with: the first signs, all verify."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Make a ring of keys by name, the one that signs first.

        A key that is removed ends every token that it signed, so it stays for as long as tokens live.

        Raises:
            ValueError: there is no key, a name is not plain, or a key has fewer than 16 bytes.
        """
        if not keys:
            raise ValueError("a key ring needs a key")
        for name, key in keys.items():
            if not _KEY_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a key: use up to 32 of A-Z a-z 0-9 _ -")
            if len(key) < MIN_KEY_BYTES:
                raise ValueError(f"the key {name!r} has {len(key)} bytes; it needs {MIN_KEY_BYTES} at least")
        # Each with its key read: to read it anew for each text takes longer than a short text.
        self._keys: Mapping[str, hmac.HMAC] = MappingProxyType(
            {name: hmac.new(key, digestmod="sha256") for name, key in keys.items()}
        )
        self._signs_with = next(iter(keys))

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)})"  # names, and never a key

    def sign(self, token: CausalToken) -> str:
        """Write a token as a signed text."""
        text = token.encode()
        return f"{text}!{self.signature(text)}"

    def signature(self, text: str) -> str:
        """Sign any text; return `KEY.MAC`, which stands beside the text."""
        name = self._signs_with
        return f"{name}.{_mac(self._keys[name], f'{text}!{name}')}"

    def knows(self, signature: str) -> bool:
        """Whether the key that a `KEY.MAC` names is in the ring."""
        return signature.partition(".")[0] in self._keys

    def is_signature(self, signature: str, *, of: str) -> bool:
        """Whether `signature` made this `KEY.MAC` of a text, with any key of the ring."""
        name, _, mac = signature.partition(".")
        key = self._keys.get(name)
        # Compared as bytes: a MAC that was made up may be no ASCII.
        return key is not None and hmac.compare_digest(_mac(key, f"{of}!{name}").encode(), mac.encode())

    def verify(self, text: str) -> CausalToken:
        """Read what `sign` wrote.

        Raises:
            TokenUnsigned: it carries no signature.
            TokenKeyUnknown: its key is not, or no longer, in the ring.
            TokenForged: the signature is not that of the text.
            TokenMalformed: it is signed, but no token that this version can read.
        """
        if len(text) > MAX_LENGTH + 64:
            raise TokenMalformed(text, f"it is longer than {MAX_LENGTH + 64} characters")
        found = _SIGNED.fullmatch(text)
        if found is None:
            raise TokenUnsigned(text)
        body, name, mac = found.groups()
        if not body.isascii():  # no token is, and a lone surrogate has no bytes to compare a MAC of
            raise TokenMalformed(text, "it is not ASCII")
        if name not in self._keys:
            raise TokenKeyUnknown(text, name)
        if not self.is_signature(f"{name}.{mac}", of=body):
            raise TokenForged(text, name)
        return CausalToken.decode(body)


def parse_keys(text: str) -> KeyRing | None:
    """Read keys, written as NAME=SECRET,NAME=SECRET, the one that signs first; None if there are none.

    Raises:
        ValueError: it is not written so, or a key is too short. The message shows no secret.
    """
    if not text:
        return None
    pairs = [pair.strip().partition("=") for pair in text.split(",")]
    if any(not separator for _, separator, _ in pairs) or len({name for name, _, _ in pairs}) < len(pairs):
        raise ValueError("write NAME=SECRET,NAME=SECRET, each name once, the key that signs first")
    return KeyRing({name: secret.encode() for name, _, secret in pairs})


class TokenText:
    """Writes and reads tokens: signed, or plain where no keys are given."""

    def __init__(self, keys: KeyRing | None) -> None:
        self._keys = keys

    @property
    def is_signed(self) -> bool:
        """Whether a client cannot make a token up."""
        return self._keys is not None

    def write(self, token: CausalToken) -> str:
        """Write a token as one text."""
        return self._keys.sign(token) if self._keys is not None else token.encode()

    def read(self, text: str) -> CausalToken:
        """Read one text.

        Raises:
            TokenMalformed: it is no token, or not signed with a key that is known here; the subclass says.
        """
        return self._keys.verify(text) if self._keys is not None else CausalToken.decode(text)

    def read_all(self, text: str) -> CausalToken:
        """Read the value of a header, and merge what it holds.

        Raises:
            TokenMalformed: as `read`; or there are too many.
        """
        texts = text.split(",")
        if len(texts) > MOST_TOKENS:
            raise TokenMalformed(text, f"it holds more than {MOST_TOKENS} tokens")
        merged = CausalToken()
        for part in texts:
            merged = merged.merge(self.read(part.strip()))
        return merged


def _mac(key: hmac.HMAC, body: str) -> str:
    mac = key.copy()
    mac.update(body.encode())
    return urlsafe_b64encode(mac.digest()[:MAC_BYTES]).rstrip(b"=").decode()
