"""Which requests are refused first when a service is asked for more than it can do: one table."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from app import instruments
from app.flow.limiter import (
    RETRY_AFTER_SECONDS,
    AdaptiveLimiter,
    LimitOptions,
    LimitState,
    Priority,
    Shed,
)
from app.kit.caller import Caller, Role
from app.models.status import Status

PRIORITIES: Mapping[tuple[str, str, str], Priority] = {
    # What an operator looks for and works on is never refused; see `priority_of`.
    ("mes", "GET", "/v1/orders"): Priority.LISTS,
    ("mes", "POST", "/v1/orders/{order_id}/take"): Priority.NEVER,
    ("mes", "POST", "/v1/orders/{order_id}/advance"): Priority.NEVER,
    ("mes", "POST", "/v1/orders/{order_id}/release"): Priority.NEVER,
    ("mes", "POST", "/v1/orders/{order_id}/hand-over"): Priority.NEVER,
    ("board", "GET", "/v1/changes"): Priority.NEVER,
    ("board", "GET", "/v1/orders/{order_id}"): Priority.HISTORY,
    ("mes", "POST", "/v1/partners/{partner}/orders"): Priority.CREATION,
    ("mes", "POST", "/v1/partners/{partner}/orders/batch"): Priority.CREATION,
    ("mes", "POST", "/v1/partners/{partner}/models"): Priority.CREATION,
    ("mes", "POST", "/v1/partners/{partner}/quotes"): Priority.LISTS,
    ("mes", "GET", "/v1/partners/{partner}/quotes/{quote_id}"): Priority.HISTORY,
    ("mes", "GET", "/v1/partners/{partner}/orders/{order_id}"): Priority.HISTORY,
    ("mes", "GET", "/v1/orders/{order_id}"): Priority.HISTORY,
    ("shop", "POST", "/v1/orders"): Priority.CREATION,
    ("shop", "PUT", "/v1/orders/{order_id}/model"): Priority.CREATION,
    ("shop", "POST", "/v1/orders/{order_id}/submit"): Priority.CREATION,
    ("shop", "GET", "/v1/orders/{order_id}"): Priority.HISTORY,
    ("crm", "GET", "/v1/orders"): Priority.LISTS,
    ("crm", "GET", "/v1/orders/{order_id}"): Priority.HISTORY,
    ("crm", "POST", "/v1/orders/{order_id}/approve"): Priority.CREATION,
    ("crm", "POST", "/v1/orders/{order_id}/cancel"): Priority.CREATION,
    ("crm", "POST", "/v1/orders/{order_id}/close"): Priority.CREATION,
}
"""By service, method and route. Health and the admin port are no routes of an API, and are never refused."""


OPERATORS_LIST = ("mes", "GET", "/v1/orders")
OWN_WORK = frozenset(
    {
        Status.SUBMITTED,
        Status.PRICE_CALCULATED,
        Status.MANUFACTURING_APPROVED,
        Status.MANUFACTURING_STARTED,
        Status.MANUFACTURING_COMPLETED,
        Status.PACKAGING,
    }
)
"""New orders, and those that are worked on: an operator is paid by the order that he takes."""


def priority_of(service: str, method: str, route: str, *, role: Role, query: Mapping[str, str]) -> Priority:
    """Return when a request is refused.

    Parameters:
        service: its name.
        method: of HTTP.
        route: the template that has matched.
        role: of who sends it. The operators' list is theirs alone: for anyone else it is a list as others.
        query: its parameters. A cursor asks for a page behind the first of a list, which is history.
    """
    if "cursor" in query:
        return Priority.HISTORY
    key = (service, method, route)
    status = query.get("status", Status.MANUFACTURING_APPROVED)
    if key == OPERATORS_LIST and role is Role.OPERATOR and status in OWN_WORK:
        return Priority.NEVER
    known = PRIORITIES.get(key)
    return known if known is not None else (Priority.LISTS if method == "GET" else Priority.CREATION)


class Admission:
    """Lets the requests of a service in, as its limiter finds; used by `app.kit.strict`."""

    def __init__(self, service: str, *, most: int, max_wait_seconds: float = 1.0) -> None:
        """Make the admission of a process.

        Parameters:
            service: its name.
            most: how many requests are worked on at once at most.
            max_wait_seconds: how long one waits for a place at most.
        """
        self._service = service
        options = LimitOptions(floor=min(3, most), initial=min(24, most), most=most)
        self.limiter = AdaptiveLimiter(
            options, clock=time.monotonic, max_wait_seconds=max_wait_seconds, changed=_changed
        )

    @asynccontextmanager
    async def admitted(
        self, caller: Caller, method: str, route: str, *, query: Mapping[str, str]
    ) -> AsyncIterator[None]:
        """Wait for a place, and have it for the block; those who ask for few wait for no one's many.

        Raises:
            Shed: there is none; nothing of the block was done.
        """
        priority = priority_of(self._service, method, route, role=caller.role, query=query)
        is_creation, began = priority is Priority.CREATION, time.monotonic()
        try:
            async with self.limiter.admitted(priority, caller.subject):
                if is_creation:
                    instruments.recent_creation_wait.note(time.monotonic() - began)
                yield
        except Shed:
            if is_creation:
                instruments.recent_creation_wait.note(RETRY_AFTER_SECONDS)
            instruments.request_shed(priority.name.lower())
            raise


def _changed(state: LimitState) -> None:
    instruments.request_limit(int(state.limit))
