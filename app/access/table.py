"""Who may do what: one table of routes, roles, owners and doors. Nothing else decides.

A role may use a route if `RULES` says so, at a door where the role may be and the route is. The door is the
gateway's listener; a request that comes past the gateway has the door `internal`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from urllib.parse import quote

from app.kit.caller import Caller, Door, Role


class Owner(StrEnum):
    """Whose orders a role reaches by a route."""

    OWN = "own"
    """A partner's own, or those of a customer's link."""

    ANY = "any"


ROLE_DOORS: Mapping[Role, frozenset[Door]] = {
    Role.PARTNER: frozenset({Door.EXTERNAL, Door.INTERNAL}),
    Role.CUSTOMER: frozenset({Door.CUSTOMER, Door.INTERNAL}),
    **{
        role: frozenset({Door.STAFF, Door.INTERNAL})
        for role in (Role.OPERATOR, Role.SELLER, Role.AUDITOR, Role.DBA, Role.ADMIN)
    },
    Role.SERVICE: frozenset({Door.INTERNAL}),
}
"""Where each role may come in: a partner's key opens nothing at the door of staff."""

OWN_ONLY = frozenset({Role.PARTNER, Role.CUSTOMER})
"""The roles that reach their own orders only."""


@dataclass(frozen=True)
class AccessRule:
    """Who may use a route.

    Parameters:
        doors: where the gateway leads to it; the internal door leads to all.
        roles: who may use it.
        is_open: needs no credential at its doors, as what gives out credentials.
    """

    doors: frozenset[Door]
    roles: frozenset[Role] = field(default_factory=frozenset)
    is_open: bool = False

    def owners(self, role: Role, door: Door) -> Owner | None:
        """Return whose orders a role reaches by this route at a door; None if it may not use it there."""
        if role not in self.roles or door not in ROLE_DOORS[role] or door not in self.doors | {Door.INTERNAL}:
            return None
        return Owner.OWN if role in OWN_ONLY else Owner.ANY


def _rule(doors: Iterable[Door], *roles: Role, is_open: bool = False) -> AccessRule:
    return AccessRule(frozenset(doors), frozenset(roles) | {Role.ADMIN}, is_open)


_STAFF, _CUSTOMER, _EXTERNAL = (Door.STAFF,), (Door.CUSTOMER,), (Door.EXTERNAL,)
_READERS = (Role.AUDITOR, Role.SERVICE)
_ORDER = "/v1/orders/{order_id}"

RULES: Mapping[tuple[str, str, str], AccessRule] = {
    # Customers.
    ("shop", "POST", "/v1/orders"): _rule(_CUSTOMER, Role.CUSTOMER, Role.SERVICE, is_open=True),
    ("shop", "PUT", f"{_ORDER}/model"): _rule(_CUSTOMER, Role.CUSTOMER, Role.SERVICE),
    ("shop", "POST", f"{_ORDER}/submit"): _rule(_CUSTOMER, Role.CUSTOMER, Role.SERVICE),
    ("shop", "POST", f"{_ORDER}/again"): _rule(_CUSTOMER, Role.CUSTOMER, Role.SERVICE),
    ("shop", "GET", _ORDER): _rule(_CUSTOMER, Role.CUSTOMER, Role.SELLER, *_READERS),
    # Partners.
    ("mes", "POST", "/v1/partners/{partner}/orders"): _rule(_EXTERNAL, Role.PARTNER, Role.SERVICE),
    **{
        ("mes", method, f"/v1/partners/{{partner}}/{path}"): _rule(_EXTERNAL, Role.PARTNER, Role.SERVICE)
        for method, path in (
            ("GET", "orders"),
            ("GET", "orders/{order_id}"),
            ("POST", "orders/batch"),
            ("POST", "models"),
            ("POST", "quotes"),
            ("GET", "quotes/{quote_id}"),
            ("POST", "webhooks"),
            ("GET", "webhooks"),
            ("DELETE", "webhooks/{webhook_id}"),
            ("POST", "webhooks/{webhook_id}/test"),
            ("POST", "webhooks/{webhook_id}/replay"),
        )
    },
    ("mes", "GET", "/v1/usage"): _rule(_EXTERNAL, Role.PARTNER),
    ("mes", "POST", "/v1/token"): _rule(_EXTERNAL, *Role, is_open=True),
    # Operators.
    ("mes", "GET", "/v1/orders"): _rule(_STAFF, Role.OPERATOR, *_READERS),
    ("mes", "GET", _ORDER): _rule(
        (*_STAFF, *_EXTERNAL), Role.PARTNER, Role.OPERATOR, Role.SELLER, Role.DBA, *_READERS
    ),
    ("mes", "POST", f"{_ORDER}/take"): _rule(_STAFF, Role.OPERATOR),
    ("mes", "POST", f"{_ORDER}/advance"): _rule(_STAFF, Role.OPERATOR),
    ("mes", "POST", f"{_ORDER}/release"): _rule(_STAFF, Role.OPERATOR),
    ("mes", "POST", f"{_ORDER}/hand-over"): _rule(_STAFF, Role.OPERATOR),
    # Sellers, and partners with their own orders.
    ("crm", "GET", "/v1/orders"): _rule(_STAFF, Role.SELLER, *_READERS),
    ("crm", "GET", _ORDER): _rule(
        (*_STAFF, *_EXTERNAL), Role.PARTNER, Role.SELLER, Role.OPERATOR, Role.DBA, *_READERS
    ),
    # A customer comes by the board, with the link of his order: the gateway leads him here by no door.
    **{
        ("crm", "POST", f"{_ORDER}/{step}"): _rule(
            (*_STAFF, *_EXTERNAL), Role.SELLER, Role.PARTNER, Role.CUSTOMER
        )
        for step in ("approve", "cancel")
    },
    ("crm", "POST", f"{_ORDER}/requote"): _rule((*_STAFF, *_EXTERNAL), Role.SELLER, Role.PARTNER),
    ("crm", "POST", f"{_ORDER}/close"): _rule(_STAFF, Role.SELLER),
    ("crm", "POST", f"{_ORDER}/price"): _rule(_STAFF, Role.SELLER),
    ("crm", "POST", f"{_ORDER}/ask-file"): _rule(_STAFF, Role.SELLER),
    # What staff see of an order's storage, on the board: by no door of the gateway.
    **{
        (service, "GET", f"{_ORDER}/stored"): _rule((), Role.OPERATOR, Role.SELLER, Role.DBA, *_READERS)
        for service in ("shop", "crm", "mes")
    },
    # Those who log in.
    **{
        (service, "POST", f"/v1/{path}"): _rule(_STAFF, *Role, is_open=True)
        for service in ("crm", "mes", "board")
        for path in ("login", "logout")
    },
    **{
        (service, "GET", f"/v1/oidc/{path}"): _rule(_STAFF, *Role, is_open=True)
        for service in ("crm", "mes", "board")
        for path in ("login", "callback")
    },
    # Of the provider, which signs what it sends.
    **{
        (service, "POST", "/v1/oidc/logout"): _rule(_STAFF, *Role, is_open=True)
        for service in ("crm", "mes", "board")
    },
    # The board: what a person may do there is asked of the service that decides.
    ("board", "GET", _ORDER): _rule(
        (*_STAFF, *_CUSTOMER), Role.OPERATOR, Role.SELLER, Role.DBA, Role.CUSTOMER, *_READERS
    ),
    ("board", "GET", "/v1/changes"): _rule(_STAFF, Role.OPERATOR, Role.SELLER, Role.DBA, *_READERS),
}
"""By service, method and route. A route without a row is used by no one; a test finds it."""

_LOOKERS = (Role.OPERATOR, Role.SELLER, Role.DBA, Role.AUDITOR)
_PAGE_ORDER, _PAGE_MY = "/orders/{order_id}", "/my/{order_id}"

PAGES: Mapping[tuple[str, str, str], AccessRule] = {
    **{
        ("board", "GET", path): _rule(_STAFF, *_LOOKERS) for path in ("/", "/search", "/history", _PAGE_ORDER)
    },
    **{
        ("board", "GET", f"{_PAGE_ORDER}/{part}"): _rule(_STAFF, *_LOOKERS)
        for part in ("stream", "model", "picture", "mesh", "stored")
    },
    **{
        ("board", "GET", path): _rule(_STAFF, Role.OPERATOR, Role.DBA, Role.AUDITOR)
        for path in ("/stream", "/changes", "/work")
    },
    ("board", "GET", "/sales"): _rule(_STAFF, Role.SELLER, Role.AUDITOR),
    ("board", "GET", "/sales/{part}"): _rule(_STAFF, Role.SELLER, Role.AUDITOR),
    ("board", "POST", "/sales/approve"): _rule(_STAFF, Role.SELLER),
    **{
        ("board", "POST", f"{_PAGE_ORDER}/{step}"): _rule(_STAFF, Role.OPERATOR)
        for step in ("take", "advance", "release", "hand-over")
    },
    **{
        ("board", "POST", f"{_PAGE_ORDER}/{step}"): _rule(_STAFF, Role.SELLER)
        for step in ("approve", "requote", "price", "ask-file", "close", "cancel")
    },
    **{
        ("board", "GET", path): _rule(_CUSTOMER, Role.CUSTOMER)
        for path in (
            _PAGE_MY,
            *(f"{_PAGE_MY}/{part}" for part in ("stream", "model", "picture", "mesh", "place")),
        )
    },
    **{
        ("board", "POST", f"{_PAGE_MY}/{step}"): _rule(_CUSTOMER, Role.CUSTOMER)
        for step in ("model", "again", "submit", "approve", "cancel")
    },
    ("board", "POST", f"{_PAGE_MY}/open"): _rule(_CUSTOMER, *Role, is_open=True),
    **{
        ("board", "POST", path): _rule((*_STAFF, *_CUSTOMER), *Role, is_open=True)
        for path in ("/login", "/logout", "/preferences")
    },
}
"""As `RULES`, of the pages for people."""


@dataclass(frozen=True)
class Deprecation:
    """A route that goes: for whom, since when, until when, and what takes its place (RFC 9745, RFC 8594)."""

    roles: frozenset[Role]
    since: datetime
    until: datetime
    successor: str

    def headers(self, parameters: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of each answer.

        Parameters:
            parameters: of the path, for that of the successor.
        """
        place = self.successor.format(**{name: quote(value) for name, value in parameters.items()})
        return {
            "Deprecation": f"@{int(self.since.timestamp())}",
            "Sunset": format_datetime(self.until, usegmt=True),
            "Link": f'<{place}>; rel="successor-version"',
        }


DEPRECATED: Mapping[tuple[str, str, str], Deprecation] = {
    # It shows a partner's order as staff see it, with the names of people in the factory.
    ("mes", "GET", _ORDER): Deprecation(
        frozenset({Role.PARTNER}),
        since=datetime(2026, 12, 2, tzinfo=UTC),
        until=datetime(2027, 12, 2, tzinfo=UTC),
        successor="/v1/partners/{partner}/orders/{order_id}",
    ),
}
"""By service, method and route. A route goes a year after it is here at the earliest."""


def deprecation_headers(
    service: str, method: str, route: str, *, caller: Caller, parameters: Mapping[str, str]
) -> dict[str, str]:
    """Return what an answer says of a route that goes; nothing of one that stays."""
    found = DEPRECATED.get((service, "GET" if method == "HEAD" else method, route))
    if found is None or caller.role not in found.roles:
        return {}
    return found.headers({"partner": caller.name, **parameters})


def rule_of(service: str, method: str, route: str) -> AccessRule | None:
    """Return who may use a route; None if it has no row. HEAD is as GET."""
    key = (service, "GET" if method == "HEAD" else method, route)
    return RULES.get(key) or PAGES.get(key)


def is_allowed(rule: AccessRule | None, caller: Caller, method: str) -> bool:
    """Return whether a caller may use a route. Whose orders he reaches is asked where they are read."""
    if rule is None or rule.owners(caller.role, caller.door) is None:
        return False
    return not caller.scopes or ("read" if method in {"GET", "HEAD"} else "write") in caller.scopes
