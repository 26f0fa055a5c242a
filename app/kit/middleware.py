"""ASGI middleware: measures, logs, refuses what is ambiguous or too large, and answers HEAD as GET."""

import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import unquote_to_bytes

import structlog
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import instruments
from app.kit import problem
from app.kit.connections import HEALTH
from app.kit.logs import begin_request
from app.kit.strict import BodyTooLarge, content_length
from app.kit.telemetry import cause_of, working

log: structlog.stdlib.BoundLogger = structlog.get_logger("request")

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


_CLIENT_GONE = 499
"""The status of a request whose client went before it was answered; nginx's."""


class Observed:
    """Measures each request, and makes a span of it, named by its route.

    OpenTelemetry's own ASGI instrumentation raises on a header that is no UTF-8 and ends in a backslash, and
    notes the addresses of clients. FastAPI's own knows no order.
    """

    def __init__(self, app: ASGIApp, *, facts_of: Callable[[str], Mapping[str, str]]) -> None:
        """Measure an application.

        Parameters:
            facts_of: reads from a path what it says of an order, such as its `order_id`.
        """
        self._app = app
        self._facts_of = facts_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on. Questions after the health are no one's work, and are measured only."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] in HEALTH:
            await self._measured(scope, receive, send)
            return
        given = Headers(scope=scope).get("traceparent")
        context, links = cause_of(given)
        order_id = self._facts_of(scope["path"]).get("order_id")
        with working(
            scope["method"], kind=SpanKind.SERVER, order_id=order_id, context=context, links=links
        ) as span:
            status = _CLIENT_GONE
            try:
                status = await self._measured(scope, receive, send)
            except Exception:
                status = 500
                raise
            finally:
                if span.is_recording():
                    _describe(span, scope, status)

    async def _measured(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Pass the request on; return the status of its answer."""
        status, started = _CLIENT_GONE, time.monotonic()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with instruments.request_in_progress():
            try:
                await self._app(scope, receive, sending)
            except Exception:
                status = 500
                raise
            finally:
                seconds = time.monotonic() - started
                instruments.request_ended(scope["method"], _route(scope), status, seconds=seconds)
        return status


def _route(scope: Scope) -> str | None:
    """Return the template of the route that has matched."""
    path = getattr(scope.get("route"), "path", None)
    return None if path is None else str(path)


def _describe(span: Span, scope: Scope, status: int) -> None:
    route, method = _route(scope), scope["method"]
    if route is not None:
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
    span.set_attribute("http.request.method", method)
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(StatusCode.ERROR)


class KeepsPeer:
    """Keeps who has really connected, which is forgotten where a proxy's word for the client is believed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http" and scope.get("client"):
            scope["extensions"] = {**scope.get("extensions", {}), "peer": scope["client"][0]}
        await self._app(scope, receive, send)


class WellFormed:
    """Refuses what two readers would read in two ways.

    That is a body with two lengths, of which a proxy in front may have believed the other one (request
    smuggling), and a path or query that is no UTF-8, which the server would fill up with U+FFFD. A body that
    is compressed is refused as well: it may be much larger than it says.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400 or 415; after two lengths the connection is closed."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        fault, headers = _fault(scope)
        if fault is not None:
            answer = problem.refused(Request(scope), fault, headers=headers)
        elif Headers(scope=scope).get("content-encoding", "identity").lower() != "identity":
            answer = problem.encoding_refused(Request(scope))
        else:
            await self._app(scope, receive, send)
            return
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
        inner = {**scope, "method": "GET"} if is_head else scope
        try:
            await self._app(inner, receive, sending)
        finally:
            if "route" in inner:
                scope["route"] = inner["route"]  # for who measures by it


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


def _request_id(scope: Scope) -> dict[str, str]:
    """Return the id of the request, if the gateway has given it one; it is for the log alone."""
    found = Headers(scope=scope).get("x-request-id", "")
    return {"request_id": found} if _REQUEST_ID.fullmatch(found) else {}


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
        bound = begin_request(**self._facts_of(path), **_request_id(scope))
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
