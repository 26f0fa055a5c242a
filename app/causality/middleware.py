"""Takes causal tokens from requests, and sends back what the next request must see."""

from dataclasses import dataclass
from typing import NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.causality.context import Causality, causality
from app.causality.store import TokenStore
from app.causality.wire import TOKEN_HEADER, TokenText
from app.kit import problem
from readreplica.errors import TokenMalformed
from readreplica.token import CausalToken

COOKIE = "causal-token"
_LONGEST_CALLER = 200
_LONGEST_COOKIE = 3800
"""Browsers keep no cookie above 4,096 bytes, attributes included."""


@dataclass(frozen=True, kw_only=True)
class CookieOptions:
    """How browsers keep a token."""

    max_age_seconds: int
    """How long: as long as a replica may be behind, and some more."""

    is_secure: bool
    """Whether it is sent over TLS only."""


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
    Redis. One in the header that is not good is refused: a program has sent it. One in a cookie is replaced:
    a browser cannot be asked to forget it.
    """

    def __init__(
        self, app: ASGIApp, *, text: TokenText, cookie: CookieOptions, caller_header: str | None = None
    ) -> None:
        """Wrap an application, whose `state.token_store` is a `TokenStore` or None.

        Parameters:
            app: the application.
            text: reads and writes tokens. If it does not sign, there are no cookies.
            cookie: how browsers keep a token.
            caller_header: the request header in which a gateway names the caller.
        """
        self._app = app
        self._text = text
        self._cookie = cookie
        self._caller_header = caller_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with its token in force."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            came = self._came(scope)
        except TokenMalformed as fault:
            await problem.refused_token(Request(scope), fault, header=TOKEN_HEADER)(scope, receive, send)
            return
        store: TokenStore | None = scope["app"].state.token_store if came.caller else None
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
        headers = Headers(scope=scope)
        in_header = headers.getlist(TOKEN_HEADER)
        token = self._text.read_all(",".join(in_header)) if in_header else CausalToken()
        cookie = HTTPConnection(scope).cookies.get(COOKIE) if self._text.is_signed else None
        in_cookie = self._of_cookie(cookie)
        caller = headers.get(self._caller_header) if self._caller_header else None
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
        headers = MutableHeaders(scope=message)
        text = self._text.write(here.token) if here.token else ""
        if text:
            headers[TOKEN_HEADER] = text
        if self._text.is_signed and (here.token != came.in_cookie or came.has_bad_cookie):
            headers.append("Set-Cookie", self._cookie_of(text if len(text) <= _LONGEST_COOKIE else ""))

    def _cookie_of(self, text: str) -> str:
        # No text: the browser is to forget what it has.
        max_age = self._cookie.max_age_seconds if text else 0
        cookie = f"{COOKIE}={text}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax"
        return f"{cookie}; Secure" if self._cookie.is_secure else cookie
