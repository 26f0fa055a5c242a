"""Who was refused lately: refused once more at little cost, and kept from keeping others waiting.

Of a flood each refusal would cost a millisecond and a question to Redis. But by GCRA who is refused is so
until a moment that the first answer names, whatever comes in between. Until then a process says so by itself.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app import instruments
from app.access.errors import AccessError
from app.kit import problem
from app.kit.caller import Caller
from app.kit.strict import printable
from app.kit.tasks import Lane

HELD_SECONDS = 1.0
"""How long a process refuses by itself at most. Then it asks whether the limit was raised, or Redis wiped."""
STATUS = 429
_LATELY_SECONDS = 1.0
_MOST = 10_000


class RateLimited(AccessError):
    """A caller asks for more than it may; nothing of the request was done."""

    def __init__(self, limit: str, retry_after_seconds: float, headers: Mapping[str, str]) -> None:
        self.limit = limit
        self.retry_after_seconds = max(1, math.ceil(retry_after_seconds))
        self._headers = dict(headers)
        super().__init__(
            f"more {limit} than are allowed: repeat this in {self.retry_after_seconds} seconds; "
            "GET /v1/usage says how much is left"
        )

    def answer_headers(self) -> dict[str, str]:
        """Return the headers of the answer."""
        return self._headers


@dataclass(eq=False, slots=True)
class _Refused(Lane):
    """A subject that was refused: `error` is its answer until `until`."""

    until: float = -math.inf
    error: RateLimited | None = None


class HoldsCallers(Protocol):
    """Limits callers."""

    def held(self, caller: Caller) -> RateLimited | None:
        """Return why each request of a caller is refused at this moment; None if it may not be."""


class FindsCallers(Protocol):
    """Knows who sends a request."""

    def find(self, request: Request) -> Caller | None:
        """Return who it is; None if that is not clear at once."""


class RefusedCallers:
    """The subjects that a process has refused."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without any.

        Parameters:
            clock: a monotonic clock, in seconds.
        """
        self._clock = clock
        self._refused: OrderedDict[str, _Refused] = OrderedDict()
        self._latest = -math.inf

    async def let_others_pass(self, subject: str) -> None:
        """Wait until everything else that is ready has had its turn, if a subject was refused lately."""
        found = self._refused.get(subject)
        if found is not None and self._clock() - found.refused_at < _LATELY_SECONDS:
            await found.let_others_pass()

    def note(self, subject: str, error: RateLimited, *, until: float = -math.inf) -> None:
        """Note that a subject was refused.

        Parameters:
            subject: whose limit has no room.
            error: why.
            until: the moment before which no request of it can be let in; without it each one is decided.
        """
        found = self._refused.pop(subject, None) or _Refused()
        found.refused_at = now = self._clock()
        if until > now:
            found.error, found.until = error, min(until, now + HELD_SECONDS)
            self._latest = max(self._latest, found.until)
        self._refused[subject] = found
        if len(self._refused) > _MOST:
            self._refused.popitem(last=False)

    @property
    def has_any(self) -> bool:
        """Whether anyone is refused now, whatever he asks for."""
        return self._clock() < self._latest

    def held(self, subjects: Iterable[str]) -> RateLimited | None:
        """Return why one of the subjects is refused now, whatever it asks for; None if none is."""
        now = self._clock()
        for subject in subjects:
            found = self._refused.get(subject)
            if found is not None and now < found.until:
                return found.error
        return None


class RefusesAgain:
    """ASGI middleware in front of all else: answers 429 to who is refused until a moment still to come.

    It counts the request, and neither logs nor traces it: the one before was. It reads nothing but who sends
    it, and that from its `Authorization` alone.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        began = time.monotonic()
        error = self._held(scope) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
            return
        headers = {"Retry-After": str(error.retry_after_seconds), **error.answer_headers()}
        content = problem.content_of(error, STATUS, printable(scope["path"]))
        answer = JSONResponse(content, STATUS, headers=headers, media_type=problem.MEDIA_TYPE)
        await answer(scope, receive, send)
        instruments.request_ended(scope["method"], None, STATUS, seconds=time.monotonic() - began)

    def _held(self, scope: Scope) -> RateLimited | None:
        limits: HoldsCallers | None = getattr(scope["app"].state, "limits", None)
        refusals = getattr(limits, "refusals", None)
        # Where a body's length is not clear, the connection is to be closed: others see to that.
        if limits is None or refusals is None or not refusals.has_any or _is_chunked(scope):
            return None
        access: FindsCallers = scope["app"].state.access
        caller = access.find(Request(scope))
        error = None if caller is None else limits.held(caller)
        if caller is not None and error is not None:
            instruments.request_limited(caller.role.value, error.limit)
        return error


def _is_chunked(scope: Scope) -> bool:
    return any(name == b"transfer-encoding" for name, _ in scope["headers"])
