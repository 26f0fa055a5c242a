"""What the board's pages have done: they ask the service that decides, on behalf of who asks them.

Each call bears a token that says who that is, is made past the gateway, and carries the causal token of
the request both ways. The service refuses as it refuses anyone, and its answer is what is shown.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx

from app.access.credentials import TokenKeys, TokenUse
from app.access.errors import NoTokens
from app.kit.caller import Caller, Role
from app.kit.errors import AppError, DependencyUnavailable
from app.models.status import Status
from app.topology import services_of
from readreplica.context import learn, required_token
from readreplica.errors import TokenMalformed
from readreplica.signing import TOKEN_HEADER, TokenText
from sharding.topology import Topology

SECONDS = 8.0
"""How long an answer is waited for: less than a request to the board may take."""
_CALLER_FAULTS = range(400, 500)

Order = dict[str, Any]
"""An order, as a service's API shows it."""


class ActionRefused(AppError):
    """The service has refused, and nothing was changed. `facts` is its answer (RFC 9457), as it stands."""

    def __init__(self, service: str, status: int, facts: Mapping[str, Any]) -> None:
        self.service = service
        self.status = status
        self.facts = facts
        self.kind = str(facts.get("type", "about:blank")).rpartition(":")[2]
        super().__init__(str(facts.get("detail") or facts.get("title") or f"{service} answers {status}"))


class ActionUnanswered(DependencyUnavailable):
    """The service did not answer, or not as it should. If `in_doubt`, it may have done it all the same."""

    def __init__(self, service: str, fault: str, *, in_doubt: bool) -> None:
        self.service = service
        self.in_doubt = in_doubt
        doubt = ": look at the order before you try again" if in_doubt else ""
        super().__init__(f"{service} cannot be asked ({fault}){doubt}")


class Actions:
    """Asks the services for what a page's reader wants done."""

    def __init__(
        self, clients: Mapping[str, httpx.AsyncClient], tokens: TokenKeys | None, text: TokenText
    ) -> None:
        """Take clients of the services by name, the keys of callers' tokens and those of causal ones."""
        self._clients = clients
        self._tokens = tokens
        self._text = text

    async def take(self, caller: Caller, order_id: int) -> Order:
        """Take an approved order."""
        return await self._post(caller, "mes", order_id, "take")

    async def advance(
        self,
        caller: Caller,
        order_id: int,
        *,
        to: Status,
        reason: str | None = None,
        tracking: str | None = None,
    ) -> Order:
        """Record how far an order is, or that it cannot be made; `tracking` is a parcel's number."""
        more = {"reason": reason, "tracking": tracking}
        asked = {"to": to.value} | {name: value for name, value in more.items() if value is not None}
        return await self._post(caller, "mes", order_id, "advance", asked)

    async def release(self, caller: Caller, order_id: int, *, reason: str) -> Order:
        """Put back an order that was taken."""
        return await self._post(caller, "mes", order_id, "release", {"reason": reason})

    async def hand_over(self, caller: Caller, order_id: int, *, to: str) -> Order:
        """Hand an order that was taken over to another operator."""
        return await self._post(caller, "mes", order_id, "hand-over", {"to": to})

    async def approve(self, caller: Caller, order_id: int) -> Order:
        """Confirm a price."""
        return await self._post(caller, "crm", order_id, "approve")

    async def requote(self, caller: Caller, order_id: int) -> Order:
        """Ask for a new price."""
        return await self._post(caller, "crm", order_id, "requote")

    async def set_price(self, caller: Caller, order_id: int, *, price: Decimal, reason: str) -> Order:
        """Set another price than the one that was calculated."""
        return await self._post(caller, "crm", order_id, "price", {"price": f"{price:f}", "reason": reason})

    async def ask_file(self, caller: Caller, order_id: int, *, reason: str) -> Order:
        """Ask the customer of a rejected order for another file."""
        return await self._post(caller, "crm", order_id, "ask-file", {"reason": reason})

    async def again(self, caller: Caller, order_id: int) -> Order:
        """Start a rejected order once more in the Shop, as a new one; its `link` opens that."""
        return await self._post(caller, "shop", order_id, "again")

    async def cancel(self, caller: Caller, order_id: int, *, reason: str) -> Order:
        """Ask MES to cancel an order."""
        return await self._post(caller, "crm", order_id, "cancel", {"reason": reason})

    async def close(self, caller: Caller, order_id: int) -> Order:
        """End an order that was delivered."""
        return await self._post(caller, "crm", order_id, "close")

    async def start(self, caller: Caller, asked: Mapping[str, Any], *, key: str) -> Order:
        """Start an order in the Shop, or find the one of this idempotency key; its `link` opens it."""
        headers = {"Idempotency-Key": key}
        return await self._ask(caller, "shop", "POST", "/v1/orders", json=dict(asked), headers=headers)

    async def upload(self, caller: Caller, order_id: int, name: str, content: bytes) -> Order:
        """Upload the model of an order that was not submitted yet."""
        path = f"/v1/orders/{order_id}/model"
        return await self._ask(
            caller, "shop", "PUT", path, order_id=order_id, files={"file": (name, content)}
        )

    async def submit(self, caller: Caller, order_id: int) -> Order:
        """Order what was started and uploaded."""
        return await self._post(caller, "shop", order_id, "submit")

    async def show(self, caller: Caller, service: str, order_id: int) -> Order:
        """Ask a service for an order as it is there now: what a page shows of others' haste must be exact."""
        return await self._ask(caller, service, "GET", f"/v1/orders/{order_id}", order_id=order_id)

    async def stored(self, caller: Caller, service: str, order_id: int) -> Order:
        """Ask a service where it keeps an order, and what it still has to do for it."""
        return await self._ask(caller, service, "GET", f"/v1/orders/{order_id}/stored", order_id=order_id)

    async def _post(
        self, caller: Caller, service: str, order_id: int, step: str, asked: Mapping[str, Any] | None = None
    ) -> Order:
        more = {} if asked is None else {"json": dict(asked)}
        return await self._ask(
            caller, service, "POST", f"/v1/orders/{order_id}/{step}", order_id=order_id, **more
        )

    async def _ask(
        self,
        caller: Caller,
        service: str,
        method: str,
        path: str,
        *,
        order_id: int | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Order:
        """Ask a service, and learn what its answer says that it has written.

        Raises:
            ActionRefused: it says no.
            ActionUnanswered: it does not answer.
            NoTokens: no keys were set, by which to say who asks.
        """
        said = {"Authorization": f"Bearer {self._token_of(caller, order_id)}", **(headers or {})}
        came = required_token()
        if came is not None and came.positions:
            said[TOKEN_HEADER] = self._text.write(came)
        try:
            answer = await self._clients[service].request(method, path, headers=said, **more)
        except httpx.ConnectError as error:
            raise ActionUnanswered(service, type(error).__name__, in_doubt=False) from error
        except httpx.HTTPError as error:
            in_doubt = method != "GET"
            raise ActionUnanswered(service, type(error).__name__, in_doubt=in_doubt) from error
        self._learn(answer)
        return _read(service, answer, in_doubt=method != "GET")

    def _token_of(self, caller: Caller, order_id: int | None) -> str:
        if self._tokens is None:
            raise NoTokens
        if caller.role is Role.CUSTOMER and order_id is not None:
            # As his link would: he reaches no other order, whatever a page has asked for.
            return self._tokens.sign(TokenUse.LINK, {"sub": str(order_id)})
        claims = {"sub": caller.name, "role": caller.role.value, "iss": "board"}
        return self._tokens.sign(TokenUse.SERVICE, claims)

    def _learn(self, answer: httpx.Response) -> None:
        text = answer.headers.get(TOKEN_HEADER)
        if text is None:
            return
        try:
            learn(self._text.read_all(text))
        except TokenMalformed:
            # Of a service with other keys: the next read is as new as it happens to be.
            return


def _read(service: str, answer: httpx.Response, *, in_doubt: bool) -> Order:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ActionUnanswered(service, f"HTTP {answer.status_code}", in_doubt=in_doubt)
    if answer.status_code in _CALLER_FAULTS:
        raise ActionRefused(service, answer.status_code, found)
    if not answer.is_success:
        fault = str(found.get("title") or answer.status_code)
        raise ActionUnanswered(service, fault, in_doubt=bool(found.get("in_doubt", in_doubt)))
    return found


@asynccontextmanager
async def open_actions(
    topology: Topology, tokens: TokenKeys | None, text: TokenText
) -> AsyncIterator[Actions]:
    """Open clients of the services, where the topology says that they listen."""
    # No proxy of the environment: these are our own processes.
    clients = {
        name: httpx.AsyncClient(base_url=service.url, timeout=SECONDS, trust_env=False)
        for name, service in services_of(topology).items()
        if name != "board"
    }
    try:
        yield Actions(clients, tokens, text)
    finally:
        for client in clients.values():
            await client.aclose()
