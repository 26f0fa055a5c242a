"""The page for people at `/docs`: Swagger UI from our own files, under a policy that lets nothing else in."""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import HTMLResponse, RedirectResponse, Response

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_KINDS = {"js": "text/javascript", "css": "text/css"}
_START = """\
SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true});
"""
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>%s API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""


@cache
def _asset(name: str) -> bytes:
    """Read a file of Swagger UI, which the package fastapi-offline brings."""
    return files("fastapi_offline").joinpath("static", name).read_bytes()


def pages(service: str) -> APIRouter:
    """Make the routes of the pages for people; every address in them is relative."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def to_the_documentation() -> RedirectResponse:
        return RedirectResponse("docs")

    @router.get("/docs")
    async def documentation() -> HTMLResponse:
        return HTMLResponse(_PAGE % service, headers=_HEADERS)

    @router.get("/docs/start.js")
    async def start() -> Response:
        return Response(_START, media_type=_KINDS["js"], headers=_HEADERS)

    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        router.add_api_route(f"/docs/{name}", _serve(name), response_class=Response)
    return router


def _serve(name: str) -> Callable[[], Awaitable[Response]]:
    async def asset() -> Response:
        return Response(_asset(name), media_type=_KINDS[name.rpartition(".")[2]], headers=_HEADERS)

    return asset
