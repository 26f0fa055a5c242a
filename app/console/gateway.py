"""Which route of which service is behind which door of the gateway: one table, `DOORS`.

Health, metrics and the pages of the API's documentation are behind no door.
"""

from collections.abc import Mapping

from ops.gateway.model import PAGES, GatewayRoute

FILE_BYTES = 21 * 1024 * 1024
"""A model of the largest size that is accepted, in a form."""
_UPLOAD_SECONDS = 60.0
_STREAM_SECONDS = 3600.0
"""Of a stream of changes; a browser comes again by itself, and goes on where it was."""


def _reads(service: str, path: str) -> GatewayRoute:
    return GatewayRoute(path=path, methods=("GET",), service=service, is_repeatable=True)


def _acts(service: str, path: str) -> GatewayRoute:
    return GatewayRoute(path=path, methods=("POST",), service=service)


def _uploads(service: str, path: str, method: str) -> GatewayRoute:
    return GatewayRoute(
        path=path, methods=(method,), service=service, body_bytes=FILE_BYTES, seconds=_UPLOAD_SECONDS
    )


def _streams(path: str) -> GatewayRoute:
    return GatewayRoute(path=path, methods=("GET",), service="board", seconds=_STREAM_SECONDS, is_stream=True)


def _parts(path: str, names: str) -> tuple[str, ...]:
    return tuple(f"{path}/{name}" for name in names.split())


_PAGE_ORDER, _PAGE_MY = "/orders/{order_id}", "/my/{order_id}"
_PAGES: dict[str, tuple[GatewayRoute, ...]] = {
    "all": (
        _reads("board", "/static/{digest}/{name}"),
        _reads("board", "/login"),
        *(_acts("board", path) for path in ("/login", "/logout", "/preferences")),
    ),
    "staff": (
        *(_reads("board", path) for path in ("/", "/work", "/changes", "/search", "/history")),
        *(_reads("board", path) for path in ("/sales", "/sales/{part}")),
        *(_reads("board", path) for path in (_PAGE_ORDER, *_parts(_PAGE_ORDER, "model picture mesh stored"))),
        *(_streams(path) for path in ("/stream", f"{_PAGE_ORDER}/stream")),
        *(
            _acts("board", f"{_PAGE_ORDER}/{step}")
            for step in ("take", "advance", "release", "hand-over", "approve", "requote", "close", "cancel")
        ),
        *(_acts("board", path) for path in _parts(_PAGE_ORDER, "price ask-file")),
        _acts("board", "/sales/approve"),
    ),
    "customer": (
        *(_reads("board", path) for path in (_PAGE_MY, *_parts(_PAGE_MY, "model picture mesh place"))),
        _streams(f"{_PAGE_MY}/stream"),
        *(_acts("board", f"{_PAGE_MY}/{step}") for step in ("open", "submit", "approve", "cancel")),
        *(_uploads("board", path, "POST") for path in _parts(_PAGE_MY, "model again")),
    ),
}
"""The pages for people, by door."""


def _shows(path: str, *, method: str = "GET") -> GatewayRoute:
    """Return a route of the DBA's pages: behind a door that has a name for them."""
    return GatewayRoute(
        path=path, methods=(method,), service=PAGES, is_repeatable=method == "GET", is_optional=True
    )


_ORDER = "/v1/orders/{order_id}"
_PARTNER = "/v1/partners/{partner}"
_WEBHOOK = f"{_PARTNER}/webhooks/{{webhook_id}}"

_DOORS: dict[str, tuple[GatewayRoute, ...]] = {
    # Partners.
    "external": (
        _uploads("mes", f"{_PARTNER}/orders", "POST"),
        _reads("mes", f"{_PARTNER}/orders"),
        _reads("mes", f"{_PARTNER}/orders/{{order_id}}"),
        _acts("mes", f"{_PARTNER}/orders/batch"),
        _uploads("mes", f"{_PARTNER}/models", "POST"),
        _uploads("mes", f"{_PARTNER}/quotes", "POST"),
        _reads("mes", f"{_PARTNER}/quotes/{{quote_id}}"),
        _acts("mes", f"{_PARTNER}/webhooks"),
        _reads("mes", f"{_PARTNER}/webhooks"),
        GatewayRoute(path=_WEBHOOK, methods=("DELETE",), service="mes"),
        _acts("mes", f"{_WEBHOOK}/test"),
        _acts("mes", f"{_WEBHOOK}/replay"),
        _reads("mes", _ORDER),
        _acts("mes", "/v1/token"),
        _reads("mes", "/v1/usage"),
        _reads("crm", _ORDER),
        _acts("crm", f"{_ORDER}/approve"),
        _acts("crm", f"{_ORDER}/requote"),
        _acts("crm", f"{_ORDER}/cancel"),
    ),
    # Customers, and the Shop's own pages.
    "customer": (
        _acts("shop", "/v1/orders"),
        _uploads("shop", f"{_ORDER}/model", "PUT"),
        _acts("shop", f"{_ORDER}/submit"),
        _acts("shop", f"{_ORDER}/again"),
        _reads("shop", _ORDER),
        _reads("board", _ORDER),
        *_PAGES["all"],
        *_PAGES["customer"],
    ),
    # Operators in the factory, and sellers.
    "staff": (
        _reads("mes", "/v1/orders"),
        _reads("mes", _ORDER),
        _acts("mes", f"{_ORDER}/take"),
        _acts("mes", f"{_ORDER}/advance"),
        _acts("mes", f"{_ORDER}/release"),
        _acts("mes", f"{_ORDER}/hand-over"),
        _reads("crm", "/v1/orders"),
        _reads("crm", _ORDER),
        _acts("crm", f"{_ORDER}/approve"),
        _acts("crm", f"{_ORDER}/requote"),
        _acts("crm", f"{_ORDER}/close"),
        _acts("crm", f"{_ORDER}/price"),
        _acts("crm", f"{_ORDER}/ask-file"),
        _acts("crm", f"{_ORDER}/cancel"),
        *map(_shows, ("/", "/open", "/panels", "/static/{name}")),
        *(
            _shows(path, method="POST")
            for path in ("/session", "/session/end", "/settings", "/actions/{panel}/{action}")
        ),
        *(
            _acts(service, f"/v1/{path}")
            for service in ("crm", "mes", "board")
            for path in ("login", "logout", "oidc/logout")
        ),
        *(_reads(service, "/v1/oidc/login") for service in ("crm", "mes", "board")),
        # Not repeated: the provider takes a code once.
        *(
            GatewayRoute(path="/v1/oidc/callback", methods=("GET",), service=service)
            for service in ("crm", "mes", "board")
        ),
        _reads("board", _ORDER),
        _streams("/v1/changes"),
        *_PAGES["all"],
        *_PAGES["staff"],
    ),
}

_INSIDE = tuple(_reads(service, f"{_ORDER}/stored") for service in ("shop", "crm", "mes"))
"""What no door but the internal one leads to."""

DOORS: Mapping[str, tuple[GatewayRoute, ...]] = {
    **_DOORS,
    # Services, which reach everything.
    "internal": tuple(
        {
            (route.service, route.path, route.methods): route
            for door in (*_DOORS.values(), _INSIDE)
            for route in door
            if route.service != PAGES
        }.values()
    ),
}
"""The doors of the order system."""
