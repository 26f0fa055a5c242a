"""Who sends a request, and may he: asked once, when the route is known and before the body is read."""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

from app.access.credentials import TokenKeys, TokenUse
from app.access.errors import (
    AccessError,
    CrossSiteRequest,
    DoorUnknown,
    KeyOfOtherKind,
    NotAllowed,
    NotAuthenticated,
    SandboxOrder,
    TooManyAttempts,
    UnknownPartner,
)
from app.access.identities import OURS
from app.access.limits import ORDERS
from app.access.oidc import OidcProvider, SessionEnd
from app.access.registry import KnownIdentity, Registry
from app.access.table import deprecation_headers, is_allowed, rule_of
from app.kit.caller import Caller, Door, Role, calling, network_of
from app.kit.logs import bind
from app.kit.strict import ANSWER_HEADERS

COOKIE = "__Host-session"
"""Browsers send it to this host alone, over TLS, and no page's script reads it (RFC 6265bis)."""
_SAFE = frozenset({"GET", "HEAD"})
_TRIES, _TRIES_SECONDS, _MOST_ADDRESSES = 20, 60.0, 10_000


class Attempts:
    """Counts bad credentials by address, across threads, and refuses an address that has sent too many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, address: str | None) -> None:
        """Count a credential that is bad, or that is about to be checked; `forget` takes a good one back.

        Raises:
            TooManyAttempts: too many were bad; the address is refused for the rest of its minute.
        """
        now, key = self._clock(), network_of(address)
        with self._lock:
            since, count = self._since.pop(key, (now, 0))
            if now - since >= _TRIES_SECONDS:
                since, count = now, 0
            self._since[key] = since, min(count + 1, _TRIES)
            if len(self._since) > _MOST_ADDRESSES:
                self._since.popitem(last=False)
        if count >= _TRIES:
            raise TooManyAttempts(max(1, round(since + _TRIES_SECONDS - now)))

    def forget(self, address: str | None) -> None:
        """Take a credential back that was counted, and was good."""
        with self._lock:
            since, count = self._since.get(network_of(address), (0.0, 0))
            if count > 0:
                self._since[network_of(address)] = since, count - 1


@dataclass(frozen=True, kw_only=True)
class Access:
    """Lets the requests of a service in; used by `app.kit.strict`.

    Parameters:
        service: whose requests they are.
        registry: the identities and their keys.
        tokens: signs and reads tokens; None if no key was set, and then there are none.
        door_header: the header in which the gateway names the door.
        proxies: the networks whose door header is believed.
        attempts: the bad credentials so far.
        oidc: where staff log in; None where they do so by name and password alone.
    """

    service: str
    registry: Registry
    tokens: TokenKeys | None
    door_header: str
    proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    attempts: Attempts
    oidc: OidcProvider | None = None

    @asynccontextmanager
    async def calling(self, request: Request, route: str) -> AsyncIterator[Caller]:
        """Find out who sends a request, and let the block work for him.

        Parameters:
            request: its route has matched.
            route: the template of its path.

        Raises:
            NotAuthenticated, NotAllowed, SandboxOrder, UnknownPartner, CrossSiteRequest, TooManyAttempts,
            DoorUnknown,
            IdentitiesUnknown: nothing of the request is done.
        """
        caller = self._admitted(request, route)
        request.scope[ANSWER_HEADERS] = deprecation_headers(
            self.service, request.method, route, caller=caller, parameters=request.path_params
        )
        bind(caller=caller.name, role=caller.role.value)
        with calling(caller):
            yield caller

    def _admitted(self, request: Request, route: str) -> Caller:
        rule = rule_of(self.service, request.method, route)
        door, address = self.door_of(request), address_of(request)
        caller = self._known(request, door, address)
        if caller is None:
            if rule is None or not rule.is_open or door not in rule.doors | {Door.INTERNAL}:
                raise NotAuthenticated
            caller = Caller(name="customer", role=Role.CUSTOMER, door=door, address=address)
        elif not is_allowed(rule, caller, request.method):
            raise NotAllowed(caller.role, door, f"{request.method} {route}")
        if caller.sandbox and (request.method, route) in ORDERS:
            raise SandboxOrder
        partner = request.path_params.get("partner")
        if partner is not None and caller.role is Role.PARTNER and partner != caller.name:
            raise UnknownPartner(partner)
        return caller

    def find(self, request: Request) -> Caller | None:
        """Return who sends a request by its `Authorization`, wherever it goes; None if that is not clear."""
        given = request.headers.getlist("authorization")
        try:
            found = self._by_header(given, self.door_of(request)) if given else None
        except AccessError:
            return None
        return None if found is None else replace(found, address=address_of(request))

    async def end_session(self, request: Request) -> None:
        """End the session whose cookie a request brings, wherever else that was copied to."""
        read = None if self.tokens is None else self.tokens.read(request.cookies.get(COOKIE, ""))
        if read is not None and read[0] is TokenUse.SESSION and "jti" in read[1]:
            number = str(read[1]["jti"])
            await self.registry.end(OURS, SessionEnd(number, read[1]["sub"], number))

    def link_of(self, order_id: int) -> str | None:
        """Return the token that opens one order for its customer; None where tokens are not signed."""
        return None if self.tokens is None else self.tokens.sign(TokenUse.LINK, {"sub": str(order_id)})

    def door_of(self, request: Request) -> Door:
        """Return where a request came in: as the gateway says, or past it.

        Raises:
            DoorUnknown: it came from a proxy, which has named none.
        """
        # The peer itself: uvicorn puts the client's address in its place where the proxy is believed.
        peer = request.scope.get("extensions", {}).get("peer") or (request.client and request.client.host)
        if not self._is_proxy(peer):
            return Door.INTERNAL
        try:
            return Door(request.headers.get(self.door_header, ""))
        except ValueError:
            raise DoorUnknown(self.door_header) from None

    def _is_proxy(self, peer: Any) -> bool:
        try:
            address = ipaddress.ip_address(str(peer))
        except ValueError:
            return False
        return any(address in network for network in self.proxies)

    def _known(self, request: Request, door: Door, address: str | None) -> Caller | None:
        """Return who a request's credential says that it is; None if it brings none.

        Raises:
            NotAuthenticated, KeyOfOtherKind, TooManyAttempts: it brings one that is not good.
            CrossSiteRequest: it was sent by another site's page.
        """
        given = request.headers.getlist("authorization")
        if not given:
            return self._by_cookie(request, door, address)
        caller = self._by_header(given, door)
        if caller is None:
            # What is good is let in whatever else came from its address, which may be that of many.
            self.attempts.count(address)
            if self.registry.is_of_other_kind(given[0].partition(" ")[2]):
                raise KeyOfOtherKind(in_sandbox=self.registry.in_sandbox)
            raise NotAuthenticated
        return replace(caller, address=address)

    def _by_header(self, given: Sequence[str], door: Door) -> Caller | None:
        """Return who the values of `Authorization` say that it is; None if they are not good."""
        scheme, _, text = given[0].partition(" ")
        if len(given) != 1 or scheme.lower() != "bearer":
            return None
        return self._by_key(text, door) or self._by_token(text, door)

    def _by_cookie(self, request: Request, door: Door, address: str | None) -> Caller | None:
        """Return whose session a request brings; one that has ended is as none, for browsers keep it."""
        cookie = request.cookies.get(COOKIE)
        caller = None if cookie is None else self._by_token(cookie, door, is_cookie=True)
        if caller is None:
            return None
        refuse_cross_site(request)
        return replace(caller, address=address)

    def _by_key(self, text: str, door: Door) -> Caller | None:
        known = self.registry.find(text)
        if known is None:
            return None
        return _caller_of(known.identity, door, credential=known.key_id, scopes=known.scopes)

    def _by_token(self, text: str, door: Door, *, is_cookie: bool = False) -> Caller | None:
        read = self.tokens.read(text) if self.tokens is not None else None
        if read is None:
            return None
        use, claims = read
        if is_cookie is not (use is TokenUse.SESSION):
            return None
        if use is TokenUse.SERVICE:
            return _by_service(claims, door)
        if use is TokenUse.LINK:
            return _by_link(claims, door)
        if use is TokenUse.LOGIN:
            return None
        return self._by_identity(claims, door)

    def _by_identity(self, claims: dict[str, Any], door: Door) -> Caller | None:
        """Return whom a session or an access token was made for, unless that has ended since."""
        number, key = claims.get("iid"), claims.get("key")
        identity = self.registry.identity(number) if isinstance(number, int) else None
        issued = datetime.fromtimestamp(claims["iat"] + 1, UTC)  # it has no fraction of a second
        if identity is None or issued < identity.valid_after:
            return None
        if self.registry.is_logged_out(claims.get("jti")):
            return None
        if key is not None and not self.registry.has_key(str(key), identity.identity_id):
            return None
        link = claims.get("link")
        if link is not None and not self._is_linked(link, identity, claims):
            return None
        scopes = frozenset(str(claims.get("scope", "")).split())
        known_by = key or ("session" if link is None else "oidc")
        return _caller_of(identity, door, credential=known_by, scopes=scopes)

    def _is_linked(self, link: Sequence[str], identity: KnownIdentity, claims: Mapping[str, Any]) -> bool:
        """Return whether a session at the OpenID provider is still that of an identity."""
        issuer, subject = link
        issued = datetime.fromtimestamp(claims["iat"], UTC)
        is_ended = self.registry.is_ended(issuer, subject, claims.get("sid"), issued)
        return self.registry.linked(issuer, subject) == identity and not is_ended


def _caller_of(identity: KnownIdentity, door: Door, *, credential: str, scopes: frozenset[str]) -> Caller:
    return Caller(
        name=identity.name,
        role=identity.role,
        door=door,
        identity_id=identity.identity_id,
        credential=credential,
        sandbox=identity.sandbox,
        scopes=scopes,
        limits=identity.limits,
    )


def _by_service(claims: dict[str, Any], door: Door) -> Caller | None:
    """Return the person that one of our services asks for: past the gateway, or by its inner door."""
    if door is not Door.INTERNAL or claims.get("role") not in set(Role) or not claims["sub"].strip():
        return None
    issuer = str(claims.get("iss", ""))
    return Caller(name=claims["sub"], role=Role(claims["role"]), door=door, credential=f"service:{issuer}")


def _by_link(claims: dict[str, Any], door: Door) -> Caller | None:
    """Return the customer of an order. His name is not in the link, for links lie in many places."""
    order = claims["sub"]
    if not (order.isascii() and order.isdecimal()):
        return None
    return Caller(
        name="customer",
        role=Role.CUSTOMER,
        door=door,
        credential=f"link:{order}",
        order_ids=frozenset({int(order)}),
    )


def refuse_cross_site(request: Request) -> None:
    """Refuse a change by cookie that another site's page has asked for (Fetch Metadata, or else Origin).

    Raises:
        CrossSiteRequest: it has.
    """
    if request.method in _SAFE:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        is_ours = site == "same-origin"
    else:
        is_ours = origin is not None and urlsplit(origin).netloc == request.headers.get("host")
    if not is_ours:
        raise CrossSiteRequest


def address_of(request: Request) -> str | None:
    """Return the client's address; of a proxy that is believed, the one that it names."""
    return request.client.host if request.client is not None else None
