"""What is the caller's own: staff log in, partners turn a key into a token, and see what they may ask for."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, Response, status
from pydantic import BaseModel, ConfigDict, Field

from app.access.credentials import LIFETIMES, LONGEST_PASSWORD, TokenUse, is_password, read_api_key
from app.access.enforce import COOKIE, Access, address_of
from app.access.errors import LoginFailed, NoTokens
from app.access.limits import CallerLimits
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

    name: str = Field(examples=["requests"])
    most: int = Field(description="At once, after a rest.", examples=[40])
    window_seconds: int = Field(description="In which all of it comes back.", examples=[2])
    remaining: int = Field(examples=[39])
    reset_seconds: int = Field(description="Until all of it is there again.", examples=[1])


class Usage(BaseModel):
    """What is left of all limits of the caller; empty for those who have none, or while it is unknown."""

    limits: list[LimitUsage]


SESSION_COOKIE_OPTIONS: Mapping[str, Any] = {
    "max_age": int(LIFETIMES[TokenUse.SESSION].total_seconds()),
    "secure": True,
    "httponly": True,
    "samesite": "strict",
}
"""How browsers keep a session."""


def open_session(request: Request, *, name: str, password: str) -> str:
    """Return the content of the cookie of who knows a name's password.

    Raises:
        LoginFailed, TooManyAttempts, NoTokens: there is none.
    """
    access = _access(request)
    if access.tokens is None:
        raise NoTokens
    access.attempts.check(address := address_of(request))
    identity = access.registry.named(name)
    if not is_password(password, identity.password_hash if identity else None) or identity is None:
        access.attempts.note(address)
        raise LoginFailed
    return access.tokens.sign(TokenUse.SESSION, {"sub": identity.name, "iid": identity.identity_id})


@staff_router.post("/login", status_code=status.HTTP_204_NO_CONTENT, responses=documented(401, 403, 429))
def login(request: Request, response: Response, body: Login) -> None:
    """Log in by name and password; the cookie is good for twelve hours."""
    session = open_session(request, name=body.name, password=body.password)
    response.set_cookie(COOKIE, session, **SESSION_COOKIE_OPTIONS)


@staff_router.post("/logout", status_code=status.HTTP_204_NO_CONTENT, responses=documented(401, 403))
async def logout(response: Response) -> None:
    """Forget the cookie. `mesctl identities revoke` ends all sessions of an identity."""
    response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict")


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
    access.attempts.check(address := address_of(request))
    read = read_api_key(client_secret)
    known = access.registry.key(*read) if read is not None else None
    if read is None or known is None or known.identity.name != client_id:
        access.attempts.note(address)
        raise LoginFailed
    scope = " ".join(sorted(known.scopes))
    claims = {"sub": client_id, "iid": known.identity.identity_id, "key": read[0], "scope": scope}
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
    return Usage(
        limits=[
            LimitUsage(
                name=each.name,
                most=each.most,
                window_seconds=each.window_seconds,
                remaining=each.remaining,
                reset_seconds=each.seconds,
            )
            for each in await limits.usage(current_caller())
        ]
    )
