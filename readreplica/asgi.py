"""ASGI middleware that takes causal tokens from requests, and sends back what the next request must see.

app.add_middleware(CausalTokens, text=TokenText(parse_keys("first=...")))  # Starlette, FastAPI
app = CausalTokens(app, text=TokenText(parse_keys("first=...")))  # any other

It needs no framework.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from readreplica.context import Causality, causality
from readreplica.errors import TokenMalformed
from readreplica.signing import TOKEN_HEADER, TokenText
from readreplica.token import CausalToken

__all__ = ["COOKIE", "CausalTokens", "CookieOptions", "refuse_token"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "causal-token"
_HEADER = TOKEN_HEADER.lower().encode()
_LONGEST_CALLER = 200
_LONGEST_COOKIE = 3800
"""Browsers keep no cookie above 4,096 bytes, attributes included."""


@dataclass(frozen=True, kw_only=True)
class CookieOptions:
    """How browsers keep a token."""

    max_age_seconds: int = 3600
    """How long: as long as a replica may be behind, and some more."""

    is_secure: bool = True
    """Whether it is sent over TLS only."""


class Store(Protocol):
    """Keeps tokens by a caller's name, as `readreplica.redis.TokenStore`."""

    async def read(self, name: str) -> CausalToken:
        """Return what is kept under a name."""

    async def merge(self, name: str, token: CausalToken, *, after: CausalToken) -> None:
        """Add to what is kept under a name."""


def refuse_token(_scope: Scope, fault: TokenMalformed) -> App:
    """Return what answers a token that is not good: 400, with a header that says to forget it."""
    detail = f"header {TOKEN_HEADER}: {fault}, or leave it out"
    body = detail.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (_HEADER, b""),
    ]

    async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


class _Came(NamedTuple):
    """What a request brought."""

    token: CausalToken
    in_cookie: CausalToken
    """What the cookie says; nothing where it is not good."""

    has_bad_cookie: bool
    has_token: bool
    caller: str | None


class CausalTokens:
    """ASGI middleware: reads of a request see what its token names, and its commits are in the answer's.

    A token comes in the header `Causal-Token`, in a signed cookie, or, for a caller that keeps neither, from
    a store. One in the header that is not good is refused: a program has sent it. One in a cookie is
    replaced: a browser cannot be asked to forget it.
    """

    def __init__(
        self,
        app: App,
        *,
        text: TokenText,
        cookie: CookieOptions | None = None,
        caller_header: str | None = None,
        store_of: Callable[[Scope], Store | None] | None = None,
        refuse: Callable[[Scope, TokenMalformed], App] = refuse_token,
    ) -> None:
        """Wrap an application.

        Parameters:
            app: the application.
            text: reads and writes tokens. If it does not sign, there are no cookies.
            cookie: how browsers keep a token.
            caller_header: the request header in which a gateway names the caller.
            store_of: returns what keeps the tokens of the callers that `caller_header` names; None if nothing
                does.
            refuse: returns what answers a token in the header that is not good.
        """
        self._app = app
        self._text = text
        self._cookie = cookie or CookieOptions()
        self._caller_header = caller_header.lower().encode("latin-1") if caller_header else None
        self._store_of = store_of
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with its token in force."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            came = self._came(scope)
        except TokenMalformed as fault:
            await self._refuse(scope, fault)(scope, receive, send)
            return
        store = self._store_of(scope) if came.caller and self._store_of is not None else None
        token = came.token
        if store is not None and came.caller and not came.has_token:
            token = await store.read(came.caller)
        with causality(token) as here:

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    if store is not None and came.caller and (gained := here.gained):
                        # Before the answer: the caller's next request may be here at once.
                        await store.merge(came.caller, gained, after=token)
                    self._stamp(message, came, here)
                await send(message)

            await self._app(scope, receive, sending)

    def _came(self, scope: Scope) -> _Came:
        in_header = list(_values(scope, _HEADER))
        token = self._text.read_all(",".join(in_header)) if in_header else CausalToken()
        cookie = _cookie(_values(scope, b"cookie")) if self._text.is_signed else None
        in_cookie = self._of_cookie(cookie)
        caller = next(_values(scope, self._caller_header), None) if self._caller_header else None
        return _Came(
            token.merge(in_cookie),
            in_cookie,
            has_bad_cookie=cookie is not None and not in_cookie,
            has_token=bool(in_header or in_cookie),
            caller=caller if caller and len(caller) <= _LONGEST_CALLER else None,
        )

    def _of_cookie(self, text: str | None) -> CausalToken:
        if text is None:
            return CausalToken()
        try:
            return self._text.read(text)
        except TokenMalformed:
            return CausalToken()

    def _stamp(self, message: Message, came: _Came, here: Causality) -> None:
        headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
        text = self._text.write(here.token) if here.token else ""
        if text:
            headers = [each for each in headers if each[0].lower() != _HEADER]
            headers.append((_HEADER, text.encode("latin-1")))
        if self._text.is_signed and (here.token != came.in_cookie or came.has_bad_cookie):
            cookie = self._cookie_of(text if len(text) <= _LONGEST_COOKIE else "")
            headers.append((b"set-cookie", cookie.encode("latin-1")))
        message["headers"] = headers

    def _cookie_of(self, text: str) -> str:
        # No text: the browser is to forget what it has.
        max_age = self._cookie.max_age_seconds if text else 0
        cookie = f"{COOKIE}={text}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax"
        return f"{cookie}; Secure" if self._cookie.is_secure else cookie


def _values(scope: Scope, name: bytes) -> Iterator[str]:
    """Yield the values of a request's header; ASGI's names are in small letters."""
    return (value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name)


def _cookie(headers: Iterable[str]) -> str | None:
    """Find our cookie; of several the last one, as browsers' servers do."""
    found = None
    for chunk in (chunk for header in headers for chunk in header.split(";")):
        name, separator, value = chunk.partition("=")
        if separator and name.strip() == COOKIE:
            found = value.strip()
    # In quotes where a proxy has put them.
    return found[1:-1] if found and len(found) >= 2 and found[0] == found[-1] == '"' else found
