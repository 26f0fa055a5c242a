"""Causal tokens as clients carry them: signed texts, several of them with commas between."""

from readreplica.errors import TokenMalformed
from readreplica.signing import KeyRing
from readreplica.token import CausalToken

TOKEN_HEADER = "Causal-Token"
MOST_TOKENS = 100
"""How many texts one header may hold: a client needs one for each database at most, and one text has room
for about as many. So many of one database each are less than 10 kB; a gateway in front must let them by."""


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
