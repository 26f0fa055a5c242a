"""ASGI middleware: refuses what is too large or cannot be read in one way, answers HEAD as GET, logs."""

import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import unquote_to_bytes

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.kit import problem
from app.kit.logs import begin_request
from app.kit.strict import BodyTooLarge, content_length

log: structlog.stdlib.BoundLogger = structlog.get_logger("request")

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


class BodyLimit:
    """Refuses a body by its Content-Length, before a byte is read, or else as soon as it has grown too large.

    Starlette's own limit answers a large Content-Length in plain text, past every exception handler.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a `receive` that counts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = content_length(scope)
        received = 0

        async def limited() -> Message:
            nonlocal received
            self._check(declared)
            message = await receive()
            received += len(message.get("body", b""))
            self._check(received)
            return message

        await self._app(scope, limited, send)

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise BodyTooLarge(self._max_bytes)


class RequestLog:
    """Binds what a request is about to every line of it, and writes one when it is answered.

    The context is that of the server's task for the request, and ends with it; so what the server itself logs
    of the request bears the same facts. Refusals and failures have lines of their own, in `app.kit.problem`.
    """

    def __init__(
        self, app: ASGIApp, *, facts_of: Callable[[str], Mapping[str, str]], routine: frozenset[str]
    ) -> None:
        """Log requests.

        Parameters:
            app: what answers them.
            facts_of: returns what a path says.
            routine: paths that programs ask every moment; their lines have the level DEBUG.
        """
        self._app = app
        self._facts_of = facts_of
        self._routine = routine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, begun = scope["path"], time.perf_counter_ns()
        bound = begin_request(**self._facts_of(path))
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await self._app(scope, receive, sending)
        if 0 < status < 400:
            write = log.debug if path in self._routine else log.info
            facts = {"path": path, "method": scope["method"], "http_status": status, **bound}
            write("request_answered", **facts, duration_ns=time.perf_counter_ns() - begun)
