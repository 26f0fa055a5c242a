"""A patient HTTP client: it lives through a service that is killed and comes back."""

import copy
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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

from app.kit.caller import Door
from app.topology import services_of
from ops.embedded.gateway import AUTHORITY
from ops.errors import OpsError
from ops.gateway.model import find_section
from ops.ports import is_free
from sharding.topology import Topology


class DemoError(OpsError):
    """Base of the demo's errors."""


class TemporarilyUnavailable(DemoError):
    """The service did not do it, and says that it may later: no connection, 503 or 429."""

    def __init__(self, request: str, reason: str) -> None:
        self.request = request
        super().__init__(f"{request}: {reason}")


class AnswerLost(TemporarilyUnavailable):
    """The connection broke after the request was sent: it may or may not have been done."""


class HttpRefusal(DemoError):
    """The service answered no, as problem+json."""

    def __init__(self, request: str, status: int, problem: str) -> None:
        self.request = request
        self.status = status
        super().__init__(f"{request}: {status}, {problem}")


class GuaranteeViolated(DemoError):
    """A service did what it must never do."""

    def __init__(self, order_ids: Sequence[str], what: str) -> None:
        self.order_ids = tuple(order_ids)
        super().__init__(f"order {', '.join(order_ids)}: {what}")


Json = dict[str, Any]

_LATER = frozenset({httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS})
"""What is refused now, and may be asked again: a service that is away, and an intake that is full."""

REFUSALS_AFTER_A_LOST_ANSWER = 5
"""How often a no is checked against the order once an answer was lost: a replica may be a moment behind."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """Where a service is asked: by a door of the gateway, or past it.

    Parameters:
        url: where the door, or the service, listens.
        host: the name of the service at the door; None past it.
        authority: the PEM file of who has signed the door's certificate; None without TLS.
    """

    url: str
    host: str | None = None
    authority: Path | None = None


def way_to(topology: Topology, service: str, door: Door) -> Way:
    """Find the way to a service: by its door if the platform's gateway runs, else past it."""
    section = find_section(topology)
    found = section.doors.get(door) if section is not None else None
    if found is None or not found.names.get(service) or is_free(found.port, found.host):
        return Way(url=services_of(topology)[service].url)
    host, address = found.names[service][0], f"{found.host}:{found.port}"
    if found.certificate is None:
        return Way(url=f"http://{address}", host=host)
    authority = (topology.path.parent / found.certificate).with_name(f"{AUTHORITY}.pem")
    return Way(url=f"https://{address}", host=host, authority=authority)


class RetryingClient:
    """Talks to one service and tries again for as long as it is away.

    Parameters:
        way: where the service is asked; a URL is past the gateway.
        patience_seconds: how long one request is tried.
    """

    def __init__(self, way: Way | str, *, patience_seconds: float = 120.0) -> None:
        way = Way(url=way) if isinstance(way, str) else way
        self._counted: Counter[str] = Counter()
        self._headers: dict[str, str] = {}
        self._patience_seconds = patience_seconds
        trusted = None if way.authority is None else ssl.create_default_context(cafile=str(way.authority))
        self._http = httpx.AsyncClient(
            base_url=way.url,
            timeout=httpx.Timeout(15.0),
            headers={"Host": way.host} if way.host is not None else {},
            verify=trusted or True,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    @property
    def repeats(self) -> int:
        """How many requests were repeated, by all who share its connections."""
        return self._counted["repeats"]

    def bearing(self, credential: str) -> Self:
        """Return a client over the same connections that shows a credential with each request."""
        bearer = copy.copy(self)
        bearer._headers = {"Authorization": f"Bearer {credential}"}
        return bearer

    async def get(self, path: str, **params: str | int) -> Json:
        """Read something; reading twice does no harm."""
        return await self.send("GET", path, params=params)

    async def send(self, method: str, path: str, **content: Any) -> Json:
        """Send a request that may be repeated: a read, or one with an idempotency key.

        Raises:
            HttpRefusal: the service answered no.
            TemporarilyUnavailable: it stayed away for longer than the client's patience.
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
            HttpRefusal: the service answered no, and it was not because of our own lost request.
            TemporarilyUnavailable: it stayed away for longer than the client's patience.
        """
        lost = False
        refusals = 0
        async for attempt in self._attempts():
            with attempt:
                try:
                    return await self._once("POST", path, json=body)
                except TemporarilyUnavailable:
                    lost = True
                    if done(order := await self.get(look)):
                        return order
                    raise
                except HttpRefusal as refused:
                    refusals += 1
                    if not lost or refusals > REFUSALS_AFTER_A_LOST_ANSWER:
                        raise
                    if done(order := await self.get(look)):
                        return order
                    raise TemporarilyUnavailable(
                        refused.request, "refused, perhaps for our own lost request"
                    ) from refused
        raise AssertionError("tenacity ends by return or raise")

    def _attempts(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception_type(TemporarilyUnavailable),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            stop=stop_after_delay(self._patience_seconds),
            before_sleep=self._count,
            reraise=True,
        )

    def _count(self, _: RetryCallState) -> None:
        self._counted["repeats"] += 1

    async def _once(self, method: str, path: str, **content: Any) -> Json:
        request = f"{method} {self._http.base_url}{path.lstrip('/')}"
        try:
            headers = {**self._headers, **content.pop("headers", {})}
            answer = await self._http.request(method, path, headers=headers, **content)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise TemporarilyUnavailable(request, "no connection") from error
        except httpx.TransportError as error:
            raise AnswerLost(request, type(error).__name__) from error
        if answer.status_code == httpx.codes.GATEWAY_TIMEOUT:
            raise AnswerLost(request, answer.text)
        if answer.status_code in _LATER:
            raise TemporarilyUnavailable(request, answer.text)
        if answer.is_error:
            raise HttpRefusal(request, answer.status_code, answer.text)
        body: Json = answer.json()
        return body
