"""What is refused, or put right, before the application looks at a request."""

import re
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import problem

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class WellFormed:
    """Refuses what two readers would read in two ways.

    That is a body with two lengths, of which a proxy in front may have believed the other one (request
    smuggling), and a path or query that is no UTF-8, which the server would fill up with U+FFFD.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400; after two lengths the connection is closed."""
        fault, headers = _fault(scope) if scope["type"] == "http" else (None, {})
        if fault is None:
            await self._app(scope, receive, send)
            return
        answer = problem.refused(Request(scope), fault, headers=headers)
        await answer(scope, receive, send)


def _fault(scope: Scope) -> tuple[str | None, dict[str, str]]:
    headers = Headers(scope=scope)
    if "content-length" in headers and "transfer-encoding" in headers:
        fault = "a body has a Content-Length or a Transfer-Encoding, not both"
        return fault, {"Connection": "close"}
    for where, raw in (("path", scope["raw_path"]), ("query", scope["query_string"])):
        if _BROKEN_ESCAPE.search(raw):
            return f"{where}: % is followed by two hexadecimal figures, or written as %25", {}
        try:
            unquote_to_bytes(raw).decode("utf-8")
        except UnicodeDecodeError:
            return f"{where}: its escapes are not UTF-8", {}
    return None, {}


class HeadAsGet:
    """Answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "GET" in headers.get("allow", "").split(", "):
                    headers["Allow"] += ", HEAD"
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        # A copy: the server looks into its own.
        await self._app({**scope, "method": "GET"} if is_head else scope, receive, sending)
