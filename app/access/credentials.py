"""What callers are known by: API keys, and signed tokens.

An API key is `mk_ID_SECRET`, or `mt_ID_SECRET` of a sandbox: 256 random bits behind an id that may be shown.
Only its SHA-256 is stored; so
much chance needs no slow hash, and no one finds the key from it. A token is a JWT (RFC 7519), signed with
HMAC-SHA256 by a key that all services share. The algorithm is ours and not the token's (RFC 8725, 3.1).
"""

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey

AUDIENCE = "mes-storage"
ALGORITHM = "HS256"
LONGEST_TOKEN = 4096
MIN_KEY_BYTES = 32
"""As long as what HS256 signs with (RFC 7518, 3.2)."""
_SKEW = timedelta(seconds=30)
"""How far the clocks of two of our processes may be apart."""
_KEY = re.compile(r"m[kt]_([a-z0-9]{12})_([A-Za-z0-9_-]{43})")
SANDBOX_PREFIX = "mt_"
"""How the keys of a sandbox begin. The gateway leads by it, and each process refuses the other kind."""
_KEY_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_PASSWORDS = PasswordHasher()
LONGEST_PASSWORD = 256


class TokenUse(StrEnum):
    """What a token is for: one that was made for one use is refused for another."""

    SERVICE = "service"
    """A service asks on behalf of a person; past the gateway only."""

    ACCESS = "access"
    """A partner's, by the client credentials of OAuth 2.0 (RFC 6749, 4.4)."""

    SESSION = "session"
    """In the cookie of staff."""

    LOGIN = "login"
    """In a cookie of who is sent to the OpenID provider, until he comes back."""

    LINK = "link"
    """A customer's, for one order."""


LIFETIMES: Mapping[TokenUse, timedelta] = {
    TokenUse.SERVICE: timedelta(minutes=5),
    TokenUse.ACCESS: timedelta(minutes=15),
    TokenUse.SESSION: timedelta(hours=12),
    TokenUse.LOGIN: timedelta(minutes=10),
    TokenUse.LINK: timedelta(days=90),
}
"""How long a token is good at most; what says that it is good for longer was not made by us."""


@dataclass(frozen=True)
class ApiKey:
    """A new API key; `text` is shown once, and stored nowhere."""

    text: str
    credential_id: str
    digest: bytes


def new_api_key(*, is_sandbox: bool = False) -> ApiKey:
    """Make an API key, for a sandbox or in earnest."""
    credential_id = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(12))
    secret = secrets.token_urlsafe(32)
    prefix = SANDBOX_PREFIX if is_sandbox else "mk_"
    return ApiKey(f"{prefix}{credential_id}_{secret}", credential_id, digest_of(secret))


def read_api_key(text: str) -> tuple[str, bytes] | None:
    """Return the id of an API key, and the digest of its secret; None if it is none."""
    found = _KEY.fullmatch(text)
    return (found[1], digest_of(found[2])) if found else None


def digest_of(secret: str) -> bytes:
    """Return what is stored of the secret part of an API key."""
    return hashlib.sha256(secret.encode()).digest()


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password, with its parameters in it (RFC 9106)."""
    return _PASSWORDS.hash(password)


@cache
def _no_password() -> str:
    """Return the hash of what no one knows; not at the start of each process, for it is meant to be slow."""
    return hash_password(secrets.token_urlsafe(16))


def is_password(password: str, hashed: str | None) -> bool:
    """Return whether a password is the one of a hash. It takes as long where there is no hash."""
    try:
        return _PASSWORDS.verify(hashed or _no_password(), password) and hashed is not None
    except (VerificationError, InvalidHashError):
        return False


class TokenKeys:
    """Signs tokens with the first of its keys, and reads those of all."""

    def __init__(self, keys: Mapping[str, str], *, is_sandbox: bool = False) -> None:
        """Take the keys by name, the one that signs first.

        Parameters:
            keys: the secrets by their names.
            is_sandbox: whether they are a sandbox's. Its tokens are good there alone, even by the same keys.

        Raises:
            ValueError: there is none, a name is not plain, or a key is too short. It shows no secret.
        """
        if not keys:
            raise ValueError("write NAME=SECRET,NAME=SECRET, each name once, the key that signs first")
        for name, secret in keys.items():
            if not _KEY_NAME.fullmatch(name):
                raise ValueError("a key's name is up to 32 of A-Z a-z 0-9 _ -")
            if len(secret.encode()) < MIN_KEY_BYTES:
                raise ValueError(f"the key {name!r} is shorter than {MIN_KEY_BYTES} bytes")
        self._keys = {
            name: OctKey.import_key(secret.encode(), {"kid": name, "use": "sig", "alg": ALGORITHM})
            for name, secret in keys.items()
        }
        self._set = KeySet(list(self._keys.values()))
        self._signs_with = next(iter(keys))
        self._audience = f"{AUDIENCE}-sandbox" if is_sandbox else AUDIENCE

    @classmethod
    def parse(cls, text: str, *, is_sandbox: bool = False) -> "TokenKeys | None":
        """Read keys, written as NAME=SECRET,NAME=SECRET; None if there are none.

        Raises:
            ValueError: it is not written so.
        """
        if not text:
            return None
        pairs = [pair.strip().partition("=") for pair in text.split(",")]
        keys = {name: secret for name, separator, secret in pairs if separator}
        return cls(keys if len(keys) == len(pairs) else {}, is_sandbox=is_sandbox)

    def sign(self, use: TokenUse, claims: Mapping[str, Any], *, now: datetime | None = None) -> str:
        """Make a token that is good for as long as its use allows.

        Parameters:
            use: what it is for.
            claims: what it says, `sub` among them.
            now: the moment, with a time zone; the system's clock without it.
        """
        issued = now or datetime.now(UTC)
        times = {"iat": int(issued.timestamp()), "exp": int((issued + LIFETIMES[use]).timestamp())}
        header = {"alg": ALGORITHM, "kid": self._signs_with, "typ": "JWT"}
        whole = {**claims, **times, "nbf": times["iat"], "aud": self._audience, "use": use.value}
        return jwt.encode(header, whole, self._keys[self._signs_with])

    def read(self, text: str, *, now: datetime | None = None) -> tuple[TokenUse, dict[str, Any]] | None:
        """Return what a token is for, and what it says; None if it is not ours, or not good now."""
        if len(text) > LONGEST_TOKEN or text.count(".") != 2:
            return None
        try:
            token = jwt.decode(text, self._set, algorithms=[ALGORITHM])
        except (JoseError, ValueError, TypeError, KeyError):
            return None
        # Without a kid joserfc would take any key of the set.
        if token.header.get("kid") not in self._keys or token.header.keys() - {"alg", "kid", "typ"}:
            return None
        claims = dict(token.claims)
        return _good(claims, now or datetime.now(UTC), self._audience)


def _good(claims: dict[str, Any], now: datetime, audience: str) -> tuple[TokenUse, dict[str, Any]] | None:
    try:
        use = TokenUse(claims["use"])
    except (KeyError, ValueError):
        return None
    times = [claims.get(name) for name in ("iat", "nbf", "exp")]
    if any(type(time) is not int for time in times):
        return None
    issued, begins, ends = (int(time or 0) for time in times)
    second, skew = now.timestamp(), _SKEW.total_seconds()
    is_now = issued - skew <= second and begins - skew <= second < ends
    is_ours = claims.get("aud") == audience and ends - issued <= LIFETIMES[use].total_seconds()
    return (use, claims) if is_now and is_ours and isinstance(claims.get("sub"), str) else None
