"""What is the caller's own: staff log in, partners turn a key into a token, and see what they may ask for."""

import hmac
from html import escape
from secrets import token_urlsafe
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Request, Response, status
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from app.access.credentials import (
    LIFETIMES,
    LONGEST_PASSWORD,
    LONGEST_TOKEN,
    TokenKeys,
    TokenUse,
    is_password,
)
from app.access.enforce import COOKIE, Access, address_of
from app.access.errors import (
    LoginFailed,
    NoTokens,
    OidcOff,
    OidcRefused,
    OidcStateWrong,
    OidcUnlinked,
)
from app.access.identities import STAFF
from app.access.limits import CallerLimits
from app.access.oidc import OidcProvider
from app.access.registry import KnownIdentity
from app.kit.caller import current_caller
from app.kit.problem import documented
from app.kit.strict import StrictRoute

staff_router = APIRouter(prefix="/v1", tags=["staff"], route_class=StrictRoute)
partners_router = APIRouter(prefix="/v1", tags=["partners"], route_class=StrictRoute)


class Login(BaseModel):
    """Who logs in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100, examples=["Rosa"])
    password: str = Field(
        min_length=1, max_length=LONGEST_PASSWORD, examples=["correct horse battery staple"]
    )


class AccessToken(BaseModel):
    """A token, as OAuth 2.0 has it (RFC 6749, 5.1)."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"
    expires_in: int = Field(examples=[900])
    scope: str = Field(examples=["read write"])


def _access(request: Request) -> Access:
    access: Access = request.app.state.access
    return access


class LimitUsage(BaseModel):
    """What is left of a limit."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(examples=["requests"])
    most: int = Field(description="At once, after a rest.", examples=[40])
    window_seconds: int = Field(description="In which all of it comes back.", examples=[2])
    remaining: int = Field(examples=[39])
    reset_seconds: int = Field(description="Until all of it is there again.", examples=[1])


class Usage(BaseModel):
    """What is left of all limits of the caller; empty for those who have none, or while it is unknown."""

    limits: list[LimitUsage]


@staff_router.post("/login", status_code=status.HTTP_204_NO_CONTENT, responses=documented(401, 403, 429))
def login(request: Request, response: Response, body: Login) -> None:
    """Log in by name and password; the cookie is good for twelve hours."""
    sign_in(request, response, name=body.name, password=body.password)


def sign_in(request: Request, response: Response, *, name: str, password: str) -> None:
    """Begin a session by a cookie of the response.

    Raises:
        LoginFailed, TooManyAttempts, NoTokens: none is begun.
    """
    access = _access(request)
    if access.tokens is None:
        raise NoTokens
    access.attempts.count(address := address_of(request))
    identity = access.registry.named(name)
    if not is_password(password, identity.password_hash if identity else None) or identity is None:
        raise LoginFailed
    access.attempts.forget(address)
    _start_session(response, access.tokens, identity)


def _start_session(response: Response, tokens: TokenKeys, identity: KnownIdentity, **more: Any) -> None:
    claims = {"sub": identity.name, "iid": identity.identity_id, "jti": token_urlsafe(16), **more}
    response.set_cookie(
        COOKIE,
        tokens.sign(TokenUse.SESSION, claims),
        max_age=int(LIFETIMES[TokenUse.SESSION].total_seconds()),
        secure=True,
        httponly=True,
        samesite="strict",
    )


@staff_router.post("/logout", status_code=status.HTTP_204_NO_CONTENT, responses=documented(401, 403))
async def logout(request: Request, response: Response) -> None:
    """End the session of the cookie. `mesctl identities revoke` ends all sessions of an identity."""
    await _access(request).end_session(request)
    response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict")


AFTER_LOGIN = r"/([!-.0-\[\]-~][!-\[\]-~]*)?"
"""Where a login may lead: a path of ours, and no other host's."""

LOGIN_COOKIE = "__Host-login"
"""What a login by the provider must come back with; the provider's page leads here, so it is not strict."""
_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the address has the code in it
    "X-Content-Type-Options": "nosniff",
}
_PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Logged in</title>
<meta http-equiv="refresh" content="0;url=%s"></head>
<body><a href="%s">Go on</a></body></html>
"""
"""A page and no redirect: browsers keep a strict cookie back from what another site's page has led to."""


@staff_router.get(
    "/oidc/login",
    status_code=status.HTTP_303_SEE_OTHER,
    response_class=RedirectResponse,
    responses=documented(404),
)
async def begin_oidc(
    request: Request,
    to: Annotated[
        str, Query(max_length=500, pattern=f"^{AFTER_LOGIN}$", description="Where to go then.")
    ] = "/",
) -> RedirectResponse:
    """Send a browser to the organisation's OpenID provider, to log in there."""
    tokens, provider = _oidc(request)
    begun = await provider.begin()
    answer = RedirectResponse(begun.url, status.HTTP_303_SEE_OTHER, headers={"Cache-Control": "no-store"})
    claims = {"sub": begun.state, "nonce": begun.nonce, "verifier": begun.verifier, "to": to}
    answer.set_cookie(
        LOGIN_COOKIE,
        tokens.sign(TokenUse.LOGIN, claims),
        max_age=int(LIFETIMES[TokenUse.LOGIN].total_seconds()),
        secure=True,
        httponly=True,
        samesite="lax",
    )
    return answer


@staff_router.get("/oidc/callback", response_class=HTMLResponse, responses=documented(404))
async def finish_oidc(
    request: Request,
    state: Annotated[str, Query(max_length=200, description="As it was sent to the provider.")] = "",
    code: Annotated[str | None, Query(max_length=2000, description="Good once, for a token.")] = None,
    iss: Annotated[str | None, Query(max_length=500, description="Who answers (RFC 9207).")] = None,
    error: Annotated[str | None, Query(max_length=100, description="Why there is no code.")] = None,
) -> HTMLResponse:
    """Log in who comes back from the OpenID provider; the cookie is good for twelve hours."""
    access, (tokens, provider) = _access(request), _oidc(request)
    access.attempts.count(address := address_of(request))
    begun = _begun(request, tokens, state)
    if begun is None:
        raise OidcStateWrong
    access.attempts.forget(address)
    if error is not None or code is None:
        raise OidcRefused(error or "it sent no code")
    verifier, nonce = str(begun["verifier"]), str(begun["nonce"])
    who = await provider.finish(code=code, verifier=verifier, nonce=nonce, issuer=iss)
    link = [provider.options.issuer, who.subject]
    identity = access.registry.linked(*link)
    if identity is None or identity.role not in STAFF:
        raise OidcUnlinked(*link)
    to = escape(str(begun["to"]))
    answer = HTMLResponse(_PAGE % (to, to), headers=_PAGE_HEADERS)
    # Good as long as the link is, and the session at the provider.
    _start_session(answer, tokens, identity, link=link, sid=who.sid)
    answer.delete_cookie(LOGIN_COOKIE, secure=True, httponly=True, samesite="lax")
    return answer


class LogoutForm(BaseModel):
    """What an OpenID provider sends; whatever else is in it is to be ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    logout_token: str = Field(min_length=1, max_length=LONGEST_TOKEN)


@staff_router.post("/oidc/logout", response_class=Response, responses=documented(400, 404, 429))
async def end_oidc(request: Request, form: Annotated[LogoutForm, Form()]) -> Response:
    """End what the OpenID provider has ended (OpenID Connect Back-Channel Logout 1.0)."""
    access, (_, provider) = _access(request), _oidc(request)
    access.attempts.count(address := address_of(request))
    ended = await provider.read_logout(form.logout_token)
    access.attempts.forget(address)
    await access.registry.end(provider.options.issuer, ended)
    return Response(headers={"Cache-Control": "no-store"})


def _oidc(request: Request) -> tuple[TokenKeys, OidcProvider]:
    access = _access(request)
    if access.oidc is None:
        raise OidcOff
    if access.tokens is None:
        raise NoTokens
    return access.tokens, access.oidc


def _begun(request: Request, tokens: TokenKeys, state: str) -> dict[str, Any] | None:
    """Return what this browser was sent to the provider with; None if it was not, or with another state."""
    read = tokens.read(request.cookies.get(LOGIN_COOKIE, ""))
    if read is None or read[0] is not TokenUse.LOGIN:
        return None
    claims = read[1]
    return claims if hmac.compare_digest(str(claims["sub"]).encode(), state.encode()) else None


@partners_router.post("/token", responses=documented(401, 403, 429))
async def issue_token(
    request: Request,
    response: Response,
    grant_type: Annotated[Literal["client_credentials"], Form()],  # noqa: ARG001 (OAuth 2.0 has it sent)
    client_id: Annotated[str, Form(min_length=1, max_length=100, examples=["atelier-nord"])],
    client_secret: Annotated[str, Form(min_length=1, max_length=100, description="An API key.")],
) -> AccessToken:
    """Turn an API key into a token that is good for a quarter of an hour (RFC 6749, 4.4)."""
    access = _access(request)
    if access.tokens is None:
        raise NoTokens
    known = access.registry.find(client_secret)
    if known is None or known.identity.name != client_id:
        # As a key in a header: what is good is let in, whatever else came from its address.
        access.attempts.count(address_of(request))
        raise LoginFailed
    scope = " ".join(sorted(known.scopes))
    claims = {"sub": client_id, "iid": known.identity.identity_id, "key": known.key_id, "scope": scope}
    response.headers["Cache-Control"] = "no-store"
    return AccessToken(
        access_token=access.tokens.sign(TokenUse.ACCESS, claims),
        expires_in=int(LIFETIMES[TokenUse.ACCESS].total_seconds()),
        scope=scope or "read write",
    )


@partners_router.get("/usage", responses=documented())
async def show_usage(request: Request) -> Usage:
    """Show what is left of the limits; this asks for one request of them."""
    limits: CallerLimits = request.app.state.limits
    return Usage.model_validate({"limits": await limits.usage(current_caller())})
