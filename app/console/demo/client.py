"""A patient HTTP client: it lives through a service that is killed and comes back."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from app.console.demo.errors import AnswerLost, NotNow, Refused

Json = dict[str, Any]

REFUSALS_AFTER_A_LOST_ANSWER = 5
"""How often a no is checked against the order once an answer was lost: a replica may be a moment behind."""


class PatientClient:
    """Talks to one service and tries again for as long as it is away.

    Parameters:
        base_url: where the service is.
        patience_seconds: how long one request is tried.
    """

    def __init__(self, base_url: str, *, patience_seconds: float = 120.0) -> None:
        self.repeats = 0
        self._patience_seconds = patience_seconds
        self._http = httpx.AsyncClient(base_url=base_url, timeout=httpx.Timeout(15.0))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str, **params: str | int) -> Json:
        """Read something; reading twice does no harm."""
        return await self.send("GET", path, params=params)

    async def send(self, method: str, path: str, **content: Any) -> Json:
        """Send a request that may be repeated: a read, or one with an idempotency key.

        Raises:
            Refused: the service answered no.
            NotNow: it stayed away for longer than the client's patience.
        """
        async for attempt in self._attempts():
            with attempt:
                return await self._once(method, path, **content)
        raise AssertionError("tenacity ends by return or raise")

    async def change(self, path: str, body: Json, *, look: str, done: Callable[[Json], bool]) -> Json:
        """Ask for a change that must not happen twice; after a lost answer, look what has become of it.

        Parameters:
            look: the path of the order.
            done: whether the order that was read shows that the change was made.

        Raises:
            Refused: the service answered no, and it was not because of our own lost request.
            NotNow: it stayed away for longer than the client's patience.
        """
        lost = False
        refusals = 0
        async for attempt in self._attempts():
            with attempt:
                try:
                    return await self._once("POST", path, json=body)
                except NotNow:
                    lost = True
                    if done(order := await self.get(look)):
                        return order
                    raise
                except Refused as refused:
                    refusals += 1
                    if not lost or refusals > REFUSALS_AFTER_A_LOST_ANSWER:
                        raise
                    if done(order := await self.get(look)):
                        return order
                    raise NotNow(refused.request, "refused, perhaps for our own lost request") from refused
        raise AssertionError("tenacity ends by return or raise")

    def _attempts(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception_type(NotNow),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            stop=stop_after_delay(self._patience_seconds),
            before_sleep=self._count,
            reraise=True,
        )

    def _count(self, _: RetryCallState) -> None:
        self.repeats += 1

    async def _once(self, method: str, path: str, **content: Any) -> Json:
        request = f"{method} {self._http.base_url}{path.lstrip('/')}"
        try:
            answer = await self._http.request(method, path, **content)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotNow(request, "no connection") from error
        except httpx.TransportError as error:
            raise AnswerLost(request, type(error).__name__) from error
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise NotNow(request, answer.text)
        if answer.is_error:
            raise Refused(request, answer.status_code, answer.text)
        body: Json = answer.json()
        return body
