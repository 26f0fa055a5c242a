"""The HTTP connections of a service: each stage of one has a deadline, and there are only so many."""

import asyncio
import errno
import json
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11
import structlog
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.kit.errors import AppError
from app.kit.problem import MEDIA_TYPE, problem_type

RETRY_AFTER_SECONDS = 1
HEALTH = frozenset({"/livez", "/readyz", "/healthz"})
"""The paths of `app.kit.health`."""

_RESERVE = 16
"""How many connections beyond the limit may still ask for the service's health."""

_OWN_FILES = 200
"""How many files a service has open beside its clients' connections: pools, Redis, uploads, modules."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("connections")


class TooFewFiles(AppError):
    """The limit of open files is below what the connections need."""

    def __init__(self, limit: int, needed: int) -> None:
        self.limit = limit
        self.needed = needed
        super().__init__(
            f"the limit of open files is {limit}, and {needed} are needed: raise it (ulimit -n), or lower "
            "MES_STORAGE_MAX_CONNECTIONS"
        )


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """How many connections there may be, and how long a client may take."""

    connections: int
    """Above it, requests are answered by 503."""

    header_seconds: float
    """For the header of a request, from its first byte; and from the connection to that byte."""

    body_seconds: float
    """For the body, and another second for each `bytes_per_second` of it."""

    answer_seconds: float
    """To take what was sent."""

    bytes_per_second: int = 16 * 1024


def raise_file_limit(connections: int) -> None:
    """Raise this process's limit of open files as far as it may, for so many connections.

    Without room the server cannot accept, and every client hangs.

    Raises:
        TooFewFiles: it may not be raised so far.
    """
    needed = connections + _RESERVE + _OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft < needed:
        raise TooFewFiles(soft, needed)


def log_accept_errors(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log in one line that no connection can be accepted; asyncio tries again each second.

    Without this it writes a traceback for each waiting client, and that each second.
    """
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        log.error("too_many_open_files", error=str(error))
        return
    loop.default_exception_handler(context)


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol with deadlines; one timer a connection, for the stage that it is in."""

    limits: ConnectionLimits

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._stage: object = None
        self._writing: asyncio.TimerHandle | None = None
        self._body_size = 0
        self._body_began = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a header; refuse a connection that is one too many."""
        super().connection_made(transport)
        # So that `pause_writing` is called whenever something waits to be taken by the client.
        transport.set_write_buffer_limits(high=0)
        surplus = len(self.connections) - self.limits.connections
        if surplus > 0:
            log.warning("too_many_connections", limit=self.limits.connections)
            self.app = _only_health(self.app)
        if surplus > _RESERVE:
            transport.write(_BUSY)
            transport.close()
            return
        self._wait_for_header()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._body_size += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        """Handle what was read, and set the deadline of the stage that the connection has reached."""
        super().handle_events()
        stage = self.conn.their_state
        if self.transport.is_closing() or stage not in (h11.IDLE, h11.SEND_BODY):
            self._stop_waiting()
        elif stage is not self._stage:
            (self._wait_for_header if stage is h11.IDLE else self._wait_for_body)()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget every deadline."""
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def pause_writing(self) -> None:
        """Begin to wait for the client to take what was sent."""
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.limits.answer_seconds, self._abort)

    def resume_writing(self) -> None:
        """Go on sending: the client has taken everything."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _wait_for_header(self) -> None:
        self._wait(h11.IDLE, self.limits.header_seconds, self._give_up)

    def _wait_for_body(self) -> None:
        self._body_size, self._body_began = 0, self.loop.time()
        self._wait(h11.SEND_BODY, self.limits.body_seconds, self._look_at_body)

    def _look_at_body(self) -> None:
        earned = self.limits.body_seconds + self._body_size / self.limits.bytes_per_second
        left = self._body_began + earned - self.loop.time()
        if left > 0:
            self._wait(h11.SEND_BODY, left, self._look_at_body)
        else:
            self._give_up()

    def _wait(self, stage: object, seconds: float, then: Callable[[], None]) -> None:
        self._stop_waiting()
        self._stage = stage
        self._timer = self.loop.call_later(seconds, then)

    def _stop_waiting(self) -> None:
        self._stage = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """Answer 408 if something of a request has come and nothing was answered, and close."""
        if self.transport.is_closing():
            return
        log.info("client_too_slow", stage="body" if self._stage is h11.SEND_BODY else "header")
        has_begun = self._stage is h11.SEND_BODY or bool(self.conn.trailing_data[0])
        if has_begun and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_TOO_SLOW)
        self.transport.close()

    def _abort(self) -> None:
        log.info("client_too_slow", stage="answer")
        self.transport.abort()


def limited(limits: ConnectionLimits) -> type[LimitedProtocol]:
    """Make the protocol class for `uvicorn.Config(http=...)`."""
    return type("Protocol", (LimitedProtocol,), {"limits": limits})


def _only_health(app: Any) -> Any:
    """Answer questions after the health, and 503 to all others."""

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in HEALTH:
            await app(scope, receive, send)
            return
        headers = [(name.lower().encode(), value.encode()) for name, value in _BUSY_HEADERS.items()]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": _BUSY_BODY, "more_body": False})

    return busy


def _answer(status: HTTPStatus, name: str, detail: str) -> tuple[dict[str, str], bytes]:
    content = {"type": problem_type(name), "title": name, "status": status.value, "detail": detail}
    body = json.dumps(content).encode()
    headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), "Connection": "close"}
    return headers | {"Retry-After": str(RETRY_AFTER_SECONDS)}, body


def _raw(status: HTTPStatus, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        *(f"{key}: {value}" for key, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


_BUSY_HEADERS, _BUSY_BODY = _answer(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many connections",
    "the service has as many connections as it may have; nothing was written: repeat the request, with the "
    f"same Idempotency-Key if it has one, in {RETRY_AFTER_SECONDS} seconds",
)
_BUSY = _raw(HTTPStatus.SERVICE_UNAVAILABLE, _BUSY_HEADERS, _BUSY_BODY)
_TOO_SLOW = _raw(
    HTTPStatus.REQUEST_TIMEOUT,
    *_answer(HTTPStatus.REQUEST_TIMEOUT, "Request too slow", "the request did not come to its end in time"),
)
